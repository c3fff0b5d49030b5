"""The processor: from events to records, announcements and dead letters."""

import asyncio
import sqlite3
import zlib
from collections.abc import AsyncIterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from tests.support.conditions import eventually
from tests.support.streams.fussy_store import Fussy
from tests.support.streams.pipeline import codes, pipeline
from tidings.storage.errors import StoreUnavailable
from tidings.storage.memory import MemoryStore
from tidings.storage.prediction import Prediction, Status, Tombstone, encode
from tidings.storage.sqlite.store import SqliteStore
from tidings.storage.store import Outcome, PredictionStore, Write
from tidings.storage.wrappers.cache import CachedStore
from tidings.storage.wrappers.split import SplitStore
from tidings.streams.log.factory import open_log
from tidings.streams.log.memory import MemoryLog
from tidings.streams.log.protocol import EVENTS, Log, NewRecord
from tidings.streams.processing import poison_guard
from tidings.streams.processing.poison_guard import PoisonGuard
from tidings.streams.processing.processor import Processor
from tidings.streams.rules.reducer import Expiry, StorePolicy


@pytest.fixture(params=["memory", "sqlite"])
async def log(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Log]:
    """A log of each embedded kind."""
    opened = (
        MemoryLog() if request.param == "memory" else await open_log(f"sqlite:///{tmp_path}/log.db")
    )
    yield opened
    await opened.close()


async def test_events_become_a_record_and_one_announcement_each_batch(log: Log) -> None:
    """The events of one prediction within a batch are one write and one announcement, with the newest version."""
    store = MemoryStore()
    async with pipeline(log, store) as running:
        await running.send(
            {"status": "starting", "owner": "o", "tags": ["t"]},
            {"status": "processing"},
            {"status": "succeeded", "output": ["x"]},
        )
        await running.settled()
        made = await running.prediction()
        assert (made.status, bytes(made.output)) == (Status.SUCCEEDED, b'["x"]')
        announced = await running.changes()
        last = announced[-1]
        assert (last.version, last.status, last.owner, last.tags) == (3, "succeeded", "o", ("t",))
        assert str(last.position) == "0:2"
        stored = await running.store.get("p1")
        assert stored is not None
        assert last.value == stored.encoded
        assert last.expires_at == stored.expires_at
        assert [change.version for change in announced] == sorted(
            {change.version for change in announced}
        )


async def test_the_store_lasts_before_the_offsets_are_committed() -> None:
    """Events are read again until the store has brought to the disk what became of them, also where it fails to once."""

    class Deferring(MemoryStore):
        written = lasting = failures = 0

        async def write(self, writes: Sequence[Write]) -> list[Outcome]:
            self.written += len(writes)
            return await super().write(writes)

        def has(self, count: int) -> bool:
            return self.written == count

        async def persist(self) -> None:
            if not self.failures:
                self.failures = 1
                raise StoreUnavailable("disk I/O error")
            self.lasting = self.written

    store, log = Deferring(), MemoryLog()
    committed: list[tuple[int, int]] = []

    async with pipeline(log, CachedStore(SplitStore(store, MemoryStore(), 0))) as running:
        await eventually(lambda: running.processor.consumer is not None)
        consumer = running.processor.consumer
        assert consumer is not None
        commit = consumer.commit

        async def noted(positions: Mapping[int, int]) -> None:
            committed.append((positions[0], store.lasting))
            await commit(positions)

        consumer.commit = noted  # type: ignore[method-assign]
        for number in range(5):
            await running.send({"status": "starting"}, key=f"p{number}")
            await eventually(partial(store.has, number + 1))
        await running.settled()
    assert committed[-1] == (5, 5)
    assert all(offset <= lasting for offset, lasting in committed)


async def test_a_deletion_is_announced_without_a_value(log: Log) -> None:
    """The change of a deletion is empty and still says version, owner and position."""
    async with pipeline(log, MemoryStore()) as running:
        await running.send(
            {"status": "starting", "owner": "o"}, {"type": "delete"}, {"status": "succeeded"}
        )
        await running.settled()
        last = (await running.changes())[-1]
        assert (last.deleted, last.version, last.owner) == (True, 2, "o")
        assert await running.store.get("p1") is None
        assert isinstance((await running.store.load(["p1"]))["p1"].standing(), Tombstone)


