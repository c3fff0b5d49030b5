"""Where a batch's CPU goes: the processor's own steps in a row, on events from memory into SQLite, without a broker.

CPU of the whole process (the thread that writes included) per event and step, the median of several rounds. The events
are those of `bench_peers`; none of them fold.

    python -m benchmarks.bench_steps [--batch 500] [--predictions 12000] [--rounds 5]
"""

import argparse
import gc
import json
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from time import process_time
from typing import Any

import uvloop
from aiokafka.record.default_records import DefaultRecordBatchBuilder

from tidings.observability import gc_tuning
from tidings.storage.clock import SYSTEM_CLOCK
from tidings.storage.sqlite.store import SqliteStore
from tidings.storage.wrappers.cache import CachedStore
from tidings.streams.log.protocol import NewRecord, StoredRecord
from tidings.streams.processing.batch import BatchInFlight
from tidings.streams.processing.statistics import Statistics
from tidings.streams.rules.reducer import Expiry, StorePolicy

STEPS = ("decode", "load", "judge", "write", "announce", "batch of Kafka", "count, release")
PROMPT = "a photograph of a lighthouse in a storm, seed " + "x" * 90
PARTITIONS = 4


def batches(predictions: int, size: int) -> list[list[StoredRecord]]:
    """All events in batches, the three of a prediction far apart."""
    offsets = [0] * PARTITIONS
    began, found = 1_764_000_000_000, list[StoredRecord]()
    for status in ("starting", "processing", "succeeded"):
        for which in range(predictions):
            number = len(found)
            event = {
                "predictionId": f"p{which}",
                "status": status,
                "id": f"evt-{number:032d}",
                "at": began + number,
                "prompt": PROMPT + str(which),
            }
            partition = which % PARTITIONS
            value = json.dumps(event, separators=(",", ":")).encode()
            offset = offsets[partition]
            offsets[partition] += 1
            found.append(
                StoredRecord("e", partition, offset, began + number, b"p%d" % which, value)
            )
    return [found[at : at + size] for at in range(0, len(found), size)]


async def run(work: Sequence[Sequence[StoredRecord]], folder: Path) -> list[float]:
    """Microseconds an event, step by step."""
    store = await SqliteStore.open(f"sqlite:///{folder}/store.db", deferred=True)
    cache = CachedStore(store, records=400_000, bytes_=400 * 1024 * 1024)
    policy, expiry, statistics = StorePolicy("log"), Expiry(), Statistics()
    spent = [0.0] * len(STEPS)
    step = 0
    last = 0.0

    def lap() -> None:
        nonlocal step, last
        now = process_time()
        spent[step] += now - last
        step, last = (step + 1) % len(STEPS), now

    for records in work:
        last = process_time()
        batch = BatchInFlight(records, {})
        lap()
        loaded = await cache.load_certain(list(batch.entries))
        lap()
        batch.reduce(loaded, policy)
        lap()
        now = SYSTEM_CLOCK.ms()
        writes = [entry.write(expiry, now) for entry in batch.entries.values() if entry.changed]
        outcomes = await cache.write(writes)
        assert not any(outcomes)
        lap()
        changes = [c for e in batch.entries.values() if (c := e.announcement()) is not None]
        lap()
        _put(changes)
        lap()
        batch.scattered()
        batch.seconds += [0.0] * 4
        statistics.batch(batch)
        del batch, loaded, writes, outcomes, changes
        lap()
    assert statistics.applied == sum(map(len, work))
    await cache.close()
    return [one / statistics.records * 1e6 for one in spent]


def _put(changes: Sequence[NewRecord]) -> None:
    builders: dict[Any, Any] = {}
    for change in changes:
        builder = builders.get(change.partition)
        if builder is None:
            builder = builders[change.partition] = DefaultRecordBatchBuilder(
                magic=2,
                compression_type=0,
                is_transactional=0,
                producer_id=-1,
                producer_epoch=-1,
                base_sequence=-1,
                batch_size=1 << 24,
            )
        builder.append(0, 0, change.key, change.value, change.headers)


def measure(size: int, predictions: int, rounds: int) -> list[list[float]]:
    """Each round in a fresh file."""
    work = batches(predictions, size)
    gc_tuning.freeze_startup_objects()
    found = []
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as name:
            found.append(uvloop.run(run(work, Path(name))))
        gc.collect()
    return found


def show(found: list[list[float]], say: Callable[[str], None] = print) -> None:
    """Print the table."""
    say("| step | us an event |\n|---|---|")
    for name, figures in zip(STEPS, zip(*found, strict=True), strict=True):
        say(f"| {name} | {median(figures):.2f} |")
    say(f"| all | {median(map(sum, found)):.2f} (least {min(map(sum, found)):.2f}) |")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batch", type=int, default=500)
    parser.add_argument("--predictions", type=int, default=12_000)
    parser.add_argument("--rounds", type=int, default=5)
    arguments, _ = parser.parse_known_args()
    show(measure(arguments.batch, arguments.predictions, arguments.rounds))


if __name__ == "__main__":
    main()
