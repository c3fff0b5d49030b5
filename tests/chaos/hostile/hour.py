"""The hostile hour: `python -m tests.chaos.hostile.hour [--seconds N] [--seed N]` prints one table.

An owner's reads, webhooks and pushes are timed in quiet, and again while 50 clients of another owner,
20 senders and 10 strangers attack; the memory of the process is watched all along.
"""

import argparse
import asyncio
import contextlib
import json
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import msgspec
from msgspec import Struct
from websockets.asyncio.client import connect
from websockets.typing import Subprotocol

from tests.chaos.hostile.attackers import KEY, OWNER, token_of
from tests.support.conditions import eventually
from tests.support.root import ROOT
from tests.support.tidings_process import TidingsProcess
from tests.support.webhooks import SECRET, signed
from tidings.streams.log.factory import open_log
from tidings.streams.log.protocol import EVENTS, NewRecord

VICTIM = "bob"
LIMIT_MIB = 512
EVERY = 0.1
"""Seconds between two of the owner's requests of one kind."""
KINDS = ("read", "list", "webhook", "push")

SETTINGS = {
    "TIDINGS_JWT_SECRET": KEY,
    "TIDINGS_WEBHOOK_KEY": "a-webhook-key-of-the-hostile-hour",
    "TIDINGS_REPLICATE_SECRET": SECRET,
    "TIDINGS_TRUSTED_PROXIES": "127.0.0.1",
    "TIDINGS_ARCHIVE": "off",
}


class Figures(Struct):
    """What an owner saw, in seconds, by kind; and what the process took."""

    seconds: dict[str, list[float]]
    peak_mib: float
    failures: int = 0

    def quantile(self, kind: str, part: float) -> float:
        """Of one kind."""
        found = sorted(self.seconds[kind])
        return found[min(len(found) - 1, int(part * len(found)))]


class Hour(Struct, frozen=True):
    """Both."""

    quiet: Figures
    hostile: Figures
    alive: bool
    stalls: list[float]


def resident_mib(pid: int) -> float:
    """Memory of a process that is really there."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    return next(int(line.split()[1]) / 1024 for line in status.splitlines() if "VmRSS" in line)


async def seed_log(folder: Path) -> None:
    """Large records of the attackers' owner, and small ones of the other, before the start."""
    (folder / "data").mkdir()
    log = await open_log(f"sqlite:///{folder}/data/log.db")
    try:
        for number in range(60):
            await log.append(EVENTS, [event(f"m-{number}", OWNER, "x" * 200_000)])
        await log.append(EVENTS, [event(f"{VICTIM}-{n}", VICTIM, "x" * 200) for n in range(1, 41)])
    finally:
        await log.close()


def event(prediction_id: str, owner: str, text: str) -> NewRecord:
    fields = {"predictionId": prediction_id, "owner": owner, "status": "starting", "prompt": text}
    return NewRecord(prediction_id.encode(), json.dumps(fields).encode())


