"""A replay of 300,000 events into empty stores, from the embedded log and from a real Kafka broker.

The stores are SQLite, a real Postgres and a real Valkey. Beside it, in the same run, reading alone (the log followed to
its end and every value decoded as JSON), and the filling from the changes topic that `--from-changes` does: one record of
each of the 100,000 predictions; and those rows written by the bare SQLite driver alone. The CPU is ours, without the servers'.

    python -m benchmarks.bench_replay [--events 300000] [--rounds 3]
"""

import argparse
import asyncio
import sqlite3
import tempfile
import time
import uuid
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from statistics import median
from typing import Any

import asyncpg
import structlog
import uvloop

from benchmarks.bench_processor import PARTITIONS, alone, fill
from tests.support.servers import Postgres, Valkey


async def replay(url: str, prefix: str, target: str) -> dict[str, Any]:
    """Into an empty store."""
    from tidings.observability import gc_tuning
    from tidings.storage.factory import open_store
    from tidings.storage.sqlite.interpreter import switch_interval
    from tidings.streams.log.factory import open_log
    from tidings.streams.replay.rebuild import Rebuild, span
    from tidings.streams.rules.reducer import StorePolicy

    log = await open_log(url, topic_prefix=prefix, partitions=PARTITIONS)
    store = await open_store(target)
    rebuild = Rebuild(log, store, {}, StorePolicy(await log.identity()))
    switch_interval.allowed = True  # as the command does
    gc_tuning.freeze_startup_objects()
    started, cpu = time.perf_counter(), time.process_time()
    progress = await rebuild.run(await span(log))
    elapsed, spent = time.perf_counter() - started, time.process_time() - cpu
    await store.close()
    await log.close()
    return {"rate": progress.read / elapsed, "cpu": spent / progress.read * 1e6}


async def announce(url: str, prefix: str, folder: Path) -> None:
    """Put the newest record of each prediction into the changes topic, as a processor and compaction leave them."""
    from tidings.storage.sqlite.store import SqliteStore
    from tidings.storage.store import Query
    from tidings.streams.changes.codec import announcement
    from tidings.streams.log.factory import open_log
    from tidings.streams.log.protocol import CHANGES, Position
    from tidings.streams.replay.rebuild import Rebuild, span
    from tidings.streams.rules.reducer import StorePolicy

    log = await open_log(url, topic_prefix=prefix, partitions=PARTITIONS)
    store = await SqliteStore.open(f"sqlite:///{folder}/{uuid.uuid4().hex}.db?synchronous=normal")
    await Rebuild(log, store, {}, StorePolicy(await log.identity())).run(await span(log))
    cursor: str | None = None
    while True:
        page = await store.list(Query(limit=1000, cursor=cursor))
        new = []
        for stored in page.items:
            record = stored.standing()
            assert record.source is not None
            ((partition, offset),) = record.source.offsets.items()
            position = Position(int(partition), offset)
            new.append(
                announcement(
                    record, stored.encoded, position=position, expires_at=stored.expires_at
                )
            )
        await log.append(CHANGES, new)
        cursor = page.cursor
        if cursor is None:
            break
    await store.close()
    await log.close()


async def restore(url: str, prefix: str, target: str) -> dict[str, Any]:
    """From the changes into an empty store."""
    from tidings.observability import gc_tuning
    from tidings.storage.factory import open_store
    from tidings.storage.sqlite.interpreter import switch_interval
    from tidings.streams.log.factory import open_log
    from tidings.streams.replay.from_changes import Restoration
    from tidings.streams.replay.rebuild import Progress

    log = await open_log(url, topic_prefix=prefix, partitions=PARTITIONS)
    store = await open_store(target)
    progress = Progress()
    restoration = Restoration(log, store, await log.identity(), progress)
    switch_interval.allowed = True  # as the command does
    gc_tuning.freeze_startup_objects()
    started, cpu = time.perf_counter(), time.process_time()
    await restoration.run("nobody")
    elapsed, spent = time.perf_counter() - started, time.process_time() - cpu
    await store.close()
    await log.close()
    return {"rate": progress.restored / elapsed, "cpu": spent / progress.restored * 1e6}


