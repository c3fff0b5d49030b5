"""From the changes topic of a real broker to the frame: 1,000 sessions that watch one prediction each.

Beside it, in the same run, a bare aiokafka consumer of the same topic that sends nothing. Each has a process of its own
and is measured while the other is not there.

    python -m benchmarks.bench_changes_to_frame [--seconds 3] [--rounds 1] [--rates 500,2000,5000] [--sessions 1000]
"""

import argparse
import asyncio
import contextlib
import logging
import os
import tempfile
import time
import uuid
from functools import partial
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import structlog
import uvloop
from msgspec import structs
from websockets.frames import Frame, Opcode

from benchmarks.push_clients import HANDSHAKE, PONG, Server
from benchmarks.push_server import record
from tests.support.broker import Broker
from tests.support.conditions import eventually
from tests.support.tidings_process import TidingsProcess
from tidings.storage.prediction import encode
from tidings.streams.changes.codec import announcement
from tidings.streams.log.factory import open_log
from tidings.streams.log.protocol import CHANGES, Log, Position

PARTITIONS = 4
LEAD = 1.0
"""Seconds at the start of each measurement that are not counted."""
MARK = b'"logs":"mark '

Figures = dict[str, float]


class Watcher(asyncio.Protocol):
    """A session that watches one prediction."""

    took: list[float]
    open: int

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        if b"\x89\x00" in data:  # a ping, maybe behind a change; the changes are ASCII
            self.transport.write(PONG)
        now = time.perf_counter_ns()
        start = data.find(MARK)
        while start >= 0:
            end = data.index(b" ", start + len(MARK))
            Watcher.took.append((now - int(data[start + len(MARK) : end])) / 1e6)
            start = data.find(MARK, end)
        if b'"synced"' in data:
            Watcher.open += 1


async def produce(log: Log, sessions: int, rate: int, seconds: float, versions: list[int]) -> int:
    """Announce changes at a steady rate, each with when in it; returns how many."""
    begun = time.perf_counter()
    sent = 0
    appending: set[asyncio.Task[Any]] = set()
    while (passed := time.perf_counter() - begun) < seconds:
        due = []
        while sent < passed * rate:
            versions[0] += 1
            bare = record(f"own-{sent % sessions:06}", versions[0])
            room = len(bare.logs or "")
            one = structs.replace(bare, logs=f"mark {time.perf_counter_ns()} {bare.logs}"[:room])
            due.append(announcement(one, encode(one), position=Position(0, versions[0])))
            sent += 1
        if due:
            task = asyncio.create_task(log.append(CHANGES, due))
            appending.add(task)
            task.add_done_callback(appending.discard)
        await asyncio.sleep(0.001)
    if appending:
        await asyncio.wait(appending)
    return sent


def arrived(count: int) -> bool:
    """Whether so many frames have come."""
    return len(Watcher.took) >= count


