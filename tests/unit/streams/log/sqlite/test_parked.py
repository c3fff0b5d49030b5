"""Changes that wait for the store are read here at once, and by others behind the store."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tidings.storage.errors import StoreUnavailable
from tidings.streams.log.factory import open_log
from tidings.streams.log.protocol import CHANGES, EVENTS, Log, LogUnavailable, NewRecord
from tidings.streams.log.read_until_end import read_until_end
from tidings.streams.log.sqlite.log import SqliteLog


class Gatherer:
    """Stands for a store that gathers."""

    def __init__(self, log: SqliteLog) -> None:
        self.log = log
        self.gathering = True
        self.fault: Exception | None = None
        log.parked.wait_for(lambda: self.gathering, self.flush)

    async def flush(self) -> None:
        if self.fault is not None:
            raise self.fault
        await self.log.parked.write()
        self.gathering = False


@pytest.fixture
async def logs(tmp_path: Path) -> AsyncIterator[tuple[SqliteLog, Log]]:
    """A log with a change in it, and how another process sees it."""
    url = f"sqlite:///{tmp_path / 'log.db'}"
    log, other = await open_log(url), await open_log(url)
    assert isinstance(log, SqliteLog)
    await log.append(CHANGES, [change("first")])
    yield log, other
    await log.close()
    await other.close()


def change(name: str) -> NewRecord:
    return NewRecord(name.encode(), b"{}", (("v", b"1"),))


async def keys(log: Log) -> list[str]:
    return [(r.key or b"").decode() async for batch in read_until_end(log, CHANGES) for r in batch]


async def test_what_is_parked_is_read_here_and_not_yet_elsewhere(
    logs: tuple[SqliteLog, Log],
) -> None:
    """A follower has it at once, with its offset; the file has it when the store has what it tells of."""
    log, other = logs
    following = log.follow(CHANGES, "end")
    assert await anext(following) == ()
    gatherer = Gatherer(log)
    assert [p.offset for p in await log.append(CHANGES, [change("a"), change("b")])] == [1, 2]
    assert [record.offset for record in await anext(following)] == [1, 2]
    assert (await log.bounds(CHANGES))[0] == (0, 3)
    assert await keys(other) == ["first"]
    await gatherer.flush()
    assert await keys(other) == ["first", "a", "b"]
    assert [p.offset for p in await log.append(CHANGES, [change("c")])] == [3]
    assert await keys(other) == await keys(log) == ["first", "a", "b", "c"]


async def test_nobody_commits_beyond_the_file(logs: tuple[SqliteLog, Log]) -> None:
    """A group that has read what is parked commits behind it; if the store is away, not at all."""
    log, other = logs
    consumer = log.consume(CHANGES, "readers")
    gatherer = Gatherer(log)
    await log.append(CHANGES, [change("a")])
    assert len(await consumer.fetch(10, 0)) == 2
    gatherer.fault = StoreUnavailable("away")
    with pytest.raises(LogUnavailable, match="away"):
        await consumer.commit({0: 2})
    assert await other.committed(CHANGES, "readers") == {}
    gatherer.fault = None
    await consumer.commit({0: 2})
    assert await other.committed(CHANGES, "readers") == {0: 2}
    assert await keys(other) == ["first", "a"]


async def test_reads_up_to_an_end_have_what_is_parked(logs: tuple[SqliteLog, Log]) -> None:
    """Reading to the end, by an offset and by a time bring it into the file first."""
    log, _ = logs
    gatherer = Gatherer(log)
    await log.append(CHANGES, [change("a")])
    assert await keys(log) == ["first", "a"]
    gatherer.gathering = True
    await log.append(CHANGES, [change("b")])
    assert (await log.read_at(CHANGES, {0: 2}))[0].key == b"b"
    gatherer.gathering = True
    await log.append(CHANGES, [change("c")])
    assert await log.offsets_at(CHANGES, 2**50) == {0: 4}


async def test_events_never_wait(logs: tuple[SqliteLog, Log]) -> None:
    """What is answered with 200 is in the file."""
    log, other = logs
    Gatherer(log)
    await log.append(EVENTS, [change("e")])
    assert (await other.bounds(EVENTS))[0] == (0, 1)


async def test_closing_writes_what_is_parked(logs: tuple[SqliteLog, Log]) -> None:
    """The next process need not announce it again."""
    log, other = logs
    Gatherer(log)
    await log.append(CHANGES, [change("a")])
    await log.close()
    assert await keys(other) == ["first", "a"]


async def test_only_who_knows_the_end_parks(tmp_path: Path) -> None:
    """Not before this process has appended a change itself, nor once another one has."""
    url = f"sqlite:///{tmp_path / 'log.db'}"
    log, other = await open_log(url), await open_log(url)
    assert isinstance(log, SqliteLog)
    try:
        assert not log.parks()
        await log.append(CHANGES, [change("a")])
        assert log.parks()
        following = log.follow(CHANGES, "end")
        assert await anext(following) == ()
        await other.append(CHANGES, [change("b")])
        async with asyncio.timeout(10):
            while not await anext(following):
                pass
        assert not log.parks()
    finally:
        await log.close()
        await other.close()
