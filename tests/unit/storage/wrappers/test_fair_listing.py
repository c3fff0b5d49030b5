"""Listings of many callers take turns, and repeats of one cost one read."""

import asyncio

import pytest

from tests.support.conditions import eventually
from tests.support.storage.samples import creation
from tidings.storage.errors import StoreUnavailable
from tidings.storage.memory import MemoryStore
from tidings.storage.store import Page, Query
from tidings.storage.wrappers.fair_listing import FairListing


class Slow(MemoryStore):
    """Notes the owners that are listed, and holds each listing until it is let through."""

    def __init__(self) -> None:
        super().__init__()
        self.listed: list[str | None] = []
        self.gate = asyncio.Event()
        self.away = False

    async def list(self, query: Query) -> Page:
        self.listed.append(query.owner)
        await self.gate.wait()
        if self.away:
            raise StoreUnavailable("away")
        return await super().list(query)


def asked(listing: FairListing, owner: str, cursor: str | None = None) -> "asyncio.Task[Page]":
    return asyncio.create_task(listing.list(Query(owner=owner, cursor=cursor), owner))


async def test_a_flood_of_one_owner_delays_another_by_one_read() -> None:
    """However many different pages one owner asks for, another owner's is the next but one."""
    store = Slow()
    listing = FairListing(store, 1)
    flood = [
        asyncio.create_task(listing.list(Query(owner="ann", limit=n), "ann")) for n in range(1, 50)
    ]
    await eventually(lambda: store.listed == ["ann"])
    other = asked(listing, "bob")
    await asyncio.sleep(0)
    store.gate.set()
    await other
    assert store.listed.index("bob") <= 2
    await asyncio.gather(*flood)


async def test_repeats_share_a_read_that_has_not_begun() -> None:
    """Who asks for a page that is being read gets a later one.

    It may lack what was written meanwhile.
    """
    store = Slow()
    listing = FairListing(store, 1)
    first = [asked(listing, "ann") for _ in range(5)]
    await eventually(lambda: len(store.listed) == 1)
    later = [asked(listing, "ann") for _ in range(5)]
    await asyncio.sleep(0)
    await store.write([creation("p", owner="ann")])
    store.gate.set()
    assert {len((await one).items) for one in later} == {1}
    await asyncio.gather(*first)
    assert store.listed == ["ann", "ann"]


async def test_a_caller_that_goes_takes_nobody_with_it() -> None:
    """One of those who share a read is cancelled.

    The others get the page, and the next read begins.
    """
    store = Slow()
    listing = FairListing(store, 1)
    blocking = asked(listing, "eve")
    await eventually(lambda: len(store.listed) == 1)
    first, second = asked(listing, "ann"), asked(listing, "ann")
    await asyncio.sleep(0)
    first.cancel()
    store.gate.set()
    assert (await second).items == []
    await blocking


async def test_a_fault_reaches_all_who_share() -> None:
    """Where the store does not answer each caller hears of it, and the next read is tried anew."""
    store = Slow()
    store.gate.set()
    store.away = True
    listing = FairListing(store)
    results = await asyncio.gather(
        *(asked(listing, "ann") for _ in range(3)), return_exceptions=True
    )
    assert all(isinstance(result, StoreUnavailable) for result in results)
    store.away = False
    assert (await asked(listing, "ann")).items == []
    with pytest.raises(ValueError, match="cursor"):
        await asked(listing, "ann", cursor="none")
