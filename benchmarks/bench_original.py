"""The figures that the original design named for its two Cloudflare stores, beside ours by the same definition.

Checks: status reads of 10,000 different predictions over HTTP, one gateway, its store Cloudflare KV (a strict stand-in). Updates:
events from a real Kafka broker, decided, into Durable Objects (real workerd, 64 shards, on disk), announced to Kafka; the time
is from before the append to the change in the reader's hands. Memory: what the service's process grew by, and what is in use.
Beside both, in the same run, what the drivers alone make of the same load (`bare_original.py`).

    python -m benchmarks.bench_original [--reads 60000] [--seconds 6] [--rate 5000]
"""

import argparse
import asyncio
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from itertools import count
from multiprocessing.connection import Connection as Pipe
from pathlib import Path
from typing import NamedTuple

import msgspec
import psutil  # type: ignore[import-untyped]  # carries no types
import uvloop

from tests.support.broker import Broker
from tests.support.cloudflare_emulator import ACCOUNT, TOKEN, CloudflareEmulator
from tests.support.conditions import eventually
from tests.support.tidings_process import TidingsProcess
from tests.support.workerd import TOKEN as WORKER_TOKEN
from tests.support.workerd import Workerd
from tidings.streams.changes.codec import parse
from tidings.streams.log.factory import open_log
from tidings.streams.log.protocol import CHANGES, EVENTS, Log, NewRecord

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
    said = {
        "status": "processing",
        "owner": f"owner-{number % 100}",
        "model": "acme/paint-1",
        "prompt": "x" * 120,
    }
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

    def __init__(
        self, numbers: "count[int]", last: int, spent: list[float], done: asyncio.Future[None]
    ) -> None:
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
            await loop.create_connection(
                partial(Reader, numbers, reads, spent, done), "127.0.0.1", port
            )
        await asyncio.gather(*dones)
        answer.send((len(spent) / (time.perf_counter() - begun), [one * 1000 for one in spent]))

    uvloop.run(work())


def reading(port: int, reads: int) -> tuple[float, list[float]]:
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(
        target=read_all, args=(port, reads, theirs)
    )
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
            log,
            [
                event(n, status="succeeded", output=["https://cdn.example/x.png"])
                for n in range(PREDICTIONS)
            ],
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


