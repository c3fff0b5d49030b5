"""The processor is killed while texts grow, at every step of its commit and at any moment: every byte exactly once."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.chaos.crashes.test_crashes import KEY, mortal
from tests.support.conditions import eventually
from tests.support.streams.history import rebuilt
from tests.support.tidings_process import TidingsProcess, serving
from tests.support.webhooks import Watcher, watching
from tidings.storage.factory import open_store
from tidings.storage.memory import MemoryStore
from tidings.storage.prediction import Prediction, Status
from tidings.streams.log.factory import open_log
from tidings.streams.log.protocol import CHANGES, EVENTS, TEXT, Log, NewRecord

PROCESSOR = ("serve", "--role", "processor")
PIECES = 60
"""Of an answer; at 50 a second it outlives two records of it."""


def words(name: str) -> list[str]:
    """The pieces of an answer: of one to four bytes a character, and no two alike."""
    letters = "aé猫🐈"
    return [f"{name}.{number}{letters[number % 4] * (number % 7)} " for number in range(PIECES)]


class Answers:
    """Appends the pieces of one answer after another, 50 a second each, until stopped."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._stopping = False
        self.finished: list[str] = []

    async def run(self, name: str) -> None:
        number = 0
        while not self._stopping:
            prediction_id = f"{name}-{number}"
            at = 0
            pieces = words(prediction_id)
            for index, text in enumerate(pieces):
                event: dict[str, Any] = {"type": "append", "text": text, "offset": at}
                if index == len(pieces) - 1:
                    event["textClosed"] = True
                await self._log.append(
                    EVENTS, [NewRecord(prediction_id.encode(), msgspec.json.encode(event))]
                )
                at += len(text.encode())
                await asyncio.sleep(0.02)
            self.finished.append(prediction_id)
            number += 1

    def stop(self) -> None:
        self._stopping = True


class Reader:
    """Stays connected and asks for appends; each byte must come once, in order, whatever dies meanwhile."""

    def __init__(self, watcher: Watcher) -> None:
        self._watcher = watcher
        self.texts: dict[str, bytes] = {}
        self.ended: set[str] = set()
        self.appended = 0
        """Bytes that came as appends."""

    async def run(self) -> None:
        while True:
            self._take(await self._watcher.receive())

    def _take(self, message: dict[str, Any]) -> None:
        if message["type"] == "append":
            name, more = message["predictionId"], message["text"].encode()
            have = self.texts.get(name, b"")
            assert message["offset"] == len(have), (message, len(have))
            self.texts[name] = have + more
            self.appended += len(more)
        elif message["type"] in ("change", "snapshot"):
            record = message["prediction"]
            name, text = record["predictionId"], record.get("text", "").encode()
            have = self.texts.get(name, b"")
            assert text.startswith(have) or have.startswith(text)
            self.texts[name] = max(text, have, key=len)
            if record["status"] == "succeeded":
                self.ended.add(name)


@asynccontextmanager
async def answering(
    tmp_path: Path, settings: dict[str, str]
) -> AsyncIterator[tuple[Log, Answers, Reader]]:
    """A log under load by four writers, and a gateway of its own with a reader."""
    async with (
        serving(tmp_path, {**settings, **KEY}, arguments=("serve", "--role", "gateway")) as gateway,
        watching(gateway.ws_url, all=True, text="append") as watcher,
    ):
        log = await open_log(
            settings.get("TIDINGS_LOG", f"sqlite:///{tmp_path / 'data' / 'log.db'}"),
            topic_prefix=settings.get("TIDINGS_TOPIC_PREFIX", ""),
            create=False,
        )
        answers, reader = Answers(log), Reader(watcher)
        try:
            async with asyncio.TaskGroup() as group:
                reading = group.create_task(reader.run())
                for name in "abcd":
                    group.create_task(answers.run(name))
                try:
                    yield log, answers, reader
                finally:
                    answers.stop()
                    reading.cancel()
        finally:
            await log.close()


