"""Postgres and Valkey stores beside their bare drivers. `python -m benchmarks.bench_stores`.

Batches of 500 validated transitions and single reads; medians of interleaved rounds. The bare driver sends the same
statement or scripts, its arguments made ready outside the clock.
"""

import statistics
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable
from typing import Any

import asyncpg
import redis.asyncio
import uvloop

from benchmarks.bench_sqlite_store import write
from tests.support import servers
from tidings.storage.clock import SYSTEM_CLOCK
from tidings.storage.factory import open_store
from tidings.storage.postgres import store as postgres_module
from tidings.storage.postgres.store import PostgresStore
from tidings.storage.redis import store as redis_module
from tidings.storage.redis.store import RedisStore
from tidings.storage.store import Write, high_water

BATCH = 500
ROUNDS = 30
READS = 100
Figures = dict[str, list[float]]


class Bare:
    """What a program would send by hand: `prepare` makes it ready, `send` and `read` are what is timed."""

    prepare: Callable[[list[Write]], Any]
    send: Callable[[Any], Awaitable[None]]
    read: Callable[[str], Awaitable[object]]


class BarePostgres(Bare):
    def __init__(
        self, store: PostgresStore, connection: "asyncpg.Connection[asyncpg.Record]"
    ) -> None:
        self.statements = store._statements
        self.connection = connection

    def prepare(self, writes: list[Write]) -> Any:
        columns = [
            *zip(*map(postgres_module._row, sorted(writes, key=postgres_module._id)), strict=True)
        ]
        positions = high_water(writes)
        return [*columns, list(positions), list(positions.values())]

    async def send(self, ready: Any) -> None:
        assert len(await self.connection.fetchval(self.statements.write, *ready)) == BATCH

    async def read(self, prediction_id: str) -> object:
        return await self.connection.fetchrow(self.statements.get, prediction_id)


class BareRedis(Bare):
    def __init__(self, store: RedisStore, driver: "redis.asyncio.Redis") -> None:
        self.store = store
        self.driver = driver

    def prepare(self, writes: list[Write]) -> Any:
        shards: dict[int, list[Write]] = {}
        for one in writes:
            shards.setdefault(self.store._shard(one.record.prediction_id), []).append(one)
        sha = redis_module._WRITE.sha
        return [
            (
                "EVALSHA",
                sha,
                1,
                self.store._prefixes[shard],
                *redis_module._arguments(some, SYSTEM_CLOCK.ms()),
            )
            for shard, some in shards.items()
        ]

    async def send(self, ready: Any) -> None:
        pipeline = self.driver.pipeline(transaction=False)
        for command in ready:
            pipeline.execute_command(*command)
        pipeline.execute_command("WAITAOF", 1, 0, 2000)
        assert not any((await pipeline.execute())[:-1])

    async def read(self, prediction_id: str) -> object:
        key = f"{self.store._prefixes[self.store._shard(prediction_id)]}:prediction:{prediction_id}"
        return await self.driver.execute_command("HMGET", key, "v", "s", "x", "i", "d")  # type: ignore[no-untyped-call]


async def batches(store: PostgresStore | RedisStore, other: Bare, figures: Figures) -> None:
    """Rounds of three batches for each side, in turns."""
    for number in range(ROUNDS):
        for version in (1, 2, 3):
            mine = [write(2 * number * BATCH + n, version) for n in range(BATCH)]
            theirs = other.prepare(
                [write((2 * number + 1) * BATCH + n, version) for n in range(BATCH)]
            )
            start = time.perf_counter()
            assert await store.write(mine) == [None] * BATCH
            middle = time.perf_counter()
            await other.send(theirs)
            figures["store batch"].append((middle - start) / BATCH)
            figures["bare batch"].append((time.perf_counter() - middle) / BATCH)
        for one in mine[:READS]:
            start = time.perf_counter()
            await store.get(one.record.prediction_id)
            middle = time.perf_counter()
            await other.read(one.record.prediction_id)
            figures["store read"].append(middle - start)
            figures["bare read"].append(time.perf_counter() - middle)


async def measure() -> dict[str, Figures]:
    figures: dict[str, Figures] = defaultdict(lambda: defaultdict(list))
    store = await open_store(f"{servers.postgres()}?schema=bench")
    assert isinstance(store, PostgresStore)
    connection = await asyncpg.connect(
        servers.postgres(),
        server_settings={
            "enable_seqscan": "off",
            "enable_hashjoin": "off",
            "enable_mergejoin": "off",
            "jit": "off",
        },
    )
    await batches(store, BarePostgres(store, connection), figures["postgres"])
    await connection.close()
    await store.close()
    for durability in ("aof", "everysec"):
        valkey = await open_store(
            f"{servers.valkey()}?prefix=bench-{durability}&durability={durability}"
        )
        assert isinstance(valkey, RedisStore)
        driver = redis.asyncio.Redis.from_url(servers.valkey().replace("valkey://", "redis://"))
        await batches(valkey, BareRedis(valkey, driver), figures[f"valkey, {durability}"])
        await driver.aclose()
        await valkey.close()
    return figures


def main() -> None:
    print(f"{'store beside its bare driver':<40}{'figure':>16}{'ratio':>10}")
    for name, figures in uvloop.run(measure()).items():
        median = {what: statistics.median(values) for what, values in figures.items()}
        for side in ("store", "bare"):
            rate = 1 / median[f"{side} batch"]
            ratio = median["bare batch"] / median[f"{side} batch"]
            print(f"{f'{name}: {side}, batch of {BATCH}':<40}{rate:>14,.0f}/s{ratio:>10.2f}")
        for side in ("store", "bare"):
            ratio = median[f"{side} read"] / median["bare read"]
            print(
                f"{f'{name}: {side}, one read p50':<40}{median[f'{side} read'] * 1e6:>13,.0f} µs{ratio:>10.2f}"
            )


if __name__ == "__main__":
    main()
