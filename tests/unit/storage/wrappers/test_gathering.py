"""Lone writes are gathered, seen by whoever asks, and never lost while the process lives."""

from collections.abc import Sequence

import pytest

from tests.support.conditions import eventually
from tests.support.storage.samples import creation, prediction, tombstone, writing
from tidings.storage.errors import StorageError, StoreUnavailable
from tidings.storage.memory import MemoryStore
from tidings.storage.store import Conflict, Outcome, Query, Write
from tidings.storage.wrappers.gathering import MOST_WRITES, GatheringStore


class Behind(MemoryStore):
    """Notes the batches that reach it, and fails if it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[list[str]] = []
        self.fault: Exception | None = None

    async def write(self, writes: Sequence[Write]) -> list[Outcome]:
        if self.fault is not None:
            raise self.fault
        self.batches.append([write.record.prediction_id for write in writes])
        return await super().write(writes)


class Bench:
    """A store that gathers, and what it tells."""

    def __init__(self) -> None:
        self.behind = Behind()
        self.told: list[int] = []
        self.ready = True
        self.store = GatheringStore(self.behind, lambda: self.ready, self._tell)

    async def _tell(self) -> None:
        self.told.append(len(self.behind.batches))

    async def write(self, *names: str) -> None:
        for name in names:
            assert await self.store.write([creation(name)]) == [None]


async def test_writes_that_come_one_by_one_share_a_transaction() -> None:
    """The first is written at once; those close behind it wait for each other, and then all is told."""
    bench = Bench()
    await bench.write("a", "b", "c")
    assert bench.behind.batches == [["a"]]
    assert bench.store.gathering
    await eventually(lambda: bench.told != [], 5)
    assert bench.behind.batches == [["a"], ["b", "c"]]
    assert bench.told == [2]
    assert not bench.store.gathering


async def test_what_waits_is_seen() -> None:
    """A load has it from memory; a read and a listing find it in the store."""
    bench = Bench()
    await bench.write("a", "b")
    assert set(await bench.store.load(["a", "b", "nobody"])) == {"a", "b"}
    assert len(bench.behind.batches) == 1
    assert len((await bench.store.list(Query())).items) == 2
    await bench.write("c")
    assert await bench.store.get("c") is not None


async def test_steps_of_one_prediction_become_one_write() -> None:
    """The last stands on what stood before the first, and a step that expects another version is a conflict."""
    bench = Bench()
    await bench.write("a", "b")
    assert await bench.store.write([writing(prediction("b", version=2), 1)]) == [None]
    assert await bench.store.write([writing(prediction("b", version=2), 1)]) == [Conflict(2)]
    await bench.store.flush()
    assert bench.behind.batches == [["a"], ["b"]]
    assert (await bench.behind.load(["b"]))["b"].version == 2


async def test_what_may_not_wait_is_written_behind_what_waits() -> None:
    """Several at once, a deletion, a growing text, and everything while changes may not wait."""
    bench = Bench()
    await bench.write("a", "b")
    assert await bench.store.write([creation("c"), creation("d")]) == [None, None]
    assert bench.behind.batches == [["a"], ["b"], ["c", "d"]]
    await bench.write("e")
    assert await bench.store.write([writing(tombstone("c", version=2), 1)]) == [None]
    assert bench.behind.batches[3:] == [["e"], ["c"]]
    growing = prediction("f", version=1, text_length=3)
    assert await bench.store.write([writing(growing, 0)]) == [None]
    assert bench.behind.batches[5:] == [["f"]]
    bench.ready = False
    await bench.write("g")
    assert bench.behind.batches[6:] == [["g"]]


async def test_no_more_is_gathered_than_the_loop_may_write() -> None:
    """The last one that fits brings all to the store."""
    bench = Bench()
    await bench.write("a", *[f"p{number}" for number in range(MOST_WRITES)])
    assert len(bench.behind.batches[1]) == MOST_WRITES


async def test_a_store_that_is_away_is_waited_out() -> None:
    """What waits goes on waiting, the next write meets the outage, and nothing is told until all stands."""
    bench = Bench()
    await bench.write("a", "b")
    bench.behind.fault = StoreUnavailable("away")
    with pytest.raises(StoreUnavailable):
        await bench.store.flush()
    with pytest.raises(StoreUnavailable):
        await bench.store.write([creation("c")])
    assert set(await bench.store.load(["b"])) == {"b"}
    assert bench.told == []
    bench.behind.fault = None
    await bench.write("c")
    assert bench.behind.batches == [["a"], ["b"], ["c"]]
    assert bench.told == [2]


async def test_another_writer_ends_it() -> None:
    """A conflict with what was told already is no outage; what a cut-off write has left is none at all."""
    bench = Bench()
    await bench.write("a", "b")
    assert await bench.behind.write([creation("b")]) == [None]
    await bench.store.flush()
    await bench.write("c")
    assert await bench.behind.write([writing(prediction("c", version=5), 0)]) == [None]
    with pytest.raises(StorageError, match="somebody else"):
        await bench.store.flush()


async def test_closing_writes_what_waits() -> None:
    """Nothing is left to a timer that nobody hears."""
    bench = Bench()
    await bench.write("a", "b")
    await bench.store.close()
    assert bench.behind.batches == [["a"], ["b"]]
