"""The processor is killed on the spot, at every step of its commit and at any moment: nothing lost, nothing twice."""

import asyncio
import random
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from tests.support import webhooks
from tests.support.conditions import eventually
from tests.support.tidings_process import TidingsProcess, serving
from tests.support.webhooks import Watcher, reaches, signed, watching

KEY = {"TIDINGS_WEBHOOK_KEY": "a key that both processes share"}
REPORTS = 6
"""Webhooks of a prediction, each of which changes it: versions 1 to 6."""


def bodies(prediction_id: str) -> list[bytes]:
    """The webhooks of a prediction: every one says something new."""
    growing = [
        webhooks.report(prediction_id, status="processing", output=None, logs="x" * n, metrics={})
        for n in range(1, REPORTS)
    ]
    return [*growing, webhooks.report(prediction_id, logs="x" * REPORTS)]


class Load:
    """Posts the webhooks of one prediction after another, until stopped; what was answered 200 counts as acknowledged."""

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self._session = session
        self._url = f"{url}/api/webhooks/replicate"
        self._stopping = False
        self.finished: list[str] = []

    async def run(self, name: str) -> None:
        number = 0
        while not self._stopping:
            prediction_id = f"{name}-{number}"
            for body in bodies(prediction_id):
                async with self._session.post(
                    self._url, data=body, headers=signed(body)
                ) as response:
                    assert response.status == 200, await response.text()
            self.finished.append(prediction_id)
            number += 1

    def stop(self) -> None:
        self._stopping = True


@asynccontextmanager
async def loaded_gateway(
    tmp_path: Path, settings: dict[str, str]
) -> AsyncIterator[tuple[TidingsProcess, Load, Watcher]]:
    """A gateway process of its own under load, with a subscriber that stays connected."""
    async with (
        serving(tmp_path, {**settings, **KEY}, arguments=("serve", "--role", "gateway")) as gateway,
        aiohttp.ClientSession() as session,
        watching(gateway.ws_url, all=True) as watcher,
    ):
        load = Load(session, gateway.url)
        receiving = asyncio.create_task(_receive(watcher))
        async with asyncio.TaskGroup() as group:
            for name in "ab":
                group.create_task(load.run(name))
            try:
                yield gateway, load, watcher
            finally:
                load.stop()
        receiving.cancel()


async def _receive(watcher: Watcher) -> None:
    while True:
        await watcher.receive()


async def check_complete(gateway: TidingsProcess, load: Load, watcher: Watcher) -> None:
    """Every acknowledged event was applied exactly once, and the subscriber saw every final state, never a step back."""
    load.stop()
    async with aiohttp.ClientSession() as session:
        for prediction_id in list(load.finished):
            record = await reaches(session, gateway.url, prediction_id, "succeeded")
            assert record["version"] == REPORTS, record["transitions"]
            assert record["logsLength"] == REPORTS

    def seen() -> bool:
        last = {
            m["prediction"]["predictionId"]: m["prediction"]
            for m in watcher.messages
            if m["type"] == "change"
        }
        return all(last.get(i, {}).get("version") == REPORTS for i in load.finished)

    await eventually(seen, 20)
    versions: dict[str, int] = {}
    for message in watcher.messages:
        if message["type"] == "change":
            record = message["prediction"]
            assert record["version"] > versions.get(record["predictionId"], 0)
            versions[record["predictionId"]] = record["version"]


def mortal(tmp_path: Path, settings: dict[str, str], step: int, count: int) -> TidingsProcess:
    """A processor that dies at a step."""
    program = (sys.executable, "-m", "tests.chaos.crashes.mortal", str(step), str(count))
    arguments = ("serve", "--role", "processor")
    return TidingsProcess(tmp_path, {**settings, **KEY}, arguments, program)


async def test_killed_at_each_step_of_the_commit(tmp_path: Path, settings: dict[str, str]) -> None:
    """SIGKILL as each numbered step ends, the first time or the third: afterwards everything is there exactly once."""
    async with loaded_gateway(tmp_path, settings) as (gateway, load, watcher):
        for step in range(1, 7):
            doomed = mortal(tmp_path, settings, step, count=1 + 2 * (step % 2))
            await doomed.launch()
            assert await doomed.ended(40) == -9, doomed.output
        async with serving(
            tmp_path, {**settings, **KEY}, arguments=("serve", "--role", "processor")
        ):
            await eventually(lambda: len(load.finished) > 4, 20)
            await check_complete(gateway, load, watcher)


async def check_killed_at_random(
    tmp_path: Path, settings: dict[str, str], times: int, seed: int
) -> None:
    moments = random.Random(seed)
    async with loaded_gateway(tmp_path, settings) as (gateway, load, watcher):
        for _ in range(times):
            processor = TidingsProcess(
                tmp_path, {**settings, **KEY}, ("serve", "--role", "processor")
            )
            await processor.start()
            before = len(watcher.messages)
            # Wait until it is at work, then hit it within the next moments.
            await eventually(lambda before=before: len(watcher.messages) > before, 30)  # type: ignore[misc]
            await asyncio.sleep(moments.uniform(0, 0.09))
            await processor.kill()
        async with serving(
            tmp_path, {**settings, **KEY}, arguments=("serve", "--role", "processor")
        ):
            await check_complete(gateway, load, watcher)


async def test_killed_at_random_moments(tmp_path: Path, settings: dict[str, str]) -> None:
    """SIGKILL under load at moments that nobody chose, a few times."""
    await check_killed_at_random(tmp_path, settings, times=4, seed=1)


@pytest.mark.long
async def test_killed_at_random_moments_fifty_times(
    tmp_path: Path, settings: dict[str, str]
) -> None:
    """SIGKILL under load at moments that nobody chose, fifty times."""
    await check_killed_at_random(tmp_path, settings, times=50, seed=2)