async def bare_checks(reads: int) -> Figures:
    """The same reads from a handler that answers out of a dict."""
    async with drivers_alone("reads", str(PREDICTIONS)) as port:
        await asyncio.to_thread(reading, int(port), reads // 10)
        rate, spent = await asyncio.to_thread(reading, int(port), reads)
    cuts = statistics.quantiles(spent, n=100)
    return Figures(rate, cuts[49], cuts[98], 0.0, "")


# ---- updates ----


class Updates(NamedTuple):
    """What the updates came to."""

    steady: Figures
    calm: Figures
    """At 500 a second."""
    most: float
    """A second."""


class Changes:
    """When the change with each event came; `bare`: of the drivers alone, which mark it by a header."""

    def __init__(self, *, bare: bool = False) -> None:
        self.at: dict[str, float] = {}
        self._bare = bare

    async def follow(self, log: Log) -> None:
        async for batch in log.follow(CHANGES, "end"):
            now = time.perf_counter()
            for record in batch:
                if self._bare:
                    self.at[dict(record.headers)["p"].decode()] = now
                elif (change := parse(record)) is not None:
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
        some = [
            event(n % PREDICTIONS, logs="x" * (n // PREDICTIONS + 2))
            for n in (next(numbers) for _ in range(size))
        ]
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


@asynccontextmanager
async def drivers_alone(*arguments: str) -> AsyncIterator[str]:
    """The process of `bare_original.py`; gives its line."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "benchmarks.bare_original", *arguments, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    try:
        yield (await process.stdout.readline()).decode().strip()
    finally:
        process.kill()
        await process.wait()


@asynccontextmanager
async def processing(url: str, prefix: str, worker: Workerd) -> AsyncIterator[Callable[[], float]]:
    """A processor on this log, with its state in Durable Objects; gives what tells its memory."""
    settings = {
        "TIDINGS_LOG": url,
        "TIDINGS_TOPIC_PREFIX": prefix,
        "TIDINGS_PARTITIONS": "4",
        "TIDINGS_STORE": f"durable-objects+{worker.url}",
        "TIDINGS_WORKER_TOKEN": WORKER_TOKEN,
        "TIDINGS_WEBHOOK_KEY": "a key of this run alone, of 32 bytes",
    }
    with tempfile.TemporaryDirectory() as folder:
        processor = TidingsProcess(Path(folder), settings, ("serve", "--role", "processor"))
        await processor.start()
        try:
            yield lambda: memory_of(processor)
        finally:
            await processor.stop()


async def updates(rate: int, seconds: float, *, bare: bool = False) -> Updates:
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
        changes = Changes(bare=bare)
        following = asyncio.create_task(changes.follow(log))
        stack.callback(following.cancel)
        memory: Callable[[], float] = float
        if bare:
            await stack.enter_async_context(
                drivers_alone("updates", broker.bootstrap, prefix, worker.url)
            )
        else:
            memory = await stack.enter_async_context(processing(url, prefix, worker))
        await append(log, [event(n) for n in range(1000)])
        await eventually(lambda: len(changes.at) >= 1000, 60)
        before = memory()
        begun = time.perf_counter()
        await append(log, [event(n, logs="x") for n in range(3 * PREDICTIONS)])
        await eventually(lambda: len(changes.at) >= 1000 + 3 * PREDICTIONS, 120)
        most = 3 * PREDICTIONS / (time.perf_counter() - begun)
        grown = (memory() - before) / (3 * PREDICTIONS) * 1000 / 1e6
        numbers = count()
        await paced(log, changes, numbers, rate, 1.0)
        reached, spent = await paced(log, changes, numbers, rate, seconds)
        cuts = statistics.quantiles(spent, n=100)
        calmly, spent = await paced(log, changes, numbers, 500, seconds)
        slow = statistics.quantiles(spent, n=100)
        steady = Figures(
            reached, cuts[49], cuts[98], grown, f"{rate:,} a second offered for {seconds:.0f} s"
        )
        return Updates(steady, Figures(calmly, slow[49], slow[98], grown, ""), most)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--reads", type=int, default=60_000)
    parser.add_argument("--seconds", type=float, default=6.0)
    parser.add_argument("--rate", type=int, default=5000)
    arguments, _ = parser.parse_known_args()
    read, bare_read = uvloop.run(checks(arguments.reads)), uvloop.run(bare_checks(arguments.reads))
    ours = uvloop.run(updates(arguments.rate, arguments.seconds))
    bare = uvloop.run(updates(arguments.rate, arguments.seconds, bare=True))
    steady, calm = ours.steady, ours.calm

    def times(one: Figures) -> str:
        return f"p50 {one.p50:.1f} ms, p99 {one.p99:.1f} ms"

    print(
        "| | original design | here | drivers alone | here / alone | |\n|---|---|---|---|---|---|"
    )
    print(
        f"| status checks over KV, a minute | 15,000 | {read.rate * 60:,.0f} | {bare_read.rate * 60:,.0f} "
        f"| {read.rate / bare_read.rate:.2f} | {read.rate:,.0f} a second; {read.note} |"
    )
    print(
        f"| time of a check | 45 ms | {times(read)} | {times(bare_read)} | {read.p50 / bare_read.p50:.2f} "
        f"| {CONNECTIONS} connections at once |"
    )
    print(
        f"| memory per 1,000 predictions, KV | 12 MB | {read.memory:.1f} MB | | | gateway, processor, log in one process |"
    )
    print(
        f"| updates over Durable Objects, a minute | 8,000 | {steady.rate * 60:,.0f} | {bare.steady.rate * 60:,.0f} "
        f"| {steady.rate / bare.steady.rate:.2f} | {steady.note} |"
    )
    print(
        f"| as many as go, a second | | {ours.most:,.0f} | {bare.most:,.0f} | {ours.most / bare.most:.2f} "
        "| appending included |"
    )
    print(
        f"| time of an update | 25 ms | {times(steady)} | {times(bare.steady)} | {steady.p50 / bare.steady.p50:.2f} "
        f"| {steady.note} |"
    )
    print(
        f"| the same at 500 a second | | {times(calm)} | {times(bare.calm)} | {calm.p50 / bare.calm.p50:.2f} | |"
    )
    print(
        f"| memory per 1,000 predictions, Durable Objects | 8 MB | {steady.memory:.1f} MB | | "
        "| the processor, its cache full |"
    )
    print(f"\n(load of the machine at the end: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores)")


if __name__ == "__main__":
    main()
