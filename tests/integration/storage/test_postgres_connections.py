"""Connections that heal.

Servers that turn read-only, hosts that are gone, poolers that do not take everything.
"""

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

import asyncpg
import pytest

from tests.support.broker import free_port
from tests.support.clock import ManualClock
from tests.support.pgbouncer import PgBouncer
from tests.support.servers import postgres
from tests.support.storage.samples import creation, fresh
from tidings.storage.clock import SYSTEM_CLOCK
from tidings.storage.errors import StoreMisconfigured, StoreUnavailable
from tidings.storage.postgres import pool
from tidings.storage.postgres.store import PostgresStore


@asynccontextmanager
async def opened(url: str, clock: ManualClock | None = None) -> AsyncIterator[PostgresStore]:
    """A store in a schema of its own."""
    schema = f"c_{uuid.uuid4().hex[:8]}"
    url += f"{'&' if '?' in url else '?'}schema={schema}"
    store = await PostgresStore.open(url, clock=clock or SYSTEM_CLOCK)
    try:
        yield store
    finally:
        await store.close()
        connection = await asyncpg.connect(postgres())
        await connection.execute(f"DROP SCHEMA {schema} CASCADE")
        await connection.close()


def address() -> tuple[str, int]:
    """The URL's part before the host, and the server's port."""
    parts = urlsplit(postgres())
    assert parts.port is not None
    return f"postgresql://{parts.username}:{parts.password}@", parts.port


async def test_connections_to_a_server_that_turned_read_only_are_dropped() -> None:
    """After one write that a demoted server refuses, the next one goes wherever the address leads now."""
    async with opened(postgres()) as store:
        await asyncio.gather(*(store.write([creation(fresh())]) for _ in range(4)))
        old = [connection for connection, _ in store._connections._free]
        assert len(old) > 1
        for connection in old:  # as after a demotion: they stay open, and refuse to write
            await connection.execute("SET default_transaction_read_only = on")
        write = creation(fresh())
        with pytest.raises(StoreUnavailable, match="read-only; name the primary"):
            await store.write([write])
        assert await store.write([write]) == [None]
        assert all(connection.is_closed() for connection in old)


async def test_a_standby_is_refused_at_the_start() -> None:
    """A server that takes no writes is no store: the start says so, and what would do."""
    with pytest.raises(StoreUnavailable, match="target_session_attrs=read-write"):
        await PostgresStore.open(f"{postgres()}?default_transaction_read_only=on")


async def test_resting_connections_are_made_anew_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that only reads follows an address that moved: no connection is used for ever."""
    clock = ManualClock(SYSTEM_CLOCK.ms())
    async with opened(postgres(), clock) as store:
        await store.get("p")
        [(old, _)] = store._connections._free
        clock.advance(pool.MAX_AGE - 1)
        await store.get("p")
        assert [connection for connection, _ in store._connections._free] == [old]
        clock.advance(1)
        await store.get("p")
        [(new, _)] = store._connections._free
        assert new is not old
        assert old.is_closed()


async def test_several_hosts() -> None:
    """The first host that answers and takes writes serves, wherever it stands in the list."""
    user, port = address()
    dead = free_port()
    for hosts in (f"127.0.0.1:{dead},127.0.0.1:{port}", f"127.0.0.1:{port},127.0.0.1:{dead}"):
        async with opened(f"{user}{hosts}/postgres?target_session_attrs=read-write") as store:
            assert await store.write([creation(fresh())]) == [None]
    listed = (
        f"{user}/postgres?host=127.0.0.1,127.0.0.1&port={dead},{port}&load_balance_hosts=random"
    )
    async with opened(listed) as store:
        assert await store.write([creation(fresh())]) == [None]
    with pytest.raises(StoreUnavailable, match=f"127.0.0.1:{dead},127.0.0.1:{dead}"):
        await PostgresStore.open(f"{user}127.0.0.1:{dead},127.0.0.1:{dead}/postgres")


async def test_a_host_that_serves_is_asked_first() -> None:
    """A host that does not answer costs its time once, not for each connection."""
    user, port = address()

    async def silent(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(1)
        await asyncio.Event().wait()
        writer.close()

    asked: list[int] = []
    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    hole = server.sockets[0].getsockname()[1]
    url = f"{user}127.0.0.1:{hole},127.0.0.1:{port}/postgres?connect_timeout=0.2"
    async with opened(url) as store:
        await asyncio.gather(*(store.write([creation(fresh())]) for _ in range(8)))
        assert len(store._connections._free) > 1
        assert len(asked) == 1
    server.close()


@pytest.mark.skipif(PgBouncer.program() is None, reason="no pgbouncer here")
@pytest.mark.parametrize(
    ("mode", "parameters"),
    [
        ("session", ""),
        ("transaction", "?statement_cache_size=0"),
        ("transaction", "?pgbouncer=true"),
        ("transaction", ""),
    ],
)
async def test_behind_pgbouncer(mode: str, parameters: str) -> None:
    """Settings that a pooler refuses are done without, and one that shares connections is noticed."""
    pooler = PgBouncer(postgres(), mode, "default_pool_size = 3" if mode == "transaction" else "")
    pooler.start()
    try:
        async with opened(pooler.url + parameters) as one, opened(pooler.url + parameters) as two:
            for _ in range(5):
                writes = [(store, creation(fresh())) for store in (one, two) for _ in range(4)]
                outcomes = await asyncio.gather(*(store.write([write]) for store, write in writes))
                assert outcomes == [[None]] * 8
                found = await asyncio.gather(
                    *(store.get(write.record.prediction_id) for store, write in writes)
                )
                assert found == [write.stored for _, write in writes]
    finally:
        pooler.close()


@pytest.mark.skipif(PgBouncer.program() is None, reason="no pgbouncer here")
async def test_a_parameter_that_the_pooler_refuses_is_named() -> None:
    """What the operator's own URL wants and the pooler does not take is a line about the URL."""
    pooler = PgBouncer(postgres(), "session")
    pooler.start()
    try:
        with pytest.raises(StoreMisconfigured, match=r"search_path.*ignore_startup_parameters"):
            await PostgresStore.open(f"{pooler.url}?search_path=public")
    finally:
        pooler.close()
