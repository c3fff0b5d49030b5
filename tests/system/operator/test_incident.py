"""The incident of the page on replaying.

A wrong mapping has written wrong records, and they are mended under watch.
"""

import asyncio
import hashlib
import hmac
import itertools
import json
import re
import sqlite3
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack, closing
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest

from tests.support.command import Ended, tidings
from tests.support.conditions import eventually
from tests.support.tidings_process import TidingsProcess, serving
from tests.support.webhooks import SECRET, signed, watching
from tests.system.operator.replaying_page import blocks, commands

HEADING = "A wrong mapping"
TICK = 0.02
"""Seconds between two webhooks of the live flow."""
AT_ONCE = 16


class Form(msgspec.Struct, frozen=True):
    """How much of everything."""

    predictions: int
    clients: int
    silence: float
    """Seconds that the live flow may be silent while records are mended."""
    within: float


SHORT = Form(1000, 20, 15.0, 90.0)
FULL = Form(20_000, 200, 2.0, 300.0)


def sent(prediction_id: str) -> bytes:
    """The body of the page, of this prediction."""
    (text,) = blocks(HEADING, "json")
    body = json.loads(text)
    body["job"]["id"] = prediction_id
    return json.dumps(body).encode()


def picture(which: str) -> str:
    """The URL of the page's body that a mapping leads to: `preview` or `url`."""
    (text,) = blocks(HEADING, "json")
    return str(json.loads(text)["job"]["results"][0][which])


def mapping(*, mended: bool) -> str:
    """The settings of the page: as they were, or with the mended line."""
    wrong, line = blocks(HEADING, "toml")
    if not mended:
        return wrong
    (old,) = [one for one in wrong.splitlines() if one.startswith("output =")]
    return wrong.replace(old, line.strip())


def secret() -> bytes:
    """The key of the page's sender."""
    (line,) = [one for one in mapping(mended=False).splitlines() if one.startswith("secret =")]
    return line.partition('"')[2].rstrip('"').encode()


async def post_all(url: str, names: Sequence[str]) -> None:
    """Send every prediction's webhook; each is answered with 200."""
    waiting = iter(names)
    async with aiohttp.ClientSession() as session:

        async def post() -> None:
            for name in waiting:
                body = sent(name)
                proof = {"x-acme-signature": hmac.new(secret(), body, hashlib.sha256).hexdigest()}
                async with session.post(
                    f"{url}/api/webhooks/acme", data=body, headers=proof
                ) as response:
                    assert response.status == 200, await response.text()

        async with asyncio.TaskGroup() as group:
            for _ in range(AT_ONCE):
                group.create_task(post())


def finished(folder: Path) -> int:
    """How many of them the store says to have succeeded."""
    with closing(sqlite3.connect(folder / "data" / "store.db", timeout=10)) as store:
        question = "SELECT count(*) FROM predictions WHERE id LIKE 'job-%' AND status = 'succeeded'"
        return int(store.execute(question).fetchone()[0])


