"""What every store must do: one suite for all backends and wrappers (`tests/contract/stores/test_stores.py` runs it)."""

import asyncio
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec import Raw

from tests.contract.stores.findings import Findings
from tests.support.conditions import eventually
from tests.support.storage.samples import (
    HOUR,
    complete,
    creation,
    fresh,
    prediction,
    tombstone,
    writing,
)
from tidings.storage.clock import SYSTEM_CLOCK
from tidings.storage.errors import AlreadyExists, InvalidTransition
from tidings.storage.memory import MemoryStore
from tidings.storage.notes import notes_of
from tidings.storage.prediction import Prediction, Source, Status, Usage, decode, encode
from tidings.storage.store import Conflict, Ownership, Page, PredictionStore, Query, Stored, Write
from tidings.storage.wrappers.cache import CachedStore
from tidings.streams.log.memory import MemoryLog
from tidings.streams.log.protocol import EVENTS, NewRecord
from tidings.streams.manager import PredictionStatusManager
from tidings.streams.processing.processor import GROUP
from tidings.streams.replay.rebuild import Rebuild, span
from tidings.streams.replay.verify import verify
from tidings.streams.rules.reducer import StorePolicy


class Reopen(Protocol):
    """Opens the same place once more, beside the store of the test."""

    def __call__(self) -> AbstractAsyncContextManager[PredictionStore]: ...


def needs_compare_and_set(store: PredictionStore) -> None:
    if not store.capabilities.compare_and_set:
        pytest.skip("this store has no compare-and-set")


def needs_filter(store: PredictionStore, *names: str) -> None:
    if not store.capabilities.lists or not store.capabilities.filters.issuperset(names):
        pytest.skip(f"this store does not list by {', '.join(names) or 'anything'}")


async def rows(store: PredictionStore, ids: list[str]) -> dict[str, Stored]:
    """What the store itself has: a cache does not notice what is purged behind it."""
    load = store.load_fresh if isinstance(store, CachedStore) else store.load
    return await load(ids)


async def everything(store: PredictionStore, query: dict[str, Any], limit: int) -> list[str]:
    """The ids of all pages of a listing."""
    ids: list[str] = []
    cursor = None
    while True:
        page = await store.list(Query(**query, limit=limit, cursor=cursor))
        assert len(page.items) <= limit
        ids += ids_of(page)
        if page.cursor is None:
            return ids
        cursor = page.cursor


def ids_of(page: Page) -> list[str]:
    return [decode(stored.encoded).prediction_id for stored in page.items]


