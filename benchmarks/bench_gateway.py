"""The gateway as a user runs it, seen from outside: `tidings serve --role gateway` beside a bare server, each a process of
its own, with all clients in another.

CPU is what the kernel counts for all threads of the server's process: following the log, timers and collections included.
Changes are appended to the log by the benchmark's process. One bare server is told of each by a line and writes it in a
loop; another one follows the same log, as any gateway must, and writes each change to everybody. All take turns; the ratio
is the median of those of each turn. What the log alone costs shows in the same changes while nobody watches.

    python -m benchmarks.bench_gateway [--log sqlite|kafka] [--rounds 5] [--only fan-out] [--sessions 1000] [--idle 10]
"""

import argparse
import asyncio
import gc
import logging
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from statistics import median
from typing import Any

import structlog
import uvloop

from benchmarks.bench_changes_to_frame import PARTITIONS
from benchmarks.bench_fanout import FRAME, everything
from benchmarks.push_clients import Client, Counter, Server, connect
from benchmarks.push_server import record
from tests.support.broker import Broker
from tests.support.tidings_process import TidingsProcess
from tidings.storage.prediction import encode
from tidings.streams.changes.codec import announcement
from tidings.streams.log.factory import open_log
from tidings.streams.log.protocol import CHANGES, Log, NewRecord, Position

EVERY = 0.05
"""Seconds between two changes."""
CHANGES_A_ROUND = 30
UNWATCHED = 20_000
BATCH = 500


