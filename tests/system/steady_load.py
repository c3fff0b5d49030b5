"""An hour of steady load on the embedded default: `python -m tests.system.steady_load --minutes 60 --rate 20`.

Webhooks of predictions that begin, report, end and expire; WebSockets that come and go; reads of what is, of what is
gone and of lists. Memory, descriptors and files are measured all the while, printed as CSV, and judged at the end: what
they were at the most in the first quarter after the warm-up against the last quarter. Exit code 1: something grew.
"""

import argparse
import asyncio
import os
import random
import sys
import tempfile
import time
from collections import deque
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from statistics import median
from typing import Any

import aiohttp
from aiohttp import web
from msgspec import Struct, structs

from tests.support import webhooks
from tests.support.tidings_process import TidingsProcess
from tests.support.webhooks import SECRET, signed

PICTURE = bytes.fromhex("89504e470d0a1a0a") + bytes(2000)
WAL_LIMIT = 96 << 20
"""64 MiB is what SQLite is told to cut it to, and what is written until it may come on top."""


class Plan(Struct, frozen=True):
    """How long and how much. Times are in seconds."""

    seconds: float = 3600
    rate: float = 20
    """Webhooks a second; four of them make a prediction."""
    warm_up: float = 900
    every: float = 10
    """Between two samples."""
    ttl: int = 60
    """Of finished predictions; events are kept twice as long."""
    day: float = 60
    minute: float = 10
    remembered: int = 1000
    """Predictions in the cache and in the hub."""
    watchers: int = 8
    stays: float = 15
    """For which a WebSocket stays, at most."""
    growth: float = 0.05
    """Of the memory, at most."""


class Sample(Struct, frozen=True):
    """What the process holds at a moment. Memory and files are in bytes."""

    second: int
    memory: int
    descriptors: int
    threads: int
    log: int
    log_wal: int
    store: int
    store_wal: int
    assets: int
    asset_files: int
    acknowledged: int
    connections: int


class Verdict(Struct, frozen=True):
    """How one figure went."""

    name: str
    before: float
    after: float
    allowed: float

    @property
    def holds(self) -> bool:
        """Whether it stayed within what is allowed."""
        return self.after <= self.allowed

    def __str__(self) -> str:
        ratio = f"{self.after / self.before - 1:+.1%}" if self.before else "-"
        state = "flat" if self.holds else "GREW"
        return f"{self.name:<12} {self.before:>14,.0f} {self.after:>14,.0f} {ratio:>8} {state:>6}"


