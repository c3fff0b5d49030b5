"""Postgres and Valkey through a network that fails, and servers that are killed, frozen, full or wrongly set up."""

import asyncio
import signal
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest
import redis.asyncio
from redis import exceptions

from tests.support import servers
from tests.support.conditions import eventually
from tests.support.faults import Fault, FaultProxy
from tests.support.servers import Postgres, Server, Valkey
from tests.support.storage.samples import creation, fresh, prediction, writing
from tidings.storage.errors import StoreMisconfigured, StoreUnavailable
from tidings.storage.factory import open_store
from tidings.storage.postgres.store import PostgresStore
from tidings.storage.postgres.store import _meaning as meaning
from tidings.storage.prediction import Status
from tidings.storage.redis.store import RedisStore
from tidings.storage.store import Conflict, Ownership, PredictionStore, Query

KINDS = {"postgres": (Postgres, "schema"), "valkey": (Valkey, "prefix")}
LIMIT = 1.0
"""Seconds that a call may take here."""
PATIENCE = 15.0
"""Seconds within which a call must be over: its limit, and room for a machine that does much else."""


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    value: str = request.param
    return value


def url_of(kind: str, url: str, name: str, more: str = "") -> str:
    return f"{url}?{KINDS[kind][1]}={name.replace('-', '_')}&timeout={LIMIT}{more}"


@asynccontextmanager
async def proxied(kind: str) -> AsyncIterator[tuple[FaultProxy, PredictionStore]]:
    server = servers.postgres() if kind == "postgres" else servers.valkey()
    async with FaultProxy(server) as proxy:
        store = await eventually_open(url_of(kind, proxy.url, fresh("t")))
        try:
            yield proxy, store
        finally:
            proxy.fault = Fault.NONE
            await store.close()


async def eventually_open(url: str) -> PredictionStore:
    """A store that is opened while the machine may be too busy for the short time limit of these tests."""
    end = time.monotonic() + 60
    while True:
        try:
            return await open_store(url)
        except StoreUnavailable:
            assert time.monotonic() < end


@pytest.mark.parametrize("fault", [Fault.CUT, Fault.LOST, Fault.HALF_OPEN, Fault.REFUSE])
async def test_faulty_network(kind: str, fault: Fault) -> None:
    """Whatever the network does, a call ends within its limit with `StoreUnavailable`, and later calls succeed."""
    async with proxied(kind) as (proxy, store):
        first = creation(fresh())
        one = first.record.prediction_id
        assert await store.write([first]) == [None]
        proxy.fault = fault
        second = writing(prediction(one, 2, Status.PROCESSING), 1)
        for call in (
            lambda: store.write([second]),
            lambda: store.get(one),
            lambda: store.load([one]),
        ):
            start = time.monotonic()
            with pytest.raises(StoreUnavailable):
                await call()
            assert time.monotonic() - start < PATIENCE
        proxy.fault = Fault.NONE

        async def outcome() -> object:
            try:
                return (await store.write([second]))[0] or "written"
            except StoreUnavailable:
                return None

        assert await eventually(outcome, 30) in ("written", Conflict(2))
        assert (await store.load([one]))[one].encoded == second.encoded


async def test_late_network(kind: str) -> None:
    """Answers that come late, but within the limit, are the right ones for each of many callers."""
    async with proxied(kind) as (proxy, store):
        ids = [fresh() for _ in range(30)]
        await store.write([creation(one, prompt=one) for one in ids])
        proxy.fault = Fault.LATE
        proxy.latency = 0.02

        async def ask(one: str) -> bool:
            found = await store.get(one)
            return found is not None and one.encode() in found.encoded

        try:
            assert all(await asyncio.gather(*(ask(one) for one in ids[:4])))
        except StoreUnavailable:
            pytest.skip("the machine is too busy for the time limit of this test")


@pytest.fixture
def own(kind: str) -> Iterator[Server]:
    """A server of the test's own, to be harmed."""
    server: Server = KINDS[kind][0]()
    try:
        server.start()
        yield server
    finally:
        server.close()