async def read(url: str, prefix: str) -> dict[str, Any]:
    """Reading and decoding alone."""
    import json

    from tidings.streams.log.factory import open_log
    from tidings.streams.log.protocol import EVENTS

    log = await open_log(url, topic_prefix=prefix, partitions=PARTITIONS)
    count = 0
    started, cpu = time.perf_counter(), time.process_time()
    async for batch in log.follow(EVENTS, "beginning"):
        if not batch and count:
            break
        for record in batch:
            json.loads(record.value or b"")
        count += len(batch)
    elapsed, spent = time.perf_counter() - started, time.process_time() - cpu
    await log.close()
    return {"rate": count / elapsed, "cpu": spent / count * 1e6}


async def bare(filled: str, folder: Path) -> dict[str, Any]:
    """The rows of a SQLite store written into another one, whose tables and indexes are the same, by the bare driver."""
    from tidings.storage.sqlite.store import SqliteStore

    path = f"{folder}/{uuid.uuid4().hex}.db"
    await (await SqliteStore.open(f"sqlite:///{path}")).close()
    with closing(sqlite3.connect(filled)) as source:
        rows = source.execute("SELECT * FROM predictions").fetchall()
    with closing(sqlite3.connect(path, isolation_level=None)) as target:
        target.execute("PRAGMA synchronous=FULL")
        marks = ",".join("?" * len(rows[0]))
        started, cpu = time.perf_counter(), time.process_time()
        for first in range(0, len(rows), 5000):
            target.execute("BEGIN IMMEDIATE")
            target.executemany(
                f"INSERT INTO predictions VALUES ({marks})", rows[first : first + 5000]
            )
            target.execute("COMMIT")
        elapsed, spent = time.perf_counter() - started, time.process_time() - cpu
    return {"rate": len(rows) / elapsed, "cpu": spent / len(rows) * 1e6}


async def database(postgres: Postgres) -> str:
    """The URL of a new database."""
    name = f"b{uuid.uuid4().hex}"
    connection = await asyncpg.connect(postgres.url)
    await connection.execute(f"CREATE DATABASE {name}")
    await connection.close()
    return f"{postgres.url.rpartition('/')[0]}/{name}"


def main() -> None:
    """Measure and print."""
    from tests.support.broker import Broker

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    # Each prediction has three events.
    parser.add_argument("--events", type=lambda text: int(text) // 3 * 3, default=300_000)
    parser.add_argument("--rounds", type=int, default=3)
    arguments, _ = parser.parse_known_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))
    broker, postgres, valkey = Broker(), Postgres(), Valkey()
    try:
        for server in (broker, postgres, valkey):
            server.start()
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            places = {
                "SQLite log": (f"sqlite:///{folder}/log.db", ""),
                "Kafka": (f"kafka://{broker.bootstrap}", "replay."),
            }
            stores: dict[str, Callable[[], str]] = {
                "SQLite": lambda: f"sqlite:///{folder}/{uuid.uuid4().hex}.db",
                "Postgres": lambda: asyncio.run(database(postgres)),
                "Valkey": lambda: f"{valkey.url}?prefix={uuid.uuid4().hex}",
            }
            for url, prefix in places.values():
                asyncio.run(fill(url, prefix, arguments.events, together=True))
                asyncio.run(announce(url, prefix, folder))
            found: dict[str, list[dict[str, Any]]] = {}
            for _ in range(arguments.rounds):
                for log, (url, prefix) in places.items():
                    found.setdefault(f"{log}: read and json.loads", []).append(
                        alone(read, url, prefix)
                    )
                    for store, target in stores.items():
                        name_ = f"{log}: replay into {store}"
                        found.setdefault(name_, []).append(alone(replay, url, prefix, target()))
                    name_, filled = f"{log}: from the changes into SQLite", stores["SQLite"]()
                    found.setdefault(name_, []).append(alone(restore, url, prefix, filled))
                name_ = "the rows of a store by the bare SQLite driver"
                found.setdefault(name_, []).append(
                    alone(bare, filled.removeprefix("sqlite:///"), folder)
                )
    finally:
        for server in (broker, postgres, valkey):
            server.close()
    print(f"| {arguments.events:,} events | records/s | CPU us a record |\n|---|---|---|")
    for name_, results in found.items():
        print(
            f"| {name_} | {median(r['rate'] for r in results):,.0f} | {median(r['cpu'] for r in results):.1f} |"
        )


if __name__ == "__main__":
    uvloop.install()
    main()
