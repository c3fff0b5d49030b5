"""What is committed of what a member of a group reads, whatever is finished first and whoever gets the partitions."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence

import pytest

from tests.support.conditions import eventually
from tidings.streams.log.consumer_loop import ConsumerLoop
from tidings.streams.log.memory import MemoryLog
from tidings.streams.log.protocol import (
    EVENTS,
    LogMisconfigured,
    LogUnavailable,
    NewRecord,
    Record,
)

GROUP = "readers"


class Member:
    """A member whose assignment, and whose luck, a test decides."""

    def __init__(self) -> None:
        self.partitions = frozenset({0, 1})
        self.number = 1
        self.failures: list[Exception] = []
        self.commits: list[dict[int, int]] = []
        self.free = asyncio.Event()
        self.free.set()
        self.paused = False
        self.closed = False
        self.records: list[Record] = []
        self.ahead: dict[int, int] = {}

    async def fetch(self, limit: int, wait: float) -> Sequence[Record]:
        if self.failures:
            raise self.failures.pop()
        records, self.records = self.records, []
        return records

    async def commit(self, positions: Mapping[int, int]) -> None:
        await self.free.wait()
        if self.failures:
            raise self.failures.pop()
        self.commits.append(dict(positions))

    def assigned(self) -> frozenset[int]:
        return self.partitions

    def generation(self) -> int:
        return self.number

    def before_revocation(self, call: Callable[[], Awaitable[None]]) -> None: ...

    def pause(self) -> None:
        self.paused = True

    def resume(self) -> None:
        self.paused = False

    def seek(self, positions: Mapping[int, int]) -> None: ...

    def positions(self) -> dict[int, int]:
        return self.ahead

    async def lag(self) -> dict[int, int]:
        return {}

    async def close(self) -> None:
        self.closed = True


class OneMember(MemoryLog):
    """A log with the member that a test has made."""

    def __init__(self, member: Member) -> None:
        super().__init__()
        self.member = member

    def consume(self, topic: str, group: str, gather: float = 0.0) -> Member:  # type: ignore[override]
        """As the log does."""
        return self.member


async def some_records(count: int, partition: int = 0) -> list[Record]:
    log = MemoryLog(partitions=2)
    await log.append(EVENTS, [NewRecord(b"p", b"{}", (), partition) for _ in range(count)])
    async for batch in log.follow(EVENTS, "beginning"):
        return list(batch)
    raise AssertionError


def member_and_loop() -> tuple[Member, ConsumerLoop]:
    member = Member()
    loop = ConsumerLoop(OneMember(member), EVENTS, GROUP)
    loop.reassigned()
    return member, loop


async def test_the_lowest_open_offset_is_committed() -> None:
    """Of records that are finished in another order than they were read, none that is still open is passed."""
    member, loop = member_and_loop()
    records = await some_records(5)
    claims = [loop.begin([record]) for record in records]
    loop.finish(claims[3])
    loop.finish(claims[0])
    assert loop.done() == {0: 1}
    loop.commit_soon()
    await eventually(lambda: member.commits == [{0: 1}], 5)
    for claim in (claims[1], claims[4], claims[2]):
        loop.finish(claim)
    await loop.close()
    assert member.commits == [{0: 1}, {0: 5}]
    assert member.closed


async def test_what_is_passed_waits_for_what_is_open_before_it() -> None:
    """Records that need nothing are committed with their neighbours, and not before those below them."""
    _, loop = member_and_loop()
    first, second, third = await some_records(3)
    loop.passed([first])
    claim = loop.begin([second])
    loop.passed([third])
    assert loop.done() == {0: 1}
    loop.finish(claim)
    assert loop.done() == {0: 3}


async def test_nothing_is_committed_where_nothing_is_done() -> None:
    """A member that began and finished nothing leaves the group's offsets alone."""
    member, loop = member_and_loop()
    loop.begin(await some_records(2))
    await loop.close()
    assert member.commits == []


async def test_a_reassignment_forgets_what_was_open() -> None:
    """What was begun before a reassignment is committed neither as done nor as open, and closes nothing of the new one."""
    member, loop = member_and_loop()
    records = await some_records(3)
    old = loop.begin(records)
    member.number = 2
    assert not loop.current
    assert loop.reassigned()
    assert not loop.reassigned()
    assert loop.done() == {}
    loop.begin(records)
    loop.finish(old)
    assert loop.done() == {0: 0}


