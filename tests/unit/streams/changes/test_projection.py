"""A store without compare-and-set as a projection of the changes: copied on assignment, watched, mended."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest

from tests.support import cloudflare_emulator, workerd
from tests.support.cloudflare_emulator import Namespace
from tests.support.conditions import eventually
from tests.support.streams.pipeline import Pipeline, read
from tidings.storage.cloudflare.kv_codec import PREDICTION
from tidings.storage.cloudflare.kv_store import CloudflareKvStore
from tidings.storage.factory import open_store
from tidings.storage.prediction import Tombstone
from tidings.storage.store import PredictionStore
from tidings.storage.wrappers.instrumented import ObservedStore
from tidings.streams.changes.codec import Change, parse, restored
from tidings.streams.changes.projecting import Projecting
from tidings.streams.changes.projection import Projection
from tidings.streams.changes.split_projection import projecting
from tidings.streams.log.factory import open_log
from tidings.streams.log.memory import MemoryLog
from tidings.streams.log.protocol import (
    CHANGES,
    Log,
    LogMisconfigured,
    LogUnavailable,
    NewRecord,
    Record,
)
from tidings.streams.processing.processor import Processor
from tidings.streams.rules.reducer import Expiry, StorePolicy

WORKER = "worker"


class Edge:
    """A namespace of KV at the stand-in for Cloudflare, and how stores on it are opened."""

    def __init__(self, name: str, by: str) -> None:
        emulator = cloudflare_emulator.shared()
        self._prefix = ""
        if by == WORKER:
            url, token = workerd.shared(kv_port=emulator.binding_port)
            self._url, self._options = f"cloudflare-kv+worker+{url}/{name}", {"worker_token": token}
            self.namespace = emulator.namespace("bound")
            self._prefix = f"{name}:"
        else:
            self._url = f"cloudflare-kv://{cloudflare_emulator.ACCOUNT}/{name}"
            self._options = {"token": cloudflare_emulator.TOKEN, "base_url": emulator.url}
            self.namespace = emulator.namespace(name)

    async def open(self) -> CloudflareKvStore:
        more: dict[str, Any] = {} if "+worker" in self._url else {"requests": 1_000_000}
        store = await open_store(self._url, write_interval=0.01, **self._options, **more)
        assert isinstance(store, CloudflareKvStore)
        return store

    def shows(self, namespace: Namespace, prediction_id: str) -> str | None:
        """What a reader at the edge gets."""
        for key, history in list(namespace._keys.items()):
            if key.endswith(PREDICTION + prediction_id) and (
                not self._prefix or self._prefix.rstrip(":") in key
            ):
                return history[-1].value
        return None

    def value(self, prediction_id: str) -> str | None:
        return self.shows(self.namespace, prediction_id)


@pytest.fixture(params=["rest", pytest.param(WORKER)])
def edge(request: pytest.FixtureRequest, topic_prefix: str) -> Edge:
    """A namespace of the test's own, by the REST API and by the Worker."""
    return Edge(topic_prefix.strip("."), request.param)


@asynccontextmanager
async def processing(
    log: Log, store: PredictionStore, **how: Any
) -> AsyncIterator[tuple[Pipeline, Projection]]:
    """A processor on a projection."""
    identity = await log.identity()
    kept = projecting(store)
    assert kept is not None
    projection = Projection(log, kept, owner=identity, retention=Expiry().retention)
    processor = Processor(log, store, {}, StorePolicy(identity), assigned=projection.assign, **how)
    task = asyncio.create_task(processor.run())
    try:
        yield Pipeline(log, store, processor), projection
    finally:
        processor.stop()
        await asyncio.wait_for(task, 20)
        await projection.close()


async def last(log: Log, prediction_id: str) -> Change:
    """What compaction would keep of a prediction."""
    records = [
        record for record in await read(log, CHANGES) if record.key == prediction_id.encode()
    ]
    change = parse(records[-1])
    assert change is not None
    return change


