"""A record that ends the process is set aside after a few ends, and no innocent one ever is."""

import asyncio
import random
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.support.conditions import eventually
from tests.support.streams.pipeline import codes, read
from tidings.storage.errors import StoreMisconfigured, StoreUnavailable
from tidings.storage.memory import MemoryStore
from tidings.storage.notes import notes_of
from tidings.storage.sqlite.store import SqliteStore
from tidings.storage.store import Outcome, PredictionStore, Write
from tidings.storage.wrappers.cache import CachedStore
from tidings.streams.log.memory import MemoryConsumer, MemoryLog
from tidings.streams.log.protocol import DEAD_LETTERS, EVENTS, NewRecord, Record
from tidings.streams.processing import batch as batches
from tidings.streams.processing.crash_journal import ENDS, STARTS
from tidings.streams.processing.decoder import decode_event
from tidings.streams.processing.processor import GROUP, Processor
from tidings.streams.providers.protocol import Provider
from tidings.streams.replay.judgement import read_letters
from tidings.streams.replay.rebuild import Rebuild, span
from tidings.streams.rules.event import Event
from tidings.streams.rules.reducer import StorePolicy

DEADLY = b'{"status":"succeeded","output":"deadly"}'


class Killed(BaseException):
    """The process is gone: nothing catches this, and nothing is done in order."""


