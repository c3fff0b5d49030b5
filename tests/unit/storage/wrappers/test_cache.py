"""The cache never goes back, reads the store as little as it may, and stays within its bounds."""

import asyncio
from collections.abc import Awaitable, Sequence
from typing import TypeVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.clock import ManualClock
from tests.support.storage.samples import creation, prediction, tombstone, writing
from tidings.storage.errors import StoreUnavailable
from tidings.storage.memory import MemoryStore
from tidings.storage.prediction import Status
from tidings.storage.store import Conflict, Outcome, Stored, Write
from tidings.storage.wrappers.cache import NEGATIVE_TTL, CachedStore

T = TypeVar("T")


class Gate(MemoryStore):
    """Counts calls, and holds each read's answer (as of when it was asked) until it is let through."""

    def __init__(self) -> None:
        super().__init__()
        self.gets = 0
        self.loads: list[list[str]] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.fault: Exception | None = None

    async def get(self, prediction_id: str) -> Stored | None:
        self.gets += 1
        return await self._through(super().get(prediction_id))

    async def load(self, prediction_ids: Sequence[str]) -> dict[str, Stored]:
        self.loads.append(list(prediction_ids))
        return await self._through(super().load(prediction_ids))

    async def write(self, writes: Sequence[Write]) -> list[Outcome]:
        return await self._through(super().write(writes))

    async def _through(self, answer: Awaitable[T]) -> T:
        value = await answer
        await self.gate.wait()
        if self.fault is not None:
            raise self.fault
        return value


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(1_764_000_000_000, 1000.0)


@pytest.fixture
def store() -> Gate:
    return Gate()


@pytest.fixture
def cache(store: Gate, clock: ManualClock) -> CachedStore:
    return CachedStore(store, ttl=30, clock=clock)


def state(
    version: int, status: Status | None = Status.STARTING, expires_at: int | None = None
) -> Stored:
    return Stored(version, status, b"x" * 700, expires_at)


async def test_one_read_for_a_thousand(store: Gate, cache: CachedStore) -> None:
    """A thousand callers that miss the same record at once cost one read of the store."""
    write = creation("p")
    await store.write([write])
    store.gate.clear()
    callers = [asyncio.create_task(cache.get("p")) for _ in range(1000)]
    await asyncio.sleep(0)
    store.gate.set()
    assert await asyncio.gather(*callers) == [write.stored] * 1000
    assert store.gets == 1
    assert cache.peek("p") == write.stored


async def test_a_cancelled_reader(store: Gate, cache: CachedStore) -> None:
    """The caller whose read the others wait for is cancelled.

    They get their answer all the same.
    """
    await store.write([creation("p")])
    store.gate.clear()
    first, *others = [asyncio.create_task(cache.get("p")) for _ in range(5)]
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.sleep(0)
    store.gate.set()
    answers = await asyncio.gather(*others)
    assert [answer.version for answer in answers if answer] == [1] * 4
    assert first.cancelled()


async def test_failed_read(store: Gate, cache: CachedStore) -> None:
    """A read that fails fails for all that wait, and the next one asks the store again."""
    await store.write([creation("p")])
    store.fault = StoreUnavailable("down")
    results = await asyncio.gather(*(cache.get("p") for _ in range(3)), return_exceptions=True)
    assert results == [store.fault] * 3
    store.fault = None
    assert await cache.get("p") is not None


@pytest.mark.parametrize("bulk", [False, True])
async def test_overtaken_fill(store: Gate, cache: CachedStore, bulk: bool) -> None:
    """A state that is put while an older one is being read stays, and is what the reader gets."""
    await store.write([creation("p")])
    store.gate.clear()
    read = asyncio.create_task(cache.load(["p"]) if bulk else cache.get("p"))
    await asyncio.sleep(0)
    cache.put("p", state(2))
    store.gate.set()
    assert await read in (state(2), {"p": state(2)})
    assert cache.peek("p") == state(2)


@pytest.mark.parametrize("bulk", [False, True])
@pytest.mark.parametrize("forget", ["invalidate", "clear"])
async def test_invalidated_fill(store: Gate, cache: CachedStore, bulk: bool, forget: str) -> None:
    """What was read before an invalidation is not kept."""
    await store.write([creation("p")])
    store.gate.clear()
    read = asyncio.create_task(cache.load(["p"]) if bulk else cache.get("p"))
    await asyncio.sleep(0)
    if forget == "clear":
        cache.clear()
    else:
        cache.invalidate("p")
    store.gate.set()
    assert await read
    assert cache.peek("p") is None
    assert len(cache) == 0


