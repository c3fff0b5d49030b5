"""Two processors against one: Kafka with 8 partitions, state in Postgres, each processor a process of its own.

60,000 events of 20,000 predictions, waiting when the processors begin. The time runs from the first record that is
processed to the last. Beside the rate stands what limits it: the CPU that an event costs the processors, Postgres and the
broker, all on the same cores.

    python -m benchmarks.bench_processors [--events 60000] [--rounds 3]
"""

import argparse
import asyncio
import multiprocessing
import os
import time
import uuid
from statistics import median
from typing import Any

import asyncpg
import psutil  # type: ignore[import-untyped]  # carries no types
import structlog
import uvloop

from benchmarks.bench_processor import fill
from tests.support.broker import Broker
from tests.support.servers import Postgres

PARTITIONS = 8
ALLOWED = 60
"""Seconds that a round may take."""


async def process(url: str, prefix: str, target: str, processed: Any, done: Any) -> None:
    """One processor, until all is done."""
    from tidings.observability import gc_tuning
    from tidings.storage.factory import open_store
    from tidings.storage.wrappers.cache import CachedStore
    from tidings.streams.log.factory import open_log
    from tidings.streams.processing.processor import Processor
    from tidings.streams.rules.reducer import StorePolicy

    log = await open_log(url, topic_prefix=prefix, partitions=PARTITIONS)
    cache = CachedStore(await open_store(target), records=40_000, bytes_=48 * 1024 * 1024)
    processor = Processor(log, cache, {}, StorePolicy(await log.identity()))
    gc_tuning.freeze_startup_objects()
    running = asyncio.create_task(processor.run())
    while not done.is_set() and not running.done():
        processed.value = processor.statistics.records
        await asyncio.sleep(0.01)
    processor.stop()
    await running
    await cache.close()
    await log.close()


def _child(*arguments: Any) -> None:
    import structlog

    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))
    uvloop.run(process(*arguments))


def spent(pid: int | None) -> float:
    """Seconds of CPU that a process and its children have had."""
    parent = psutil.Process(pid)
    total = 0.0
    for one in [parent, *parent.children(recursive=True)]:
        try:
            times = one.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += times.user + times.system
    return total


async def prepared(broker: Broker, postgres: Postgres, events: int) -> tuple[str, str]:
    """New topics with the events, and a new database; gives the topics' prefix and the store's URL."""
    prefix, name = f"b{uuid.uuid4().hex[:8]}.", f"b{uuid.uuid4().hex}"
    await fill(f"kafka://{broker.bootstrap}", prefix, events, together=False, partitions=PARTITIONS)
    connection = await asyncpg.connect(postgres.url)
    await connection.execute(f"CREATE DATABASE {name}")
    await connection.close()
    return prefix, f"{postgres.url.rpartition('/')[0]}/{name}"


def measure(broker: Broker, postgres: Postgres, events: int, count: int) -> dict[str, float]:
    """So many processors, until all events are processed."""
    prefix, target = uvloop.run(prepared(broker, postgres, events))
    context = multiprocessing.get_context("spawn")
    done = context.Event()
    processed = [context.Value("q", 0, lock=False) for _ in range(count)]
    url = f"kafka://{broker.bootstrap}"
    children = [
        context.Process(target=_child, args=(url, prefix, target, one, done), daemon=True)
        for one in processed
    ]
    for child in children:
        child.start()
    deadline = time.monotonic() + ALLOWED

    def reached(least: int) -> int:
        while (now := sum(int(one.value) for one in processed)) < least:
            if time.monotonic() > deadline or not all(child.is_alive() for child in children):
                raise SystemExit(f"{now:,} of {events:,} events were processed")
            time.sleep(0.005)
        return now

    # If there are two, the first record counts once both have partitions: the group has settled by then.
    first = reached(1)
    while not all(one.value for one in processed):
        first = reached(first)
        time.sleep(0.005)
    first = reached(first)
    pids = {
        "processors": [child.pid for child in children],
        "Postgres": [postgres.pid],
        "broker": [broker.pid],
    }
    began, before = (
        time.perf_counter(),
        {name: sum(map(spent, some)) for name, some in pids.items()},
    )
    reached(events)
    elapsed = time.perf_counter() - began
    after = {name: sum(map(spent, some)) for name, some in pids.items()}
    done.set()
    for child in children:
        child.join(60)
    cost = {name: (after[name] - before[name]) / (events - first) * 1e6 for name in pids}
    return {"rate": (events - first) / elapsed, "share": first / events, **cost}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    # Each prediction has three events.
    parser.add_argument("--events", type=lambda text: int(text) // 3 * 3, default=60_000)
    parser.add_argument("--rounds", type=int, default=3)
    arguments, _ = parser.parse_known_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))
    broker, postgres = Broker(), Postgres()
    try:
        broker.start()
        postgres.start()
        found: dict[int, list[dict[str, float]]] = {1: [], 2: []}
        for _ in range(arguments.rounds):
            for count, results in found.items():
                results.append(measure(broker, postgres, arguments.events, count))
    finally:
        broker.close()
        postgres.close()
    alone = median(one["rate"] for one in found[1])
    print(f"{os.cpu_count()} cores for everything")
    print(
        "| processors | events/s | x one | CPU us an event: processors | Postgres | broker | cores busy |"
    )
    print("|---|---|---|---|---|---|---|")
    for count, results in found.items():
        rate = median(one["rate"] for one in results)
        ours, theirs, log = (
            median(one[name] for one in results) for name in ("processors", "Postgres", "broker")
        )
        busy = rate * (ours + theirs + log) / 1e6
        print(
            f"| {count} | {rate:,.0f} | {rate / alone:.2f} | {ours:.0f} | {theirs:.0f} | {log:.0f} | {busy:.2f} |"
        )


if __name__ == "__main__":
    main()