def cpu_of(pid: int) -> float:
    """CPU seconds of a process so far, its threads included (proc(5): fields 14 and 15 of `stat`)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def figures(took: list[float], spent: float, count: int) -> Figures:
    cuts = quantiles(took, n=100)
    return {"p50": cuts[49], "p99": cuts[98], "cpu": spent / count * 1e6, "seen": len(took) / count}


async def gateway(
    url: str,
    prefix: str,
    log: Log,
    sessions: int,
    rates: list[int],
    seconds: float,
    versions: list[int],
) -> list[Figures]:
    """Our side, at one rate after the other."""
    settings = {
        "TIDINGS_LOG": url,
        "TIDINGS_TOPIC_PREFIX": prefix,
        "TIDINGS_STORE": "memory://",
        "TIDINGS_WEBHOOK_KEY": "00" * 32,
    }
    found = []
    with tempfile.TemporaryDirectory() as folder:
        service = TidingsProcess(Path(folder), settings, arguments=("serve", "--role", "gateway"))
        await service.start()
        assert service.process is not None
        Watcher.took, Watcher.open = [], 0
        loop = asyncio.get_running_loop()
        open_ones = []
        try:
            for number in range(sessions):
                transport, _ = await loop.create_connection(Watcher, "127.0.0.1", service.port)
                message = b'{"type":"subscribe","ref":1,"predictions":["own-%06d"]}' % number
                transport.write(
                    HANDSHAKE.format("").encode() + Frame(Opcode.TEXT, message).serialize(mask=True)
                )
                open_ones.append(transport)
            await eventually(lambda: Watcher.open == sessions, 60)
            for rate in rates:
                await produce(log, sessions, rate, LEAD, versions)
                Watcher.took.clear()
                before = cpu_of(service.process.pid)
                count = await produce(log, sessions, rate, seconds, versions)
                with contextlib.suppress(AssertionError):
                    await eventually(partial(arrived, count), 5)
                found.append(
                    figures(list(Watcher.took), cpu_of(service.process.pid) - before, count)
                )
        finally:
            for transport in open_ones:
                transport.abort()
            await service.stop()
    return found


async def bare(
    bootstrap: str,
    prefix: str,
    log: Log,
    sessions: int,
    rates: list[int],
    seconds: float,
    versions: list[int],
) -> list[Figures]:
    """The consumer that sends nothing, at one rate after the other."""
    found = []
    consumer = Server(bootstrap, f"{prefix}predictions.changes", program="bare_consumer")
    try:
        await consumer("read")
        await asyncio.sleep(1)
        for rate in rates:
            await produce(log, sessions, rate, LEAD, versions)
            before = await consumer("read")
            count = await produce(log, sessions, rate, seconds, versions)
            await asyncio.sleep(0.5)
            after = await consumer("read")
            found.append(figures(after["took"], after["cpu"] - before["cpu"], count))
    finally:
        consumer.close()
    return found


async def run(sessions: int, rates: list[int], seconds: float, rounds: int) -> None:
    """Interleaved rounds; prints the table."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    broker = Broker()
    versions = [0]
    measured: dict[bool, list[list[Figures]]] = {False: [], True: []}
    try:
        await asyncio.to_thread(broker.start)
        url = f"kafka://{broker.bootstrap}"
        for _ in range(rounds):
            prefix = f"c{uuid.uuid4().hex[:8]}."
            log = await open_log(url, topic_prefix=prefix, partitions=PARTITIONS)
            try:
                measured[False].append(
                    await gateway(url, prefix, log, sessions, rates, seconds, versions)
                )
                measured[True].append(
                    await bare(broker.bootstrap, prefix, log, sessions, rates, seconds, versions)
                )
            finally:
                await log.close()
    finally:
        broker.close()
    print(
        f"| changes topic -> frame, {sessions:,} sessions | p50 ms | p99 ms | CPU µs | seen % | x bare: p50 | p99 | CPU |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for at, rate in enumerate(rates):

        def of(least: bool, what: str, at: int = at) -> float:
            return median(one[at][what] for one in measured[least])

        for least, name in ((False, "ours"), (True, "bare consumer")):
            ratios = " | ".join(
                f"{of(least, what) / of(True, what):.2f}" for what in ("p50", "p99", "cpu")
            )
            print(
                f"| {rate:,}/s, {name} | {of(least, 'p50'):.2f} | {of(least, 'p99'):.2f} | {of(least, 'cpu'):.0f} "
                f"| {of(least, 'seen') * 100:.1f} | {ratios} |"
            )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=3)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--rates", default="500,2000,5000")
    parser.add_argument("--sessions", type=int, default=1_000)
    arguments, _ = parser.parse_known_args()
    rates = [int(rate) for rate in arguments.rates.split(",")]
    uvloop.run(run(arguments.sessions, rates, arguments.seconds, arguments.rounds))


if __name__ == "__main__":
    main()