def address(server: Server) -> str:
    assert isinstance(server, Postgres | Valkey)
    return server.url


async def test_killed_under_load(kind: str, own: Server) -> None:
    """A server that is killed while eight callers write, and restarted: nothing acknowledged is lost, nobody hangs."""
    store = await eventually_open(url_of(kind, address(own), "t"))
    written: dict[str, int] = {}
    stop = asyncio.Event()
    failures = 0

    async def load(one: str) -> None:
        nonlocal failures
        version = 0
        while not stop.is_set():
            batch = [writing(prediction(one, version + 1, Status.PROCESSING), version)]
            try:
                outcome = (await store.write(batch))[0]
            except StoreUnavailable:
                failures += 1
                continue
            if isinstance(outcome, Conflict):  # its own write, whose answer was lost
                assert outcome.version == version + 1
            version += 1
            written[one] = version

    async def harm() -> None:
        await asyncio.to_thread(own.kill)
        before = failures
        await eventually(lambda: failures > before, 60)
        await asyncio.to_thread(own.start)
        standing = dict(written)
        await eventually(lambda: all(written[one] > standing[one] for one in ids), 60)

    ids = [fresh() for _ in range(8)]
    tasks = [asyncio.create_task(load(one)) for one in ids]
    await eventually(lambda: len(written) == 8 and min(written.values()) > 5, 60)
    await harm()
    await harm()
    stop.set()
    await asyncio.gather(*tasks)
    found = await store.load(ids)
    for one in ids:
        assert found[one].version >= written[one]
    await store.close()


async def test_frozen(kind: str, own: Server) -> None:
    """A server that stands still for longer than the limit costs each call its limit, and no more once it goes on."""
    store = await eventually_open(url_of(kind, address(own), "t"))
    first = creation(fresh())
    await store.write([first])
    own.freeze()
    start = time.monotonic()
    results = await asyncio.gather(
        *(store.get(first.record.prediction_id) for _ in range(20)), return_exceptions=True
    )
    assert all(isinstance(result, StoreUnavailable) for result in results)
    assert time.monotonic() - start < PATIENCE
    own.thaw()

    async def back() -> bool:
        try:
            return await store.get(first.record.prediction_id) == first.stored
        except StoreUnavailable:
            return False

    await eventually(back, 30)
    await store.close()


def with_user(url: str, user: str, password: str) -> str:
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=f"{user}:{password}@{parts.hostname}:{parts.port}"))


async def refused(url: str, *said: str) -> None:
    """Opening ends with one line that says each of these, and no password."""
    end = time.monotonic() + 60
    while True:
        try:
            store = await open_store(url)
        except StoreMisconfigured as error:
            text = str(error)
            assert "\n" not in text
            for word in said:
                assert word in text
            assert "secret" not in text
            assert servers.PASSWORD not in text
            return
        except StoreUnavailable:
            assert time.monotonic() < end
        else:
            await store.close()
            pytest.fail("it opened")


async def test_opened_by_many_at_once(kind: str) -> None:
    """Many programs that open the same new place at once all succeed, on one set of tables or keys."""
    server = servers.postgres() if kind == "postgres" else servers.valkey()
    url = f"{server}?{KINDS[kind][1]}={fresh('t').replace('-', '_')}&timeout=60"
    stores = await asyncio.gather(*(open_store(url) for _ in range(8)))
    claims = await asyncio.gather(
        *(store.claim(Ownership(log=str(n))) for n, store in enumerate(stores))
    )
    assert len(set(claims)) == 1
    await stores[0].write([creation("p")])
    assert all([await store.get("p") for store in stores])
    await asyncio.gather(*(store.close() for store in stores))


async def test_a_new_database_opened_by_many_at_once() -> None:
    """The same in Postgres without a schema of its own, in a database that has nothing yet."""
    server, name = servers.postgres(), fresh("d").replace("-", "_")
    connection = await asyncpg.connect(server)
    try:
        await connection.execute(f"CREATE DATABASE {name}")
        stores = await asyncio.gather(
            *(open_store(f"{server.rpartition('/')[0]}/{name}") for _ in range(8))
        )
        await stores[0].write([creation("p")])
        assert all([await store.get("p") for store in stores])
        await asyncio.gather(*(store.close() for store in stores))
        await connection.execute(f"DROP DATABASE {name}")
    finally:
        await connection.close()