class Client:
    """A page that watches some of the predictions.

    What stood when it came, and what it was told afterwards.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.names = names
        self.first: dict[str, dict[str, Any]] = {}
        self.changes: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
        self.watching = asyncio.Event()

    async def watch(self, url: str) -> None:
        """Watch until every prediction has changed."""
        async with watching(url, predictions=list(self.names)) as watcher:
            for message in watcher.messages:
                if message["type"] == "snapshot":
                    self.first[message["prediction"]["predictionId"]] = message["prediction"]
            self.watching.set()
            while not all(self.changes.values()):
                message = await watcher.receive()
                assert message["type"] == "change", message
                self.changes[message["prediction"]["predictionId"]].append(message["prediction"])

    def check(self) -> None:
        """Each was wrong, and was mended by one change, at the next version."""
        for name in self.names:
            before, (after,) = self.first[name], self.changes[name]
            assert (before["imageUrl"], after["imageUrl"]) == (picture("preview"), picture("url"))
            assert after["version"] == before["version"] + 1


class LiveFlow:
    """Predictions of another sender that go on meanwhile, and somebody who watches them."""

    def __init__(self) -> None:
        self.seen: list[tuple[float, str]] = []
        self.posted: list[str] = []
        self._watched = asyncio.Event()
        self._stopping = False

    async def post(self, url: str) -> None:
        """Report on one prediction after the other, once somebody watches."""
        await self._watched.wait()
        async with aiohttp.ClientSession() as session:
            for number in itertools.count():
                last = self._stopping  # one more after the stop: whoever watches waits for it
                name = f"live-{number}"
                body = json.dumps({"predictionId": name, "status": "processing"}).encode()
                async with session.post(
                    f"{url}/api/webhooks/standard", data=body, headers=signed(body)
                ) as response:
                    assert response.status == 200, await response.text()
                self.posted.append(name)
                if last:
                    return
                await asyncio.sleep(TICK)

    async def watch(self, url: str) -> None:
        """Note when each is heard of, until all are."""
        async with watching(url, all=True, snapshot=False) as watcher:
            self._watched.set()
            heard: set[str] = set()
            while not self._stopping or not heard.issuperset(self.posted):
                message = await watcher.receive()
                name = message["prediction"]["predictionId"]
                if name.startswith("live-"):
                    heard.add(name)
                    self.seen.append((time.monotonic(), name))

    def stop(self) -> None:
        """Post no more; the last one is heard of."""
        self._stopping = True

    def silence(self, begin: float, end: float) -> float:
        """The longest time in between without anything heard, in seconds."""
        moments = [begin, *(at for at, _ in self.seen if begin <= at <= end), end]
        return max(later - earlier for earlier, later in itertools.pairwise(moments))


async def run_the_page(folder: Path, settings: dict[str, str], form: Form) -> list[Ended]:
    """Run the page's commands, in order."""
    return [
        await tidings(folder, *one, settings=settings, within=form.within)
        for one in commands(HEADING)
    ]


def check_commands(ended: list[Ended], names: list[str]) -> None:
    """The first comparisons found exactly these, the repair wrote them, and then there was nothing left."""
    looked, listed, repaired, after = ended
    assert looked.code == 1, looked.err
    assert re.search(rf"different +{len(names):,}\n", looked.out)
    assert listed.code == 1, listed.err
    assert sorted(listed.json["predictions"].pop("different")) == sorted(names)
    assert set(listed.json["predictions"]) <= {"different", "behind"}
    assert listed.json["faults"] == len(names)
    assert repaired.code == 0, repaired.err
    assert "repaired" in repaired.out
    assert after.code == 0, after.out


async def incident(folder: Path, settings: dict[str, str], form: Form) -> float:
    """Go through it; returns the longest silence of the live flow, in seconds."""
    names = [f"job-{number}" for number in range(form.predictions)]
    settings = {**settings, "TIDINGS_ARCHIVE": "off"}  # the page's pictures are nowhere to be had
    (folder / "tidings.toml").write_text(mapping(mended=False))
    async with serving(folder, settings) as wrong:
        await post_all(wrong.url, names)
        await eventually(lambda: finished(folder) == len(names), form.within)
    (folder / "tidings.toml").write_text(mapping(mended=True))
    async with AsyncExitStack() as stack:
        service = await stack.enter_async_context(serving(folder, settings))
        return await mend(service, folder, settings, form, names)


async def mend(
    service: TidingsProcess, folder: Path, settings: dict[str, str], form: Form, names: list[str]
) -> float:
    """Follow the page while clients watch."""
    share = len(names) // form.clients
    clients = [Client(names[first : first + share]) for first in range(0, len(names), share)]
    flow = LiveFlow()
    async with asyncio.timeout(4 * form.within), asyncio.TaskGroup() as group:
        for client in clients:
            group.create_task(client.watch(service.ws_url))
        group.create_task(flow.watch(service.ws_url))
        group.create_task(flow.post(service.url))
        for client in clients:
            await client.watching.wait()
        await eventually(lambda: len(flow.seen) > 10, 30)
        begin = time.monotonic()
        ended = await run_the_page(folder, settings, form)
        end = time.monotonic()
        flow.stop()
    check_commands(ended, names)
    for client in clients:
        client.check()
    return flow.silence(begin, end)


async def test_the_incident_of_the_page(tmp_path: Path) -> None:
    """Records that a wrong mapping wrote are named, all and only they, and mended under the eyes of who watches."""
    settings = {"TIDINGS_STANDARD_SECRET": SECRET}
    assert await incident(tmp_path, settings, SHORT) < SHORT.silence


@pytest.mark.long
async def test_an_incident_of_20_000(tmp_path: Path, settings: dict[str, str]) -> None:
    """20,000 of them under the eyes of 200, and nothing else is held up for over two seconds."""
    assert await incident(tmp_path, settings, FULL) < FULL.silence
