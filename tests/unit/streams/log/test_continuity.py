"""A topic that was recreated, or has lost its end, is noticed: at the start and at work."""

import asyncio

import pytest

from tests.support.conditions import eventually
from tests.support.storage.samples import prediction
from tidings.storage.memory import MemoryStore
from tidings.storage.prediction import Source, encode
from tidings.storage.store import Write
from tidings.storage.wrappers.cache import CachedStore
from tidings.streams.log import continuity
from tidings.streams.log.continuity import LogReplaced, SourceWatch, check_source, witness
from tidings.streams.log.memory import MemoryLog
from tidings.streams.log.protocol import EVENTS, LogUnavailable, NewRecord, Record
from tidings.streams.log.read_until_end import read_until_end


class Recreatable(MemoryLog):
    """A log whose topics can be deleted and made anew, and that may be away."""

    away = False

    def recreate(self) -> None:
        self._topics.clear()

    async def bounds(self, topic: str) -> dict[int, tuple[int, int]]:
        if self.away:
            raise LogUnavailable("away")
        return await super().bounds(topic)


async def append(log: MemoryLog, *values: bytes) -> list[Record]:
    await log.append(EVENTS, [NewRecord(b"p", value) for value in values])
    return [record async for batch in read_until_end(log, EVENTS) for record in batch]


async def applied_upto(store: MemoryStore, offset: int) -> None:
    """Let the store have seen this offset."""
    source = Source("log", {"0": offset})
    record = prediction("p", source=source)
    await store.write([Write(record, encode(record), 0)])


async def watching(log: MemoryLog, *values: bytes) -> tuple[SourceWatch, MemoryStore]:
    """A watch whose service has applied these events."""
    store = MemoryStore()
    watch = SourceWatch(log, CachedStore(store))
    watch.applied(await append(log, *values))
    await watch.keep()
    return watch, store


async def test_a_topic_that_ends_below() -> None:
    """Where the topic ends below what the store has seen, the line says which partition and what to do."""
    log, store = Recreatable(), MemoryStore()
    await append(log, b"1", b"2", b"3")
    await applied_upto(store, 2)
    await check_source(log, store)
    log.recreate()
    await append(log, b"4")
    with pytest.raises(LogReplaced, match=r"partition 0 .* ends at 1, .* TIDINGS_LOG_EPOCH"):
        await check_source(log, store)


async def test_a_topic_that_has_grown_past() -> None:
    """Where the new topic has grown past the old position, the record there tells: for other processes and later too."""
    log = Recreatable()
    watch, store = await watching(log, b"1", b"2")
    await watch.check()
    await check_source(log, store)
    log.recreate()
    await append(log, b"1", b"other", b"3")
    with pytest.raises(LogReplaced, match=r"offset 1 of partition 0 .* another record"):
        await watch.check()
    assert watch.failure is not None
    with pytest.raises(LogReplaced):
        await check_source(log, store)


async def test_what_was_read_of_the_new_topic_is_no_witness() -> None:
    """A reader that went on in the new topic before the look compares what it had read before, and keeps that."""
    log = Recreatable()
    watch, store = await watching(log, b"1", b"2")
    await watch.check()
    log.recreate()
    watch.applied((await append(log, b"other", b"one", b"more"))[2:])
    with pytest.raises(LogReplaced, match="offset 1 of partition 0"):
        await watch.check()
    await watch.keep()
    with pytest.raises(LogReplaced):
        await check_source(log, store)


async def test_another_process_reads_on_in_the_new_topic() -> None:
    """What the last owner of a partition wrote down counts, whatever the next one has read since."""
    log = Recreatable()
    _, store = await watching(log, b"1", b"2")
    log.recreate()
    following = SourceWatch(log, store)
    following.applied((await append(log, b"other", b"one", b"more"))[2:])
    await following.keep()
    with pytest.raises(LogReplaced, match="offset 1 of partition 0"):
        await following.check()
    with pytest.raises(LogReplaced):
        await check_source(log, store)