async def test_unreachable(kind: str) -> None:
    """A server that is not there is `StoreUnavailable` within the limit, with its address and without its password."""
    with pytest.raises(StoreUnavailable, match=r"127\.0\.0\.1:1\b") as caught:
        await open_store(
            f"{kind.replace('postgres', 'postgresql')}://user:secret@127.0.0.1:1/0?timeout={LIMIT}"
        )
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (asyncpg.DiskFullError("no space left on device"), StoreUnavailable),
        (asyncpg.ReadOnlySQLTransactionError("a replica"), StoreUnavailable),
        (asyncpg.TooManyConnectionsError("sorry"), StoreUnavailable),
        (asyncpg.UndefinedTableError("dropped"), StoreMisconfigured),
        (asyncpg.exceptions.ConnectionDoesNotExistError("closed in the middle"), StoreUnavailable),
    ],
)
def test_postgres_errors(error: Exception, expected: type[Exception]) -> None:
    """Full disks, replicas and lost connections pass; what is missing or forbidden needs mending."""
    assert type(meaning(error, "postgresql://host/name")) is expected


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (
            exceptions.ResponseError(
                "MISCONF Errors writing to the AOF file: No space left on device"
            ),
            StoreUnavailable,
        ),
        (exceptions.ReadOnlyError("a replica"), StoreUnavailable),
        (exceptions.BusyLoadingError("loading"), StoreUnavailable),
        (exceptions.MovedError("1 127.0.0.1:2"), StoreMisconfigured),
        (exceptions.NoPermissionError("no right to run 'evalsha'"), StoreMisconfigured),
    ],
)
async def test_valkey_errors(error: Exception, expected: type[Exception]) -> None:
    """Full disks, replicas and loading pass; a cluster of several nodes and missing rights need mending."""
    store = await open_store(f"{servers.valkey()}?prefix={fresh('t')}&timeout=60")
    assert isinstance(store, RedisStore)
    assert type(store._meaning(error)) is expected
    await store.close()


async def test_facts(kind: str) -> None:
    """An operator reads from the store itself what server it is, how durable, how far its clock is off, whose it is."""
    async with proxied(kind) as (_, store):
        assert isinstance(store, PostgresStore | RedisStore)
        assert (await store.facts())["ownership"] == "none yet"
        await store.claim(Ownership(log="log-7"))
        facts = await store.facts()
        assert facts["server"].startswith(("PostgreSQL 1", "Valkey 9"))
        assert "log-7" in facts["ownership"]
        assert facts["read-only"] == "no"
        assert abs(int(facts["clock skew (ms)"])) < 5000


WRITER = """
import asyncio, sys
from tidings.storage.errors import StoreUnavailable
from tidings.storage.factory import open_store
from tidings.storage.store import Conflict
from tests.support.storage.samples import prediction, writing
async def main():
    url, name = sys.argv[1:]
    ids = [f"p{n}" for n in range(10)]
    store = await open_store(url)
    while True:
        try:
            standing = {one: stored.version for one, stored in (await store.load(ids)).items()}
            batch = [writing(prediction(one, standing.get(one, 0) + 1, prompt=name), standing.get(one, 0)) for one in ids]
            outcomes = await store.write(batch)
        except StoreUnavailable:
            continue
        for write, outcome in zip(batch, outcomes):
            if outcome is None:
                print(write.record.prediction_id, write.record.version, flush=True)
asyncio.run(main())
"""