class ReadsAndWrites:
    async def test_bytes_come_back_as_written(self, store: PredictionStore) -> None:
        """Every field, of odd values and a megabyte of logs, comes back byte for byte, by get, load and list."""
        write = writing(complete(fresh()), 0, expires_at=SYSTEM_CLOCK.ms() + HOUR)
        one = write.record.prediction_id
        assert await store.write([write]) == [None]
        expected = Stored(2**53 + 1, Status.SUCCEEDED, write.encoded, write.expires_at, "")
        assert await store.get(one) == expected
        assert await store.load([one]) == {one: expected}
        assert (await store.load([one]))[one].standing() == write.record
        if store.capabilities.lists:
            assert expected in (await store.list(Query(limit=1000))).items

    async def test_a_record_of_an_older_format(self, store: PredictionStore) -> None:
        """The provider's body, which older records hold as `report`, is in nothing that is read: by get, load or list."""
        record = prediction(fresh())
        older = msgspec.json.encode(
            msgspec.json.decode(encode(record)) | {"report": {"a": "secret"}}
        )
        one = record.prediction_id
        assert await store.write([Write(record, older, 0)]) == [None]
        store.clear()  # what is written here is encoded here, and kept as it is
        found = [await store.get(one), *(await store.load([one])).values()]
        if store.capabilities.lists:
            page = await store.list(Query(limit=1000))
            found += [item for item in page.items if decode(item.encoded).prediction_id == one]
        assert len(found) == 2 + store.capabilities.lists
        assert {item.encoded for item in found if item is not None} == {encode(record)}

    @pytest.mark.parametrize(
        "odd", ["a", "x" * 256, "ünï/☃?#%2F&=+", "'\";--{}[]:*", "..", "\u200d\ue000😀"]
    )
    async def test_odd_ids(self, store: PredictionStore, odd: str) -> None:
        """Whatever may name a prediction is a name here: nothing in it is taken for syntax, nothing is cut."""
        one = odd if len(odd) == 256 else odd + fresh(odd[:0])
        assert await store.write([creation(one, owner=odd, model=odd, tags=(odd,))]) == [None]
        assert list(await store.load([one, one + "x", one[:-1]])) == [one]
        assert await store.get(one) is not None
        if store.capabilities.filters >= {"owner", "model", "tag"}:
            assert one in ids_of(await store.list(Query(owner=odd, model=odd, tag=odd)))

    async def test_nothing_there(self, store: PredictionStore) -> None:
        """An unknown id is None, and left out of a load; empty batches are answered emptily."""
        assert await store.get(fresh()) is None
        assert await store.load([fresh()]) == {}
        assert await store.load([]) == {}
        assert await store.write([]) == []

    async def test_load_repeated_ids(self, store: PredictionStore) -> None:
        """An id that is asked for twice is answered once."""
        one = fresh()
        await store.write([creation(one)])
        assert list(await store.load([one, fresh(), one])) == [one]

    async def test_large_batch(self, store: PredictionStore) -> None:
        """2,000 writes and reads in one call are all done, and the updates of them too."""
        ids = [f"{fresh()}-{number}" for number in range(2000)]
        assert await store.write([creation(one) for one in ids]) == [None] * 2000
        updates = [writing(prediction(one, 2, Status.PROCESSING), 1) for one in ids]
        assert await store.write(updates) == [None] * 2000
        found = await store.load(ids)
        assert [found[one].version for one in ids] == [2] * 2000


class Unreadable:
    async def test_a_record_that_is_none_is_compared_as_different(
        self, store: PredictionStore
    ) -> None:
        """What somebody has put in a record's place is listed by its id, and a comparison with the log names it."""
        known, unknown, whole = fresh(), fresh(), fresh()
        for one in (known, unknown):
            planted = prediction(one, 1, Status.PROCESSING, owner=one)
            assert await store.write([Write(planted, b'{"predictionId":"other"', 0)]) == [None]
        assert await store.write([creation(whole)]) == [None]
        assert (await store.load([known]))[known].encoded == b'{"predictionId":"other"'
        if not store.capabilities.lists:
            pytest.skip("this store lists nothing")
        page = await store.list(Query(limit=1000))
        assert {place.prediction_id for place in page.places} == {known, unknown, whole}
        assert page.places == sorted(page.places, reverse=True)
        log, scratch = MemoryLog(), MemoryStore()
        [at] = await log.append(EVENTS, [NewRecord(known.encode(), b'{"status":"processing"}')])
        rebuild = Rebuild(log, scratch, {}, StorePolicy(await log.identity()))
        await rebuild.run(await span(log))
        await log.consume(EVENTS, GROUP).commit({at.partition: at.offset + 1})
        found = await verify(rebuild, scratch, store, log, group=GROUP)
        kinds = {one.prediction_id: (one.kind, one.unreadable) for one in found.differences}
        assert kinds == {
            known: ("different", True),
            unknown: ("extra", True),
            whole: ("extra", False),
        }


