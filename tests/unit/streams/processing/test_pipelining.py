"""Several batches under way at once: written, announced and committed in order, whatever fails meanwhile."""

import asyncio
import random
from collections.abc import Sequence

import msgspec
import pytest
import structlog

from tests.support.conditions import eventually
from tests.support.streams.pipeline import read
from tidings.storage.errors import StoreUnavailable
from tidings.storage.memory import MemoryStore
from tidings.storage.prediction import Prediction
from tidings.storage.resilience.backoff import Backoff
from tidings.storage.store import Outcome, Write
from tidings.storage.wrappers.cache import CachedStore
from tidings.streams.changes import codec as changes
from tidings.streams.log.continuity import LogReplaced
from tidings.streams.log.memory import MemoryConsumer, MemoryLog, _Group
from tidings.streams.log.protocol import (
    CHANGES,
    DEAD_LETTERS,
    EVENTS,
    LogUnavailable,
    NewRecord,
    Position,
    Record,
)
from tidings.streams.processing import outages, processor
from tidings.streams.processing.processor import GROUP, Processor
from tidings.streams.rules.reducer import StorePolicy

PREDICTIONS, EACH = 40, 6


class HeldLog(MemoryLog):
    """Announcements wait until they are let go."""

    def __init__(self) -> None:
        super().__init__()
        self.free = asyncio.Event()
        self.waiting = 0

    async def append(self, topic: str, records: Sequence[NewRecord]) -> list[Position]:
        """As the log does."""
        if topic == CHANGES:
            self.waiting += 1
            await self.free.wait()
        return await super().append(topic, records)


class SlowConsumer(MemoryConsumer):
    """Looks a little later than it is asked to, as a member of a group on a server does."""

    async def fetch(self, limit: int, wait: float) -> Sequence[Record]:
        """As the member does."""
        if not wait:
            await asyncio.sleep(0.002)
        return await super().fetch(limit, wait)


class UnsteadyLog(MemoryLog):
    """Every third append of the processor fails, half of them although the records are there."""

    def __init__(self, chances: random.Random) -> None:
        super().__init__(partitions=3)
        self._chances = chances
        self.unsteady = True

    def consume(self, topic: str, group: str, gather: float = 0.0) -> SlowConsumer:
        """As the log does."""
        return SlowConsumer(
            self, self._topic(topic), self._groups.setdefault((topic, group), _Group())
        )

    async def append(self, topic: str, records: Sequence[NewRecord]) -> list[Position]:
        """As the log does, or not."""
        if topic == EVENTS or not self.unsteady or self._chances.random() > 0.33:
            return await super().append(topic, records)
        if self._chances.random() < 0.5:
            await super().append(topic, records)
        raise LogUnavailable("away for a moment")


class UnsteadyStore(MemoryStore):
    """Every third write fails, half of them although it was done."""

    def __init__(self, chances: random.Random) -> None:
        super().__init__()
        self._chances = chances
        self.unsteady = True

    async def write(self, writes: Sequence[Write]) -> list[Outcome]:
        """As the store does, or not."""
        if not self.unsteady or self._chances.random() > 0.33:
            return await super().write(writes)
        if self._chances.random() < 0.5:
            await super().write(writes)
        raise StoreUnavailable("away for a moment")


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches that a few events fill."""
    monkeypatch.setattr(processor, "BATCH", 4)
    monkeypatch.setattr(processor, "BATCH_BEHIND", 16)
    monkeypatch.setattr(outages, "BACKOFF", Backoff.doubling(0.004, 0.01))
    monkeypatch.setattr(processor, "POLL", 0.001)


def reports() -> list[NewRecord]:
    """Reports of which every one changes its prediction, one prediction's far from each other."""
    return [
        NewRecord(
            b"p%d" % number, msgspec.json.encode({"status": "processing", "logs": "x" * round_})
        )
        for round_ in range(1, EACH + 1)
        for number in range(PREDICTIONS)
    ]


async def test_the_next_batch_is_written_while_one_is_announced() -> None:
    """Writing does not wait for the log's word on the batch before, and nothing is committed without it."""
    log, store = HeldLog(), MemoryStore()
    await log.append(EVENTS, reports()[:12])
    running = Processor(log, CachedStore(store), {}, StorePolicy(await log.identity()))
    task = asyncio.create_task(running.run())

    async def written() -> int:
        return len(await store.load([f"p{n}" for n in range(12)]))

    async def two_batches() -> bool:
        return await written() == 12

    await eventually(two_batches, 10)
    assert log.waiting == 1
    assert await log.committed(EVENTS, GROUP) == {}
    log.free.set()

    async def committed() -> bool:
        return await log.committed(EVENTS, GROUP) == {0: 12}

    await eventually(committed, 10)
    running.stop()
    await asyncio.wait_for(task, 10)


