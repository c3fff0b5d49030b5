"""A process that gathers what lone events write is killed at any moment: nothing that was answered is lost or changed."""

import asyncio
import random
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.support.conditions import eventually
from tests.support.tidings_process import TidingsProcess, serving
from tests.support.webhooks import SECRET, Watcher, report, signed, watching
from tidings.storage.factory import open_store
from tidings.storage.prediction import decode

STEPS = ("starting", "processing", "succeeded")
SETTINGS = {
    "TIDINGS_REPLICATE_SECRET": SECRET,
    "TIDINGS_WEBHOOK_KEY": "k" * 32,
    "TIDINGS_ARCHIVE": "off",
    "TIDINGS_TTL": "0",
}
APART = 0.004
"""Seconds between two webhooks: close enough to be gathered."""


class Sender:
    """Posts each step of many predictions one by one, each until it is answered with 200."""

    def __init__(self, url: str) -> None:
        self._url = f"{url}/api/webhooks/replicate"
        self.answered: dict[str, int] = {}
        self.stopping = False

    def beyond(self, number: int) -> bool:
        return len(self.answered) > number

    async def run(self, name: str) -> None:
        number = 0
        async with aiohttp.ClientSession() as session:
            while not self.stopping:
                number += 1
                for status in STEPS:
                    body = report(f"{name}-{number}", status=status)
                    await self._post(session, body)
                    self.answered[f"{name}-{number}"] = STEPS.index(status) + 1
                    await asyncio.sleep(APART)

    async def _post(self, session: aiohttp.ClientSession, body: bytes) -> None:
        while True:
            try:
                async with session.post(self._url, data=body, headers=signed(body)) as answer:
                    if answer.status == 200:
                        return
            except aiohttp.ClientError:
                pass
            await asyncio.sleep(0.02)


async def read(watcher: Watcher, seen: dict[str, list[int]]) -> None:
    while True:
        message: dict[str, Any] = await watcher.receive()
        if message["type"] in ("change", "snapshot"):
            record = message["prediction"]
            seen.setdefault(record["predictionId"], []).append(record["version"])


@pytest.mark.parametrize("seed", [1, pytest.param(2, marks=pytest.mark.long)])
async def test_kills_lose_nothing(tmp_path: Path, seed: int) -> None:
    """Every step that was answered stands, once; a gateway beside has heard the last version of each, in order."""
    chance = random.Random(seed)
    service = TidingsProcess(tmp_path, SETTINGS)
    await service.start()
    seen: dict[str, list[int]] = {}
    try:
        async with (
            serving(tmp_path, SETTINGS, arguments=("serve", "--role", "gateway")) as beside,
            watching(beside.ws_url, all=True) as watcher,
            asyncio.TaskGroup() as group,
        ):
            reading = group.create_task(read(watcher, seen))
            sender = Sender(service.url)
            sending = [group.create_task(sender.run(name)) for name in "ab"]
            for _ in range(3):
                await eventually(partial(sender.beyond, len(sender.answered) + 20), 20)
                await asyncio.sleep(chance.random() * 0.1)  # any moment
                await service.kill()
                await service.start()
            sender.stopping = True
            await asyncio.wait(sending)

            def told() -> bool:
                return all(max(seen.get(name, [0])) == 3 for name in sender.answered)

            await eventually(told, 20)
            reading.cancel()
    finally:
        await service.stop()
    assert all(versions == sorted(set(versions)) for versions in seen.values())
    store = await open_store(f"sqlite:///{tmp_path / 'data' / 'store.db'}")
    try:
        for name in sender.answered:
            stored = await store.get(name)
            assert stored is not None
            record = decode(stored.encoded)
            assert (record.status, record.version) == ("succeeded", 3)
            assert tuple(step.to for step in record.transitions) == STEPS
    finally:
        await store.close()