class Counts:
    async def test_counts_are_those_of_the_listing(self, store: PredictionStore) -> None:
        """What is counted by status is what a listing with the same filters shows; expired and deleted ones are not."""
        owner, now = fresh(), SYSTEM_CLOCK.ms()
        statuses = [Status.STARTING, Status.FAILED, Status.FAILED, Status.SUCCEEDED]
        for number, status in enumerate(statuses):
            record = prediction(fresh(), 1, status, owner=owner, tags=(f"t{number}",))
            await store.write([writing(record, 0, expires_at=now + HOUR)])
        await store.write([writing(prediction(fresh(), 1, owner=owner), 0, expires_at=now - 1)])
        if (counts := await store.count(Query(owner=owner), 1000)) is None:
            pytest.skip("this store does not count")
        assert counts == {"starting": 1, "failed": 2, "succeeded": 1}
        assert await store.count(Query(owner=owner, status=Status.FAILED), 10) == {"failed": 2}
        assert await store.count(Query(owner=owner, tag="t3"), 10) == {"succeeded": 1}
        assert await store.count(Query(owners=(owner, "x"), model="none"), 10) == {}
        assert 2 <= sum((await store.count(Query(owner=owner), 2) or {}).values()) <= 4

    async def test_groups_are_counted_apart(self, store: PredictionStore) -> None:
        """A count may be of groups alone, or of all else, whatever a payload says of its kind."""
        owner = fresh()
        payload = Raw(b'{"kind":"group"}')
        for number, kind in enumerate(("group", "group", None, None, None)):
            fields: dict[str, Any] = (
                {"kind": kind} if kind else {"model": f"m{number}", "payload": payload}
            )
            if number == 4:
                del fields["model"]
            await store.write([writing(prediction(fresh(), 1, owner=owner, **fields), 0)])
        if await store.count(Query(owner=owner), 1000) is None:
            pytest.skip("this store does not count")
        assert await store.count(Query(owner=owner, groups=True), 1000) == {"starting": 2}
        assert await store.count(Query(owner=owner, groups=False), 1000) == {"starting": 3}
        assert await store.count(Query(owner=owner), 1000) == {"starting": 5}