async def test_frozen_and_thawed_writers(kind: str) -> None:
    """Two processes write the same records, each frozen and thawed in turn: every version is won once, none is missed."""
    server = servers.postgres() if kind == "postgres" else servers.valkey()
    url = f"{server}?{KINDS[kind][1]}={fresh('t').replace('-', '_')}"
    store = await open_store(url)
    processes = [
        await asyncio.create_subprocess_exec(
            sys.executable, "-c", WRITER, url, name, stdout=asyncio.subprocess.PIPE
        )
        for name in ("one", "two")
    ]
    won: list[tuple[str, int]] = []

    async def follow(process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        while line := await process.stdout.readline():
            if line.endswith(b"\n"):
                one, version = line.split()
                won.append((one.decode(), int(version)))

    followers = [asyncio.create_task(follow(process)) for process in processes]
    try:
        await eventually(lambda: len(won) > 100, 60)
        for process in processes * 3:
            process.send_signal(signal.SIGSTOP)
            count = len(won)
            await eventually(lambda goal=count + 100: len(won) > goal, 60)  # type: ignore[misc]
            process.send_signal(signal.SIGCONT)
    finally:
        for process in processes:
            process.send_signal(signal.SIGCONT)
            process.kill()
        await asyncio.gather(*(process.wait() for process in processes), *followers)
    assert len(won) == len(set(won))
    found = await store.load([f"p{n}" for n in range(10)])
    for one, stored in found.items():
        versions = {version for name, version in won if name == one}
        # The last one of each process may have been written and not been printed.
        assert stored.version - len(versions) <= 2
        assert max(versions) <= stored.version
    await store.close()


async def test_postgres_set_up_wrongly() -> None:
    """A wrong password, database, right, schema version or parameter is one line at the start."""
    url = servers.postgres()
    name = fresh("t").replace("-", "_")
    connection = await asyncpg.connect(url)
    await connection.execute(f"CREATE ROLE {name} LOGIN PASSWORD 'secret'; CREATE SCHEMA {name}")
    await refused(with_user(url, "tidings", "secret"), "refuses the user or password")
    await refused(url.replace("/postgres", "/nothing"), "nothing")
    await refused(f"{with_user(url, name, 'secret')}?schema={name}", name, "grant")
    await refused(f"{url}?nonsense=1", "nonsense")
    await refused(f"{url}?pool=many", "many")
    await (await open_store(f"{url}?schema={name}")).close()
    await refused(f"{with_user(url, name, 'secret')}?schema={name}", "permission denied")
    await connection.execute(f"UPDATE {name}.tidings_meta SET value = '99' WHERE key = 'format'")
    await refused(f"{url}?schema={name}", "format 99", "this version reads 2")
    await connection.close()


async def test_valkey_set_up_wrongly() -> None:
    """A wrong password or right, eviction, no append-only file, another format or number of shards: one line each."""
    server = Valkey()
    try:
        server.start()
        direct = redis.asyncio.Redis(port=server.port)
        await (await open_store(f"{server.url}?prefix=t")).close()
        await refused(f"{server.url}?prefix=t&shards=4", "16 shards", "?shards=16")
        await direct.hset("{t:meta}", "format", "99")
        await refused(f"{server.url}?prefix=t", "format 99")
        await refused(f"{server.url}?durability=maybe", "durability=maybe")
        await refused(f"{server.url}?nonsense=1", "nonsense")
        await refused("redis://127.0.0.1:port/0", "port")
        await direct.set("{w:meta}", "text")
        await refused(f"{server.url}?prefix=w", "WRONGTYPE", "prefix")
        await direct.config_set("maxmemory-policy", "allkeys-lru")
        await refused(server.url, "allkeys-lru", "noeviction")
        await direct.config_set("maxmemory-policy", "noeviction")
        await direct.config_set("appendonly", "no")
        await refused(server.url, "appendonly yes", "durability=everysec")
        await (await open_store(f"{server.url}?durability=everysec&prefix=e")).close()
        await direct.config_set("appendonly", "yes")
        await direct.acl_setuser(
            "reader", enabled=True, passwords=["+secret"], keys=["*"], commands=["+@read", "+info"]
        )
        await refused(
            f"valkey://reader:secret@127.0.0.1:{server.port}/0", "give the user the right"
        )
        await refused(
            f"valkey://reader:wrong-secret@127.0.0.1:{server.port}/0",
            "refuses the user or password",
        )
        await direct.config_set("requirepass", "secret")
        await refused(server.url, "refuses the user or password")
        await (await open_store(f"valkey://:secret@127.0.0.1:{server.port}/0")).close()
        await direct.aclose()
    finally:
        server.close()


async def test_valkey_out_of_memory() -> None:
    """At `maxmemory` a write is `StoreUnavailable`, reads go on, and the same write succeeds once there is room."""
    server = Valkey("--maxmemory", "0")
    try:
        server.start()
        store = await open_store(server.url)
        first, second = creation(fresh()), creation(fresh(), prompt="x" * 100_000)
        await store.write([first])
        direct = redis.asyncio.Redis(port=server.port)
        await direct.config_set("maxmemory", "1")
        with pytest.raises(StoreUnavailable, match="maxmemory"):
            await store.write([second])
        assert await store.get(first.record.prediction_id) == first.stored
        await direct.config_set("maxmemory", "0")
        assert await store.write([second]) == [None]
        await direct.aclose()
        await store.close()
    finally:
        server.close()


async def test_valkey_forgets_its_scripts() -> None:
    """A server that has lost its scripts gets them again, within the same call."""
    store = await open_store(f"{servers.valkey()}?prefix={fresh('t')}&timeout=60")
    direct = redis.asyncio.Redis.from_url(servers.valkey().replace("valkey://", "redis://"))
    ids = [fresh() for _ in range(50)]
    await store.write([creation(one) for one in ids])
    await direct.script_flush()
    assert await store.write([writing(prediction(one, 2), 1) for one in ids]) == [None] * 50
    await direct.script_flush()
    assert len(await store.load(ids)) == 50
    await direct.script_flush()
    assert len((await store.list(Query(limit=50))).items) == 50
    await direct.aclose()
    await store.close()


async def test_valkey_purges_by_itself() -> None:
    """Keys that went without being swept are forgotten by listings, and can be created again."""
    prefix = fresh("t")
    store = await open_store(f"{servers.valkey()}?prefix={prefix}&timeout=60")
    direct = redis.asyncio.Redis.from_url(servers.valkey().replace("valkey://", "redis://"))
    ids = [fresh() for _ in range(20)]
    await store.write([creation(one, owner=prefix, tags=("t",)) for one in ids])
    gone = [key async for key in direct.scan_iter(f"{{{prefix}:*}}:prediction:*")][:10]
    await direct.delete(*gone)
    assert len((await store.list(Query(owner=prefix))).items) == 10
    missing = [one for one in ids if one not in await store.load(ids)]
    assert await store.write([creation(one, owner=prefix) for one in missing]) == [None] * 10
    assert len((await store.list(Query(owner=prefix))).items) == 20
    await direct.aclose()
    await store.close()


async def test_postgres_refuses_for_good() -> None:
    """What Postgres can never take (U+0000 in a text) is refused with its reason; the rest of the batch is written."""
    store = await open_store(
        f"{servers.postgres()}?schema={fresh('t').replace('-', '_')}&timeout=60"
    )
    good, bad = creation(fresh(), owner="o"), creation(fresh(), owner="\x00")
    outcomes = await store.write([bad, good])
    assert "U+0000" in str(outcomes[0])
    assert outcomes[1] is None
    assert await store.get(good.record.prediction_id) == good.stored
    await store.close()


async def test_postgres_batches_that_cross() -> None:
    """Batches over the same records in opposite orders, all at once, end without an error; one wins each record."""
    store = await open_store(
        f"{servers.postgres()}?schema={fresh('t').replace('-', '_')}&timeout=60"
    )
    ids = [fresh() for _ in range(60)]
    for version in range(1, 4):
        batches = [
            [writing(prediction(one, version), version - 1) for one in order]
            for order in (ids, ids[::-1]) * 4
        ]
        outcomes = await asyncio.gather(*(store.write(batch) for batch in batches))
        assert sum(outcome is None for batch in outcomes for outcome in batch) == 60
    await store.close()