async def test_poison_goes_to_the_dead_letters_and_the_next_record_is_processed(log: Log) -> None:
    """Each unusable record is kept as it came with its reason and position, and nothing waits for it."""
    async with pipeline(log, MemoryStore()) as running:
        await running.send(b"nonsense", b'{"status":"done"}', {"predictionId": "p2"}, b"")
        await running.send({"at": 5}, b'{"prompt":"\xff"}', {"progress": "x"}, {"type": "what"})
        await running.send({"status": "processing"}, key=None)
        await running.send({"status": "processing"}, key="a b")
        await running.send({}, key=b"\xff")
        await running.send({}, ce_id="1")
        await running.send({}, tidings_provider="nobody", x="kept")
        [position] = await running.send({"status": "succeeded"})
        await running.settled()
        letters = await running.letters()
        assert codes(letters) == [
            "not-json",
            "unknown-status",
            "id-mismatch",
            "not-json",
            "bad-time",
            "encoding",
            "wrong-type",
            "unknown-type",
            "no-id",
            "bad-id",
            "bad-id",
            "bad-cloudevent",
            "unknown-provider",
        ]
        first, last = dict(letters[0].headers), dict(letters[-1].headers)
        assert (letters[0].key, letters[0].value) == (b"p1", b"nonsense")
        assert (first["tidings-offset"], first["tidings-partition"], first["tidings-attempt"]) == (
            b"0",
            b"0",
            b"1",
        )
        assert first["tidings-error-message"]
        assert last["x"] == b"kept"
        made = await running.prediction()
        assert (made.status, position.offset) == (Status.SUCCEEDED, 13)


async def test_a_contradiction_is_a_dead_letter_and_changes_nothing(log: Log) -> None:
    """Another end than the one that stands is rejected with both names."""
    async with pipeline(log, MemoryStore()) as running:
        await running.send({"status": "succeeded"}, {"status": "failed"})
        await running.settled()
        [letter] = await running.letters()
        assert (
            dict(letter.headers)["tidings-error-message"]
            == b"Invalid transition from succeeded to failed"
        )
        assert (await running.prediction()).status is Status.SUCCEEDED


CONTRADICTED: tuple[dict[str, Any], ...] = (
    {"status": "processing"},
    {"status": "succeeded"},
    {"status": "failed"},
    {"status": "succeeded", "imageUrl": "https://example.com/a.png"},
)
"""The third is rejected, and the fourth moves the record past its position."""


async def test_a_crash_after_the_write_loses_no_dead_letter(log: Log) -> None:
    """A rejected event is kept before the record moves past it: read again, it would pass for a duplicate."""

    def crash(step: int) -> None:
        if step == 4:
            raise InterruptedError("killed")

    store = MemoryStore()
    policy = StorePolicy(await log.identity())
    await log.append(
        EVENTS, [NewRecord(b"p1", msgspec.json.encode(event)) for event in CONTRADICTED]
    )
    with pytest.raises(InterruptedError):
        await asyncio.wait_for(
            Processor(log, CachedStore(store), {}, policy, reached=crash).run(), 20
        )
    async with pipeline(log, store) as running:
        await running.settled()
        assert {dict(letter.headers)["tidings-offset"] for letter in await running.letters()} == {
            b"2"
        }
        assert (await running.prediction()).image_url == "https://example.com/a.png"