def judge(samples: Sequence[Sample], plan: Plan) -> list[Verdict]:
    """The first quarter after the warm-up against the last: the median of memory and descriptors, the most of files.

    A file of SQLite keeps its highest water, so its most is compared; it may go a tenth and 1 MiB beyond what it was. A
    write-ahead log begins anew when nobody reads it, so only a limit is held against it.
    """
    warm = [sample for sample in samples if sample.second >= plan.warm_up]
    quarter = max(1, len(warm) // 4)
    verdicts = []
    for name in ("memory", "descriptors", "threads"):
        before, after = (
            median(getattr(one, name) for one in part) for part in (warm[:quarter], warm[-quarter:])
        )
        slack = plan.growth * before if name == "memory" else 3
        verdicts.append(Verdict(name, before, after, before + slack))
    for name in ("log", "store", "log_wal", "store_wal", "assets", "asset_files"):
        before, after = (
            max(getattr(one, name) for one in part) for part in (warm[:quarter], warm[-quarter:])
        )
        allowed = before * 1.1 + (100 if name == "asset_files" else 1 << 20)
        verdicts.append(
            Verdict(name, before, after, WAL_LIMIT if name.endswith("wal") else allowed)
        )
    return verdicts


class SteadyLoad:
    """The load on a service, and what it counts."""

    def __init__(self, service: TidingsProcess, pictures: str, plan: Plan) -> None:
        self.service, self.pictures, self.plan = service, pictures, plan
        self.random = random.Random(7)
        self.acknowledged = self.connections = self.begun = 0
        self.samples: list[Sample] = []
        self.started = time.monotonic()

    async def run(self) -> None:
        """Load and measure until the time is up."""
        async with aiohttp.ClientSession() as session:
            parts: list[Coroutine[Any, Any, None]] = [
                self._report(session),
                self._read(session),
                self._measure(),
            ]
            parts += [self._watch(session, number) for number in range(self.plan.watchers)]
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(part) for part in parts]
                await asyncio.sleep(self.plan.seconds)
                for task in tasks:
                    task.cancel()
            await self._still_pushes(session)

    async def _report(self, session: aiohttp.ClientSession) -> None:
        """Webhooks at an even rate, the four of a prediction some seconds apart; what is late is not made up for."""
        due: deque[tuple[str, int]] = deque()
        following = time.monotonic()
        while True:
            if len(due) < self.plan.rate * 2:
                self.begun += 1
                due.append((f"steady-{self.begun}", 0))
            name, step = due.popleft()
            async with self._posted(session, name, step) as response:
                assert response.status == 200, response.status
            self.acknowledged += 1
            if step < 3:
                due.append((name, step + 1))
            following = max(following + 1 / self.plan.rate, time.monotonic())
            await asyncio.sleep(following - time.monotonic())

    def _posted(self, session: aiohttp.ClientSession, name: str, step: int) -> Any:
        body = self._body(name, step)
        return session.post(
            f"{self.service.url}/api/webhooks/replicate", data=body, headers=signed(body)
        )

    def _body(self, name: str, step: int) -> bytes:
        if step == 0:
            return webhooks.start(name)
        if step == 1:
            return webhooks.logs(name)
        picture = f"{self.pictures}/{name}.png"
        if step == 2:
            return webhooks.report(
                name, status="processing", completed_at=None, metrics={}, output=picture
            )
        return webhooks.report(name, output=picture)

    async def _read(self, session: aiohttp.ClientSession) -> None:
        """Ten reads a second: mostly of one prediction, some that are long gone, now and then a list."""
        while True:
            await asyncio.sleep(0.1)
            chance = self.random.random()
            path = "predictions?limit=50&status=succeeded"
            if chance < 0.95:
                path = f"predictions/steady-{self.random.randint(max(1, self.begun - 400), self.begun)}"
            if chance < 0.1:
                path = f"predictions/steady-{self.random.randint(1, self.begun)}"
            async with session.get(f"{self.service.url}/api/{path}") as response:
                assert response.status in {200, 404}, response.status
                await response.read()

    async def _watch(self, session: aiohttp.ClientSession, number: int) -> None:
        """A WebSocket that comes and goes: every other in order, the rest on the spot; one of them is an SSE stream."""
        while True:
            stays = self.random.uniform(0.2, 1) * self.plan.stays
            with suppress(TimeoutError):
                async with asyncio.timeout(stays):
                    self.connections += 1
                    if number == 1:
                        await self._stream(session)
                    else:
                        await self._socket(session, number)

    async def _socket(self, session: aiohttp.ClientSession, number: int) -> None:
        names = [f"steady-{self.begun + offset}" for offset in range(-20, 20)]
        what: dict[str, Any] = (
            {"all": True, "limit": 100} if number == 0 else {"predictions": names}
        )
        socket = await session.ws_connect(self.service.ws_url, protocols=["tidings.v1"])
        try:
            await socket.send_json({"type": "subscribe", "ref": 1, **what})
            async for message in socket:
                assert message.type is aiohttp.WSMsgType.TEXT, message
        finally:
            if (
                number % 2
                and (transport := socket._response.connection) is not None
                and transport.transport is not None
            ):
                transport.transport.abort()
            await asyncio.shield(socket.close())

    async def _stream(self, session: aiohttp.ClientSession) -> None:
        names = ",".join(f"steady-{self.begun + offset}" for offset in range(-5, 20))
        async with session.get(f"{self.service.url}/api/events?predictions={names}") as response:
            assert response.status == 200, response.status
            async for _ in response.content:
                pass

    async def _measure(self) -> None:
        _say(",".join(Sample.__struct_fields__))
        while True:
            sample = self._sample()
            self.samples.append(sample)
            _say(",".join(str(value) for value in structs.astuple(sample)))
            await asyncio.sleep(self.plan.every)

    def _sample(self) -> Sample:
        assert self.service.process is not None
        process = Path(f"/proc/{self.service.process.pid}")
        status = dict(
            line.split(":", 1)
            for line in (process / "status").read_text().splitlines()
            if ":" in line
        )
        data = self.service.folder / "data"
        assets = [size for file in (data / "assets").rglob("*") if (size := _size(file))]
        log, store = data / "log.db", data / "store.db"
        return Sample(
            int(time.monotonic() - self.started),
            int(status["VmRSS"].split()[0]) * 1024,
            len(os.listdir(process / "fd")),  # noqa: PTH208 - names alone: what they stand for may be gone by now
            int(status["Threads"]),
            _size(log),
            _size(log.with_name("log.db-wal")),
            _size(store),
            _size(store.with_name("store.db-wal")),
            sum(assets),
            len(assets),
            self.acknowledged,
            self.connections,
        )

    async def _still_pushes(self, session: aiohttp.ClientSession) -> None:
        """One more prediction is pushed to its end."""
        async with webhooks.watching(self.service.ws_url, predictions=["steady-last"]) as watcher:
            for step in range(4):
                async with self._posted(session, "steady-last", step) as response:
                    assert response.status == 200, response.status
            await watcher.version("steady-last", "succeeded")


