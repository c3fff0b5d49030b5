"""Appends of many callers at once, joined by the log itself: what each of them may rely on."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tidings.streams.log.factory import open_log
from tidings.streams.log.protocol import (
    CHANGES,
    EVENTS,
    Log,
    LogUnavailable,
    NewRecord,
    RecordTooLarge,
)
from tidings.streams.log.read_until_end import read_until_end
from tidings.streams.log.sqlite import writer
from tidings.streams.log.sqlite.log import SqliteLog
from tidings.streams.log.sqlite.schema import connect


@pytest.fixture(params=["memory", "sqlite"])
async def log(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Log]:
    url = {"memory": "memory://", "sqlite": f"sqlite:///{tmp_path}/log.db"}[request.param]
    log = await open_log(url, max_body=10_000)
    yield log
    await log.close()


def record(number: int, size: int = 10) -> NewRecord:
    return NewRecord(b"k%d" % number, b"x" * size)


async def keys(log: Log) -> list[bytes | None]:
    return [one.key async for batch in read_until_end(log, EVENTS) for one in batch]


async def test_they_keep_their_order(log: Log) -> None:
    """Appends of one turn of the loop lie in the log as they were called, the first ever too."""
    await asyncio.gather(*(log.append(EVENTS, [record(number)]) for number in range(64)))
    assert await keys(log) == [b"k%d" % number for number in range(64)]


async def test_a_record_too_large_fails_alone(log: Log) -> None:
    """One that the log never takes does not spoil the others that came with it."""
    results = await asyncio.gather(
        *(
            log.append(EVENTS, [record(number, size)])
            for number, size in ((1, 9), (2, 500_000), (3, 9))
        ),
        return_exceptions=True,
    )
    assert [isinstance(result, RecordTooLarge) for result in results] == [False, True, False]
    assert await keys(log) == [b"k1", b"k3"]


async def test_a_caller_that_leaves_disturbs_nobody(log: Log) -> None:
    """An append that is cancelled while it waits leaves alone those that came with it."""
    first, second, third = [
        asyncio.create_task(log.append(EVENTS, [record(number)])) for number in range(3)
    ]
    await asyncio.sleep(0)
    second.cancel()
    await asyncio.gather(first, third)
    with pytest.raises(asyncio.CancelledError):
        await second
    assert {b"k0", b"k2"} <= set(await keys(log))


async def test_closing_finishes_what_is_under_way(log: Log) -> None:
    """What was being appended when the log is closed is taken; what comes later is refused."""
    under_way = asyncio.gather(*(log.append(EVENTS, [record(number)]) for number in range(8)))
    await asyncio.sleep(0)
    await log.close()
    assert len(await under_way) == 8
    with pytest.raises(LogUnavailable):
        await log.append(EVENTS, [record(9)])


async def test_nobody_waits_longer_than_the_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Behind a commit that hangs all are given up in time, be the topic new; later ones are served."""
    monkeypatch.setattr(writer, "APPEND_SECONDS", 0.3)
    path = tmp_path / "log.db"
    log = await open_log(f"sqlite:///{path}")
    assert isinstance(log, SqliteLog)
    other = connect(path)
    try:
        await log.append(EVENTS, [record(0)])
        other.execute("BEGIN IMMEDIATE")
        loop = asyncio.get_running_loop()
        started = loop.time()
        topics = [EVENTS, CHANGES]
        waiting = []
        for number in range(20):
            waiting.append(asyncio.create_task(log.append(topics[number % 2], [record(number)])))
            await asyncio.sleep(0)
        results = await asyncio.gather(*waiting, return_exceptions=True)
        assert all(isinstance(result, LogUnavailable) for result in results)
        assert loop.time() - started < 3
        other.execute("ROLLBACK")
        monkeypatch.undo()
        await log.append(EVENTS, [record(99)])
    finally:
        other.close()
        await log.close()
