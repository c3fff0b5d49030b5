"""The figures that the original design named for its two Cloudflare stores, beside ours by the same definition.

Checks: status reads of 10,000 different predictions over HTTP, one gateway, its store Cloudflare KV (a strict stand-in). Updates:
events from a real Kafka broker, decided, into Durable Objects (real workerd, 64 shards, on disk), announced to Kafka; the time
is from before the append to the change in the reader's hands. Memory: what the service's process grew by, and what is in use.

    python -m benchmarks.bench_original [--reads 60000] [--seconds 6] [--rate 5000]
"""

import argparse
import asyncio
import multiprocessing
import os
import statistics
import tempfile
import time
import uuid
from collections.abc import Sequence
from contextlib import AsyncExitStack
from itertools import count
from multiprocessing.connection import Connection as Pipe
from pathlib import Path
from typing import NamedTuple

import msgspec
import psutil  # type: ignore[import-untyped]  # carries no types
import uvloop

from streams.changes import parse
from streams.log import CHANGES, EVENTS, Log, NewRecord
from streams.logs import open_log
from tests.broker import Broker
from tests.cloudflare_emulator import ACCOUNT, TOKEN, CloudflareEmulator
from tests.conditions import eventually
from tests.tidings_process import TidingsProcess
from tests.workerd import TOKEN as WORKER_TOKEN
from tests.workerd import Workerd

PREDICTIONS = 10_000
CONNECTIONS = 32
TICK = 0.01


class Figures(NamedTuple):
    """What one half of the table needs."""

    rate: float
    """A second."""
    p50: float
    p99: float
    """Milliseconds."""
    memory: float
    """MB per 1,000 predictions."""
    note: str


def event(number: int, **fields: object) -> NewRecord:
    """An event of about 300 bytes."""
    said = {"status": "processing", "owner": f"owner-{number % 100}", "model": "acme/paint-1", "prompt": "x" * 120}
    key = f"prediction-{number:08d}"
    return NewRecord(key.encode(), msgspec.json.encode({"predictionId": key, **said, **fields}))


async def append(log: Log, events: Sequence[NewRecord]) -> None:
    for start in range(0, len(events), 2000):
        await log.append(EVENTS, events[start : start + 2000])


def memory_of(process: TidingsProcess) -> float:
    """Resident bytes."""
    assert process.process is not None
    return float(psutil.Process(process.process.pid).memory_info().rss)


# ---- checks ----


class Reader(asyncio.Protocol):
    """A kept-alive connection that reads one prediction after the other."""

    def __init__(self, numbers: "count[int]", last: int, spent: list[float], done: asyncio.Future[None]) -> None:
        self._numbers, self._last, self._spent, self._done = numbers, last, spent, done
        self._buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._next()

    def _next(self) -> None:
        number = next(self._numbers)
        if number >= self._last:
            self._done.set_result(None)
            return
        self._begun = time.perf_counter()
        path = f"/api/predictions/prediction-{number * 7919 % PREDICTIONS:08d}"
        self._transport.write(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())  # type: ignore[attr-defined]

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, separator, body = self._buffer.partition(b"\r\n\r\n")
        if not separator:
            return
        assert head.startswith(b"HTTP/1.1 200"), head
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        if len(body) >= length:
            self._buffer = b""
            self._spent.append(time.perf_counter() - self._begun)
            self._next()


def read_all(port: int, reads: int, answer: Pipe) -> None:
    """In a process of its own: the reads, and the milliseconds that each took."""

    async def work() -> None:
        loop = asyncio.get_running_loop()
        spent: list[float] = []
        numbers, dones = count(), []
        begun = time.perf_counter()
        for _ in range(CONNECTIONS):
            done: asyncio.Future[None] = loop.create_future()
            dones.append(done)
            await loop.create_connection(lambda done=done: Reader(numbers, reads, spent, done), "127.0.0.1", port)  # type: ignore[misc]
        await asyncio.gather(*dones)
        answer.send((len(spent) / (time.perf_counter() - begun), [one * 1000 for one in spent]))

    uvloop.run(work())


def reading(port: int, reads: int) -> tuple[float, list[float]]:
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=read_all, args=(port, reads, theirs))
    process.start()
    found: tuple[float, list[float]] = ours.recv()
    process.join()
    return found