async def test_a_partition_that_was_lost_is_not_committed() -> None:
    """Of what is done, only what is still assigned is committed: another member may have committed more."""
    member, loop = member_and_loop()
    loop.finish(loop.begin(await some_records(2, 0)))
    loop.finish(loop.begin(await some_records(2, 1)))
    member.partitions = frozenset({1})
    await loop.close()
    assert member.commits == [{1: 2}]


async def test_one_commit_is_under_way_at_a_time() -> None:
    """While a slow commit runs, what is done meanwhile is gathered, and committed once with the newest positions."""
    member, loop = member_and_loop()
    member.free.clear()
    for record in await some_records(4):
        loop.finish(loop.begin([record]))
        loop.commit_soon()
        await asyncio.sleep(0)
    member.free.set()
    await eventually(lambda: {0: 4} in member.commits, 5)
    assert len(member.commits) == 2


async def test_a_commit_that_fails_is_made_again() -> None:
    """Positions that the log did not take are not taken for committed."""
    member, loop = member_and_loop()
    loop.finish(loop.begin(await some_records(2)))
    member.failures = [LogUnavailable("away")]
    loop.commit_soon()
    await eventually(lambda: not member.failures, 5)
    loop.commit_soon()
    await eventually(lambda: member.commits == [{0: 2}], 5)


async def test_an_outage_gives_nothing_and_a_fault_is_raised() -> None:
    """A log that is away for a moment is no reason to end; one that is set up wrongly is."""
    member, loop = member_and_loop()
    member.failures = [LogUnavailable("away")]
    assert await loop.fetch(10, 0) == ()
    member.failures = [LogMisconfigured("no such topic")]
    with pytest.raises(LogMisconfigured):
        await loop.fetch(10, 0)


async def test_holding_pauses_once() -> None:
    """A loop that holds reads nothing until it goes on."""
    member, loop = member_and_loop()
    loop.hold(True)
    assert member.paused
    loop.hold(False)
    assert not member.paused


async def test_ends_of_transactions_are_passed() -> None:
    """Offsets without records are passed once all that was fetched is done, and not before that."""
    member, loop = member_and_loop()
    member.records = await some_records(2)
    first, second = await loop.fetch(10, 0)
    member.ahead = {0: 4}
    claim = loop.begin([first])
    loop.finish(claim)
    assert loop.done() == {0: 1}  # the second was fetched, and is not begun
    claim = loop.begin([second])
    assert loop.done() == {0: 1}
    loop.finish(claim)
    assert loop.done() == {0: 4}


async def test_what_was_fetched_and_not_begun_is_not_committed() -> None:
    """Of the first records of an assignment that are begun one by one, none is committed before it was begun."""
    log = MemoryLog()
    await log.append(EVENTS, [NewRecord(b"p", b"{}") for _ in range(5)])
    loop = ConsumerLoop(log, EVENTS, GROUP)
    records = await loop.fetch(10, 0)
    assert len(records) == 5
    assert loop.reassigned()
    loop.finish(loop.begin(records[:1]))
    assert loop.done() == {0: 1}
    await loop.close()
    assert await log.committed(EVENTS, GROUP) == {0: 1}


async def test_what_is_kept_holds_the_commit_and_not_the_position() -> None:
    """What is handled and must not be committed yet holds its partition's committed offset; a batch that began there does not."""
    log = MemoryLog()
    await log.append(EVENTS, [NewRecord(b"p", b"x") for _ in range(4)])
    loop = ConsumerLoop(log, EVENTS, GROUP)
    try:
        records = await loop.fetch(10, 1)
        loop.reassigned()
        claim = loop.begin(records)
        first, second = loop.keep(records[0]), loop.keep(records[2])
        loop.finish(claim)
        assert loop.done() == {0: 4}
        await loop.commit()
        assert await log.committed(EVENTS, GROUP) == {}
        loop.release(first)
        await loop.commit()
        assert await log.committed(EVENTS, GROUP) == {0: 2}
        loop.release(second)
        await loop.commit()
        assert await log.committed(EVENTS, GROUP) == {0: 4}
    finally:
        await loop.close()