def cpu_of(pid: int) -> float:
    """CPU seconds of all threads of a process, to the nanosecond (Documentation/scheduler/sched-stats)."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9


Subscribe = Callable[[int], bytes]


def last(_: int) -> bytes:
    return b'{"type":"subscribe","predictions":["the-last"],"snapshot":false}'


class Bare:
    """The bare server, its clients, and how it is told to write."""

    def __init__(self, *arguments: str) -> None:
        self.server = Server(*arguments, program="bare_server")
        self.pid = self.server.process.pid
        self.counter = Counter()
        self.clients: list[Client] = []

    async def open(self, sessions: int) -> None:
        port = (await self.server("measure"))["port"]
        self.clients += await connect(port, sessions, self.counter, everything)

    async def change(self) -> None:
        await self.server("write", bytes=FRAME)


class Following(Bare):
    """A bare server that follows a log."""

    def __init__(self, log: Log, url: str, prefix: str) -> None:
        super().__init__("follow", url, prefix, str(PARTITIONS))
        self.log = log
        self.versions = 0

    async def change(self) -> None:
        self.versions += 1
        await self.log.append(CHANGES, [changed("the-one", self.versions)])


def changed(name: str, version: int) -> NewRecord:
    one = record(name, version)
    return announcement(one, encode(one), position=Position(0, version))


class Ours:
    """The gateway, its clients, and the log that it follows."""

    def __init__(self, service: TidingsProcess, log: Log) -> None:
        assert service.process is not None
        self.service, self.log, self.pid = service, log, service.process.pid
        self.counter = Counter()
        self.clients: list[Client] = []
        self.versions = 0

    async def open(self, sessions: int, subscribe: Subscribe = everything) -> None:
        self.clients += await connect(self.service.port, sessions, self.counter, subscribe)

    async def change(self, names: tuple[str, ...] = ("the-one",)) -> None:
        new = []
        for name in names:
            self.versions += 1
            new.append(changed(name, self.versions))
        await self.log.append(CHANGES, new)


async def unwatched(one: Ours, every: float, count: int, batch: int) -> float:
    """Microseconds of CPU a change that nobody watches; behind them goes one that a client awaits."""
    begun = cpu_of(one.pid)
    for _ in range(0, count, batch):
        await one.change(("nobody",) * batch)
        await asyncio.sleep(every)
    wanted = one.counter.bytes + 1
    await one.change(("the-last",))
    await one.counter.until("bytes", wanted)
    return (cpu_of(one.pid) - begun) / count * 1e6


async def fan_out(one: Ours | Bare) -> float:
    """Microseconds of CPU a delivery, of changes at a steady pace."""
    begun = cpu_of(one.pid)
    for _ in range(CHANGES_A_ROUND):
        wanted = one.counter.bytes + FRAME * len(one.clients)
        pause = asyncio.create_task(asyncio.sleep(EVERY))
        await one.change()
        await one.counter.until("bytes", wanted)
        await pause
    return (cpu_of(one.pid) - begun) / (CHANGES_A_ROUND * len(one.clients)) * 1e6


async def idle(one: Ours | Bare, seconds: float) -> float:
    """Per cent of a core that it takes to be there."""
    begun = cpu_of(one.pid)
    await asyncio.sleep(seconds)
    return (cpu_of(one.pid) - begun) / seconds * 100


def line(name: str, ours: list[float], bare: list[float]) -> None:
    ratio = median(a / b for a, b in zip(ours, bare, strict=True))
    print(f"| {name} | {ratio:.2f} | {median(ours):.3f} | {median(bare):.3f} |", flush=True)


async def measured(ours: Ours, peers: dict[str, Bare], options: Any) -> None:
    await ours.open(1, last)
    await unwatched(ours, 0, BATCH, BATCH)
    paced = [await unwatched(ours, EVERY, CHANGES_A_ROUND, 1) for _ in range(options.rounds)]
    crowd = [await unwatched(ours, 0, UNWATCHED, BATCH) for _ in range(options.rounds)]
    ours.clients.clear()
    servers: list[Ours | Bare] = [ours, *peers.values()]
    for one in servers:
        await one.open(options.sessions)
        if options.only in "fan-out":
            await fan_out(one)
    gc.collect()
    gc.freeze()
    print("| seen from outside | x bare | ours | bare |\n|---|---|---|---|")
    if options.only in "fan-out":
        found: list[list[float]] = [[] for _ in servers]
        for turn in range(options.rounds):
            for number in sorted(range(len(servers)), reverse=turn % 2 == 1):
                found[number].append(await fan_out(servers[number]))
        for name, bare in zip(peers, found[1:], strict=True):
            line(
                f"one change to {options.sessions:,}, paced 50 ms, µs a delivery; {name}",
                found[0],
                bare,
            )
    if options.only in "idle":
        quiet = await asyncio.gather(*(idle(one, options.idle) for one in servers))
        for name, share in zip(peers, quiet[1:], strict=True):
            line(f"{options.sessions:,} idle, with pings, % of a core; {name}", [quiet[0]], [share])
    print(f"| a change that nobody watches, paced 50 ms, µs | | {median(paced):,.0f} | |")
    print(f"| a change that nobody watches, {BATCH} at once, µs | | {median(crowd):.2f} | |")


@asynccontextmanager
async def address_of(kind: str, folder: str) -> AsyncIterator[str]:
    """Where logs are; each has a prefix of its own."""
    if kind == "sqlite":
        yield f"sqlite:///{folder}/{{prefix}}log.db"
        return
    broker = Broker()
    try:
        await asyncio.to_thread(broker.start)
        yield f"kafka://{broker.bootstrap}"
    finally:
        broker.close()


async def main(options: Any) -> None:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    async with AsyncExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        address = await stack.enter_async_context(address_of(options.log, folder))

        async def log_of(prefix: str) -> tuple[str, Log]:
            url = address.format(prefix=prefix)
            log = await open_log(url, topic_prefix=prefix, partitions=PARTITIONS)
            stack.push_async_callback(log.close)
            return url, log

        url, log = await log_of("ours.")
        settings = {"TIDINGS_LOG": url, "TIDINGS_TOPIC_PREFIX": "ours."}
        settings |= {"TIDINGS_STORE": "memory://", "TIDINGS_WEBHOOK_KEY": "00" * 32}
        arguments = ("serve", "--role", "gateway")
        service = TidingsProcess(Path(folder), settings, arguments=arguments)
        await service.start()
        stack.push_async_callback(service.stop)
        peers = {"a loop that is told": Bare()}
        stack.callback(peers["a loop that is told"].server.close)
        beside, log_beside = await log_of("bare.")
        following = Following(log_beside, beside, "bare.")
        stack.callback(following.server.close)
        peers["a loop that follows the same log"] = following
        await measured(Ours(service, log), peers, options)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--log", choices=("sqlite", "kafka"), default="sqlite")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", default="", help="fan-out, idle")
    parser.add_argument("--sessions", type=int, default=1_000)
    parser.add_argument("--idle", type=float, default=10.0, help="seconds")
    uvloop.run(main(parser.parse_args()))