async def checks(reads: int) -> Figures:
    """Status reads with KV behind."""
    emulator = CloudflareEmulator(limit=1_000_000)
    emulator.namespace("bench")
    emulator.start()
    settings = {
        "TIDINGS_STORE": f"cloudflare-kv://{ACCOUNT}/bench",
        "TIDINGS_CLOUDFLARE_TOKEN": TOKEN,
        "TIDINGS_CLOUDFLARE_URL": emulator.url,
    }
    async with AsyncExitStack() as stack:
        stack.callback(emulator.close)
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        service = TidingsProcess(folder, settings)
        await service.start()
        stack.push_async_callback(service.stop)
        before = memory_of(service)
        log = await open_log(f"sqlite:///{folder}/data/log.db")
        await append(
            log, [event(n, status="succeeded", output=["https://cdn.example/x.png"]) for n in range(PREDICTIONS)]
        )
        await eventually(lambda: emulator.writes >= PREDICTIONS, 120)
        await log.close()
        grown = memory_of(service) - before
        asked = len(emulator.requests)
        await asyncio.to_thread(reading, service.port, reads // 10)
        rate, spent = await asyncio.to_thread(reading, service.port, reads)
        requests = [one for one in emulator.requests[asked:] if one != "PUT /bulk"]
    cuts = statistics.quantiles(spent, n=100)
    note = f"{len(requests)} requests to KV for {reads + reads // 10:,} reads"
    return Figures(rate, cuts[49], cuts[98], grown / PREDICTIONS * 1000 / 1e6, note)


# ---- updates ----


class Changes:
    """When the change with each event came."""

    def __init__(self) -> None:
        self.at: dict[str, float] = {}

    async def follow(self, log: Log) -> None:
        async for batch in log.follow(CHANGES, "end"):
            now = time.perf_counter()
            for record in batch:
                change = parse(record)
                if change is not None:
                    self.at[str(change.position)] = now


async def paced(
    log: Log, changes: Changes, numbers: "count[int]", rate: int, seconds: float
) -> tuple[float, list[float]]:
    """Events at a steady rate: how many changes a second came of them, and the milliseconds until each one's (of those
    that folded into another: none).
    """
    sent: dict[str, float] = {}
    pending: set[asyncio.Task[None]] = set()

    async def send(events: list[NewRecord], begun: float) -> None:
        for position in await log.append(EVENTS, events):
            sent[str(position)] = begun

    start = time.perf_counter()
    for tick in range(int(seconds / TICK)):
        await asyncio.sleep(max(0.0, start + tick * TICK - time.perf_counter()))
        size = int(rate * TICK)
        some = [event(n % PREDICTIONS, logs="x" * (n // PREDICTIONS + 2)) for n in (next(numbers) for _ in range(size))]
        task = asyncio.create_task(send(some, time.perf_counter()))
        pending.add(task)
        task.add_done_callback(pending.discard)
    await asyncio.gather(*pending)
    last = list(sent)[-100:]
    await eventually(lambda: all(one in changes.at for one in last), 120)
    came = [changes.at[one] for one in sent if one in changes.at]
    return len(came) / (max(came) - start), [
        (changes.at[one] - at) * 1000 for one, at in sent.items() if one in changes.at
    ]


async def updates(rate: int, seconds: float) -> tuple[Figures, Figures]:
    """Updates with Durable Objects behind: as many as go, and at a steady rate."""
    async with AsyncExitStack() as stack:
        broker, worker = Broker(), Workerd(shards=64)
        for part in (broker, worker):
            part.start()
            stack.callback(part.close)
        prefix = f"b{uuid.uuid4().hex[:8]}."
        url = f"kafka://{broker.bootstrap}"
        log = await open_log(url, topic_prefix=prefix, partitions=4)
        stack.push_async_callback(log.close)
        settings = {
            "TIDINGS_LOG": url,
            "TIDINGS_TOPIC_PREFIX": prefix,
            "TIDINGS_PARTITIONS": "4",
            "TIDINGS_STORE": f"durable-objects+{worker.url}",
            "TIDINGS_WORKER_TOKEN": WORKER_TOKEN,
            "TIDINGS_WEBHOOK_KEY": "a key of this run",
        }
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        processor = TidingsProcess(folder, settings, ("serve", "--role", "processor"))
        await processor.start()
        stack.push_async_callback(processor.stop)
        changes = Changes()
        following = asyncio.create_task(changes.follow(log))
        stack.callback(following.cancel)
        await append(log, [event(n) for n in range(1000)])
        await eventually(lambda: len(changes.at) >= 1000, 60)
        before = memory_of(processor)
        begun = time.perf_counter()
        await append(log, [event(n, logs="x") for n in range(3 * PREDICTIONS)])
        await eventually(lambda: len(changes.at) >= 1000 + 3 * PREDICTIONS, 120)
        most = 3 * PREDICTIONS / (time.perf_counter() - begun)
        grown = (memory_of(processor) - before) / (3 * PREDICTIONS) * 1000 / 1e6
        numbers = count()
        await paced(log, changes, numbers, rate, 1.0)
        reached, spent = await paced(log, changes, numbers, rate, seconds)
        cuts = statistics.quantiles(spent, n=100)
        steady = Figures(reached, cuts[49], cuts[98], grown, f"{rate:,} a second offered for {seconds:.0f} s")
        calmly, spent = await paced(log, changes, numbers, 500, seconds)
        slow = statistics.quantiles(spent, n=100)
        calm = Figures(calmly, slow[49], slow[98], grown, f"as many as go: {most:,.0f} a second, appending included")
        return steady, calm


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reads", type=int, default=60_000)
    parser.add_argument("--seconds", type=float, default=6.0)
    parser.add_argument("--rate", type=int, default=5000)
    arguments, _ = parser.parse_known_args()
    read = uvloop.run(checks(arguments.reads))
    steady, calm = uvloop.run(updates(arguments.rate, arguments.seconds))
    most = calm.note
    print("| | original design | here | |\n|---|---|---|---|")
    print(
        f"| status checks over KV, a minute | 15,000 | {read.rate * 60:,.0f} | {read.rate:,.0f} a second; {read.note} |"
    )
    print(
        f"| time of a check | 45 ms | p50 {read.p50:.1f} ms, p99 {read.p99:.1f} ms | {CONNECTIONS} connections at once |"
    )
    print(
        f"| memory per 1,000 predictions, KV | 12 MB | {read.memory:.1f} MB | gateway, processor and log in one process |"
    )
    print(
        f"| updates over Durable Objects, a minute | 8,000 | {steady.rate * 60:,.0f} | {steady.rate:,.0f} a second; {most} |"
    )
    print(f"| time of an update | 25 ms | p50 {steady.p50:.1f} ms, p99 {steady.p99:.1f} ms | {steady.note} |")
    print(f"| the same at 500 a second | | p50 {calm.p50:.1f} ms, p99 {calm.p99:.1f} ms | |")
    print(
        f"| memory per 1,000 predictions, Durable Objects | 8 MB | {steady.memory:.1f} MB | the processor, its cache full |"
    )
    print(f"\n(load of the machine at the end: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores)")


if __name__ == "__main__":
    main()
