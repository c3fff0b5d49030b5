"""The gateway as a user runs it, seen from outside: `tidings serve --role gateway` beside a bare server, each a process of
its own, with all clients in another.

CPU is what the kernel counts for all threads of the server's process: following the log, timers and collections included.
Changes are appended to a SQLite log by the benchmark's process, or told to the bare server by a line. Both take turns; the
ratio is the median of those of each turn.

    python -m benchmarks.bench_gateway [--rounds 5] [--only fan-out] [--sessions 1000] [--idle 10]
"""

import argparse
import asyncio
import gc
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

import uvloop

from benchmarks.bench_fanout import FRAME, everything
from benchmarks.push_clients import Client, Counter, Server, connect
from benchmarks.push_server import record
from tests.support.tidings_process import TidingsProcess
from tidings.storage.prediction import encode
from tidings.streams.changes.codec import announcement
from tidings.streams.log.factory import open_log
from tidings.streams.log.protocol import CHANGES, Log, Position

EVERY = 0.05
"""Seconds between two changes."""
CHANGES_A_ROUND = 30
UNWATCHED = 20_000
IDLE_SESSIONS = 10_000


def cpu_of(pid: int) -> float:
    """CPU seconds of all threads of a process, to the nanosecond (Documentation/scheduler/sched-stats)."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9


class Bare:
    """The bare server, its clients, and how it is told to write."""

    def __init__(self) -> None:
        self.server = Server(program="bare_server")
        self.pid = self.server.process.pid
        self.counter = Counter()
        self.clients: list[Client] = []

    async def open(self, sessions: int) -> None:
        port = (await self.server("measure"))["port"]
        self.clients += await connect(port, sessions, self.counter, everything)

    async def change(self) -> None:
        await self.server("write", bytes=FRAME)


class Ours:
    """The gateway, its clients, and the log that it follows."""

    def __init__(self, service: TidingsProcess, log: Log) -> None:
        assert service.process is not None
        self.service, self.log, self.pid = service, log, service.process.pid
        self.counter = Counter()
        self.clients: list[Client] = []
        self.versions = 0

    async def open(self, sessions: int) -> None:
        self.clients += await connect(self.service.port, sessions, self.counter, everything)

    async def change(self, names: tuple[str, ...] = ("the-one",)) -> None:
        new = []
        for name in names:
            self.versions += 1
            one = record(name, self.versions)
            position = Position(0, self.versions)
            new.append(announcement(one, encode(one), position=position))
        await self.log.append(CHANGES, new)


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


async def measured(ours: Ours, bare: Bare, options: Any) -> None:
    both = (ours, bare)
    for one in both:
        await one.open(options.sessions)
        await fan_out(one)
    gc.collect()
    gc.freeze()
    print("| seen from outside | x bare | ours | bare |\n|---|---|---|---|")
    if options.only in "fan-out":
        found: dict[Any, list[float]] = {one: [] for one in both}
        for turn in range(options.rounds):
            for one in both if turn % 2 else reversed(both):
                found[one].append(await fan_out(one))
        line(f"one change to {options.sessions:,}, paced 50 ms, µs a delivery", *found.values())
    if options.only in "idle":
        quiet = [await asyncio.gather(*(idle(one, options.idle) for one in both))]
        line(f"{options.sessions:,} idle, with pings, % of a core", [quiet[0][0]], [quiet[0][1]])


async def main(options: Any) -> None:
    with tempfile.TemporaryDirectory() as folder:
        url = f"sqlite:///{folder}/log.db"
        settings = {
            "TIDINGS_LOG": url,
            "TIDINGS_STORE": "memory://",
            "TIDINGS_WEBHOOK_KEY": "00" * 32,
        }
        service = TidingsProcess(Path(folder), settings, arguments=("serve", "--role", "gateway"))
        bare = Bare()
        try:
            await service.start()
            log = await open_log(url)
            try:
                await measured(Ours(service, log), bare, options)
            finally:
                await log.close()
        finally:
            await service.stop()
            bare.server.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", default="", help="fan-out, idle")
    parser.add_argument("--sessions", type=int, default=1_000)
    parser.add_argument("--idle", type=float, default=10.0, help="seconds")
    uvloop.run(main(parser.parse_args()))
