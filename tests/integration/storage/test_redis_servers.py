"""Servers that are demoted, older, or speak the protocol with other words.

Writes go on, or the start says what to do.
"""

import asyncio
import shutil
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.support.broker import free_port
from tests.support.clock import ManualClock
from tests.support.servers import Server, Valkey
from tests.support.storage.samples import creation, fresh
from tidings.storage.clock import SYSTEM_CLOCK
from tidings.storage.errors import StoreMisconfigured, StoreUnavailable
from tidings.storage.redis import cluster
from tidings.storage.redis.store import RedisStore

Words = Sequence[tuple[bytes, bytes]]


class Forwarder:
    """An address that leads to one server or another, and may change words of the same length on the way."""

    def __init__(self, to_server: Words = (), to_client: Words = ()) -> None:
        self.port = free_port()
        self.target = 0
        self.made = 0
        self._to_server = to_server
        self._to_client = to_client

    @property
    def url(self) -> str:
        """As `TIDINGS_STORE` takes it."""
        return f"valkey://127.0.0.1:{self.port}"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Pass one connection on."""
        self.made += 1
        there, here = await asyncio.open_connection("127.0.0.1", self.target)
        await asyncio.gather(
            _pump(reader, here, self._to_server),
            _pump(there, writer, self._to_client),
            return_exceptions=True,
        )


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, words: Words) -> None:
    try:
        while data := await reader.read(65536):
            for old, new in words:
                data = data.replace(old, new)
            writer.write(data)
            await writer.drain()
    finally:
        writer.close()


@asynccontextmanager
async def forwarding(
    port: int, to_server: Words = (), to_client: Words = ()
) -> AsyncIterator[Forwarder]:
    forwarder = Forwarder(to_server, to_client)
    forwarder.target = port
    server = await asyncio.start_server(forwarder.serve, "127.0.0.1", forwarder.port)
    try:
        yield forwarder
    finally:
        server.close()


@pytest.fixture
def valkey() -> Iterator[Valkey]:
    server = Valkey()
    server.start()
    yield server
    server.close()


async def test_writes_go_on_at_the_new_primary(valkey: Valkey) -> None:
    """The address moves while connections to the demoted server stay open.

    One write fails, the next one is taken.
    """
    other = Valkey()
    other.start()
    try:
        async with forwarding(valkey.port) as address:
            store = await RedisStore.open(address.url)
            await asyncio.gather(*(store.write([creation(fresh())]) for _ in range(4)))
            demoting = await RedisStore.open(valkey.url)
            await demoting._one("REPLICAOF", "127.0.0.1", str(other.port))
            address.target = other.port
            write = creation(fresh())
            with pytest.raises(StoreUnavailable, match="read only"):
                await store.write([write])
            assert await store.write([write]) == [None]
            with pytest.raises(StoreUnavailable, match="name the primary"):
                await RedisStore.open(valkey.url)
            await demoting.close()
            await store.close()
    finally:
        other.close()


async def test_resting_connections_are_made_anew_in_time(valkey: Valkey) -> None:
    """A process that only reads follows an address that moved."""
    clock = ManualClock(SYSTEM_CLOCK.ms())
    async with forwarding(valkey.port) as address:
        store = await RedisStore.open(address.url, clock=clock)
        await store.get("p")
        made = address.made
        clock.advance(cluster.MAX_AGE - 1)
        await store.get("p")
        assert address.made == made
        clock.advance(1)
        await store.get("p")
        assert address.made == made + 1
        await store.close()


async def test_without_waitaof(valkey: Valkey) -> None:
    """A server that cannot say when a write is on its disk is taken where it answers only then, or with everysec."""
    admin = await RedisStore.open(valkey.url)
    async with forwarding(valkey.port, to_server=[(b"WAITAOF", b"WAITXYZ")]) as address:
        await admin._one("CONFIG", "SET", "appendfsync", "everysec")
        with pytest.raises(StoreMisconfigured, match=r"no WAITAOF.*\?durability=everysec"):
            await RedisStore.open(address.url)
        for parameters, setting in (("?durability=everysec", "everysec"), ("", "always")):
            await admin._one("CONFIG", "SET", "appendfsync", setting)
            store = await RedisStore.open(address.url + parameters)
            assert await store.write([creation(fresh())]) == [None]
            durability = (await store.facts())["durability"]
            assert ("may lose" in durability) == bool(parameters)
            await store.close()
    await admin.close()


async def test_information_that_lacks_fields(valkey: Valkey) -> None:
    """INFO without a version or a policy is no reason to fail.

    What matters is asked for otherwise.
    """
    words = [(b"redis_version:", b"xedis_version:"), (b"valkey_version:", b"xalkey_version:")]
    words.append((b"maxmemory_policy:", b"xaxmemory_policy:"))
    async with forwarding(valkey.port, to_client=words) as address:
        store = await RedisStore.open(address.url)
        facts = await store.facts()
        assert "does not tell" in facts["server"]
        assert await store.write([creation(fresh())]) == [None]
        await store.close()


class DebianRedis(Server):
    """The distribution's redis-server, 7.0 on Debian 12, which has no WAITAOF."""

    def __init__(self) -> None:
        super().__init__("redis")

    def command(self) -> Sequence[str | Path]:
        program = shutil.which("redis-server")
        assert program is not None
        keeps = ("--appendonly", "yes", "--appendfsync", "always", "--save", "")
        return (
            program,
            "--port",
            str(self.port),
            "--bind",
            "127.0.0.1",
            "--dir",
            self.folder,
            *keeps,
        )

    def ready(self) -> bool:
        return b"Ready to accept connections" in (self.folder / "output.txt").read_bytes()


@pytest.mark.skipif(shutil.which("redis-server") is None, reason="no redis-server here")
async def test_the_distributions_redis() -> None:
    """Redis 7.0 with `appendfsync always` keeps what it answers, and is a store."""
    server = DebianRedis()
    server.start()
    try:
        store = await RedisStore.open(f"redis://127.0.0.1:{server.port}")
        write = creation(fresh())
        assert await store.write([write]) == [None]
        assert await store.get(write.record.prediction_id) == write.stored
        await store.close()
    finally:
        server.close()