async def test_what_another_owner_wrote_down_later_stays() -> None:
    """A process that had the partition before does not put its older witness in the place of the newer one."""
    log = MemoryLog(partitions=2)
    first, store = await watching(log, b"1")
    await first.check()
    second = SourceWatch(log, store)
    second.applied(await append(log, b"2"))
    await second.check()
    await second.keep()
    newest = (await store.notes())["witnesses"]
    await log.append(EVENTS, [NewRecord(b"q", b"3", (), 0)])
    everything = [record async for batch in read_until_end(log, EVENTS) for record in batch]
    first.applied([record for record in everything if record.partition == 0])
    await first.check()
    await first.keep()
    kept = (await store.notes())["witnesses"]
    assert newest.removeprefix("{").removesuffix("}") in kept
    assert len(kept) > len(newest)


async def test_the_same_contents_at_another_time() -> None:
    """A record of the same contents is another one: its time differs."""
    log = MemoryLog()
    [first] = await append(log, b"1")
    same = witness(first)
    assert same == witness(first)
    await asyncio.sleep(0.002)
    [_, second] = await append(log, b"1")
    assert (witness(second).digest, witness(second).timestamp) != (same.digest, same.timestamp)


async def test_what_was_removed_says_nothing() -> None:
    """Retention removes what was applied last: that is no sign of another topic."""

    class Trimmed(Recreatable):
        async def bounds(self, topic: str) -> dict[int, tuple[int, int]]:
            return {n: (end, end) for n, (_, end) in (await super().bounds(topic)).items()}

    log = Trimmed()
    watch, store = await watching(log, b"1", b"2")
    await watch.check()
    await check_source(log, store)


async def test_several_processors_keep_their_partitions() -> None:
    """Each writes down the partitions that it has, beside those of the others."""
    log, store = Recreatable(partitions=2), MemoryStore()
    for partition in (0, 1):
        await log.append(EVENTS, [NewRecord(b"p", b"1", (), partition)])
    records = [record async for batch in read_until_end(log, EVENTS) for record in batch]
    for partition in (0, 1):
        watch = SourceWatch(log, store)
        watch.applied([record for record in records if record.partition == partition])
        await watch.keep()
    log.recreate()
    for partition in (0, 1):
        await log.append(EVENTS, [NewRecord(b"p", b"1", (), 0), NewRecord(b"p", b"other", (), 1)])
        with pytest.raises(LogReplaced):
            await check_source(log, store)
        await log.append(EVENTS, [NewRecord(b"p", b"%d" % partition)])


async def test_a_running_service_notices(monkeypatch: pytest.MonkeyPatch) -> None:
    """The watch waits outages out, and ends once it has found another log."""
    monkeypatch.setattr(continuity, "EVERY_SECONDS", 0.01)
    log = Recreatable()
    watch, _ = await watching(log, b"1", b"2")
    running = asyncio.create_task(watch.run())
    log.away = True
    await asyncio.sleep(0.05)
    assert not running.done()
    assert watch.failure is None
    log.away = False
    log.recreate()
    await eventually(running.done)
    assert watch.failure is not None
    assert "TIDINGS_LOG_EPOCH" in watch.failure


async def test_a_partition_that_this_client_does_not_know_yet() -> None:
    """A partition was added, and another processor applied events of it: this process goes on meanwhile.

    At a start a partition that is missing is a sign: a new client knows all that there are.
    """

    class Stale(MemoryLog):
        async def bounds(self, topic: str) -> dict[int, tuple[int, int]]:
            return {n: found for n, found in (await super().bounds(topic)).items() if n == 0}

    log = Stale(partitions=2)
    watch, store = await watching(log, b"1")
    source = Source("log", {"1": 7})
    added = prediction("added", source=source)
    await store.write([Write(added, encode(added), 0)])
    note = '{"1":{"offset":7,"timestamp":1,"digest":"other"}}'
    await store.note("witnesses", note)
    await watch.check()
    assert watch.failure is None
    with pytest.raises(LogReplaced, match="partition 1"):
        await check_source(log, store)