class CompareAndSet:
    async def test_create_once(self, store: PredictionStore) -> None:
        """A write that expects nothing there meets a conflict on a standing id, and changes nothing."""
        needs_compare_and_set(store)
        one = fresh()
        first = creation(one, prompt="first")
        assert await store.write([first]) == [None]
        assert await store.write([creation(one, prompt="second")]) == [Conflict(1)]
        assert (await store.load([one]))[one].encoded == first.encoded

    async def test_initialize_once(self, store: PredictionStore) -> None:
        """The library's door initializes an id once, of many attempts at once too, and then moves it by the rules."""
        needs_compare_and_set(store)
        manager, one = PredictionStatusManager(store), fresh()
        attempts = [manager.initialize(one, payload={"attempt": number}) for number in range(8)]
        results = await asyncio.gather(*attempts, return_exceptions=True)
        assert sum(isinstance(result, AlreadyExists) for result in results) == 7
        await manager.mark_as_processing(one)
        await manager.mark_as_succeeded(one, "https://example.com/1.png")
        with pytest.raises(InvalidTransition):
            await manager.mark_as_failed(one, "late")
        found = await manager.get(one)
        assert found is not None
        assert found.status is Status.SUCCEEDED

    async def test_never_an_insert(self, store: PredictionStore) -> None:
        """A write that expects a version of a row that is not there, or is gone, is a conflict, never an insert."""
        needs_compare_and_set(store)
        one, purged = fresh(), fresh()
        assert await store.write([writing(prediction(one, 3), 2)]) == [Conflict(0)]
        await store.write([writing(prediction(purged), 0, purge_at=SYSTEM_CLOCK.ms() - 1)])
        while await store.sweep(SYSTEM_CLOCK.ms(), 500):
            pass
        assert await store.write([writing(prediction(purged, 2), 1)]) == [Conflict(0)]
        assert await store.load([one, purged]) == {}

    async def test_older_version(self, store: PredictionStore) -> None:
        """Versions never go back: a write that expects a version that has passed is a conflict."""
        needs_compare_and_set(store)
        one = fresh()
        await store.write([creation(one)])
        await store.write([writing(prediction(one, 2), 1)])
        assert await store.write([writing(prediction(one, 2, prompt="late"), 1)]) == [Conflict(2)]
        assert await store.write([writing(prediction(one, 4), 3)]) == [Conflict(2)]
        assert (await store.load([one]))[one].version == 2

    async def test_lost_answer_repeated(self, store: PredictionStore) -> None:
        """A batch that is sent again, its answer lost, conflicts with itself and leaves the records as they are."""
        needs_compare_and_set(store)
        one, two = fresh(), fresh()
        await store.write([creation(two)])
        batch = [creation(one), writing(prediction(two, 2, Status.PROCESSING), 1)]
        assert await store.write(batch) == [None, None]
        assert await store.write(batch) == [Conflict(1), Conflict(2)]
        found = await store.load([one, two])
        assert [found[one].encoded, found[two].encoded] == [write.encoded for write in batch]

    async def test_mixed_batch(self, store: PredictionStore) -> None:
        """In a batch each write stands for itself: those that match are written, outcomes come in their order."""
        needs_compare_and_set(store)
        new, standing, stale, missing = (fresh() for _ in range(4))
        await store.write([creation(standing), creation(stale)])
        batch = [
            writing(prediction(stale, 9), 8),
            creation(new),
            writing(prediction(missing, 2), 1),
            writing(prediction(standing, 2, owner="o", tags=("t",)), 1),
            creation(fresh()),
        ]
        assert await store.write(batch) == [Conflict(1), None, Conflict(0), None, None]
        found = await store.load([new, standing, stale, missing])
        assert {one: stored.version for one, stored in found.items()} == {
            new: 1,
            standing: 2,
            stale: 1,
        }

    async def test_id_twice_in_a_batch(self, store: PredictionStore) -> None:
        """A batch that writes one id twice is refused as a whole."""
        one, two = fresh(), fresh()
        with pytest.raises(ValueError, match=one):
            await store.write([creation(two), creation(one), writing(prediction(one, 2), 1)])
        assert await store.load([one, two]) == {}

    async def test_concurrent_writers(self, store: PredictionStore) -> None:
        """Of 64 writers that fight over one key exactly one wins each version, and the winner's bytes stand."""
        needs_compare_and_set(store)
        one = fresh()
        for version in range(1, 6):
            batch = [
                writing(prediction(one, version, prompt=str(number)), version - 1)
                for number in range(64)
            ]
            outcomes = [
                outcome
                for (outcome,) in await asyncio.gather(*(store.write([write]) for write in batch))
            ]
            assert outcomes.count(None) == 1
            winner = batch[outcomes.index(None)]
            assert [one for one in outcomes if one is not None] == [Conflict(version)] * 63
            assert (await store.load([one]))[one].encoded == winner.encoded

    async def test_two_openers(self, store: PredictionStore, reopen: Reopen) -> None:
        """Two programs on one store see each other's writes, and one of them wins each version."""
        needs_compare_and_set(store)
        if not store.capabilities.durable:
            pytest.skip("nobody else can open this store")
        async with reopen() as other:
            one = fresh()
            assert await store.write([creation(one)]) == [None]
            results = await asyncio.gather(
                *(
                    side.write([writing(prediction(one, 2), 1)])
                    for side in (store, other)
                    for _ in range(8)
                )
            )
            assert sum(outcome is None for (outcome,) in results) == 1
            assert await other.load([one]) == await store.load([one])