async def test_an_announcement_that_never_stood_is_made_by_whoever_reads_next() -> None:
    """Stopped while announcements wait, the processor commits none of the batches behind them."""
    log, store = HeldLog(), MemoryStore()
    await log.append(EVENTS, reports()[:12])
    policy = StorePolicy(await log.identity())
    first = asyncio.create_task(Processor(log, CachedStore(store), {}, policy).run())

    async def all_written() -> bool:
        return len(await store.load([f"p{n}" for n in range(12)])) == 12

    await eventually(all_written, 10)
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    assert await log.committed(EVENTS, GROUP) == {}
    log.free.set()
    second = Processor(log, CachedStore(store), {}, policy)
    task = asyncio.create_task(second.run())

    async def committed() -> bool:
        return await log.committed(EVENTS, GROUP) == {0: 12}

    await eventually(committed, 10)
    second.stop()
    await asyncio.wait_for(task, 10)
    announced = {
        change.prediction_id
        for r in await read(log, CHANGES)
        if (change := changes.parse(r)) is not None
    }
    assert announced == {f"p{n}" for n in range(12)}


@pytest.mark.parametrize("rebalances", [True, False])
@pytest.mark.parametrize("seed", range(5))
async def test_outages_and_rebalances_at_any_moment_lose_nothing_and_repeat_nothing(
    seed: int, *, rebalances: bool
) -> None:
    """Stores and logs fail at random, members come and go: every report is applied once, the newest is announced."""
    chances = random.Random(seed)
    log, store = UnsteadyLog(chances), UnsteadyStore(chances)
    policy = StorePolicy(await log.identity())
    events = reports()
    members: list[tuple[Processor, asyncio.Task[None]]] = []

    def join() -> None:
        member = Processor(log, CachedStore(store), {}, policy)
        members.append((member, asyncio.create_task(member.run())))

    join()
    for start in range(0, len(events), 24):
        await log.append(EVENTS, events[start : start + 24])
        for _ in range(chances.randrange(20)):
            await asyncio.sleep(0)
        if rebalances and len(members) < 3 and chances.random() < 0.5:
            join()
        elif len(members) > 1:
            leaving, task = members.pop(chances.randrange(len(members)))
            if chances.random() < 0.5:
                leaving.stop()
            else:
                task.cancel()
            await asyncio.wait_for(asyncio.gather(task, return_exceptions=True), 20)
    if rebalances:
        log.unsteady = store.unsteady = False
    ends = {number: end for number, (_, end) in (await log.bounds(EVENTS)).items()}

    async def settled() -> bool:
        return await log.committed(EVENTS, GROUP) == ends

    await eventually(settled, 20)
    for member, task in members:
        member.stop()
        await asyncio.wait_for(task, 20)
    newest = changes.newest(await read(log, CHANGES))
    found = await store.load([f"p{n}" for n in range(PREDICTIONS)])
    assert len(found) == PREDICTIONS
    for prediction_id, stored in found.items():
        record = stored.standing()
        assert isinstance(record, Prediction)
        assert (record.version, record.logs_length) == (EACH, EACH)
        assert newest[prediction_id].value == stored.encoded
    assert await read(log, DEAD_LETTERS) == []


async def test_records_that_come_again_are_asked_about_first() -> None:
    """Where a fetch goes back without a new assignment, nothing of it is judged before somebody has looked at the log."""

    class Back(MemoryConsumer):
        async def fetch(self, limit: int, wait: float) -> Sequence[Record]:
            records = await super().fetch(limit, wait)
            if not records and asked == [0] and applied:
                self.seek({0: 0})  # as a client does whose position lies beyond the end
                return await super().fetch(limit, 0)
            return records

    class BackLog(MemoryLog):
        def consume(self, topic: str, group: str, gather: float = 0.0) -> MemoryConsumer:
            return Back(self, self._topic(topic), self._groups.setdefault((topic, group), _Group()))

    asked: list[int] = []
    applied: list[int] = []

    async def look(_: frozenset[int]) -> None:
        asked.append(len(applied))
        if len(asked) > 1:
            raise LogReplaced("another topic")

    log = BackLog()
    processor = Processor(
        log,
        MemoryStore(),
        {},
        StorePolicy(await log.identity()),
        assigned=look,
        done=lambda records: applied.extend(record.offset for record in records),
    )
    await log.append(EVENTS, [NewRecord(b"p1", b'{"status":"processing"}')])
    async with asyncio.timeout(10):
        with pytest.raises(LogReplaced):
            await processor.run()
    assert applied == [0]
    assert asked == [0, 1]
    assert processor.statistics.duplicates == 0


async def test_scattered_events_are_warned_of_once() -> None:
    """Producers that put one prediction into several partitions are told of once, with a name and the remedy."""
    log = MemoryLog(partitions=2)
    running = Processor(log, MemoryStore(), {}, StorePolicy(await log.identity()))
    task = asyncio.create_task(running.run())
    with structlog.testing.capture_logs() as said:
        for name in (b"p1", b"p2"):
            for partition, status in ((0, b"processing"), (1, b"succeeded")):
                await log.append(
                    EVENTS, [NewRecord(name, b'{"status":"%b"}' % status, (), partition)]
                )
                await eventually(lambda: running.statistics.records == sent(log))
    running.stop()
    await task
    [line] = [one for one in said if one["event"] == "processor.scattered"]
    assert (line["prediction"], line["partitions"]) == ("p1", ["0", "1"])
    assert "murmur2" in line["remedy"]


def sent(log: MemoryLog) -> int:
    """How many events were appended."""
    return sum(map(len, log._topic(EVENTS).partitions))