async def test_deletion_stays(store: Gate, cache: CachedStore) -> None:
    """A deletion seen while the record is being read hides it.

    So does one that is older news by then.
    """
    await store.write([creation("p")])
    store.gate.clear()
    read = asyncio.create_task(cache.get("p"))
    await asyncio.sleep(0)
    cache.put("p", state(2, None))
    store.gate.set()
    assert await read is None
    cache.put("p", state(1))
    assert cache.peek("p") is None
    assert await cache.get("p") is None
    assert await cache.load(["p"]) == {"p": state(2, None)}
    assert store.gets == 1
    cache.put("p", state(3))
    assert cache.peek("p") == state(3)


async def test_older_put(cache: CachedStore) -> None:
    """An older version never replaces a newer one."""
    cache.put("p", state(3))
    cache.put("p", state(2))
    assert cache.peek("p") == state(3)


async def test_hearsay_is_no_certainty(store: Gate, cache: CachedStore) -> None:
    """What somebody only heard of may be older than the store.

    Whoever decides by it reads it, once.
    """
    await store.write([creation("p", version=2)])
    cache.put("p", state(1))
    assert (await cache.load(["p"]))["p"].version == 1
    assert (await cache.load_certain(["p"]))["p"].version == 2
    assert (await cache.load_certain(["p"]))["p"].version == 2
    assert store.loads == [["p"]]
    cache.put("p", state(2))  # heard of again: nothing new
    assert await cache.write([writing(prediction("p", 3), 2)]) == [None]
    cache.put("p", state(3))
    assert (await cache.load_certain(["p"]))["p"].version == 3
    assert store.loads == [["p"]]
    cache.put("p", state(4))
    await cache.load_certain(["p"])
    assert store.loads == [["p"], ["p"]]


@pytest.mark.parametrize("bulk", [False, True])
async def test_a_late_word_does_not_spoil_a_fill(
    store: Gate, cache: CachedStore, bulk: bool
) -> None:
    """An older state that is heard of while the store is read does not stay when the read brings a newer one."""
    await store.write([creation("p", version=2)])
    store.gate.clear()
    reading = asyncio.ensure_future(cache.load_fresh(["p"]) if bulk else cache.get("p"))
    await asyncio.sleep(0)
    cache.put("p", state(1))
    store.gate.set()
    await reading
    kept = cache.peek("p")
    assert kept is not None
    assert kept.version == 2


async def test_absent_for_two_seconds(store: Gate, cache: CachedStore, clock: ManualClock) -> None:
    """For an id that the store does not have it is not asked again for two seconds, unless it is written or put."""
    for _ in range(3):
        assert await cache.get("p") is None
    assert store.gets == 1
    clock.advance(NEGATIVE_TTL)
    assert await cache.get("p") is None
    assert store.gets == 2
    await cache.write([creation("p")])
    assert await cache.get("p") is not None
    assert await cache.get("q") is None
    cache.put("q", state(1))
    assert await cache.get("q") == state(1)


async def test_ages(store: Gate, cache: CachedStore, clock: ManualClock) -> None:
    """An entry is believed for its time; while changes are followed it does not age.

    When that ends it ages anew.
    """
    await store.write([creation("p")])
    await cache.get("p")
    clock.advance(29)
    await cache.get("p")
    assert store.gets == 1
    clock.advance(1)
    assert cache.peek("p") is None
    await cache.get("p")
    assert store.gets == 2
    cache.steady = True
    clock.advance(10_000)
    assert cache.peek("p") is not None
    assert await cache.load(["p"])
    cache.steady = False
    clock.advance(29)
    assert cache.peek("p") is not None
    clock.advance(1)
    assert cache.peek("p") is None
    assert (store.gets, store.loads) == (2, [])


async def test_hidden_when_it_expires(cache: CachedStore, clock: ManualClock) -> None:
    """An entry is hidden from its expiry on, however fresh it is, and load still has it."""
    cache.steady = True
    cache.put("p", state(1, expires_at=clock.ms() + 5000))
    assert cache.peek("p") is not None
    clock.advance(5)
    assert cache.peek("p") is None
    assert await cache.get("p") is None
    assert list(await cache.load(["p"])) == ["p"]


