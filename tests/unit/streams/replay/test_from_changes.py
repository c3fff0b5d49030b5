"""Filling a store from the changes topic: the bytes of the running store, whatever came after the last commit."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.support.streams.events import event, record
from tests.support.streams.fussy_store import Fussy
from tests.support.streams.history import everything, some_history
from tests.support.streams.pipeline import pipeline
from tidings.storage.memory import MemoryStore
from tidings.storage.prediction import Status, encode
from tidings.storage.sqlite.store import SqliteStore
from tidings.storage.store import Outcome, PredictionStore, Query, Write
from tidings.streams.changes.codec import announcement
from tidings.streams.log import memory as memory_log
from tidings.streams.log.memory import MemoryLog
from tidings.streams.log.protocol import CHANGES, EVENTS, Log, NewRecord, Position
from tidings.streams.processing.processor import GROUP
from tidings.streams.replay import from_changes as restore
from tidings.streams.replay.from_changes import Restoration
from tidings.streams.replay.rebuild import Rebuild, StoreInUse, span
from tidings.streams.rules.reducer import StorePolicy


async def filled(log: Log, store: PredictionStore, only: str | None = None) -> Rebuild:
    """Fill a store from the changes, and then from the events that follow."""
    policy = StorePolicy(await log.identity())
    rebuild = Rebuild(log, store, {}, policy, only=only)
    await rebuild.require_empty()
    since = await Restoration(log, store, policy.log, rebuild.progress, only=only).run(GROUP)
    await rebuild.run(await span(log, since))
    return rebuild


async def grown(log: Log) -> MemoryStore:
    """The store of a processor that has stopped, and events after it: of predictions old, gone and new."""
    live = MemoryStore()
    async with pipeline(log, live) as running:
        await some_history(running)
    for number in (1, 5, 31):
        key = f"p{number}"
        values = [
            b'{"status":"processing","progress":0.5}',
            b'{"tags":["late"]}',
            b'{"status":"succeeded"}',
            b"x",
        ]
        await log.append(EVENTS, [NewRecord(key.encode(), value) for value in values])
    return live


async def test_a_store_filled_from_the_changes_has_the_same_bytes(
    log: Log, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Records, tombstones and expiry are those of a processor that went on, and only what it had not read was read."""
    monkeypatch.setattr(restore, "BATCH", 7)
    live = await grown(log)
    ended = sum((await log.committed(EVENTS, GROUP)).values())
    store = await SqliteStore.open(f"sqlite:///{tmp_path}/filled.db")
    rebuild = await filled(log, store)
    async with pipeline(log, live) as running:
        await running.settled()
    assert await everything(store) == await everything(live)
    original, copy = await live.list(Query(limit=100)), await store.list(Query(limit=100))
    assert copy.items == original.items
    assert await store.positions() == await live.positions()
    progress = rebuild.progress
    assert (progress.restored, progress.poison) == (30, 3)
    assert progress.read == sum(end for _, end in (await log.bounds(EVENTS)).values()) - ended
    assert progress.done == progress.total
    done = Query(status=Status.SUCCEEDED, limit=100)
    assert (await store.list(done)).items == (await live.list(done)).items
    await store.close()


async def test_the_highest_version_counts(log: Log) -> None:
    """A version that lands behind a newer one, as a process that stood still may leave it, is passed over."""
    live = MemoryStore()
    async with pipeline(log, live) as running:
        await running.send({"status": "processing"}, key="p1")
        await running.settled()
        old = (await running.changes())[0]
        await running.send({"status": "succeeded"}, key="p1")
        await running.settled()
    standing = (await live.load(["p1"]))["p1"]
    assert old.position is not None
    late = record(event("processing", prediction_id="p1"))
    await log.append(CHANGES, [announcement(late, encode(late), position=old.position)])
    store = MemoryStore()
    await filled(log, store)
    assert await store.load(["p1"]) == {"p1": standing}


async def test_without_a_commit_all_events_are_read(tmp_path: Path) -> None:
    """Where the group says nothing the whole log is read, over what was restored."""
    log = MemoryLog(partitions=2)
    live = await grown(log)
    store = MemoryStore()
    rebuild = Rebuild(log, store, {}, StorePolicy(await log.identity()))
    since = await Restoration(log, store, await log.identity(), rebuild.progress).run(
        "another group"
    )
    assert since == {}
    await rebuild.run(await span(log, since))
    async with pipeline(log, live) as running:
        await running.settled()
    assert await everything(store) == await everything(live)


async def test_one_prediction_alone_can_be_restored(log: Log) -> None:
    """`only` leaves every other prediction out."""
    await grown(log)
    store = MemoryStore()
    await filled(log, store, only="p1")
    assert set(await everything(store)) == {"p1"}


class Interrupted(Exception):
    """Stands for the end of the process."""


