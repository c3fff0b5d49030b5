"""The processor on a real broker: events from Kafka, decided, into SQLite (synchronous FULL), announced to Kafka.

300,000 events of 100,000 predictions on 4 partitions; the three events of one prediction lie 20,000 records apart (5,000
in their partition, batches have 2,000 at most), so that none of them fold. Beside it, in the same run, what one would write by hand: `getmany`, a dictionary of statuses,
one SQLite transaction a batch, and gathered sends. Then the same topic while behind (batches grow, folding counts).

    python -m benchmarks.bench_processor [--events 300000] [--rounds 3]
"""

import argparse
import asyncio
import json
import multiprocessing
import os
import resource
import sqlite3
import tempfile
import time
import uuid
from collections.abc import Callable, Coroutine
from pathlib import Path
from statistics import median
from typing import Any

import uvloop

PARTITIONS = 4
APART = 20_000
STATUSES = ("starting", "processing", "succeeded")


def event(number: int, status: str) -> bytes:
    """An event of about 215 bytes."""
    fields: dict[str, Any] = {
        "predictionId": f"prediction-{number:08d}",
        "status": status,
        "id": f"evt-{number}-{status}",
    }
    if status == "starting":
        fields |= {
            "prompt": "a lighthouse in a storm, oil on canvas",
            "model": "acme/paint-1",
            "owner": f"owner-{number % 100}",
        }
    elif status == "processing":
        fields |= {
            "progress": 0.5,
            "logs": "Using seed: 7710683\nGenerating image 1 of 1\n 50% |#####     |",
        }
    else:
        fields |= {
            "output": [f"https://delivery.example/{number}/out.png"],
            "generationTime": 5247,
            "progress": 1,
        }
    return json.dumps(fields, separators=(",", ":")).encode()


async def fill(
    url: str, prefix: str, events: int, *, together: bool, partitions: int = PARTITIONS
) -> None:
    """Write the events; `together`: the three of a prediction follow one another."""
    from tidings.streams.log.factory import open_log
    from tidings.streams.log.protocol import EVENTS, NewRecord

    log = await open_log(url, topic_prefix=prefix, partitions=partitions)
    count = events // 3
    block = 1 if together else APART
    order = (
        (n, s)
        for first in range(0, count, block)
        for s in STATUSES
        for n in range(first, min(first + block, count))
    )
    chunk: list[NewRecord] = []
    for number, status in order:
        chunk.append(NewRecord(b"prediction-%08d" % number, event(number, status)))
        if len(chunk) == 5000:
            await log.append(EVENTS, chunk)
            chunk = []
    if chunk:
        await log.append(EVENTS, chunk)
    await log.close()


async def ours(url: str, prefix: str, folder: Path, events: int) -> dict[str, Any]:
    """Our processor, until everything is processed."""
    from tests.support.conditions import eventually
    from tidings.observability import gc_tuning
    from tidings.storage.sqlite.store import SqliteStore
    from tidings.storage.wrappers.cache import CachedStore
    from tidings.streams.log.factory import open_log
    from tidings.streams.processing.processor import Processor
    from tidings.streams.rules.reducer import StorePolicy

    log = await open_log(url, topic_prefix=prefix, partitions=PARTITIONS)
    store = await SqliteStore.open(f"sqlite:///{folder}/store.db")
    cache = CachedStore(store, records=40_000, bytes_=48 * 1024 * 1024)
    processor = Processor(log, cache, {}, StorePolicy(await log.identity()))
    gc_tuning.freeze_startup_objects()
    running = asyncio.create_task(processor.run())
    await eventually(lambda: processor.statistics.records > 0, 60)
    first = processor.statistics.records
    started, cpu = time.perf_counter(), time.process_time()
    await eventually(lambda: processor.statistics.records >= events or running.done(), 600)
    elapsed, spent = time.perf_counter() - started, time.process_time() - cpu
    processor.stop()
    await running
    await log.close()
    await store.close()
    done = events - first
    return {
        "rate": done / elapsed,
        "cpu": spent / done * 1e5,
        "stages": {
            name: seconds / events * 1e6 for name, seconds in processor.statistics.seconds.items()
        },
        "applied": processor.statistics.applied,
        "batches": processor.statistics.batches,
    }


