"""A replay of 300,000 events into an empty SQLite store, from the embedded log and from a real Kafka broker.

Beside it, in the same run, reading alone (the log followed to its end and every value decoded as JSON), and the filling
from the changes topic that `--from-changes` does: one record of each of the 100,000 predictions.

    python -m benchmarks.bench_replay [--events 300000] [--rounds 3]
"""

import argparse
import asyncio
import tempfile
import time
import uuid
from pathlib import Path
from statistics import median
from typing import Any

import uvloop

from benchmarks.bench_processor import PARTITIONS, alone, fill


async def replay(url: str, prefix: str, folder: Path) -> dict[str, Any]:
    """Into an empty store."""
    from storage.sqlite import SqliteStore
    from streams.fold import Rules
    from streams.logs import open_log
    from streams.replay import Rebuild, span
    from tidings import collector

    log = await open_log(url, topic_prefix=prefix, partitions=PARTITIONS)
    store = await SqliteStore.open(f"sqlite:///{folder}/{uuid.uuid4().hex}.db")
    rebuild = Rebuild(log, store, {}, Rules(await log.identity()))
    collector.settle()
    started, cpu = time.perf_counter(), time.process_time()
    progress = await rebuild.run(await span(log))
    elapsed, spent = time.perf_counter() - started, time.process_time() - cpu
    await store.close()
    await log.close()
    return {"rate": progress.read / elapsed, "cpu": spent / progress.read * 1e6}


async def announce(url: str, prefix: str, folder: Path) -> None:
    """Put the newest record of each prediction into the changes topic, as a processor and compaction leave them."""
    from storage.sqlite import SqliteStore
    from storage.store import Query
    from streams.changes import announcement
    from streams.fold import Rules
    from streams.log import CHANGES, Position
    from streams.logs import open_log
    from streams.replay import Rebuild, span

    log = await open_log(url, topic_prefix=prefix, partitions=PARTITIONS)
    store = await SqliteStore.open(f"sqlite:///{folder}/{uuid.uuid4().hex}.db?synchronous=normal")
    await Rebuild(log, store, {}, Rules(await log.identity())).run(await span(log))
    cursor: str | None = None
    while True:
        page = await store.list(Query(limit=1000, cursor=cursor))
        new = []
        for stored in page.items:
            record = stored.standing()
            assert record.source is not None
            ((partition, offset),) = record.source.offsets.items()
            position = Position(int(partition), offset)
            new.append(announcement(record, stored.encoded, position=position, expires_at=stored.expires_at))
        await log.append(CHANGES, new)
        cursor = page.cursor
        if cursor is None:
            break
    await store.close()
    await log.close()


async def restore(url: str, prefix: str, folder: Path) -> dict[str, Any]:
    """From the changes into an empty store."""
    from storage.sqlite import SqliteStore
    from streams.logs import open_log
    from streams.replay import Progress
    from streams.restore import Restoration
    from tidings import collector

    log = await open_log(url, topic_prefix=prefix, partitions=PARTITIONS)
    store = await SqliteStore.open(f"sqlite:///{folder}/{uuid.uuid4().hex}.db")
    progress = Progress()
    restoration = Restoration(log, store, await log.identity(), progress)
    collector.settle()
    started, cpu = time.perf_counter(), time.process_time()
    await restoration.run("nobody")
    elapsed, spent = time.perf_counter() - started, time.process_time() - cpu
    await store.close()
    await log.close()
    return {"rate": progress.restored / elapsed, "cpu": spent / progress.restored * 1e6}


async def read(url: str, prefix: str, folder: Path) -> dict[str, Any]:  # noqa: ARG001 - the same shape as `replay`
    """Reading and decoding alone."""
    import json

    from streams.log import EVENTS
    from streams.logs import open_log

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


def main() -> None:
    """Measure and print."""
    from tests.broker import Broker

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=300_000)
    parser.add_argument("--rounds", type=int, default=3)
    arguments, _ = parser.parse_known_args()
    broker = Broker()
    try:
        broker.start()
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            places = {
                "SQLite log": (f"sqlite:///{folder}/log.db", ""),
                "Kafka": (f"kafka://{broker.bootstrap}", "replay."),
            }
            for url, prefix in places.values():
                asyncio.run(fill(url, prefix, arguments.events, together=True))
                asyncio.run(announce(url, prefix, folder))
            found: dict[str, list[dict[str, Any]]] = {}
            for _ in range(arguments.rounds):
                for name_, (url, prefix) in places.items():
                    found.setdefault(f"{name_}: read and json.loads", []).append(alone(read, url, prefix, folder))
                    found.setdefault(f"{name_}: replay into SQLite", []).append(alone(replay, url, prefix, folder))
                    found.setdefault(f"{name_}: from the changes into SQLite", []).append(
                        alone(restore, url, prefix, folder)
                    )
    finally:
        broker.close()
    print(f"| {arguments.events:,} events | records/s | CPU us a record |\n|---|---|---|")
    for name_, results in found.items():
        print(f"| {name_} | {median(r['rate'] for r in results):,.0f} | {median(r['cpu'] for r in results):.1f} |")


if __name__ == "__main__":
    uvloop.install()
    main()