async def test_an_interrupted_restoration_is_resumed_by_the_events(
    log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Positions come with the last write: what is resumed before reads all events, and ends in the same bytes."""
    monkeypatch.setattr(restore, "BATCH", 7)
    live = await grown(log)

    class Mortal(MemoryStore):
        dies = True

        async def write(self, writes: Sequence[Write]) -> list[Outcome]:
            if self.dies and any(write.record.source for write in writes):
                raise Interrupted
            return await super().write(writes)

    store = Mortal()
    with pytest.raises(Interrupted):
        await filled(log, store)
    assert (await store.list(Query(limit=100))).items
    assert await store.positions() == {}
    store.dies = False
    resumed = Rebuild(log, store, {}, StorePolicy(await log.identity()))
    await resumed.run(await span(log, await resumed.resume_point()))
    async with pipeline(log, live) as running:
        await running.settled()
    assert await everything(store) == await everything(live)


async def test_a_store_that_somebody_else_writes_is_left(log: Log) -> None:
    """A version that stands there already stops it."""
    live = await grown(log)
    store = MemoryStore()
    standing = (await live.load(["p1"]))["p1"]
    await store.write([Write(standing.standing(), standing.encoded, 0)])
    rebuild = Rebuild(log, store, {}, StorePolicy(await log.identity()))
    with pytest.raises(StoreInUse, match="p1"):
        await Restoration(log, store, await log.identity(), rebuild.progress).run(GROUP)


async def test_what_the_target_refuses_is_left_out() -> None:
    """A record that the store will not take is counted, wherever it lies; the positions are those of what it took."""
    log, live = MemoryLog(), Fussy()
    async with pipeline(log, MemoryStore()) as running:
        await running.send({"status": "starting"}, {"status": "processing"}, key="p1")
        await running.settled()
        await running.send({"status": "processing"}, {"prompt": "forbidden"}, key="p2")
        await running.settled()
    rebuild = await filled(log, live)
    assert (rebuild.progress.restored, rebuild.progress.rejected) == (1, 1)
    assert set(await everything(live)) == {"p1"}
    assert await live.positions() == {0: 1}


async def test_what_follows_a_refused_record_expects_what_stands(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A version that was read while the one before it was written, and refused, is no conflict."""

    class Slow(Fussy):
        """Writes while the next is read."""

        async def write(self, writes: Sequence[Write]) -> list[Outcome]:
            for _ in range(20):
                await asyncio.sleep(0)
            return await super().write(writes)

    monkeypatch.setattr(memory_log, "_BATCH", 1)
    monkeypatch.setattr(restore, "BATCH", 1)
    log, live = MemoryLog(), Slow()
    async with pipeline(log, MemoryStore()) as running:
        for event in ({"status": "starting"}, {"output": ["forbidden"]}, {"output": ["fine"]}):
            await running.send(event)
            await running.settled()
    rebuild = await filled(log, live)
    assert (rebuild.progress.restored, rebuild.progress.rejected) == (1, 1)
    assert (await live.load(["p1"]))["p1"].version == 3


async def test_events_of_one_prediction_in_two_partitions_are_restored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The newest record stands, however far its versions lie apart, and each partition's position is known."""
    log, live = MemoryLog(partitions=2), MemoryStore()
    async with pipeline(log, live) as running:
        for partition, status in enumerate((b"processing", b"succeeded")):
            await log.append(EVENTS, [NewRecord(b"p1", b'{"status":"%s"}' % status, (), partition)])
            await running.settled()
    monkeypatch.setattr(memory_log, "_BATCH", 1)
    monkeypatch.setattr(restore, "BATCH", 1)
    store = await SqliteStore.open(f"sqlite:///{tmp_path}/filled.db")
    rebuild = await filled(log, store)
    assert await everything(store) == await everything(live)
    assert await store.positions() == await live.positions() == {0: 0, 1: 0}
    assert (rebuild.progress.restored, rebuild.progress.rejected, rebuild.progress.read) == (
        1,
        0,
        0,
    )
    await store.close()


async def test_what_is_no_change_of_ours_is_counted() -> None:
    """Records of somebody else's in the topic are passed over."""
    log = MemoryLog()
    ours = record(event("processing", prediction_id="p1"))
    position = Position(0, 0)
    await log.append(
        CHANGES,
        [
            NewRecord(b"a", b"{}"),
            NewRecord(b"b", b"nonsense", [("v", b"1"), ("s", b"succeeded")]),
            NewRecord(b"c", b'{"createdAt":1,"updatedAt":1}', [("v", b"1"), ("s", b"odd")]),
            NewRecord(b"d", b"{}", [("v", b"x")]),
            announcement(ours, encode(ours), position=position),
            NewRecord(None, b"{}", [("v", b"1")]),
        ],
    )
    store = MemoryStore()
    rebuild = await filled(log, store)
    assert (rebuild.progress.restored, rebuild.progress.poison, rebuild.progress.changes) == (
        1,
        4,
        6,
    )
    assert (await store.load(["p1"]))["p1"].encoded == encode(ours)
