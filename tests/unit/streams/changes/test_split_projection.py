"""Cloudflare KV as one arm of a split: the other arm decides for its own, and KV's is copied from the changes."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.support.conditions import eventually
from tests.support.streams.pipeline import read
from tests.unit.streams.changes.test_projection import Edge, last, processing
from tidings.storage.factory import open_store
from tidings.storage.memory import MemoryStore
from tidings.storage.wrappers.instrumented import ObservedStore
from tidings.storage.wrappers.split import SplitStore
from tidings.streams.changes.projecting import Projecting
from tidings.streams.changes.split_projection import SplitProjection, deciding, projecting
from tidings.streams.log.memory import MemoryLog
from tidings.streams.log.protocol import CHANGES, NewRecord

IDS = [f"p{number}" for number in range(30)]


@asynccontextmanager
async def halves(
    edge: Edge, folder: Path, percent: float = 50, *, kv_first: bool = False
) -> AsyncIterator[SplitStore]:
    """SQLite and KV, observed as in the service; KV has a new copy each time, as after a restart."""
    sqlite = ObservedStore(await open_store(f"sqlite:///{folder}/a.db"))
    kv = ObservedStore(await edge.open())
    store = SplitStore(kv, sqlite, 100 - percent) if kv_first else SplitStore(sqlite, kv, percent)
    yield store
    await store.close()


def copy_of(store: SplitStore) -> Projecting:
    found = [one for one in map(projecting, store.arms) if one is not None]
    assert len(found) == 1
    return found[0]


def rows_of(store: SplitStore) -> ObservedStore:
    (arm,) = [one for one in store.arms if projecting(one) is None]
    assert isinstance(arm, ObservedStore)
    return arm


@pytest.mark.parametrize("kv_first", [False, True])
async def test_each_arm_keeps_its_own_over_a_takeover(tmp_path: Path, kv_first: bool) -> None:
    """After a restart KV's arm is whole again from the changes, and has nothing of what the other arm holds."""
    edge, log = Edge(f"arm-{kv_first}", "rest"), MemoryLog(partitions=3)
    async with halves(edge, tmp_path, kv_first=kv_first) as store:
        async with processing(log, store) as (running, _):
            for one in IDS:
                await running.send({"status": "processing", "logs": "x"}, key=one)
            await running.send({"type": "delete"}, key="p2")
            await running.settled()
        before = await store.load(IDS)
        in_kv, in_rows = await copy_of(store).load(IDS), await rows_of(store).load(IDS)
        assert in_kv.keys() | in_rows.keys() == set(IDS)
        assert not in_kv.keys() & in_rows.keys()
        assert len(in_kv) > 5
        assert len(in_rows) > 5
    edge.namespace._keys.clear()  # whatever the former owner left there
    async with (
        halves(edge, tmp_path, kv_first=kv_first) as store,
        processing(log, store) as (running, projection),
    ):
        await eventually(lambda: all(edge.value(one) is not None for one in in_kv))
        assert projection.restored >= len(in_kv)
        assert await store.load(IDS) == before
        assert (await copy_of(store).load(IDS)).keys() == in_kv.keys()
        # Reports go on where the record stands, and late ones change nothing.
        for one in IDS:
            await running.send({"status": "succeeded"}, {"status": "processing"}, key=one)
        await running.settled()
        found = await store.load(IDS)
        assert {stored.version for stored in found.values()} == {2}
        assert (await copy_of(store).load(IDS)).keys() == in_kv.keys()
        assert (await rows_of(store).load(IDS)).keys() == in_rows.keys()
    await log.close()


async def test_a_lower_percentage_leaves_records_in_kv(tmp_path: Path) -> None:
    """What began in KV's arm goes on there after the percentage was lowered to nothing; new ones do not."""
    edge, log = Edge("lowered", "rest"), MemoryLog(partitions=2)
    async with halves(edge, tmp_path, 100) as store:
        async with processing(log, store) as (running, _):
            for one in IDS:
                await running.send({"status": "processing"}, key=one)
            await running.settled()
        assert await rows_of(store).load(IDS) == {}
    async with halves(edge, tmp_path, 0) as store:
        async with processing(log, store) as (running, _):
            for one in [*IDS, "new"]:
                await running.send({"status": "succeeded"}, key=one)
            await running.settled()
        found = await store.load([*IDS, "new"])
        assert {stored.version for one, stored in found.items() if one != "new"} == {2}
        assert (await copy_of(store).load(IDS)).keys() == set(IDS)
        assert (await rows_of(store).load([*IDS, "new"])).keys() == {"new"}
    await log.close()


async def test_an_older_version_behind_the_newest_is_mended_in_both(tmp_path: Path) -> None:
    """A process that stood still announces an old version: the newest follows, whichever arm it stands in."""
    edge, log = Edge("arms-behind", "rest"), MemoryLog(partitions=2)
    async with halves(edge, tmp_path) as store:
        one, other = (next(i for i in IDS if store.arm(i) == arm) for arm in (0, 1))
        async with processing(log, store) as (running, projection):
            for name in (one, other):
                await running.send({"status": "starting"}, key=name)
            await running.settled()
            old = [r for r in await read(log, CHANGES) if r.key in (one.encode(), other.encode())]
            for name in (one, other):
                await running.send({"status": "processing"}, key=name)
            await running.settled()
            newest = [await last(log, name) for name in (one, other)]
            await log.append(
                CHANGES, [NewRecord(r.key, r.value, r.headers, r.partition) for r in old]
            )

            async def mended() -> bool:
                return [await last(log, name) for name in (one, other)] == newest

            await eventually(mended)
            await eventually(lambda: projection.repaired == 2)
    await log.close()


async def test_what_was_purged_in_the_other_arm_stays_away(tmp_path: Path) -> None:
    """A row that its arm has let go of by its time does not come back in KV out of the topic."""
    edge, log = Edge("purged-arm", "rest"), MemoryLog()
    async with halves(edge, tmp_path, 0) as store:
        async with processing(log, store) as (running, _):
            await running.send({"type": "report", "status": "succeeded", "at": 1_600_000_000_000})
            await running.settled()
        assert await rows_of(store).sweep(2_000_000_000_000, 10) == 1
    async with halves(edge, tmp_path, 0) as store, processing(log, store):
        assert await store.load(["p1"]) == {}
    await log.close()


async def test_which_part_decides() -> None:
    """Metrics around the arms hide nothing; without a projection all of it decides, and two of them cannot."""
    edge = Edge("deciding", "rest")
    kv, plain = ObservedStore(await edge.open()), ObservedStore(MemoryStore())
    split = SplitStore(plain, kv, 10)
    assert isinstance(projecting(split), SplitProjection)
    assert isinstance(projecting(split), Projecting)
    assert deciding(split) is plain
    assert deciding(kv) is None
    whole = SplitStore(plain, ObservedStore(MemoryStore()), 10)
    assert projecting(whole) is None
    assert deciding(whole) is whole
    with pytest.raises(ValueError, match="both arms"):
        projecting(SplitStore(kv, kv, 10))
    await kv.close()