@pytest.fixture(autouse=True)
def deadly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Decoding the deadly record ends the process."""
    decode = decode_event

    def dying(record: Record, providers: Mapping[str, Provider]) -> Event:
        if record.value == DEADLY:
            raise Killed
        return decode(record, providers)

    monkeypatch.setattr(batches, "decode_event", dying)


@pytest.fixture(params=["memory", "sqlite"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[PredictionStore]:
    """A store of each embedded kind, which outlives the processes."""
    opened: Any = (
        MemoryStore()
        if request.param == "memory"
        else await SqliteStore.open(f"sqlite:///{tmp_path}/s.db")
    )
    yield opened
    await opened.close()


async def live(log: MemoryLog, store: PredictionStore, upto: int | None = None) -> bool:
    """A process: until everything is committed, or it ends; returns whether it lived."""
    processor = Processor(log, CachedStore(store), {}, StorePolicy(await log.identity()))
    task = asyncio.create_task(processor.run())
    ends = {partition: end for partition, (_, end) in (await log.bounds(EVENTS)).items()}

    async def over() -> bool:
        return task.done() or await log.committed(EVENTS, GROUP) == ends

    await eventually(over, 20)
    if task.done():
        with pytest.raises(Killed):
            await task
        return False
    processor.stop()
    await asyncio.wait_for(task, 20)
    return True


async def kill(task: asyncio.Task[None]) -> None:
    """End a process without a word."""
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def events(*names: str) -> list[NewRecord]:
    return [NewRecord(name.encode(), b'{"status":"processing"}') for name in names]


async def test_a_deadly_record_is_set_aside_and_the_rest_goes_on(store: PredictionStore) -> None:
    """After two ends in the dark and three that were noted, the record is a dead letter; its neighbours are applied."""
    log = MemoryLog()
    deadly = NewRecord(b"bad", DEADLY)
    await log.append(EVENTS, [*events("a", "b"), deadly, *events("c", "bad")])
    ends = 0
    while not await live(log, store):
        ends += 1
        assert ends <= STARTS + ENDS
    assert ends == STARTS + ENDS
    letters = await read(log, DEAD_LETTERS)
    assert codes(letters) == ["crash"]
    assert (letters[0].key, letters[0].value) == (b"bad", DEADLY)
    assert set(await store.load(["a", "b", "c", "bad"])) == {"a", "b", "c", "bad"}

    rebuilt = MemoryStore()
    rebuild = Rebuild(
        log, rebuilt, {}, StorePolicy(await log.identity()), letters=await read_letters(log)
    )
    progress = await rebuild.run(await span(log))
    assert progress.crashed == 1
    for name, stored in (await store.load(["a", "b", "c", "bad"])).items():
        assert (await rebuilt.load([name]))[name].encoded == stored.encoded


class Slow(MemoryLog):
    """The first fetch of each member gives nothing, as where a broker takes its time."""

    def consume(self, topic: str, group: str, gather: float = 0.0) -> MemoryConsumer:
        """A member of the group."""
        consumer = super().consume(topic, group)
        fetch, fetched = consumer.fetch, list[int]()

        async def slowly(limit: int, wait: float) -> Sequence[Record]:
            fetched.append(limit)
            return await fetch(limit, wait) if len(fetched) > 2 else ()

        consumer.fetch = slowly  # type: ignore[method-assign]
        return consumer


async def test_a_fetch_that_gives_nothing_yet_is_no_end() -> None:
    """What is noted stands until the partition is read to its end, however long the first records take to come."""
    log, store = Slow(), MemoryStore()
    await log.append(EVENTS, [*events("a"), NewRecord(b"bad", DEADLY)])
    for _ in range(STARTS + ENDS):
        assert not await live(log, store)
    assert await live(log, store)
    assert codes(await read(log, DEAD_LETTERS)) == ["crash"]


async def test_a_second_deadly_record_costs_fewer_ends(store: PredictionStore) -> None:
    """Records stay taken one by one until what may have been under way is done, so the next one is found sooner."""
    log = MemoryLog()
    await log.append(EVENTS, [NewRecord(b"x", DEADLY), *events("a"), NewRecord(b"y", DEADLY)])
    ends = 0
    while not await live(log, store):
        ends += 1
        assert ends <= STARTS + 2 * ENDS
    assert ends == STARTS + 2 * ENDS
    assert codes(await read(log, DEAD_LETTERS)) == ["crash", "crash"]


async def test_other_partitions_go_on_by_the_batch() -> None:
    """While records of one partition are taken one by one, those of the others share their writes."""

    class Counting(MemoryStore):
        most = 0

        async def write(self, writes: Sequence[Write]) -> list[Outcome]:
            self.most = max(self.most, len(writes))
            return await super().write(writes)

    log, store = MemoryLog(partitions=2), Counting()
    deadly = NewRecord(b"bad", DEADLY, partition=0)
    names = [b"p%d" % number for number in range(20)]
    await log.append(EVENTS, [deadly])
    for _ in range(STARTS + 1):
        assert not await live(log, store)
    others = [NewRecord(name, b'{"status":"processing"}', partition=1) for name in names]
    await log.append(EVENTS, others)
    while not await live(log, store):
        pass
    assert store.most == len(names)
    assert codes(await read(log, DEAD_LETTERS)) == ["crash"]


@pytest.mark.parametrize("seed", range(4))
async def test_no_innocent_record_is_set_aside(seed: int) -> None:
    """Processes that are killed again and again for other reasons, at any moment, lose nothing and blame nobody."""
    chances = random.Random(seed)
    log, store = MemoryLog(), MemoryStore()
    names = [f"p{number}" for number in range(40)]
    await log.append(EVENTS, events(*names))
    policy = StorePolicy(await log.identity())
    for _ in range(60):
        task = asyncio.create_task(Processor(log, CachedStore(store), {}, policy).run())
        for _ in range(chances.randrange(30)):
            await asyncio.sleep(0)
        await kill(task)
    assert await live(log, store)
    assert await read(log, DEAD_LETTERS) == []
    assert len(await store.load(names)) == len(names)


class Away(MemoryStore):
    """Keeps notes, and takes no records while it is away."""

    away = False

    async def write(self, writes: Sequence[Write]) -> list[Outcome]:
        """As the store does, or not."""
        if self.away:
            raise StoreUnavailable("away")
        return await super().write(writes)


async def test_a_restart_in_an_outage_blames_nobody() -> None:
    """A record that waits for a store as the process is killed, however often, is applied in the end."""
    log, store = MemoryLog(), Away()
    await log.append(EVENTS, events("a", "b"))
    store.away = True
    for _ in range(2 * (STARTS + ENDS)):
        processor = Processor(log, CachedStore(store), {}, StorePolicy(await log.identity()))
        task = asyncio.create_task(processor.run())
        await eventually(lambda processor=processor: processor.obstacle, 20)  # type: ignore[misc]
        await asyncio.sleep(0)
        await kill(task)
    store.away = False
    assert await live(log, store)
    assert await read(log, DEAD_LETTERS) == []
    assert set(await store.load(["a", "b"])) == {"a", "b"}


class Denied(MemoryStore):
    """Keeps notes, and has not been given the right to write records."""

    denied = True

    async def write(self, writes: Sequence[Write]) -> list[Outcome]:
        """As the store does, or not."""
        if self.denied:
            raise StoreMisconfigured("permission denied")
        return await super().write(writes)


async def test_a_setting_that_ends_the_process_blames_nobody() -> None:
    """A record that was under way as a store refused everything, start after start, is applied once it is mended."""
    log, store = MemoryLog(), Denied()
    await log.append(EVENTS, events("a", "b"))
    for _ in range(2 * (STARTS + ENDS)):
        processor = Processor(log, CachedStore(store), {}, StorePolicy(await log.identity()))
        with pytest.raises(StoreMisconfigured):
            await asyncio.wait_for(processor.run(), 20)
    store.denied = False
    assert await live(log, store)
    assert await read(log, DEAD_LETTERS) == []
    assert set(await store.load(["a", "b"])) == {"a", "b"}


async def test_ends_in_order_do_not_count() -> None:
    """A processor that is stopped while a store is away leaves no trace, so nothing is taken one by one after it."""
    log, store = MemoryLog(), Away()
    await log.append(EVENTS, events("a"))
    store.away = True
    for _ in range(STARTS + 1):
        processor = Processor(log, CachedStore(store), {}, StorePolicy(await log.identity()))
        task = asyncio.create_task(processor.run())
        await eventually(lambda processor=processor: processor.obstacle, 20)  # type: ignore[misc]
        processor.stop()
        await asyncio.wait_for(task, 20)
    kept = notes_of(store)
    assert kept is not None
    assert '"starts"' not in (await kept.notes())["processing-0"]