@pytest.mark.parametrize("step", [1, 2, 3, 4, 5])
async def test_a_crash_at_any_step_loses_nothing_and_applies_nothing_twice(
    log: Log, step: int
) -> None:
    """Whatever the step that a batch ended at, its last state is announced, its record right and its poison kept."""

    def crash(reached: int) -> None:
        if reached == step:
            raise InterruptedError("killed")

    store = MemoryStore()
    policy = StorePolicy(await log.identity())
    values = [b'{"status":"processing"}', b'{"progress":0.5}', b"poison", b'{"status":"succeeded"}']
    await log.append(EVENTS, [NewRecord(b"p1", value) for value in values])
    with pytest.raises(InterruptedError):
        await asyncio.wait_for(
            Processor(log, CachedStore(store), {}, policy, reached=crash).run(), 20
        )
    assert not (await log.committed(EVENTS, "tidings-processor")).get(0)
    async with pipeline(log, store) as running:
        await running.settled()
        assert (await running.prediction()).version == 3
        assert {(change.version, change.status) for change in await running.changes()} == {
            (3, "succeeded")
        }
        assert {dict(letter.headers)["tidings-offset"] for letter in await running.letters()} == {
            b"2"
        }


class Forgetful(MemoryStore):
    """Writes, and loses its first answer."""

    answered = False

    async def write(self, writes: Sequence[Write]) -> list[Outcome]:
        outcomes = await super().write(writes)
        if not self.answered:
            self.answered = True
            raise StoreUnavailable("the connection broke")
        return outcomes


async def test_a_write_whose_answer_is_lost_loses_no_dead_letter(log: Log) -> None:
    """What was written and is tried again looks like a duplicate; its rejected events are kept all the same, once."""
    async with pipeline(log, Forgetful()) as running:
        await running.send(*CONTRADICTED)
        await running.settled()
        assert codes(await running.letters()) == ["contradiction"]
        assert (await running.prediction()).image_url == "https://example.com/a.png"
        assert [change.version for change in await running.changes()] == [3]


async def test_what_is_about_to_be_dropped_is_judged_by_the_store(log: Log) -> None:
    """Another processor has created again what was deleted: what is said of it is not dropped on an old copy's word."""
    store = MemoryStore()
    async with pipeline(log, store) as running:
        await running.send({"status": "starting"}, {"type": "delete"})
        await running.send({"status": "processing"}, key="p2")
        await running.settled()
        for key, status in (("p1", Status.PROCESSING), ("p2", Status.SUCCEEDED)):
            standing = (await store.load([key]))[key].standing()
            newer = Prediction(
                prediction_id=key,
                status=status,
                version=standing.version + 1,
                created_at=standing.updated_at,
                updated_at=standing.updated_at,
                source=standing.source,
            )
            assert await store.write([Write(newer, encode(newer), standing.version)]) == [None]
        await running.send({"status": "succeeded"})
        await running.send(
            {"type": "archive", "assets": [{"url": "https://example.com/a.png"}]}, key="p2"
        )
        await running.settled()
        assert (await running.prediction()).status is Status.SUCCEEDED
        assert (await running.prediction("p2")).image_url == "https://example.com/a.png"


async def test_a_record_over_the_limit_is_split_out(log: Log) -> None:
    """The event that makes a record too large is dead-lettered; those before and after it count, however they are batched."""
    async with pipeline(log, MemoryStore(), record_max=2000) as running:
        await running.send(
            {"status": "processing", "prompt": "a"}, {"output": "x" * 3000}, {"status": "succeeded"}
        )
        await running.settled()
        assert codes(await running.letters()) == ["record-too-large"]
        made = await running.prediction()
        assert (made.status, made.prompt, bool(made.output)) == (Status.SUCCEEDED, "a", False)


async def test_no_record_stops_the_processor() -> None:
    """Whatever a producer of the topic can put into a record, the next one is processed."""
    log = MemoryLog()
    big = "c" * 300_000
    odd: list[tuple[bytes, list[tuple[str, Any]]]] = [
        (b"{}", [("content-type", None)]),
        (b"{}", [("tidings-provider", None)]),
        (b"{}", [("ce_id", None), ("x", None)]),
        (b"x", [("tidings-attempt", b"9" * 5000)]),
        (b"{}", [("ce_id", big.encode()), ("ce_source", b"s"), ("ce_type", b"succeeded")]),
        (b'{"owner":"\\u0000","status":"starting"}', []),
        (b'{"type":"repair","replace":null,"version":99999999999999999999,"upto":{}}', []),
    ]
    async with pipeline(log, MemoryStore()) as running:
        await log.append(EVENTS, [NewRecord(b"p1", value, headers) for value, headers in odd])
        await running.send({"status": "processing"})
        await running.settled()
        assert codes(await running.letters()) == [
            "unknown-provider",
            "bad-cloudevent",
            "not-json",
            "wrong-type",
            "wrong-type",
            "record-too-large",
        ]
        assert (await running.prediction()).status is Status.PROCESSING


