"""Pages for snapshots: small, counted while they are held, read in turn and shared."""

import asyncio
from contextlib import aclosing
from typing import Any

import pytest

from tests.support.conditions import eventually
from tests.support.gateway.pushing import hear_until, pushing, say
from tests.unit.gateway.websocket.test_connection import versions
from tidings.gateway.http.held_bytes import HeldBytes, HeldLimits, Kind
from tidings.gateway.push.pages import PAGE_BYTES, PageReader
from tidings.storage.memory import MemoryStore
from tidings.storage.prediction import Prediction, Status, encode
from tidings.storage.store import Page, Query, Write

pytestmark = pytest.mark.doors


class Store(MemoryStore):
    """Counts its lists, and lets them wait."""

    def __init__(self) -> None:
        super().__init__()
        self.lists = 0
        self.gate = asyncio.Event()
        self.gate.set()

    async def list(self, query: Query) -> Page:
        self.lists += 1
        await self.gate.wait()
        return await super().list(query)


async def stand(store: MemoryStore, prediction_id: str, size: int, **fields: Any) -> None:
    record = Prediction(
        prediction_id=prediction_id,
        status=Status.PROCESSING,
        version=1,
        created_at=int(prediction_id.removeprefix("p")),
        updated_at=1,
        model="m" * size,
        **fields,
    )
    assert await store.write([Write(record, encode(record), 0)]) == [None]


async def test_a_page_is_small_however_large_its_records_are() -> None:
    """Every record comes, in order, in pages of few bytes, each counted until the next is asked for."""
    store, held = Store(), HeldBytes()
    for number in range(300):
        await stand(store, f"p{number}", 10 if number % 2 else 100_000)
    pages = PageReader(store).pages(Query(limit=16), held.account("ann"))
    found = []
    async with aclosing(pages):
        async for items in pages:
            size = sum(len(stored.encoded) for stored in items)
            assert held.owner_holds("ann") == held.by_kind[Kind.SNAPSHOTS] == size <= PAGE_BYTES
            found += [stored.standing().prediction_id for stored in items]
    assert found == [f"p{number}" for number in reversed(range(300))]
    assert held.total == 0


async def test_an_owner_at_its_limit_waits_and_others_read() -> None:
    """What unread snapshots hold is bounded for an owner; another owner still gets a page."""
    store = Store()
    held = HeldBytes(HeldLimits(owner=PAGE_BYTES, process=PAGE_BYTES))
    for number in range(20):
        await stand(store, f"p{number}", 200_000)
    reader = PageReader(store)
    first = reader.pages(Query(limit=16), held.account("ann"))
    second = reader.pages(Query(limit=16), held.account("ann"))
    other = reader.pages(Query(limit=16), held.account("bob"))
    await anext(first)
    waiting = asyncio.ensure_future(anext(second))
    async with asyncio.timeout(10):
        assert await anext(other)
        assert not waiting.done()
        await first.aclose()
        await other.aclose()
        assert await waiting
    await second.aclose()
    assert held.total == 0


async def test_those_who_wait_for_the_same_page_share_its_reading() -> None:
    """A read that has not begun is shared; one that has may lack what a newcomer must see."""
    store, held = Store(), HeldBytes()
    await stand(store, "p1", 10)
    store.gate.clear()
    reader = PageReader(store)

    async def read() -> int:
        async with aclosing(reader.pages(Query(limit=16), held.account("ann"))) as pages:
            return len([stored async for items in pages for stored in items])

    first = [asyncio.create_task(read()) for _ in range(5)]
    await eventually(lambda: store.lists == 1)
    later = [asyncio.create_task(read()) for _ in range(5)]
    await eventually(lambda: store.lists == 2)
    last = [asyncio.create_task(read()) for _ in range(5)]
    await asyncio.sleep(0)
    await stand(store, "p2", 10)
    store.gate.set()
    async with asyncio.timeout(10):
        await asyncio.gather(*first, *later)
        assert await asyncio.gather(*last) == [2] * 5
    assert store.lists == 3


async def test_a_client_that_reads_nothing_holds_little() -> None:
    """Eight snapshots of large records, unread: a page is held, not eight times all of them."""
    async with pushing() as push, push.client(max_queue=1, max_size=None) as client:
        for number in range(60):
            await push.stand(f"p{number}", 2, owner="a", model="m" * 300_000)
        await hear_until(client, "welcome")
        client.transport.pause_reading()
        for ref in range(8):
            await say(client, type="subscribe", ref=ref, owner="a", limit=10_000 - ref)
        (connection,) = (one for group in push.sessions._groups for one in group)
        await eventually(lambda: connection.session.backed_up)
        assert 0 < push.held.by_kind[Kind.SNAPSHOTS] <= PAGE_BYTES
        client.transport.resume_reading()
        for ref in range(8):
            heard = await hear_until(client, "synced")
            assert heard[-1]["ref"] == ref
        await eventually(lambda: push.held.total == 0)


async def test_repeats_are_answered_together() -> None:
    """A subscription repeated while its snapshot waits costs no further reading, and is answered."""
    async with pushing() as push, push.client(max_size=None) as client:
        for number in range(30):
            await push.stand(f"p{number}", 2, owner="a")
        lists = 0
        listing = push.store.list

        async def counted(query: Query) -> Page:
            nonlocal lists
            lists += 1
            return await listing(query)

        push.store.list = counted  # type: ignore[method-assign]
        for ref in range(7):
            await say(client, type="subscribe", ref=ref, owner="a")
        heard: list[dict[str, Any]] = []
        for ref in range(7):
            heard += await hear_until(client, "synced")
            assert heard[-1]["ref"] == ref
        assert len(versions(heard, "snapshot")) == 30
        assert lists <= 2 * 2
