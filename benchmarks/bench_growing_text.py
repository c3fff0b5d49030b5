"""Growing texts below the gateway: what one answer costs in bytes, and what 200 at once cost in CPU and time.

The first table: one answer of 2,000 tokens (12 KB) at 50 a second, appended in pieces, beside the same answer reported
whole with every token, in the same run: bytes in the changes, in the topic of texts, and of the records written.

The second: 200 answers at 50 tokens a second each, SQLite or Kafka: CPU of the whole process (appends, log, processor,
store, a follower of both topics), beside appends and a follower alone; and the time from a piece's append to the
follower that has it.

    python -m benchmarks.bench_growing_text [--seconds 10] [--tokens 2000] [--log kafka://localhost:9092]
"""

import argparse
import asyncio
import json
import tempfile
import time
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from statistics import quantiles

import structlog
import uvloop

from tidings.storage.factory import open_store
from tidings.storage.sqlite.store import SqliteStore
from tidings.storage.store import Outcome, PredictionStore, Write
from tidings.storage.wrappers.cache import CachedStore
from tidings.streams.changes.codec import parse
from tidings.streams.changes.text_codec import parse_piece
from tidings.streams.log.factory import open_log
from tidings.streams.log.protocol import CHANGES, EVENTS, TEXT, Log, NewRecord, Record
from tidings.streams.processing.processor import Processor
from tidings.streams.rules.reducer import StorePolicy

TOKEN = "token "
RATE = 50
ANSWERS = 200
TICK = 0.01
"""Seconds between appends: each has what came due."""


def piece(name: str, offset: int) -> NewRecord:
    """A token at its offset."""
    event = {"type": "append", "text": TOKEN, "offset": offset}
    return NewRecord(name.encode(), json.dumps(event).encode())


@asynccontextmanager
async def processing(log: Log, store: PredictionStore) -> AsyncIterator[Processor]:
    """A processor at work."""
    processor = Processor(log, CachedStore(store), {}, StorePolicy(await log.identity()))
    task = asyncio.create_task(processor.run())
    try:
        yield processor
    finally:
        processor.stop()
        await task


def weight(records: Sequence[Record], key: bytes) -> int:
    """Bytes of a prediction's records: keys, values and headers."""
    total = 0
    for record in records:
        if record.key == key:
            total += len(key) + len(record.value or b"")
            total += sum(len(name) + len(value) for name, value in record.headers)
    return total


class Watched:
    """Counts the bytes of the records that a store is given."""

    def __init__(self, store: SqliteStore) -> None:
        self.bytes: dict[str, int] = {}
        self.writes: dict[str, int] = {}
        self._write = store.write
        store.write = self._counted  # type: ignore[method-assign]

    async def _counted(self, writes: Sequence[Write]) -> list[Outcome]:
        for one in writes:
            name = one.record.prediction_id
            self.bytes[name] = self.bytes.get(name, 0) + len(one.encoded)
            self.writes[name] = self.writes.get(name, 0) + 1
        return await self._write(writes)


async def read_all(log: Log, topic: str) -> list[Record]:
    """Everything in a topic."""
    found: list[Record] = []
    async for batch in log.follow(topic, "beginning"):
        if not batch:
            break
        found += batch
    return found


async def bytes_of_one(tokens: int) -> None:
    """The first table."""
    with tempfile.TemporaryDirectory() as folder:
        log = await open_log(f"sqlite:///{Path(folder) / 'log.db'}")
        store = await open_store(f"sqlite:///{Path(folder) / 'store.db'}")
        assert isinstance(store, SqliteStore)
        watched = Watched(store)
        async with processing(log, store):
            started = time.monotonic()
            for number in range(tokens):
                whole = {"status": "processing", "text": TOKEN * (number + 1)}
                report = NewRecord(b"whole", json.dumps(whole).encode())
                await log.append(EVENTS, [piece("pieces", number * len(TOKEN)), report])
                await asyncio.sleep(max(0, started + (number + 1) / RATE - time.monotonic()))
            end = json.dumps({"status": "succeeded"}).encode()
            await log.append(EVENTS, [NewRecord(name, end) for name in (b"pieces", b"whole")])
        changes, texts = await read_all(log, CHANGES), await read_all(log, TEXT)
        length = tokens * len(TOKEN)
        print(f"one answer of {tokens} tokens, {length} bytes, at {RATE} a second")
        print(f"{'':24}{'pieces':>12}{'whole':>14}{'ratio':>8}")
        sums = [0, 0]
        for title, counts in (
            ("changes, bytes", [weight(changes, key) for key in (b"pieces", b"whole")]),
            ("topic of texts, bytes", [weight(texts, key) for key in (b"pieces", b"whole")]),
            ("records written, bytes", [watched.bytes[name] for name in ("pieces", "whole")]),
        ):
            sums = [total + count for total, count in zip(sums, counts, strict=True)]
            print(f"{title:24}{counts[0]:12,}{counts[1]:14,}{counts[1] / max(1, counts[0]):8.1f}")
        print(f"{'together':24}{sums[0]:12,}{sums[1]:14,}{sums[1] / sums[0]:8.1f}")
        print(f"{'records written':24}{watched.writes['pieces']:12,}{watched.writes['whole']:14,}")
        await log.close()
        await store.close()