class DeletionAndExpiry:
    async def test_deleted(self, store: PredictionStore) -> None:
        """A tombstone hides the record from get and list; load returns it with its version."""
        one, owner = fresh(), fresh("owner")
        await store.write([creation(one, owner=owner, tags=("a",))])
        write = writing(tombstone(one, 2, owner=owner, tags=("a",)), 1)
        assert await store.write([write]) == [None]
        assert await store.get(one) is None
        found = (await store.load([one]))[one]
        assert (found.version, found.deleted, found.encoded, found.owner) == (
            2,
            True,
            write.encoded,
            owner,
        )
        assert found.standing() == write.record
        if "owner" in store.capabilities.filters:
            assert (await store.list(Query(owner=owner))).items == []

    async def test_created_again(self, store: PredictionStore) -> None:
        """Over a tombstone a record starts again at the next version, and nothing but that brings it back."""
        needs_compare_and_set(store)
        one, owner = fresh(), fresh("owner")
        await store.write([creation(one, owner=owner)])
        await store.write([writing(tombstone(one, 2), 1)])
        assert await store.write([creation(one)]) == [Conflict(2)]
        assert await store.write([writing(prediction(one, 3, owner=owner), 2)]) == [None]
        found = await store.get(one)
        assert found is not None
        assert (found.version, found.deleted) == (3, False)
        if "owner" in store.capabilities.filters:
            assert ids_of(await store.list(Query(owner=owner))) == [one]

    async def test_expired(self, store: PredictionStore) -> None:
        """An expired record is hidden at once from get and list, is there for load, and can be written on.

        A listing for whoever looks after the store shows it, with what is not hidden, but no tombstone.
        """
        one, owner = fresh(), fresh("owner")
        await store.write(
            [writing(prediction(one, owner=owner), 0, expires_at=SYSTEM_CLOCK.ms() - 1)]
        )
        assert await store.get(one) is None
        assert (await store.load([one]))[one].version == 1
        if "owner" in store.capabilities.filters:
            assert (await store.list(Query(owner=owner))).items == []
            visible, gone = prediction(fresh(), owner=owner), fresh()
            await store.write([writing(visible, 0), writing(tombstone(gone, 1, owner=owner), 0)])
            shown = await everything(store, {"owner": owner, "hidden": True}, 1)
            assert sorted(shown) == sorted([one, visible.prediction_id])
            await store.write([writing(tombstone(visible.prediction_id, 2, owner=owner), 1)])
        write = writing(prediction(one, 2, owner=owner), 1, expires_at=SYSTEM_CLOCK.ms() + HOUR)
        assert await store.write([write]) == [None]
        assert await store.get(one) == write.stored
        if "owner" in store.capabilities.filters:
            assert ids_of(await store.list(Query(owner=owner))) == [one]

    async def test_expires_now(self, store: PredictionStore) -> None:
        """A record that expires while it lies there is hidden from then on, without a write."""
        one = fresh()
        expires_at = SYSTEM_CLOCK.ms() + 300
        await store.write([writing(prediction(one), 0, expires_at=expires_at)])

        async def gone() -> bool:
            return await store.get(one) is None

        await eventually(gone)
        assert SYSTEM_CLOCK.ms() >= expires_at

    async def test_sweep(self, store: PredictionStore) -> None:
        """Sweeping removes what is due, tombstones included, at most so many at a time, and nothing else."""
        now = SYSTEM_CLOCK.ms()
        due, later, never, renewed = [fresh() for _ in range(7)], fresh(), fresh(), fresh()
        await store.write(
            [writing(prediction(one, tags=("t",)), 0, purge_at=now - 1) for one in [*due, renewed]]
        )
        await store.write([writing(prediction(later), 0, purge_at=now + HOUR), creation(never)])
        await store.write([writing(tombstone(due[0], 2), 1, purge_at=now - 1)])
        await store.write([writing(prediction(renewed, 2), 1, purge_at=now + HOUR)])
        assert await store.sweep(now, 3) <= 3
        async with asyncio.timeout(
            10
        ):  # a store whose servers purge by themselves removes none here
            while await rows(store, due):
                await store.sweep(now, 3)
        assert set(await rows(store, [later, never, renewed])) == {later, never, renewed}

    async def test_created_after_purge(self, store: PredictionStore) -> None:
        """Once a row is purged its id is as good as new."""
        one = fresh()
        await store.write(
            [writing(prediction(one, 5, tags=("t",)), 0, purge_at=SYSTEM_CLOCK.ms() - 1)]
        )
        async with asyncio.timeout(10):
            while await rows(store, [one]):
                await store.sweep(SYSTEM_CLOCK.ms(), 500)
        write = creation(one, tags=("t",))
        assert await store.write([write]) == [None]
        assert await store.get(one) == write.stored