async def test_what_the_store_refuses_for_good_does_not_block_its_partition(log: Log) -> None:
    """The refused event is dead-lettered by itself; the other events of its prediction, and other predictions, go on."""
    async with pipeline(log, Fussy()) as running:
        await running.send(
            {"status": "processing"}, {"prompt": "forbidden"}, {"status": "succeeded"}
        )
        await running.send({"status": "processing", "prompt": "forbidden"}, key="p2")
        await running.send({"status": "processing"}, key="p3")
        await running.settled()
        assert codes(await running.letters()) == ["refused", "refused"]
        assert (await running.prediction()).status is Status.SUCCEEDED
        assert (await running.prediction("p3")).status is Status.PROCESSING
        assert await running.store.get("p2") is None
        assert {c.prediction_id for c in await running.changes()} == {"p1", "p3"}


async def test_a_redelivered_event_is_announced_again_and_applied_once(log: Log) -> None:
    """What a crash before the commit leaves behind is a duplicate: no new version, but one more announcement."""
    store = MemoryStore()
    async with pipeline(log, store) as running:
        await running.send({"status": "processing", "owner": "o"})
        await running.settled()
        consumer = running.processor.consumer
        assert consumer is not None
        consumer.seek({0: 0})

        await running.send({"progress": 0.5}, key="p2")
        await eventually(lambda: running.processor.statistics.duplicates == 1, 10)
        await running.settled()
        first, *rest = [c for c in await running.changes() if c.prediction_id == "p1"]
        assert rest == [first]
        assert (await running.prediction()).version == 1


async def test_a_write_that_lost_a_race_is_judged_again(log: Log) -> None:
    """Where another processor was faster, the events are judged by what it wrote."""
    store = MemoryStore()
    async with pipeline(log, store) as running:
        await running.send({"status": "starting"})
        await running.settled()
        # The processor's cache holds version 1 of a record that goes to version 2 behind its back.
        standing = (await store.load(["p1"]))["p1"].standing()
        assert not isinstance(standing, Tombstone)
        newer = replace(standing, version=2, prompt="theirs")
        assert await store.write([Write(newer, encode(newer), 1)]) == [None]
        await running.send({"status": "processing"})
        await running.settled()
        made = await running.prediction()
        assert (made.version, made.prompt, made.status) == (3, "theirs", Status.PROCESSING)
        assert running.processor.statistics.conflicts == 1


class Outage(MemoryStore):
    """Answers nothing while it is down."""

    down = False

    async def write(self, writes: Sequence[Write]) -> list[Outcome]:
        if self.down:
            raise StoreUnavailable("the store is down")
        return await super().write(writes)


async def test_an_outage_of_the_store_pauses_and_the_same_batch_goes_on(log: Log) -> None:
    """While the store is down nothing is skipped or dead-lettered; when it is back, everything is applied once."""
    store = Outage()
    async with pipeline(log, store) as running:
        store.down = True
        for number in range(20):
            await running.send({"status": "processing"}, {"status": "succeeded"}, key=f"p{number}")
        await eventually(lambda: running.processor.statistics.pauses > 0, 10)
        store.down = False
        await running.settled(10)
        assert [(await running.prediction(f"p{n}")).version for n in range(20)] == [2] * 20 or [
            (await running.prediction(f"p{n}")).status for n in range(20)
        ] == [Status.SUCCEEDED] * 20
        assert await running.letters() == []


async def test_a_locked_database_is_waited_out(tmp_path: Path) -> None:
    """Another process that holds SQLite's write lock for longer than the busy timeout stops nothing for good."""
    log = MemoryLog()
    store = await SqliteStore.open(f"sqlite:///{tmp_path}/store.db")
    async with pipeline(log, store) as running:
        await running.send({"status": "processing"})
        await running.settled()
        lock = sqlite3.connect(tmp_path / "store.db", isolation_level=None)
        lock.execute("BEGIN IMMEDIATE")
        await running.send({"status": "succeeded"})
        await eventually(lambda: running.processor.statistics.pauses > 0, 20)
        lock.execute("COMMIT")
        lock.close()
        await running.settled()
        assert (await running.prediction()).status is Status.SUCCEEDED
    await store.close()