async def by_hand(url: str, prefix: str, folder: Path, events: int) -> dict[str, Any]:
    """What one would write without a library: no dead letters, no duplicates, no audit trail."""
    from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

    server = url.removeprefix("kafka://")
    database = sqlite3.connect(folder / "hand.db", isolation_level=None)
    database.execute("PRAGMA journal_mode=WAL")
    database.execute("PRAGMA synchronous=FULL")
    database.execute("CREATE TABLE predictions (id TEXT PRIMARY KEY, status TEXT, doc TEXT)")
    consumer = AIOKafkaConsumer(
        f"{prefix}predictions.events",
        bootstrap_servers=server,
        group_id=f"{prefix}hand",
        enable_auto_commit=False,
        auto_offset_reset="earliest",
    )
    producer = AIOKafkaProducer(bootstrap_servers=server, acks="all", enable_idempotence=True)
    await consumer.start()
    await producer.start()
    allowed = {
        None: {"starting"},
        "starting": {"processing"},
        "processing": {"succeeded", "failed", "canceled"},
    }
    done = 0
    started = cpu = 0.0
    try:
        while done < events:
            batch = await consumer.getmany(timeout_ms=500, max_records=500)
            if not started:
                started, cpu = time.perf_counter(), time.process_time()
                first = sum(map(len, batch.values()))
            records = [json.loads(r.value) for rs in batch.values() for r in rs]
            ids = [record["predictionId"] for record in records]
            marks = ",".join("?" * len(ids))
            rows = database.execute(
                f"SELECT id, status, doc FROM predictions WHERE id IN ({marks})", ids
            )
            known = {i: (status, json.loads(doc)) for i, status, doc in rows}
            changed = {}
            for record in records:
                status, document = known.get(record["predictionId"], (None, {}))
                if record["status"] in allowed.get(status, ()):
                    document = {**document, **record}
                    known[record["predictionId"]] = (record["status"], document)
                    changed[record["predictionId"]] = document
            database.execute("BEGIN IMMEDIATE")
            database.executemany(
                "INSERT INTO predictions VALUES (?, ?, ?) ON CONFLICT (id) DO UPDATE SET status = excluded.status, doc = excluded.doc",
                [(i, d["status"], json.dumps(d)) for i, d in changed.items()],
            )
            database.execute("COMMIT")
            await asyncio.gather(
                *[
                    producer.send_and_wait(
                        f"{prefix}predictions.changes", json.dumps(d).encode(), key=i.encode()
                    )
                    for i, d in changed.items()
                ]
            )
            await consumer.commit()
            done += len(records)
        elapsed, spent = time.perf_counter() - started, time.process_time() - cpu
    finally:
        await consumer.stop()
        await producer.stop()
        database.close()
    return {"rate": (done - first) / elapsed, "cpu": spent / (done - first) * 1e5}


def _child(
    pipe: Any, run: Callable[..., Coroutine[Any, Any, dict[str, Any]]], *arguments: Any
) -> None:
    import structlog

    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))
    profile = os.environ.get("PROFILE")
    if profile:
        import cProfile

        with cProfile.Profile() as profiler:
            result = uvloop.run(run(*arguments))
        profiler.dump_stats(profile)
    else:
        result = uvloop.run(run(*arguments))
    result["rss"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    pipe.send(result)


def alone(
    run: Callable[..., Coroutine[Any, Any, dict[str, Any]]], *arguments: Any
) -> dict[str, Any]:
    """Run it in a fresh process, so that its CPU time and memory are its own."""
    context = multiprocessing.get_context("spawn")
    mine, theirs = context.Pipe()
    process = context.Process(target=_child, args=(theirs, run, *arguments))
    process.start()
    while not mine.poll(1):
        if not process.is_alive():
            raise SystemExit("a round ended without a result")
    result: dict[str, Any] = mine.recv()
    process.join()
    return result


def measure(url: str, events: int, rounds: int) -> dict[str, list[dict[str, Any]]]:
    """Interleaved rounds."""
    found: dict[str, list[dict[str, Any]]] = {"ours": [], "by hand": [], "ours, behind": []}
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            apart, together = f"b{uuid.uuid4().hex[:8]}.", f"b{uuid.uuid4().hex[:8]}."
            uvloop.run(fill(url, apart, events, together=False))
            found["ours"].append(alone(ours, url, apart, folder, events))
            found["by hand"].append(alone(by_hand, url, apart, folder, events))
            (folder / "behind").mkdir()
            uvloop.run(fill(url, together, events, together=True))
            found["ours, behind"].append(alone(ours, url, together, folder / "behind", events))
    return found


def show(found: dict[str, list[dict[str, Any]]]) -> None:
    """Print the table."""
    hand = median(r["rate"] for r in found["by hand"])
    print(
        "| Kafka -> SQLite FULL -> Kafka | events/s | x by hand | CPU-s per 100,000 | peak RSS MB |"
    )
    print("|---|---|---|---|---|")
    for name, results in found.items():
        rate = median(r["rate"] for r in results)
        cpu, rss = median(r["cpu"] for r in results), median(r["rss"] for r in results)
        print(f"| {name} | {rate:,.0f} | {rate / hand:.2f} | {cpu:.2f} | {rss:.0f} |")
    stages = [r["stages"] for r in found["ours"]]
    print("\n| stage | us an event |\n|---|---|")
    for stage in stages[0]:
        print(f"| {stage} | {median(s[stage] for s in stages):.2f} |")


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
    broker = Broker()
    try:
        broker.start()
        show(measure(f"kafka://{broker.bootstrap}", arguments.events, arguments.rounds))
    finally:
        broker.close()


if __name__ == "__main__":
    main()