async def test_tombstones_age(cache: CachedStore, clock: ManualClock) -> None:
    """A tombstone ages even while changes are followed.

    Once it is purged its id starts again at version 1.
    """
    cache.steady = True
    cache.put("p", state(5, None))
    cache.put("p", state(1))
    assert cache.peek("p") is None
    clock.advance(30)
    cache.put("p", state(1))
    assert cache.peek("p") == state(1)
    cache.put("q", state(5, None))
    assert await cache.write([creation("q")]) == [None]
    assert cache.peek("q") is not None


@pytest.mark.parametrize("read", ["get", "load", "put"])
async def test_what_has_expired_ages(
    store: Gate, cache: CachedStore, clock: ManualClock, read: str
) -> None:
    """What has expired ages even while changes are followed.

    Purged and made again at version 1, it is seen again.
    """
    cache.steady = True
    again = creation("p")
    cache.put("p", state(5, expires_at=clock.ms() + 5000))
    clock.advance(29)
    cache.put("p", again.stored)  # older than what is known, as far as anybody can tell
    assert list((await cache.load(["p"])).values()) == [state(5, expires_at=clock.ms() - 24_000)]
    assert store.loads == []
    clock.advance(1)
    await MemoryStore.write(store, [again])
    if read == "put":
        cache.put("p", again.stored)
        assert cache.peek("p") == again.stored
    elif read == "load":
        assert await cache.load(["p"]) == {"p": again.stored}
    assert await cache.get("p") == again.stored
    assert store.gets == (1 if read == "get" else 0)
    clock.advance(10_000)
    assert cache.peek("p") == again.stored


async def test_load_reads_the_rest(store: Gate, cache: CachedStore) -> None:
    """A load reads in one call what is not in memory, and what it read is in memory afterwards."""
    writes = [creation(one) for one in "abc"]
    await store.write(writes)
    cache.put("b", state(7))
    found = await cache.load(["a", "b", "c", "d"])
    assert store.loads == [["a", "c", "d"]]
    assert found == {"a": writes[0].stored, "b": state(7), "c": writes[2].stored}
    assert await cache.load(["a", "b", "c"]) == found
    assert len(store.loads) == 1


async def test_past_the_cache(store: Gate, cache: CachedStore) -> None:
    """A fresh read asks the store, and what it finds is kept, unless the cache knows of something newer."""
    await store.write([creation("p")])
    await cache.get("p")
    newer = writing(prediction("p", 2), 1)
    await store.write([newer])
    assert await cache.get_fresh("p") == newer.stored
    assert cache.peek("p") == newer.stored
    cache.put("p", state(9))
    assert (await cache.load_fresh(["p"]))["p"] == newer.stored
    assert cache.peek("p") == state(9)
    assert await cache.get_fresh("gone") is None


async def test_writes_show_after_the_commit(store: Gate, cache: CachedStore) -> None:
    """A write is read from the cache only once the store has it."""
    first, second = creation("p"), writing(prediction("p", 2), 1)
    await cache.write([first])
    store.gate.clear()
    write = asyncio.create_task(cache.write([second]))
    await asyncio.sleep(0)
    assert cache.peek("p") == first.stored
    store.gate.set()
    assert await write == [None]
    assert cache.peek("p") == second.stored


async def test_a_late_write_does_not_go_back(store: Gate, cache: CachedStore) -> None:
    """A state that was announced while an older one was on its way to the store stays."""
    await cache.write([creation("p")])
    store.gate.clear()
    write = asyncio.create_task(cache.write([writing(prediction("p", 2), 1), creation("q")]))
    await asyncio.sleep(0)
    cache.put("p", state(3))
    store.gate.set()
    assert await write == [None, None]
    assert cache.peek("p") == state(3)
    assert cache.peek("q") == creation("q").stored
    size = cache.size
    cache.invalidate("p")
    cache.invalidate("q")
    assert size > 0
    assert cache.size == 0


async def test_conflict_forgets(store: Gate, cache: CachedStore) -> None:
    """After a conflict the cache does not answer from what it had."""
    await cache.write([creation("p")])
    other = writing(prediction("p", 2), 1)
    await store.write([other])
    assert await cache.write([writing(prediction("p", 2, Status.FAILED), 1)]) == [Conflict(2)]
    assert cache.peek("p") is None
    assert await cache.load(["p"]) == {"p": other.stored}


