"""Replay: a rebuilt store has the same bytes, and a comparison finds what differs."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest
from msgspec.structs import replace

from tests.support.clock import ManualClock
from tests.support.conditions import eventually
from tests.support.streams.fussy_store import Fussy
from tests.support.streams.history import compared, everything, rebuilt, some_history
from tests.support.streams.pipeline import pipeline
from tidings.storage.memory import MemoryStore
from tidings.storage.prediction import Prediction, encode
from tidings.storage.sqlite.store import SqliteStore
from tidings.storage.store import Ownership, Query, Stored, Write
from tidings.streams.log.continuity import check_source
from tidings.streams.log.memory import MemoryLog
from tidings.streams.log.protocol import EVENTS, Log, LogError, NewRecord
from tidings.streams.processing.processor import GROUP
from tidings.streams.replay import rebuild as replay
from tidings.streams.replay.rebuild import Rebuild, StoreInUse, span
from tidings.streams.replay.verify import verify
from tidings.streams.rules.reducer import Expiry, StorePolicy


async def test_a_rebuilt_store_has_the_same_bytes(log: Log, tmp_path: Path) -> None:
    """Replay into an empty store gives every record and tombstone byte for byte, and announces nothing."""
    live = MemoryStore()
    async with pipeline(log, live) as running:
        await some_history(running)
        announced = len(await running.changes())
        letters = len(await running.letters())
        store = await SqliteStore.open(f"sqlite:///{tmp_path}/rebuilt.db")
        rebuild = await rebuilt(log, store)
        assert await everything(store) == await everything(live)
        assert rebuild.progress.read == rebuild.progress.total
        assert rebuild.progress.poison == 10
        assert (len(await running.changes()), len(await running.letters())) == (announced, letters)
        original, copy = await live.list(Query(limit=100)), await store.list(Query(limit=100))
        assert [s.expires_at for s in copy.items] == [s.expires_at for s in original.items]
        await store.close()


@pytest.mark.parametrize("batch", [replay.BATCH, 1])
async def test_what_a_store_refuses_is_left_out_event_by_event(
    log: Log, batch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a prediction that the store will not take as a whole the rest of its events stand, as with the processor.

    Those in the next batch too, which was judged while the one before it was written.
    """
    monkeypatch.setattr(replay, "BATCH", batch)
    live, store = Fussy(), Fussy()
    async with pipeline(log, live) as running:
        await running.send(
            {"status": "processing"}, {"prompt": "forbidden"}, {"status": "succeeded"}
        )
        await running.send({"status": "processing", "prompt": "forbidden"}, key="p2")
        await running.send({"status": "processing"}, key="p3")
        await running.settled()
    rebuild = await rebuilt(log, store)
    assert await everything(store) == await everything(live)
    assert set(await everything(store)) == {"p1", "p3"}
    assert (rebuild.progress.applied, rebuild.progress.rejected, rebuild.progress.read) == (3, 2, 5)


async def test_a_store_in_use_is_not_poured_into(log: Log) -> None:
    """A rebuild into a store that holds anything is refused, and says what to do instead."""
    live = MemoryStore()
    async with pipeline(log, live) as running:
        await running.send({"status": "processing"})
        await running.settled()
    with pytest.raises(StoreInUse, match="--verify"):
        await rebuilt(log, live)


async def test_an_interrupted_rebuild_goes_on(log: Log) -> None:
    """A rebuild that was stopped anywhere is resumed where it was, and ends in the same bytes."""
    live = MemoryStore()
    async with pipeline(log, live) as running:
        await some_history(running)
    whole = await span(log)
    store = MemoryStore()
    half = {
        p: first + (end - first) // 2
        for (p, end), first in zip(whole.end.items(), whole.start.values(), strict=True)
    }
    first = Rebuild(log, store, {}, StorePolicy(await log.identity()))
    await first.run(await span(log))
    partly = MemoryStore()
    interrupted = Rebuild(log, partly, {}, StorePolicy(await log.identity()))
    await interrupted.run(type(whole)(whole.start, half))
    resumed = Rebuild(log, partly, {}, StorePolicy(await log.identity()))
    await resumed.run(await span(log, await resumed.resume_point()))
    assert await everything(partly) == await everything(store) == await everything(live)


async def test_a_rebuild_follows_until_it_is_stopped(log: Log) -> None:
    """What comes is applied as it comes; at the stop the rest is read, also where nothing moves any more."""
    live, store = MemoryStore(), MemoryStore()
    async with pipeline(log, live) as running:
        await some_history(running)
        rebuild = await rebuilt(log, store)
        stopping = asyncio.Event()
        following = asyncio.create_task(rebuild.follow(stopping))
        for number in range(3):
            await running.send({"status": "processing", "progress": number / 10}, key=f"p3{number}")
            await eventually(lambda number=number: store.get(f"p3{number}"), 30)  # type: ignore[misc]
        await running.settled()
        await eventually(lambda: rebuild.progress.total == rebuild.progress.done, 30)
        stopping.set()
        await asyncio.wait_for(following, 30)
        assert await everything(store) == await everything(live)