async def test_stopping_in_an_outage_takes_a_moment(log: Log) -> None:
    """Ctrl-C works while the store is down; the batch is read again at the next start."""
    store = Outage()
    store.down = True
    async with pipeline(log, store) as running:
        await running.send({"status": "processing"})
        await eventually(lambda: running.processor.statistics.pauses > 0, 10)
    assert await log.committed(EVENTS, "tidings-processor") in ({}, {0: 0})
    store.down = False
    async with pipeline(log, store) as running:
        await running.settled()
        assert (await running.prediction()).version == 1


HOUR = 3_600_000


async def test_finished_records_are_hidden_and_stay_finished(log: Log) -> None:
    """After its TTL a finished record is hidden, and what comes late brings nothing back."""
    async with pipeline(log, MemoryStore(), expiry=Expiry(ttl=1)) as running:
        await running.send({"status": "succeeded"})
        await running.settled()

        async def gone() -> bool:
            return await running.store.get("p1") is None

        await eventually(gone, 10)
        await running.send({"status": "processing", "prompt": "late"}, {"status": "failed"})
        await running.settled()
        assert await running.store.get("p1") is None
        standing = (await running.store.load(["p1"]))["p1"].standing()
        assert not isinstance(standing, Tombstone)
        assert standing.status is Status.SUCCEEDED
        assert codes(await running.letters()) == ["contradiction"]


async def test_a_silent_running_prediction_outlives_the_ttl_of_finished_ones(log: Log) -> None:
    """An unfinished record is hidden by its own, longer TTL."""
    async with pipeline(log, MemoryStore(), expiry=Expiry(ttl=1)) as running:
        await running.send({"status": "processing"})
        await running.send({"status": "succeeded"}, key="done")
        await running.settled()

        async def gone() -> bool:
            return await running.store.get("done") is None

        await eventually(gone, 10)
        assert (await running.prediction()).status is Status.PROCESSING


async def test_each_numbered_step_is_reached_in_order() -> None:
    """Whoever injects a hook sees the steps of the commit, each as it ends."""
    steps: list[int] = []
    async with pipeline(MemoryLog(), MemoryStore(), reached=steps.append) as running:
        await running.send({"status": "processing"})
        await running.settled()
    assert steps[:6] == [1, 2, 3, 4, 5, 6]


async def test_two_processors_share_the_partitions() -> None:
    """Two members of the group, joining and leaving while events flow: nothing lost, nothing twice, in order."""
    log: Log = MemoryLog(partitions=4)
    store: PredictionStore = MemoryStore()
    async with pipeline(log, store, cached=True) as first:
        for number in range(100):
            await first.send({"status": "starting"}, {"status": "processing"}, key=f"p{number}")
        async with pipeline(log, store) as second:
            for number in range(100):
                await second.send({"progress": 0.5}, key=f"p{number}")
            await second.settled()
        for number in range(100):
            await first.send({"status": "succeeded"}, key=f"p{number}")
        await first.settled()
    for number in range(100):
        standing = (await store.load([f"p{number}"]))[f"p{number}"].standing()
        assert not isinstance(standing, Tombstone)
        assert (standing.status, standing.version, standing.progress) == (Status.SUCCEEDED, 4, 0.5)