class Owner:
    """The owner beside all of it, whose requests are timed."""

    def __init__(self, service: TidingsProcess) -> None:
        self._service = service
        self._headers = {
            "Authorization": f"Bearer {token_of(VICTIM)}",
            "X-Forwarded-For": "203.0.113.7",
        }
        self._http = httpx.AsyncClient(base_url=service.url, timeout=20, trust_env=False)
        self._round = 0
        self._arrived: dict[str, float] = {}

    async def timed(self, seconds: float) -> Figures:
        """What it sees for so long."""
        assert self._service.process is not None
        figures = Figures(defaultdict(list), 0.0)
        async with self._watching():
            until = time.monotonic() + seconds
            async with asyncio.TaskGroup() as group:
                for once in (self._read, self._list, self._report):
                    group.create_task(self._often(once, figures, until))
                group.create_task(self._weigh(figures, until))
        return figures

    async def close(self) -> None:
        await self._http.aclose()

    @asynccontextmanager
    async def _watching(self) -> AsyncIterator[None]:
        async with connect(
            self._service.ws_url,
            subprotocols=[Subprotocol("tidings.v1")],
            additional_headers=self._headers,
            proxy=None,
            open_timeout=30,
        ) as socket:
            await socket.send(json.dumps({"type": "subscribe", "ref": 1, "owner": VICTIM}))

            async def follow() -> None:
                async for frame in socket:
                    now = time.monotonic()
                    message = msgspec.json.decode(frame)
                    if message["type"] == "change":
                        self._arrived[message["prediction"].get("logs", "")] = now

            following = asyncio.create_task(follow())
            try:
                yield
            finally:
                following.cancel()
                await asyncio.wait([following])

    async def _often(self, once: object, figures: Figures, until: float) -> None:
        due = time.monotonic()
        while time.monotonic() < until:
            try:
                await once(figures)  # type: ignore[operator]
            except (httpx.HTTPError, AssertionError):
                figures.failures += 1
            due += EVERY
            await asyncio.sleep(max(0.0, due - time.monotonic()))

    async def _read(self, figures: Figures) -> None:
        begun = time.monotonic()
        answer = await self._http.get(f"/api/predictions/{VICTIM}-1", headers=self._headers)
        assert answer.status_code == 200, answer.text
        figures.seconds["read"].append(time.monotonic() - begun)

    async def _list(self, figures: Figures) -> None:
        begun = time.monotonic()
        answer = await self._http.get("/api/predictions?limit=20", headers=self._headers)
        assert answer.status_code == 200, answer.text
        figures.seconds["list"].append(time.monotonic() - begun)

    async def _report(self, figures: Figures) -> None:
        self._round += 1
        text = f"{self._round:06d} " + "x" * self._round
        fields = {"id": f"{VICTIM}-{self._round % 40 + 1}", "status": "processing", "logs": text}
        body = json.dumps(fields).encode()
        begun = time.monotonic()
        headers = {**signed(body), "X-Forwarded-For": "203.0.113.8"}
        answer = await self._http.post("/api/webhooks/replicate", content=body, headers=headers)
        assert answer.status_code == 200, answer.text
        figures.seconds["webhook"].append(time.monotonic() - begun)
        await eventually(lambda: text in self._arrived, 20)
        figures.seconds["push"].append(self._arrived[text] - begun)

    async def _weigh(self, figures: Figures, until: float) -> None:
        assert self._service.process is not None
        while time.monotonic() < until:
            figures.peak_mib = max(figures.peak_mib, resident_mib(self._service.process.pid))
            await asyncio.sleep(0.1)


@asynccontextmanager
async def attacked(port: int, seed: int) -> AsyncIterator[None]:
    """All attackers at work."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.chaos.hostile.attackers", str(port), str(seed)), cwd=ROOT
    )
    try:
        yield
        assert process.returncode is None, "the attackers gave up"
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def hour(folder: Path, quiet: float, hostile: float, seed: int) -> Hour:
    """Time the owner in quiet and under attack.

    Args:
        folder: For the service's data.
        quiet: Seconds.
        hostile: Seconds.
        seed: Of the attackers' choices.
    """
    await seed_log(folder)
    service = TidingsProcess(folder, SETTINGS)
    await service.start()
    owner = Owner(service)
    try:
        before = await owner.timed(quiet)
        async with attacked(service.port, seed):
            during = await owner.timed(hostile)
        assert service.process is not None
        alive = service.process.returncode is None
        return Hour(before, during, alive, [one["cpu_seconds"] for one in service.stalls])
    finally:
        await owner.close()
        await service.stop()


def table(found: Hour) -> str:
    """As a person reads it."""
    lines = ["| of another owner | quiet p99 ms | hostile p99 ms | ratio |", "|---|---|---|---|"]
    for kind in KINDS:
        quiet, hostile = found.quiet.quantile(kind, 0.99), found.hostile.quantile(kind, 0.99)
        lines.append(
            f"| {kind} | {quiet * 1e3:.1f} | {hostile * 1e3:.1f} | {hostile / quiet:.1f} |"
        )
    lines.append(
        f"\nmost memory {found.quiet.peak_mib:.0f} MiB quiet, {found.hostile.peak_mib:.0f} MiB hostile; "
        f"{found.hostile.failures} of the owner's requests failed; {len(found.stalls)} stalls of the "
        f"loop over 50 ms, the longest {max(found.stalls, default=0) * 1e3:.0f} ms"
    )
    return "\n".join(lines)


def main(given: Sequence[str] | None = None) -> None:
    """Run it and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=3600)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args(given)
    with tempfile.TemporaryDirectory() as folder:
        quiet = min(60.0, arguments.seconds / 3)
        found = asyncio.run(hour(Path(folder), quiet, arguments.seconds, arguments.seed))
    print(table(found))  # noqa: T201 - a script prints its table


if __name__ == "__main__":
    main()