async def test_a_new_owner_decides_by_the_changes_and_fills_kv_again(edge: Edge) -> None:
    """The next processor knows every record, deletions included, without reading KV, and gives KV all of it again."""
    log = MemoryLog(partitions=3)
    first = await edge.open()
    async with processing(log, first) as (running, _):
        for n in range(20):
            await running.send({"status": "processing", "logs": "x"}, key=f"p{n}")
        await running.send({"status": "succeeded", "output": "y"}, key="p1")
        await running.send({"type": "delete"}, key="p2")
        await running.settled()
        standing = await first.load([f"p{n}" for n in range(20)])
    await first.close()
    edge.namespace._keys.clear()  # whatever the former owner left there

    second = await edge.open()
    try:
        async with processing(log, second) as (running, projection):
            await eventually(lambda: projection.restored >= 20)
            assert await second.load([f"p{n}" for n in range(20)]) == standing
            await eventually(lambda: all(edge.value(f"p{n}") is not None for n in range(20)))
            assert edge.value("p1") == standing["p1"].encoded.decode()
            # A late report is judged by what was restored.
            await running.send({"status": "processing"}, key="p1")
            await running.send({"status": "succeeded"}, key="p2")
            await running.settled()
            found = await second.load(["p1", "p2"])
            assert found == {one: standing[one] for one in ("p1", "p2")}
    finally:
        await second.close()
        await log.close()


async def test_an_older_version_that_lands_behind_the_newest_is_followed_by_the_newest(
    edge: Edge,
) -> None:
    """A process that stood still announces version 1 when 3 stands: the topic ends with 3 again, and so does KV."""
    log = MemoryLog(partitions=2)
    store = await edge.open()
    try:
        async with processing(log, store) as (running, projection):
            await running.send({"status": "starting"}, {"type": "delete"}, key="gone")
            await running.send({"status": "starting"})
            await running.settled()
            old = next(r for r in await read(log, CHANGES) if r.key == b"p1")
            await running.send({"status": "processing"}, {"status": "succeeded"})
            await running.settled()
            newest = await last(log, "p1")
            assert newest.version == 3
            await log.append(CHANGES, [NewRecord(old.key, old.value, old.headers, old.partition)])

            async def mended() -> bool:
                change = await last(log, "p1")
                return change == newest

            await eventually(mended)
            await eventually(lambda: projection.repaired == 1)
            await eventually(lambda: edge.value("p1") == newest.value.decode())
            assert (await last(log, "gone")).deleted
    finally:
        await store.close()
        await log.close()


async def test_an_older_version_that_landed_while_nobody_watched_is_mended_at_the_takeover() -> (
    None
):
    """What a zombie appended between two owners does not become the truth."""
    log = MemoryLog()
    edge = Edge("between-two-owners", "rest")
    first = await edge.open()
    async with processing(log, first) as (running, _):
        await running.send({"status": "starting"})
        await running.settled()
        old = (await read(log, CHANGES))[0]
        await running.send({"status": "processing"})
        await running.settled()
        newest = await last(log, "p1")
    await first.close()
    await log.append(CHANGES, [NewRecord(old.key, old.value, old.headers, old.partition)])
    second = await edge.open()
    async with processing(log, second) as (running, projection):
        await eventually(lambda: projection.repaired == 1)
        assert await last(log, "p1") == newest
        assert (await second.load(["p1"]))["p1"].version == 2
    await second.close()
    await log.close()


async def test_a_newer_version_of_another_member_is_taken_over() -> None:
    """Two members that both think the partition theirs agree: the one behind takes over what the other announced."""
    log = MemoryLog()
    edge = Edge("two-members", "rest")
    ours, theirs = await edge.open(), await edge.open()
    identity = await log.identity()
    async with processing(log, ours) as (running, _):
        await running.send({"status": "starting"}, {"status": "processing"})
        await running.settled()
        other = Projection(log, theirs, owner=identity, retention=0)
        await other.assign(frozenset([0]))
        await running.send({"status": "succeeded", "output": "z"})
        await running.settled()
        newest = await ours.load(["p1"])

        async def same() -> bool:
            return await theirs.load(["p1"]) == newest

        await eventually(same)
        assert other.repaired == 0
        await other.close()
    await ours.close()
    await theirs.close()
    await log.close()


async def test_partitions_that_go_are_forgotten() -> None:
    """After a rebalance the copy holds the records of the partitions that stayed, and takes nothing of the others."""
    log = MemoryLog(partitions=2)
    edge = Edge("partitions-that-go", "rest")
    store = await edge.open()
    async with processing(log, store) as (running, projection):
        for n in range(40):
            await running.send({"status": "starting"}, key=f"p{n}")
        await running.settled()
        where = {r.key.decode(): r.partition for r in await read(log, CHANGES) if r.key is not None}
        assert set(where.values()) == {0, 1}
        await projection.assign(frozenset([1]))
        held = await store.load(list(where))
        assert {one for one, partition in where.items() if partition == 1} == held.keys()
        await projection.assign(frozenset([0, 1]))
        assert (await store.load(list(where))).keys() == where.keys()
    await store.close()
    await log.close()