async def test_unknown_outcome_forgets(store: Gate, cache: CachedStore) -> None:
    """After a write whose outcome nobody knows the cache asks the store."""
    await cache.write([creation("p")])
    store.fault = StoreUnavailable("cut")
    second = writing(prediction("p", 2), 1)
    with pytest.raises(StoreUnavailable):
        await cache.write([second])
    store.fault = None
    assert await cache.get("p") == second.stored


async def test_bounded_in_records(store: Gate, clock: ManualClock) -> None:
    """There are never more entries than allowed, and those that are read stay longest."""
    cache = CachedStore(store, records=1000, clock=clock)
    for number in range(10_000):
        cache.put(str(number), state(1))
        assert cache.peek("0") is not None
        assert len(cache) <= 1000
    assert len(cache) > 900
    assert cache.peek("9999") is not None
    assert cache.peek("500") is None


async def test_what_has_ended_goes_first(store: Gate, clock: ManualClock) -> None:
    """Of what a processor has written, ended records make room before those that more events are coming for."""
    cache = CachedStore(store, records=1000, clock=clock)
    ended = [prediction(f"e{number}", 2, Status.SUCCEEDED) for number in range(490)]
    await cache.write([creation(f"r{number}") for number in range(500)])
    await cache.write([creation(one.prediction_id) for one in ended])
    await cache.write([writing(one, 1) for one in ended])
    await cache.write([creation(f"s{number}") for number in range(450)])
    running = [
        f"{word}{number}" for word, most in (("r", 500), ("s", 450)) for number in range(most)
    ]
    assert all(cache.peek(one) is not None for one in running)
    assert len(cache) <= 1000


async def test_bounded_in_bytes(store: Gate) -> None:
    """The bytes of all entries stay within the bound as they come, grow and go."""
    cache = CachedStore(store, bytes_=1_000_000)
    for number in range(3000):
        cache.put(str(number % 700), Stored(number + 1, Status.STARTING, b"x" * (number % 5000)))
        assert cache.size <= 1_000_000
    assert len(cache) > 100
    for number in range(700):
        cache.invalidate(str(number))
    assert (len(cache), cache.size) == (0, 0)


async def test_too_large_for_the_cache(store: Gate) -> None:
    """A record larger than the whole cache is answered, and not kept."""
    cache = CachedStore(store, bytes_=10_000)
    write = creation("p", prompt="x" * 20_000)
    assert await cache.write([write]) == [None]
    assert await cache.get("p") == write.stored
    assert cache.size <= 10_000


STEPS = st.lists(
    st.sampled_from(["get", "load", "write", "delete", "news", "release", "clear", "forget"]),
    max_size=30,
)


@settings(deadline=None)
@given(steps=STEPS)
async def test_never_goes_back(steps: list[str]) -> None:
    """However reads, writes, announcements and invalidations interleave, no read answers below what was known."""
    store = Gate()
    cache = CachedStore(store)
    version, known, announced = 0, 0, 0
    reads: list[tuple[int, asyncio.Task[dict[str, Stored]]]] = []

    async def read() -> dict[str, Stored]:
        stored = await cache.get("p")
        return {"p": stored} if stored else {}

    for step in [*steps, "release", "load", "release"]:
        if step in {"get", "load"}:
            store.gate.clear()
            reads.append(
                (known, asyncio.create_task(cache.load(["p"]) if step == "load" else read()))
            )
            await asyncio.sleep(0)
        elif step in {"write", "delete"}:
            version += 1
            record = tombstone("p", version) if step == "delete" else prediction("p", version)
            await MemoryStore.write(store, [writing(record, version - 1)])
        elif step == "news" and announced < version:
            announced = known = version
            cache.put("p", (await MemoryStore.load(store, ["p"]))["p"])
        elif step in {"clear", "forget"}:
            cache.clear() if step == "clear" else cache.invalidate("p")
        elif step == "release":
            store.gate.set()
            for floor, task in reads:
                for stored in (await task).values():
                    assert floor <= stored.version <= version
            reads.clear()
    if version and known:
        cached = await cache.load(["p"])
        assert cached["p"].version >= known