async def test_one_prediction_alone_can_be_rebuilt(log: Log) -> None:
    """`only` leaves every other prediction out."""
    async with pipeline(log, MemoryStore()) as running:
        await some_history(running)
    store = MemoryStore()
    await rebuilt(log, store, only="p7")
    assert set(await everything(store)) == {"p7"}


async def test_events_are_written_in_batches_of_bounded_size(
    log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many events lie there, no more of their bytes wait for a write than a batch may have, and one event."""

    class Weighed(MemoryStore):
        def __init__(self) -> None:
            super().__init__()
            self.batches: list[int] = []

        async def load(self, prediction_ids: Sequence[str]) -> dict[str, Stored]:
            self.batches.append(sum(sizes[one] for one in prediction_ids))
            return await super().load(prediction_ids)

    values = {
        f"p{n}": b'{"status":"processing","logs":"%s"}' % (b"y" * (900 if n % 3 else 5000))
        for n in range(40)
    }
    sizes = {name: len(value) for name, value in values.items()}
    await log.append(EVENTS, [NewRecord(name.encode(), value) for name, value in values.items()])
    monkeypatch.setattr(replay, "BATCH_BYTES", 8000)
    store = Weighed()
    rebuild = await rebuilt(log, store)
    assert max(store.batches) < 8000 + max(sizes.values())
    assert sum(store.batches) == sum(sizes.values())
    assert rebuild.progress.read == rebuild.progress.applied == len(await everything(store)) == 40


async def test_a_verification_of_an_untouched_store_finds_nothing(log: Log) -> None:
    """The store that the processor wrote is what the log says."""
    live = MemoryStore()
    async with pipeline(log, live) as running:
        await some_history(running)
        result = await compared(log, live)
        assert result.differences == []
        # p0, p10 and p20 came back after their deletion; p5, p15 and p25 are gone on both sides and are not listed.
        assert result.equal == result.compared == 27


async def _planted(live: MemoryStore) -> Write:
    """What makes of p7 a record that the log does not say."""
    standing = (await live.load(["p7"]))["p7"].standing()
    assert isinstance(standing, Prediction)
    wrong = replace(standing, version=4, prompt="planted")
    return Write(wrong, encode(wrong), standing.version)


async def test_a_verification_finds_planted_differences(log: Log) -> None:
    """Another byte, a record too few and a record too many are each found and named by kind."""
    live = MemoryStore()
    async with pipeline(log, live) as running:
        await some_history(running)
    wrong = await _planted(live)
    stranger = replace(wrong.record, prediction_id="stranger", version=1)
    live = await _without(live, "p8")
    await live.write([wrong, Write(stranger, encode(stranger), 0)])
    result = await compared(log, live)
    assert {(d.prediction_id, d.kind) for d in result.faults} == {
        ("p7", "different"),
        ("p8", "missing"),
        ("stranger", "extra"),
    }


async def test_one_prediction_alone_can_be_compared(log: Log) -> None:
    """`only` compares and counts the one, whatever else there is; what neither side lists is nothing to compare."""
    live = MemoryStore()
    async with pipeline(log, live) as running:
        await some_history(running)
    await live.write([await _planted(live)])
    sound = await compared(log, live, "p8")
    assert (sound.compared, sound.equal, sound.differences) == (1, 1, [])
    found = await compared(log, live, "p7")
    assert (found.compared, found.equal) == (1, 0)
    assert [(d.prediction_id, d.kind) for d in found.differences] == [("p7", "different")]
    missing = await compared(log, await _without(live, "p8"), "p8")
    assert [(d.prediction_id, d.kind) for d in missing.differences] == [("p8", "missing")]
    for nobody in ("p5", "stranger"):
        nothing = await compared(log, live, nobody)
        assert (nothing.compared, nothing.differences) == (0, [])
    purged = await compared(log, await _without(live, "p5"), "p5")
    assert (purged.compared, purged.differences) == (0, [])


async def _without(store: MemoryStore, gone: str) -> MemoryStore:
    copy = MemoryStore()
    loaded = await store.load([f"p{n}" for n in range(40)])
    await copy.write(
        [
            Write(s.standing(), s.encoded, 0, s.expires_at)
            for prediction_id, s in loaded.items()
            if prediction_id != gone
        ]
    )
    return copy


async def test_a_verification_while_the_processor_works_finds_nothing(log: Log) -> None:
    """Records that move while they are compared are followed, and events that wait are no differences."""
    live = MemoryStore()
    async with pipeline(log, live) as running:
        await some_history(running)

        async def busy() -> None:
            for number in range(200):
                await running.send(
                    {"status": "processing", "logs": "y" * number}, key=f"q{number % 7}"
                )

        load = asyncio.create_task(busy())
        for _ in range(5):
            result = await compared(log, live)
            assert result.faults == []
        await load
        await running.settled()


async def test_a_record_that_moved_after_the_rebuild_is_followed(log: Log) -> None:
    """What the live store has applied beyond the rebuild's end is read too, before anything is called different."""
    live, scratch = MemoryStore(), MemoryStore()
    async with pipeline(log, live) as running:
        await some_history(running)
        rebuild = await rebuilt(log, scratch)
        await running.send({"status": "processing", "logs": "y"}, {"status": "succeeded"}, key="q")
        await running.send({"tags": ["late"]}, key="p1")
        await running.settled()
        result = await verify(rebuild, scratch, live, log, group=GROUP)
        assert result.differences == []
        assert result.equal == result.compared


async def test_reading_on_in_one_partition_skips_nothing_of_another() -> None:
    """What a comparison reads beyond its end in one partition leaves the others where they were, and says so."""
    log = MemoryLog(partitions=2)
    first, second = (
        NewRecord(b"a", b'{"status":"starting"}', (), 0),
        NewRecord(b"b", b'{"status":"starting"}', (), 1),
    )
    await log.append(EVENTS, [first, second])
    rebuild = await rebuilt(log, MemoryStore())
    await log.append(EVENTS, [first, second, second])
    await rebuild.extend({0: 2})
    assert rebuild.next == {0: 2, 1: 1}
    await rebuild.extend({1: 3})
    assert (rebuild.next, rebuild.progress.read) == ({0: 2, 1: 3}, 5)


async def test_hidden_records_are_left_out(log: Log) -> None:
    """An expired record is no difference, whatever has become of it."""
    live = MemoryStore()
    async with pipeline(log, live, expiry=Expiry(ttl=1)) as running:
        await running.send({"status": "succeeded"})
        await running.settled()
    scratch = MemoryStore(clock=ManualClock())  # lists what is hidden by now
    rebuild = Rebuild(log, scratch, {}, StorePolicy(await log.identity()), expiry=Expiry(ttl=1))
    await rebuild.run(await span(log))
    result = await verify(
        rebuild, scratch, MemoryStore(), log, group=GROUP, clock=ManualClock(2**43)
    )
    assert (result.compared, result.hidden, result.differences) == (1, 1, [])
    result = await verify(rebuild, scratch, MemoryStore(), log, group=GROUP, clock=ManualClock())
    assert [difference.kind for difference in result.faults] == ["missing"]


async def test_a_recreated_topic_is_noticed() -> None:
    """A log that ends below what the store has seen of it stops the start, with what to do."""
    live = MemoryStore()
    async with pipeline(MemoryLog(), live) as running:
        await running.send({"status": "starting"}, {"status": "processing"})
        await running.settled()
    with pytest.raises(LogError, match="TIDINGS_LOG_EPOCH"):
        await check_source(MemoryLog(), live)


async def test_a_log_that_grows_meanwhile_is_not_a_recreated_one() -> None:
    """What another processor applies while a process starts does not look like a topic that was recreated."""
    log = MemoryLog()

    class Growing(MemoryStore):
        async def positions(self) -> dict[int, int]:
            found = await super().positions()
            async with pipeline(log, self) as running:
                await running.send({"progress": 0.5}, {"progress": 0.6})
                await running.settled()
            return found

    class Moving(MemoryLog):
        async def bounds(self, topic: str) -> dict[int, tuple[int, int]]:
            ends = await log.bounds(topic)
            await live.positions()
            return ends

    live = Growing()
    async with pipeline(log, live) as running:
        await running.send({"status": "starting"})
        await running.settled()
    await check_source(Moving(), live)


async def test_a_store_says_whose_it_is() -> None:
    """The first opener's word stands: a later one reads it and cannot change it."""
    store = MemoryStore()
    first = await store.claim(Ownership(log="one"))
    assert await store.claim(Ownership(log="two", strict=True)) == first


async def test_a_span_ends_at_a_time(log: Log) -> None:
    """`until` leaves out what came later."""
    async with pipeline(log, MemoryStore()) as running:
        await running.send({"status": "starting"})
        await running.settled()
        whole = await span(log)
        nothing = await span(log, until=1_000_000_000_000)
        assert (whole.total, nothing.total) == (1, 0)
        assert (await log.bounds(EVENTS)).keys() == whole.end.keys()