async def announced(log: Log) -> int:
    """How many changes and pieces there are."""
    bounds = [*(await log.bounds(CHANGES)).values(), *(await log.bounds(TEXT)).values()]
    return sum(end for _, end in bounds)


async def check_complete(tmp_path: Path, log: Log, answers: Answers, reader: Reader) -> None:
    """Every text is whole, and every record has the bytes and the version that a run without a crash gives.

    The reader that stayed connected has every text, too.
    """
    answers.stop()
    store = await open_store(f"sqlite:///{tmp_path / 'data' / 'store.db'}")
    try:

        async def ended() -> bool:
            loaded = await store.load(answers.finished)
            return len(loaded) == len(answers.finished) and all(
                one.status is Status.SUCCEEDED for one in loaded.values()
            )

        await eventually(ended, 60)
        told = MemoryStore()
        await rebuilt(log, told)
        expected = await told.load(answers.finished)
        for prediction_id, stored in (await store.load(answers.finished)).items():
            record = stored.standing()
            assert isinstance(record, Prediction)
            assert record.text == "".join(words(prediction_id))
            assert record.version == PIECES
            assert stored.encoded == expected[prediction_id].encoded
        await eventually(lambda: reader.ended.issuperset(answers.finished), 20)
        for prediction_id in answers.finished:
            assert reader.texts[prediction_id].decode() == "".join(words(prediction_id))
        assert reader.appended > 0
    finally:
        await store.close()


async def check_killed_at_each_step(tmp_path: Path, settings: dict[str, str]) -> None:
    async with answering(tmp_path, settings) as (log, answers, reader):
        for step in range(1, 7):
            doomed = mortal(tmp_path, settings, step, count=1 + 25 * (step % 2))
            await doomed.launch()
            assert await doomed.ended(60) == -9, doomed.output
        async with serving(tmp_path, {**settings, **KEY}, arguments=PROCESSOR):
            await eventually(lambda: len(answers.finished) > 4, 30)
            await check_complete(tmp_path, log, answers, reader)


async def test_killed_at_each_step_while_texts_grow(tmp_path: Path) -> None:
    """SIGKILL as each numbered step ends, while pieces are announced and while records are written."""
    await check_killed_at_each_step(tmp_path, {})


@pytest.mark.long
async def test_killed_at_each_step_on_any_log(tmp_path: Path, log_settings: dict[str, str]) -> None:
    """The same on Kafka, whose group gives the partitions of a dead member to the next after some seconds."""
    await check_killed_at_each_step(tmp_path, log_settings)


async def check_killed_at_random(
    tmp_path: Path, settings: dict[str, str], times: int, seed: int
) -> None:
    moments = random.Random(seed)
    async with answering(tmp_path, settings) as (log, answers, reader):
        for _ in range(times):
            processor = TidingsProcess(tmp_path, {**settings, **KEY}, PROCESSOR)
            await processor.start()
            before = await announced(log)

            async def at_work(before: int = before) -> bool:
                return await announced(log) > before

            await eventually(at_work, 30)
            await asyncio.sleep(moments.uniform(0, 0.7))
            await processor.kill()
        async with serving(tmp_path, {**settings, **KEY}, arguments=PROCESSOR):
            await check_complete(tmp_path, log, answers, reader)


async def test_killed_at_random_moments_while_texts_grow(tmp_path: Path) -> None:
    """SIGKILL at moments that nobody chose, a few times."""
    await check_killed_at_random(tmp_path, {}, times=3, seed=1)


@pytest.mark.long
async def test_killed_at_random_moments_fifty_times_while_texts_grow(
    tmp_path: Path, log_settings: dict[str, str]
) -> None:
    """SIGKILL at moments that nobody chose, fifty times."""
    # On Kafka each takes as long as the group waits for the dead.
    await check_killed_at_random(tmp_path, log_settings, times=50, seed=2)
