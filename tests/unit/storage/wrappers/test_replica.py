"""All records in memory, filled by the changes alone."""

from collections.abc import Sequence

import pytest

from tests.support.clock import ManualClock
from tests.support.storage.samples import prediction, tombstone
from tidings.storage.memory import MemoryStore
from tidings.storage.prediction import Prediction, Status, Tombstone, encode
from tidings.storage.store import Page, Query, Stored, Write
from tidings.storage.wrappers.replica import TOMBSTONES, Replica


class Unasked(MemoryStore):
    """A store that must not be read."""

    async def get(self, prediction_id: str) -> Stored | None:
        raise AssertionError(prediction_id)

    async def load(self, prediction_ids: Sequence[str]) -> dict[str, Stored]:
        raise AssertionError(prediction_ids)

    async def list(self, query: Query) -> Page:
        raise AssertionError(query)


def stored(record: Prediction | Tombstone, expires_at: int | None = None) -> Stored:
    return Write(record, encode(record), 0, expires_at).stored


async def test_it_answers_from_memory_alone_and_never_goes_back() -> None:
    """A known record, an unknown one and a deleted one are all answered without the store.

    Old versions are passed over.
    """
    replica = Replica(Unasked())
    newest = stored(prediction("p", 3))
    replica.put("p", newest)
    replica.put("p", stored(prediction("p", 2)))
    replica.put("gone", stored(tombstone("gone", 4)))
    replica.put("gone", stored(prediction("gone", 3)))
    assert await replica.get("p") == newest
    assert await replica.get("gone") is None
    assert await replica.get("nobody") is None
    assert await replica.get_fresh("p") == replica.peek("p")
    loaded = await replica.load(["p", "gone", "nobody"])
    assert loaded.keys() == {"p", "gone"}
    assert loaded["gone"].deleted
    replica.put("gone", stored(prediction("gone", 5)))
    assert (await replica.get("gone")) is not None


async def test_it_lists_newest_first_by_every_filter_in_pages() -> None:
    """All that is visible comes once, in order, also while others come and go between the pages."""
    clock = ManualClock(1_764_000_000_000)
    replica = Replica(Unasked(), clock=clock)
    for n in range(30):
        owner, tag = f"o{n % 2}", f"t{n % 3}"
        record = prediction(
            f"p{n:02}", created_at=1000 + n, owner=owner, tags=(tag,), model=f"m{n % 5}"
        )
        replica.put(f"p{n:02}", stored(record, clock.now_ms if n == 7 else None))
    names: list[str] = []
    cursor = None
    while True:
        page = await replica.list(Query(limit=7, cursor=cursor))
        names += [one.standing().prediction_id for one in page.items]
        cursor = page.cursor
        if cursor is None:
            break
        replica.put(f"late-{len(names)}", stored(prediction(f"late-{len(names)}", created_at=5000)))
        if len(names) == 7:
            replica.invalidate("p13")
    assert names == sorted(names, reverse=True)
    assert len(names) == 28
    assert "p07" not in names
    both = await replica.list(Query(owner="o0", tag="t0", limit=100))
    assert {one.standing().prediction_id for one in both.items} <= {
        f"p{n:02}" for n in range(0, 30, 6)
    }
    assert (await replica.list(Query(model="m1", owners=("o1",)))).items
    assert not (await replica.list(Query(status=Status.FAILED))).items
    with pytest.raises(ValueError, match="cursor"):
        await replica.list(Query(cursor="?"))


async def test_what_is_hidden_is_forgotten_in_time() -> None:
    """Expired records and old deletions go, and a later change of the same prediction is kept again."""
    clock = ManualClock(1_764_000_000_000)
    replica = Replica(Unasked(), clock=clock)
    replica.put("p", stored(prediction("p"), clock.now_ms + 10))
    replica.put("stays", stored(prediction("stays")))
    replica.put("gone", stored(tombstone("gone", 4)))
    size = replica.size
    assert replica.forget_hidden(clock.now_ms) == 0
    clock.now_ms += 10
    assert await replica.get("p") is None
    assert replica.forget_hidden(clock.now_ms) == 1
    clock.now_ms += TOMBSTONES
    assert replica.forget_hidden(clock.now_ms) == 1
    assert len(replica) == 1
    assert replica.size < size
    replica.put("p", stored(prediction("p", 2)))
    assert await replica.get("p") is not None
    replica.clear()
    assert (len(replica), replica.size) == (0, 0)
