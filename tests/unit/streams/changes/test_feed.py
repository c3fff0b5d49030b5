"""Following the changes: every one of them, across outages, gaps and faults of whoever takes them."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial

import pytest

from tests.support.conditions import eventually
from tidings.storage.errors import StoreUnavailable
from tidings.storage.prediction import Prediction, Status, encode
from tidings.streams.changes import feed as feed_module
from tidings.streams.changes.codec import announcement
from tidings.streams.changes.feed import ChangeFeed, ChangeListener
from tidings.streams.log.memory import MemoryLog
from tidings.streams.log.protocol import CHANGES, LogUnavailable, Position, Record, Since


class Away(MemoryLog):
    """A log that answers nothing while `away` is set, and may have lost its beginning."""

    away = False
    lost = 0

    async def bounds(self, topic: str) -> dict[int, tuple[int, int]]:
        if self.away:
            raise LogUnavailable("away")
        bounds = await super().bounds(topic)
        return {number: (max(first, self.lost), end) for number, (first, end) in bounds.items()}

    async def follow(
        self, topic: str, since: Since, until: Mapping[int, int] | None = None
    ) -> AsyncIterator[Sequence[Record]]:
        async for batch in super().follow(topic, since, until):
            if self.away:
                raise LogUnavailable("away")
            yield batch


async def announce(log: MemoryLog, version: int) -> None:
    record = Prediction(
        prediction_id="p", status=Status.STARTING, version=version, created_at=1, updated_at=1
    )
    await log.append(CHANGES, [announcement(record, encode(record), position=Position(0, version))])


@asynccontextmanager
async def running(feed: ChangeFeed | ChangeListener) -> AsyncIterator[asyncio.Task[None]]:
    task = asyncio.create_task(feed.run())
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


class Taken:
    def __init__(self) -> None:
        self.offsets: list[int] = []
        self.failure: Exception | None = None

    async def take(self, batch: Sequence[Record]) -> None:
        if self.failure is not None:
            raise self.failure
        self.offsets += [record.offset for record in batch]


async def test_it_reads_from_where_it_is_told() -> None:
    """From the beginning, or only what comes; the positions say what is next."""
    for to_end, expected in ((True, [2]), (False, [0, 1, 2])):
        log, taken = MemoryLog(), Taken()
        for version in (1, 2):
            await announce(log, version)
        feed = ChangeFeed(log, taken.take)
        await feed.seek(to_end=to_end)
        async with running(feed):
            await feed.caught_up.wait()
            assert await feed.lag() == 0
            await announce(log, 3)
            await eventually(lambda taken=taken, expected=expected: taken.offsets == expected)  # type: ignore[misc]
            assert feed.positions == {0: 3}
        assert not feed.caught_up.is_set()


def _more_than(found: Sequence[object], count: int) -> bool:
    return len(found) > count


async def test_what_failed_is_given_again() -> None:
    """A batch that a store did not take, or that met a fault, comes again, and nothing is left out."""
    failures = (StoreUnavailable("away"), LogUnavailable("away"), RuntimeError("a fault"))
    for failure in failures:
        log, taken, told = MemoryLog(), Taken(), list[Exception]()
        taken.failure = failure
        feed = ChangeFeed(log, taken.take, on_interruption=told.append)
        await announce(log, 1)
        async with running(feed):
            await eventually(partial(_more_than, told, 1))
            assert told[0] is failure
            taken.failure = None
            await eventually(lambda taken=taken: taken.offsets == [0])  # type: ignore[misc]


async def test_an_interruption_may_end_it() -> None:
    """What the hook raises ends the feed: whoever copies something whole begins anew."""
    log, taken = MemoryLog(), Taken()
    taken.failure = StoreUnavailable("away")

    def stop(error: Exception) -> None:
        raise error

    feed = ChangeFeed(log, taken.take, on_interruption=stop)
    await announce(log, 1)
    async with running(feed) as task:
        await asyncio.wait([task], timeout=5)
        assert task.exception() is taken.failure


async def test_a_gap_is_stepped_over_and_told() -> None:
    """Where the topic no longer has what comes next, it goes on with what there is and says so."""
    log, taken, gaps = Away(), Taken(), list[int]()
    feed = ChangeFeed(log, taken.take, on_gap=lambda: gaps.append(1))
    async with running(feed):
        await announce(log, 1)
        await eventually(lambda: taken.offsets == [0])
        log.away = True
        await announce(log, 2)
        await eventually(lambda: not feed.caught_up.is_set())
        await announce(log, 3)
        log.lost = 2
        log.away = False
        await eventually(lambda: taken.offsets == [0, 2])
        assert gaps == [1]


async def test_a_topic_that_ends_below_is_read_from_its_beginning() -> None:
    """A recreated topic ends below the position: it is read whole."""
    log, taken, gaps = MemoryLog(), Taken(), list[int]()
    await announce(log, 1)
    feed = ChangeFeed(log, taken.take, on_gap=lambda: gaps.append(1))
    feed.positions = {0: 100}
    async with running(feed):
        await eventually(lambda: taken.offsets == [0])
        assert gaps == [1]


async def test_a_listener_tells_and_lets_wait() -> None:
    """The listener starts at the end, tells of every change, and answers those who wait, also just after it came."""
    log, told = Away(), list[int]()
    await announce(log, 1)
    listener = ChangeListener(log, lambda changes: told.extend(one.version for one in changes))
    await listener.start()
    async with running(listener):
        waiting = asyncio.create_task(listener.wait_for_version("p", 2, 10))
        await eventually(lambda: len(listener) == 1)
        for version in (2, 3):
            await announce(log, version)
        change = await waiting
        assert change is not None
        assert change.version == 3
        assert await listener.wait_for("p", Position(0, 3), 0) == change
        assert await listener.wait_for("p", Position(0, 4), 0.01) is None
        assert await listener.wait_for_version("p", 3, 0.01) is None
        assert told == [2, 3]
        assert len(listener) == 0


async def test_a_topic_that_has_grown_past_is_read_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """A recreated topic that is longer than the old one has missed changes in it: it is read from its beginning."""
    monkeypatch.setattr(feed_module, "EVERY_SECONDS", 0.01)
    log, taken, gaps = MemoryLog(), Taken(), list[int]()
    feed = ChangeFeed(log, taken.take, on_gap=lambda: gaps.append(1))
    async with running(feed):
        await announce(log, 1)
        await eventually(lambda: taken.offsets == [0] and feed._witnesses.found)
        topic = log._topics[CHANGES].partitions[0]
        topic.clear()
        for version in (5, 6):
            await announce(log, version)
        await eventually(lambda: taken.offsets[-2:] == [0, 1] and gaps == [1])


async def test_a_position_that_goes_back_is_noticed() -> None:
    """A client that finds itself beyond the end goes back to the beginning: that is a gap too."""

    class Back(MemoryLog):
        async def follow(
            self, topic: str, since: Since, until: Mapping[int, int] | None = None
        ) -> AsyncIterator[Sequence[Record]]:
            async for batch in super().follow(topic, since, until):
                yield batch
                if batch and not gaps:
                    yield batch

    log, taken, gaps = Back(), Taken(), list[int]()
    feed = ChangeFeed(log, taken.take, on_gap=lambda: gaps.append(1))
    await announce(log, 1)
    async with running(feed):
        await eventually(lambda: taken.offsets == [0, 0] and gaps == [1])
