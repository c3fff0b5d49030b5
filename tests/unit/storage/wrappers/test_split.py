"""Each prediction lies in one arm, and stays there whatever the percentage becomes."""

import pytest

from tests.support.storage.samples import creation, fresh, prediction, tombstone, writing
from tidings.storage.memory import MemoryStore
from tidings.storage.store import Conflict, Ownership, Query
from tidings.storage.wrappers.split import SplitStore


async def test_share() -> None:
    """About the given percentage of new predictions goes to arm B, the same ones every time."""
    ids = [fresh() for _ in range(5000)]
    for percent in (0, 10, 50, 100):
        split = SplitStore(MemoryStore(), MemoryStore(), percent)
        arms = [split.arm(one) for one in ids]
        assert abs(sum(arms) / 50 - percent) < 3
        assert arms == [SplitStore(MemoryStore(), MemoryStore(), percent).arm(one) for one in ids]
    with pytest.raises(ValueError, match="101"):
        SplitStore(MemoryStore(), MemoryStore(), 101)


async def test_percentage_changes() -> None:
    """A record stays where it was found.

    Reads, writes, deletion and a second creation all meet it there.
    """
    a, b = MemoryStore(), MemoryStore()
    before, after = SplitStore(a, b, 0), SplitStore(a, b, 100)
    ids = [fresh() for _ in range(50)]
    await before.write([creation(one) for one in ids])
    assert len(await after.load(ids)) == 50
    assert await after.get(ids[0]) is not None
    assert await after.write([creation(one) for one in ids]) == [Conflict(1)] * 50
    assert await after.write([writing(prediction(one, 2), 1) for one in ids]) == [None] * 50
    assert await b.load(ids) == {}
    assert await after.write([writing(tombstone(ids[0], 3), 2)]) == [None]
    assert await after.write([creation(ids[0])]) == [Conflict(3)]
    assert await after.write([writing(prediction(ids[0], 4), 3), creation("new")]) == [None, None]
    assert list(await b.load([*ids, "new"])) == ["new"]
    assert await after.write([writing(prediction("gone", 2), 1)]) == [Conflict(0)]


async def test_pages_of_both() -> None:
    """A listing is that of both arms, in one order, at any size of a page."""
    split = SplitStore(MemoryStore(), MemoryStore(), 50)
    writes = [creation(fresh(), created_at=1_764_000_000_000 + n // 2) for n in range(60)]
    await split.write(writes)
    expected = sorted(
        writes,
        key=lambda write: (write.record.created_at, write.record.prediction_id),  # type: ignore[union-attr]
        reverse=True,
    )
    for limit in (1, 7, 60, 100):
        items, cursor = [], None
        while True:
            page = await split.list(Query(limit=limit, cursor=cursor))
            items += page.items
            if (cursor := page.cursor) is None:
                break
        assert [item.encoded for item in items] == [write.encoded for write in expected]


async def test_an_arm_of_somebody_else() -> None:
    """Where one arm belongs to another log, the claim says so."""
    a, b = MemoryStore(), MemoryStore()
    await b.claim(Ownership(log="another"))
    assert await SplitStore(a, b, 10).claim(Ownership(log="mine")) == Ownership(log="another")