def _size(file: Path) -> int:
    try:
        return file.stat().st_size if file.is_file() else 0
    except FileNotFoundError:
        return 0


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


@asynccontextmanager
async def _pictures() -> AsyncIterator[str]:
    """A server of pictures, as a provider's store of results is; gives its address."""

    async def picture(request: web.Request) -> web.Response:
        return web.Response(body=PICTURE + request.path.encode(), content_type="image/png")

    app = web.Application()
    app.router.add_get("/{name}", picture)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


async def steady_load(folder: Path, plan: Plan) -> list[Verdict]:
    """Run it with the embedded data in `folder`, and judge."""
    async with _pictures() as pictures:
        settings = {
            "TIDINGS_REPLICATE_SECRET": SECRET,
            "TIDINGS_TTL": str(plan.ttl),
            "TIDINGS_TTL_RUNNING": str(plan.ttl),
            "TIDINGS_RETENTION": str(plan.ttl * 2),
            "TIDINGS_ASSETS_TTL": str(plan.ttl * 2),
            "TIDINGS_ASSETS_ALLOW": pictures.removeprefix("http://"),
            "TIDINGS_CACHE_RECORDS": str(plan.remembered),
            "SMALL_HUB": str(plan.remembered),
            "SHORT_DAY": str(plan.day),
            "SHORT_MINUTE": str(plan.minute),
        }
        program = (sys.executable, "-m", "tests.system.short_days")
        service = await TidingsProcess(folder, settings, program=program).start()
        try:
            load = SteadyLoad(service, pictures, plan)
            await load.run()
            return judge(load.samples, plan)
        finally:
            assert await service.stop() == 0, service.output


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m tests.system.steady_load", description=__doc__)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--rate", type=float, default=20, help="webhooks a second")
    arguments = parser.parse_args()
    seconds = arguments.minutes * 60
    plan = Plan(seconds=seconds, rate=arguments.rate, warm_up=min(900, seconds / 2))
    with tempfile.TemporaryDirectory() as folder:
        verdicts = asyncio.run(steady_load(Path(folder), plan))
    _say(f"\n{'':<12} {'first quarter':>14} {'last quarter':>14} {'change':>8}")
    _say("\n".join(map(str, verdicts)))
    sys.exit(0 if all(verdict.holds for verdict in verdicts) else 1)


if __name__ == "__main__":
    main()
