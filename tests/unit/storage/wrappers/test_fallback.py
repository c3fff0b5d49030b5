"""Reads fall back to the copy, nothing else does, and the mirror fills the copy by version."""

import asyncio

import pytest
from msgspec.structs import replace

from tests.support.clock import ManualClock
from tests.support.storage.samples import creation, prediction, tombstone, writing
from tidings.storage.errors import StoreUnavailable
from tidings.storage.memory import MemoryStore
from tidings.storage.prediction import encode
from tidings.storage.store import Conflict, Outcome, Page, Query, Stored, Write
from tidings.storage.wrappers.cache import CachedStore
from tidings.storage.wrappers.fallback import FallbackStore, ReplicaWrite, write_replicas


class Away(MemoryStore):
    """A store that is away while `away` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.away = False
        self.asked = 0

    def _ask(self) -> None:
        self.asked += 1
        if self.away:
            raise StoreUnavailable("away")

    async def get(self, prediction_id: str) -> Stored | None:
        self._ask()
        return await super().get(prediction_id)

    async def load(self, prediction_ids: object) -> dict[str, Stored]:
        self._ask()
        return await super().load(prediction_ids)  # type: ignore[arg-type]

    async def write(self, writes: object) -> list[Outcome]:
        self._ask()
        return await super().write(writes)  # type: ignore[arg-type]

    async def list(self, query: Query) -> Page:
        self._ask()
        return await super().list(query)


def copies(*writes: Write) -> list[ReplicaWrite]:
    return [ReplicaWrite(write.record, write.encoded, write.expires_at) for write in writes]


async def test_reads_fall_back_and_return() -> None:
    """While the store is away get and list come from the copy and are marked.

    Load and write fail; then all is as before.
    """
    store, copy, clock = Away(), Away(), ManualClock()
    both = FallbackStore(store, copy, clock=clock)
    first = creation("p")
    await both.write([first])
    await write_replicas(copy, copies(first))
    copy.asked = 0
    assert await both.get("p") == first.stored
    assert (both.degraded, copy.asked) == (False, 0)
    store.away = True
    assert await both.get("p") == replace(first.stored, degraded=True)
    page = await both.list(Query())
    assert (page.items, page.degraded) == ([first.stored], True)
    assert both.degraded
    with pytest.raises(StoreUnavailable):
        await both.load(["p"])
    with pytest.raises(StoreUnavailable):
        await both.write([writing(prediction("p", 2), 1)])
    assert copy.asked == 2
    store.away = False
    assert await both.get("q") is None
    assert not both.degraded


async def test_breaker_spares_the_store() -> None:
    """After five failures in ten seconds the store is asked once in five seconds, and fully again once it answers."""
    store, copy, clock = Away(), MemoryStore(), ManualClock()
    both = FallbackStore(store, copy, clock=clock)
    store.away = True
    for _ in range(20):
        await both.get("p")
    assert store.asked == 5
    clock.seconds += 5
    for _ in range(20):
        await both.get("p")
    assert store.asked == 6
    store.away = False
    clock.seconds += 5
    for _ in range(20):
        await both.get("p")
    assert store.asked == 26
    assert not both.degraded


async def test_a_store_that_hangs_is_away() -> None:
    """A record that the store does not bring in time comes from the copy.

    It counts as a failure, and opens the breaker.
    """

    class Hanging(Away):
        async def get(self, prediction_id: str) -> Stored | None:
            if self.away:
                self.asked += 1
                await asyncio.Event().wait()
            return await super().get(prediction_id)

    store, copy, clock = Hanging(), MemoryStore(), ManualClock()
    both = FallbackStore(store, copy, clock=clock, patience=0.01)
    first = creation("p")
    await both.write([first])
    await write_replicas(copy, copies(first))
    store.asked, store.away = 0, True
    for _ in range(20):
        assert await both.get("p") == replace(first.stored, degraded=True)
    assert store.asked == 5
    store.away = False
    clock.seconds += 5
    assert await both.get("p") == first.stored
    assert not both.degraded


async def test_both_away() -> None:
    """Where the copy is away too, the error is the store's."""
    store, copy = Away(), Away()
    store.away = copy.away = True
    with pytest.raises(StoreUnavailable):
        await FallbackStore(store, copy).get("p")


async def test_mirror_by_version() -> None:
    """The mirror writes what is newer, over tombstones too, and leaves what is not."""
    copy = MemoryStore()
    first, second = creation("p", owner="o"), writing(prediction("p", 2, owner="o"), 1)
    assert await write_replicas(copy, copies(second)) == 1
    assert await write_replicas(copy, copies(first)) == 0
    assert await copy.get("p") == second.stored
    assert await write_replicas(copy, copies(writing(tombstone("p", 5), 4), creation("q"))) == 2
    assert await copy.get("p") is None
    assert await write_replicas(copy, copies(second)) == 0
    again = prediction("p", 6)
    assert await write_replicas(copy, [ReplicaWrite(again, encode(again))]) == 1
    assert (await copy.load(["p"]))["p"].version == 6


async def test_mirrors_that_meet() -> None:
    """A mirror that another one overtakes reads again; the newest wins."""

    class Raced(MemoryStore):
        raced = False

        async def write(self, writes: object) -> list[Outcome]:
            if not self.raced:
                self.raced = True
                await super().write([creation("p")])
            return await super().write(writes)  # type: ignore[arg-type]

    copy = Raced()
    newer = writing(prediction("p", 3), 2)
    assert await write_replicas(copy, copies(newer)) == 1
    assert await copy.get("p") == newer.stored
    assert await copy.write([newer]) == [Conflict(3)]


async def test_cache_before_a_fallback() -> None:
    """Behind a cache the processor's loads still never see the copy."""
    store, copy = Away(), MemoryStore()
    write = creation("p")
    await copy.write([write])
    cache = CachedStore(FallbackStore(store, copy))
    store.away = True
    assert await cache.get("p") == replace(write.stored, degraded=True)
    assert cache.peek("p") is None
    with pytest.raises(StoreUnavailable):
        await cache.load(["p"])