class Stuttering(MemoryLog):
    """A log whose reading of the changes breaks off a number of times."""

    breaks = 3

    async def follow(self, topic: str, since: Any, until: Any = None) -> AsyncIterator[Any]:
        if self.breaks:
            self.breaks -= 1
            raise LogUnavailable("the line is cut")
        async for batch in super().follow(topic, since, until):
            yield batch


async def test_an_outage_of_the_log_during_the_restoring_is_waited_out() -> None:
    """Nothing is judged before the copy is whole, however often the reading breaks off."""
    log = Stuttering()
    log.breaks = 0
    edge = Edge("stuttering", "rest")
    store = await edge.open()
    async with processing(log, store) as (running, _):
        await running.send({"status": "starting", "prompt": "kept"})
        await running.settled()
    await store.close()
    log.breaks = 3
    store = await edge.open()
    async with processing(log, store) as (running, _):
        await running.send({"status": "processing"})
        await running.settled()
        stored = (await store.load(["p1"]))["p1"]
        assert stored.version == 2
        assert b'"prompt":"kept"' in stored.encoded
    await store.close()
    await log.close()


async def test_a_tombstone_comes_back_from_its_change_byte_for_byte() -> None:
    """The headers of a deletion say all that its tombstone says."""
    log = MemoryLog()
    edge = Edge("tombstones", "rest")
    store = await edge.open()
    async with processing(log, store) as (running, _):
        await running.send(
            {"status": "starting", "owner": "o", "model": "m", "tags": ["t", "u"]},
            {"type": "delete"},
        )
        await running.settled()
        stored = (await store.load(["p1"]))["p1"]
        record: Record = (await read(log, CHANGES))[-1]
        change = parse(record)
        assert change is not None
        write = restored(
            change, log=await log.identity(), announced_at=record.timestamp, retention=5
        )
        assert isinstance(write.record, Tombstone)
        assert write.stored == stored
    await store.close()
    await log.close()


async def test_the_projecting_store_is_found_within_what_wraps_it() -> None:
    """Metrics round the store hide nothing; a store that decides by itself is none."""
    edge = Edge("wrapped", "rest")
    store = await edge.open()
    wrapped: PredictionStore = ObservedStore(store)
    assert projecting(wrapped) is store
    assert isinstance(store, Projecting)
    plain = await open_store("memory://")
    assert projecting(plain) is None
    await store.close()


@pytest.mark.kafka
async def test_a_takeover_and_a_zombie_on_kafka(
    edge: Edge, kafka_url: str, topic_prefix: str
) -> None:
    """On a real broker: a second member gets half, then all; every record is known; an older change is followed."""
    log = await open_log(kafka_url, topic_prefix=topic_prefix, partitions=4)
    other = await open_log(kafka_url, topic_prefix=topic_prefix, partitions=4)
    ours, theirs = await edge.open(), await edge.open()
    ids = [f"p{n}" for n in range(60)]
    async with processing(other, theirs) as (second, _):
        async with processing(log, ours) as (running, _):
            for n, one in enumerate(ids):
                await running.send({"status": "processing", "logs": str(n)}, key=one)
            await running.settled()
        for one in ids:
            await second.send({"status": "succeeded", "output": one}, key=one)
        await second.settled()
        found = await theirs.load(ids)
        assert {stored.version for stored in found.values()} == {2}
        assert len(found) == 60
        for one in ids[:3]:
            newest = await last(other, one)
            older = next(r for r in await read(other, CHANGES) if r.key == one.encode())
            assert (change := parse(older)) is not None
            assert change.version < 2
            await other.append(
                CHANGES, [NewRecord(older.key, older.value, list(older.headers), older.partition)]
            )

            async def mended(one: str = one, newest: Change = newest) -> bool:
                return await last(other, one) == newest

            await eventually(mended, 20)
        await eventually(
            lambda: all(
                msgspec.json.decode(edge.value(one) or "{}").get("version") == 2 for one in ids
            ),
            20,
        )
    for store in (ours, theirs):
        await store.close()
    for each in (log, other):
        await each.close()


async def test_fewer_partitions_of_changes_than_of_events_stop_it() -> None:
    """A projection needs each change where its event is: where the events have got more partitions, a line says so."""
    log = MemoryLog(partitions=2)
    store = await Edge("few", "rest").open()
    projection = Projection(log, store, owner=await log.identity(), retention=0)
    with pytest.raises(LogMisconfigured, match="--partitions 4"):
        await projection.assign(frozenset({1, 3}))
    await store.close()