class Follower:
    """Reads both topics as a gateway does, and notes when it has each byte."""

    def __init__(self, log: Log, seconds: float) -> None:
        self._log = log
        self.appended: dict[tuple[str, int], float] = {}
        self.latencies: list[float] = []
        self.expected = int(ANSWERS * RATE * seconds)
        self.complete = asyncio.Event()
        self._upto: dict[str, int] = {}

    async def pieces(self) -> None:
        """Follow the topic of texts."""
        async for batch in self._log.follow(TEXT, "end"):
            for record in batch:
                if (one := parse_piece(record)) is not None:
                    self._has(one.prediction_id, one.after)

    async def changes(self) -> None:
        """Follow the changes."""
        async for batch in self._log.follow(CHANGES, "end"):
            for record in batch:
                if (one := parse(record)) is not None:
                    length = json.loads(one.value).get("textLength", 0)
                    self._has(one.prediction_id, length)

    def _has(self, name: str, upto: int) -> None:
        now = time.monotonic()
        for end in range(self._upto.get(name, 0) + len(TOKEN), upto + 1, len(TOKEN)):
            self.latencies.append(now - self.appended[name, end])
        self._upto[name] = max(upto, self._upto.get(name, 0))
        if len(self.latencies) == self.expected:
            self.complete.set()


async def load(log: Log, follower: Follower, seconds: float) -> tuple[int, float, float]:
    """Append what comes due; returns the number of pieces, and the seconds and the CPU that it took."""
    total = int(ANSWERS * RATE * seconds)
    started, cpu = time.monotonic(), time.process_time()
    done = 0
    while done < total:
        due = min(total, int((time.monotonic() - started + TICK) * ANSWERS * RATE))
        records = []
        now = time.monotonic()
        for number in range(done, due):
            name, offset = f"p{number % ANSWERS}", number // ANSWERS * len(TOKEN)
            follower.appended[name, offset + len(TOKEN)] = now
            records.append(piece(name, offset))
        done = due
        await log.append(EVENTS, records)
        await asyncio.sleep(max(0, started + done / (ANSWERS * RATE) - time.monotonic()))
    return total, time.monotonic() - started, time.process_time() - cpu


async def cpu_of_many(url: str, seconds: float) -> None:
    """The second table."""
    print(f"{ANSWERS} answers at {RATE} tokens a second, {url.partition(':')[0]}")
    print(f"{'':24}{'cores':>8}{'us/piece':>10}{'p50 ms':>8}{'p99 ms':>8}")
    for title, works in (("appends alone", False), ("with processor", True)):
        with tempfile.TemporaryDirectory() as folder:
            where = url if url.startswith("kafka") else f"sqlite:///{Path(folder) / 'log.db'}"
            log = await open_log(where, topic_prefix=f"bench-{uuid.uuid4().hex[:8]}.", partitions=4)
            store = await open_store(f"sqlite:///{Path(folder) / 'store.db'}")
            follower = Follower(log, seconds)
            if works:
                async with processing(log, store), asyncio.TaskGroup() as group:
                    tasks = [group.create_task(w()) for w in (follower.pieces, follower.changes)]
                    total, wall, cpu = await load(log, follower, seconds)
                    await follower.complete.wait()
                    for task in tasks:
                        task.cancel()
                cuts = quantiles(follower.latencies, n=100)
                times = f"{cuts[49] * 1000:8.1f}{cuts[98] * 1000:8.1f}"
            else:
                total, wall, cpu = await load(log, follower, seconds)
                times = ""
            print(f"{title:24}{cpu / wall:8.2f}{cpu / total * 1e6:10.1f}{times}")
            await log.close()
            await store.close()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--tokens", type=int, default=2000)
    parser.add_argument("--log", default="sqlite")
    arguments = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))
    if arguments.tokens:
        uvloop.run(bytes_of_one(arguments.tokens))
    if arguments.seconds:
        uvloop.run(cpu_of_many(arguments.log, arguments.seconds))


if __name__ == "__main__":
    main()