class Listing:
    async def test_newest_first(self, store: PredictionStore) -> None:
        """Newest first by creation, ties by id, descending; pages of any size make up the same list."""
        needs_filter(store, "owner")
        owner = fresh("owner")
        records = [
            prediction(fresh(), created_at=1_764_000_000_000 + n // 3, owner=owner)
            for n in range(20)
        ]
        await store.write([writing(record, 0) for record in records])
        records.sort(key=lambda record: (record.created_at, record.prediction_id), reverse=True)
        expected = [record.prediction_id for record in records]
        for limit in (1, 7, 10, 20, 1000):
            assert await everything(store, {"owner": owner}, limit) == expected

    async def test_filters(self, store: PredictionStore) -> None:
        """Each filter, and any of them together, gives those that match, and follows them as they change."""
        filters = store.capabilities.filters
        needs_filter(store)
        mine, theirs, model, tag = (fresh() for _ in range(4))
        one, two, three = (fresh() for _ in range(3))
        await store.write(
            [
                creation(one, owner=mine, model=model),
                creation(two, owner=theirs, tags=(tag, "other")),
            ]
        )
        await store.write([creation(three, owner=mine)])

        async def found(**query: Any) -> set[str] | None:
            names = {"owner" if name == "owners" else name for name in query}
            return set(ids_of(await store.list(Query(**query)))) if names <= filters else None

        assert await found(owner=mine) in ({one, three}, None)
        assert await found(owners=(mine, theirs)) in ({one, two, three}, None)
        assert await found(owners=(theirs,)) in ({two}, None)
        assert await found(owners=()) in (set(), None)
        assert await found(model=model) in ({one}, None)
        assert await found(tag=tag) in ({two}, None)
        assert await found(tag=tag, owner=mine) in (set(), None)
        assert await found(owner=mine, owners=(theirs,)) in (set(), None)
        processing = prediction(three, 2, Status.PROCESSING, owner=theirs, model=model, tags=(tag,))
        await store.write([writing(processing, 1)])
        assert await found(owner=mine) in ({one}, None)
        assert await found(owner=theirs, tag=tag, model=model, status=Status.PROCESSING) in (
            {three},
            None,
        )
        assert await found(model=model, status=Status.STARTING) in ({one}, None)
        assert await found(tag=tag) in ({two, three}, None)
        await store.write([writing(prediction(two, 2, owner=theirs, tags=("other",)), 1)])
        assert await found(tag=tag) in ({three}, None)

    async def test_filters_by_time(self, store: PredictionStore) -> None:
        """From a time on, and before one, with any other filter, over pages and in counts."""
        needs_filter(store, "owner", "tag", "created_after", "created_before")
        mine, tag = fresh(), fresh()
        ids = [f"{mine}{number}" for number in range(6)]
        await store.write(
            [
                creation(one, owner=mine, tags=(tag,), created_at=1_000 + number)
                for number, one in enumerate(ids)
            ]
        )
        for by in ({"owner": mine}, {"tag": tag}):
            late: dict[str, Any] = {**by, "created_after": 1_002}
            assert await everything(store, late, 2) == ids[:1:-1]
            assert await everything(store, {**late, "created_before": 1_005}, 2) == ids[4:1:-1]
            assert await everything(store, {**by, "created_before": 1_001}, 2) == ids[:1]
            assert await everything(store, {**by, "created_after": 1_006}, 2) == []
            counts = await store.count(Query(**late), 100)
            assert counts is None or sum(counts.values()) == 4

    async def test_while_writing(self, store: PredictionStore) -> None:
        """A listing that goes on while records come, change and go: nothing twice, nothing missed that stood."""
        needs_filter(store, "owner")
        owner = fresh("owner")
        base = 1_764_000_000_000
        standing = [prediction(fresh("s"), created_at=base + n, owner=owner) for n in range(40)]
        going = [prediction(fresh("g"), created_at=base + n, owner=owner) for n in range(40)]
        await store.write([writing(record, 0) for record in standing + going])
        seen: list[str] = []
        cursor = None
        step = 0
        while True:
            page = await store.list(Query(owner=owner, limit=5, cursor=cursor))
            seen += ids_of(page)
            if (cursor := page.cursor) is None:
                break
            gone, changed = going[step], standing[step]
            again = prediction(
                changed.prediction_id, 2, Status.FAILED, created_at=changed.created_at, owner=owner
            )
            newer = prediction(fresh("n"), created_at=base + 1000 + step, owner=owner)
            inside = prediction(fresh("i"), created_at=base + 20, owner=owner)
            await store.write(
                [writing(tombstone(gone.prediction_id, 2, owner=owner), 1), writing(again, 1)]
            )
            await store.write([writing(newer, 0), writing(inside, 0)])
            step += 1
        assert len(seen) == len(set(seen))
        assert {record.prediction_id for record in standing} <= set(seen)

    @pytest.mark.parametrize("cursor", ["", "x", "ü", "!!!", "AAAA", "MTIz", "OjE"])
    async def test_bad_cursor(self, store: PredictionStore, cursor: str) -> None:
        """A cursor that is none is a ValueError that quotes it."""
        needs_filter(store)
        with pytest.raises(ValueError, match="cursor"):
            await store.list(Query(cursor=cursor))


class Belonging:
    async def test_claim(self, store: PredictionStore, reopen: Reopen) -> None:
        """The first claim stands, of many at once too, and is read back by whoever opens the store later."""
        claims = [Ownership(log=f"log-{number}", strict=True, record_max=7) for number in range(8)]
        standing = await asyncio.gather(*(store.claim(claim) for claim in claims))
        assert standing[0] in claims
        assert set(standing) == {standing[0]}
        assert await store.claim(Ownership(log=None)) == standing[0]
        if store.capabilities.durable:
            async with reopen() as other:
                assert await other.claim(Ownership(log="other")) == standing[0]

    async def test_notes(self, store: PredictionStore, reopen: Reopen) -> None:
        """A store that keeps notes gives back the newest text of each name, to whoever opens it later, too."""
        notes = notes_of(store)
        if notes is None:
            pytest.skip("keeps none")
        await store.claim(Ownership(log="log"))
        assert await notes.notes() == {}
        for name, text in (("a", "1"), ("b", "ä\n"), ("a", "2")):
            await notes.note(name, text)
        assert await notes.notes() == {"a": "2", "b": "ä\n"}
        if store.capabilities.durable:
            async with reopen() as other:
                again = notes_of(other)
                assert again is not None
                assert await again.notes() == {"a": "2", "b": "ä\n"}

    async def test_positions(self, store: PredictionStore, reopen: Reopen) -> None:
        """Positions are the highest offset per partition that was written, and never go down."""
        assert await store.positions() == {}
        one, two = fresh(), fresh()
        await store.write(
            [
                creation(one, source=Source("l", {"3": 7})),
                creation(two, source=Source("l", {"3": 5})),
            ]
        )
        assert await store.positions() == {3: 7}
        sources = {"3": 6, "11": 2**40, "0": 0}
        await store.write([writing(prediction(two, 2, source=Source("l", sources)), 1)])
        assert await store.positions() == {3: 7, 11: 2**40, 0: 0}
        if store.capabilities.compare_and_set:
            await store.write([creation(one, source=Source("l", {"3": 99}))])
        assert await store.positions() == {3: 7, 11: 2**40, 0: 0}
        if store.capabilities.durable:
            async with reopen() as other:
                assert await other.positions() == {3: 7, 11: 2**40, 0: 0}

    async def test_durable(self, store: PredictionStore, reopen: Reopen) -> None:
        """What a write has returned for is there for the next opener; closing twice is harmless."""
        if not store.capabilities.durable:
            pytest.skip("this store keeps nothing")
        writes = [creation(fresh(), tags=("t",), source=Source("l", {"0": n})) for n in range(3)]
        await store.write(writes)
        await store.close()
        await store.close()
        async with reopen() as other:
            found = await other.load([write.record.prediction_id for write in writes])
            assert found == {write.record.prediction_id: write.stored for write in writes}


IDS = st.sampled_from(["a", "b", "c", "d"])
STEP = st.tuples(
    IDS,
    st.integers(0, 4),
    st.integers(0, 4),
    st.booleans(),
    st.sampled_from(Status),
    st.sampled_from(["", "t", "u"]),
)


class LikeTheModel:
    @settings(
        max_examples=25,
        deadline=None,
        suppress_health_check=[
            HealthCheck.function_scoped_fixture,
            HealthCheck.differing_executors,
        ],
    )
    @given(batches=st.lists(st.lists(STEP, max_size=4, unique_by=lambda step: step[0]), max_size=8))
    async def test_any_sequence(self, store: PredictionStore, batches: list[list[Any]]) -> None:
        """Any sequence of batches has the same outcomes, and leaves the same reads, as the store in memory."""
        needs_compare_and_set(store)
        prefix, model = fresh(), MemoryStore()
        ids = [prefix + one for one in "abcd"]
        for number, batch in enumerate(batches):
            writes = [_step(prefix, number, *step) for step in batch]
            assert await store.write(writes) == await model.write(writes)
            assert await store.load(ids) == await model.load(ids)
            for one in ids:
                assert await store.get(one) == await model.get(one)
            for query in (
                {"owner": prefix},
                {"owner": prefix, "tag": "t"},
                {"owner": prefix, "status": Status.FAILED},
                {"provider": prefix},
                {"provider": prefix, "error": "e", "owner": prefix},
            ):
                if store.capabilities.filters >= query.keys():
                    assert await everything(store, query, 2) == await everything(model, query, 2)
            by = ("owner", "day")
            sums = await store.usage(Query(provider=prefix), by)
            assert sums in (None, await model.usage(Query(provider=prefix), by))


def _step(
    prefix: str,
    at: int,
    one: str,
    expected: int,
    ahead: int,
    delete: bool,
    status: Status,
    tag: str,
) -> Write:
    version = expected + 1 + ahead // 3
    if delete:
        return writing(tombstone(prefix + one, version), expected)
    record: Prediction = prediction(
        prefix + one,
        version,
        status,
        created_at=1_764_000_000_000 + at // 3,
        owner=prefix if ahead != 2 else None,
        tags=(tag,) if tag else (),
        provider=prefix if ahead != 1 else None,
        error="e" if status is Status.FAILED else None,
        usage=Usage(images=at, cost=f"0.{at}", currency="USD") if tag else None,
    )
    return writing(record, expected, expires_at=SYSTEM_CLOCK.ms() - 1 if ahead == 4 else None)


class StoreContract(
    ReadsAndWrites,
    Unreadable,
    Counts,
    CompareAndSet,
    DeletionAndExpiry,
    Listing,
    Findings,
    Belonging,
    LikeTheModel,
):
    """All of it. A subclass provides the fixtures `store` and `reopen`."""
