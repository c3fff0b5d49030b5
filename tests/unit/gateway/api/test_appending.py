"""Single records joined into few appends."""

import asyncio
from collections.abc import Sequence

import pytest

from tidings.gateway.api.appending import IN_FLIGHT, Appender
from tidings.streams.log.memory import MemoryLog
from tidings.streams.log.protocol import EVENTS, LogUnavailable, NewRecord, Position


class CountingLog(MemoryLog):
    """A log that counts its appends, and takes nothing while it is halted."""

    def __init__(self, max_body: int = 10_000) -> None:
        super().__init__(max_body=max_body)
        self.sizes: list[int] = []
        self.going = asyncio.Event()
        self.going.set()

    async def append(self, topic: str, records: Sequence[NewRecord]) -> list[Position]:
        self.sizes.append(len(records))
        await self.going.wait()
        return await super().append(topic, records)


def record(number: int, size: int = 10) -> NewRecord:
    return NewRecord(b"k%d" % number, b"x" * size)


async def test_what_comes_together_is_one_append() -> None:
    """All records of one turn of the loop are appended with one call, in their order."""
    log = CountingLog()
    appender = Appender(log, EVENTS, 5.0)
    await asyncio.gather(*(appender.append(record(number)) for number in range(64)))
    assert log.sizes == [64]
    async for batch in log.follow(EVENTS, "beginning"):
        assert [one.key for one in batch] == [b"k%d" % number for number in range(64)]
        break


async def test_few_appends_are_under_way_at_once() -> None:
    """While the log is busy, what comes waits together, and goes with one append afterwards."""
    log = CountingLog()
    appender = Appender(log, EVENTS, 30.0)
    log.going.clear()
    futures = []
    for number in range(100):
        futures.append(appender.append(record(number)))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    assert len(log.sizes) == IN_FLIGHT
    log.going.set()
    await asyncio.gather(*futures)
    assert len(log.sizes) == IN_FLIGHT + 1
    assert sum(log.sizes) == 100


async def test_a_record_too_large_fails_alone() -> None:
    """One that the log never takes does not spoil the others of its append."""
    log = CountingLog()
    appender = Appender(log, EVENTS, 5.0)
    futures = [
        appender.append(record(1)),
        appender.append(record(2, 500_000)),
        appender.append(record(3)),
    ]
    results = await asyncio.gather(*futures, return_exceptions=True)
    assert [type(result).__name__ for result in results] == [
        "NoneType",
        "RecordTooLarge",
        "NoneType",
    ]


async def test_nobody_waits_longer_than_the_limit() -> None:
    """Records behind appends that hang are given up in time too, and later ones are served when the log is back."""
    log = CountingLog()
    appender = Appender(log, EVENTS, 0.3)
    log.going.clear()
    loop = asyncio.get_running_loop()
    started = loop.time()
    futures = []
    for number in range(20):
        futures.append(appender.append(record(number)))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    results = await asyncio.gather(*futures, return_exceptions=True)
    assert all(isinstance(result, LogUnavailable) for result in results)
    assert loop.time() - started < 10
    log.going.set()
    await appender.append(record(99))


async def test_a_client_that_leaves_disturbs_nobody() -> None:
    """A request that is cancelled while it waits leaves the others of its append alone."""
    log = CountingLog()
    appender = Appender(log, EVENTS, 5.0)
    first, second = appender.append(record(1)), appender.append(record(2))
    first.cancel()
    await second
    with pytest.raises(asyncio.CancelledError):
        await first