async def test_a_partition_that_comes_back_is_judged_by_what_was_written_meanwhile() -> None:
    """What a processor knew of a partition before another had it is forgotten."""
    log: Log = MemoryLog(partitions=2)
    store = MemoryStore()
    key = next(f"p{n}" for n in range(100) if zlib.crc32(b"p%d" % n) % 2 == 1)
    async with pipeline(log, store) as first:
        await first.send({"status": "processing", "imageUrl": "https://example.com/a"}, key=key)
        await first.settled()
        async with pipeline(log, store) as second:
            await eventually(
                lambda: (c := second.processor.consumer) is not None and c.assigned() == {1}, 10
            )
            await second.send({"imageUrl": "https://example.com/b"}, key=key)
            await second.settled()
            assert second.processor.statistics.applied == 1
        # To the old copy this says nothing new.
        await first.send({"imageUrl": "https://example.com/a"}, key=key)
        await first.settled()
    standing = (await store.load([key]))[key].standing()
    assert isinstance(standing, Prediction)
    assert (standing.version, standing.image_url) == (3, "https://example.com/a")


async def test_an_error_that_no_retry_mends_ends_the_processor() -> None:
    """A fault that is nobody's outage is raised, so that the operator sees it."""

    class Broken(MemoryStore):
        async def write(self, writes: Sequence[Write]) -> list[Outcome]:
            raise TypeError("a fault")

    log = MemoryLog()
    await log.append(EVENTS, [NewRecord(b"p1", b'{"status":"processing"}')])
    processor = Processor(log, Broken(), {}, StorePolicy(await log.identity()))
    with pytest.raises(TypeError, match="a fault"):
        await asyncio.wait_for(processor.run(), 20)


async def test_unknown_fields_are_counted_by_name(log: Log) -> None:
    """What nobody knows is left out, and admins see by field what senders meant; an event's own source is no label."""
    async with pipeline(log, MemoryStore()) as running:
        await running.send(
            {"status": "processing", "color": 1, "source": "mine"}, {"color": 2, "x" * 100: 3}
        )
        await running.settled()
        statistics = running.processor.statistics
        assert statistics.unknown_fields == 3
        assert statistics.left_out == {("", "color"): 2, ("", "x" * 64): 1}


async def test_tombstones_are_counted_and_leave_no_letters(log: Log) -> None:
    """Records without a value are set aside by name: they are no poison, and nothing is kept of them."""
    async with pipeline(log, MemoryStore()) as running:
        await log.append(EVENTS, [NewRecord(b"p1", None) for _ in range(200)])
        await running.send({"status": "processing"})
        await running.settled()
        assert running.processor.statistics.other_resources == {("", "tombstone"): 200}
        assert await running.letters() == []
        assert (await running.prediction()).status is Status.PROCESSING


async def test_a_flood_of_poison_is_held_back_until_it_is_over(
    log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The guard stops a flood after a hundred records, tries a few later, and lets everything through that is none."""
    monkeypatch.setattr(poison_guard, "RETRY", 0.2)
    store = MemoryStore()
    policy = StorePolicy(await log.identity())
    guard = PoisonGuard()
    await log.append(EVENTS, [NewRecord(b"p1", b"nonsense") for _ in range(100)])
    processor = Processor(log, CachedStore(store), {}, policy, guard=guard)
    task = asyncio.create_task(processor.run())
    await eventually(lambda: guard.reason, 20)
    await log.append(EVENTS, [NewRecord(b"p2", b'{"status":"succeeded"}')])

    async def applied() -> bool:
        return bool(await store.load(["p2"]))

    await eventually(applied, 20)
    await eventually(lambda: guard.reason is None, 20)
    processor.stop()
    await asyncio.wait_for(task, 20)


async def test_what_stands_but_is_no_record_ends_nothing() -> None:
    """What somebody has put in a record's place costs its own events alone, which are set aside with what to do."""
    log, store = MemoryLog(), MemoryStore()
    planted = Prediction(
        prediction_id="p1", status=Status.PROCESSING, version=1, created_at=1, updated_at=1
    )
    assert await store.write([Write(planted, b"no record", 0)]) == [None]
    async with pipeline(log, store, cached=False) as running:
        events = [NewRecord(name, b'{"status":"succeeded"}') for name in (b"p1", b"p1", b"p2")]
        await log.append(EVENTS, events)
        await running.settled()
        loaded = await store.load(["p1", "p2"])
        assert (loaded["p1"].encoded, loaded["p2"].status) == (b"no record", Status.SUCCEEDED)
        letters = await running.letters()
        assert codes(letters) == ["refused", "refused"]
