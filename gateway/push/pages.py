"""Pages of records for snapshots: small, counted while they are held, and read in turn.

A client that reads slowly, or not at all, keeps the page that its snapshot stands at in memory. So
a page is cut to `PAGE_BYTES`, and the next one is read when the client has taken it. What all pages
hold is bounded per owner and in all. Few are read at once, owners take turns, and subscribers that
wait for the same page share one read.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import ParamSpec, TypeVar

import msgspec
from msgspec import Struct, structs

from tidings.gateway.http.held_bytes import HeldAccount, Kind
from tidings.storage.cursor import ListingPlace, encode_cursor
from tidings.storage.errors import StorageError
from tidings.storage.store import Page, Query, Stored
from tidings.storage.wrappers.cache import CachedStore
from tidings.storage.wrappers.fair_listing import FairListing, Lister

FIRST = 16
"""Records of a first page, whose size nobody knows yet; the next ones grow to `MOST`."""

MOST = 128

PAGE_BYTES = 1024 * 1024
"""Bytes of a page that is held; at least one record."""

PAUSE = 0.1
"""Seconds between two looks for room in the budget."""

RETRIES = (0.05, 0.2, 0.8, 2.0)
"""Seconds before each further try of a read that failed in a way that may pass."""

T = TypeVar("T")
P = ParamSpec("P")


class Named(Struct, gc=False, rename="camel"):
    """Of a record what is needed to go on behind it."""

    prediction_id: str
    created_at: int = 0


decode_named = msgspec.json.Decoder(Named).decode


class PageReader:
    """Reads pages for those who hold them while a client takes its time.

    Args:
        records: Where they are read.
    """

    def __init__(self, records: Lister) -> None:
        self._reads = records.reads if isinstance(records, CachedStore) else FairListing(records)

    async def pages(self, query: Query, account: HeldAccount) -> AsyncGenerator[list[Stored]]:
        """All pages of a listing; each counts as held until the next one is asked for.

        Args:
            query: Its limit is the size of the first page.
            account: Of the client.

        Raises:
            StorageError: The store does not answer.
        """
        size, average = query.limit, PAGE_BYTES // FIRST
        cursor = query.cursor
        while True:
            estimate = size * average
            await room(account, estimate)
            try:
                asked = structs.replace(query, limit=size, cursor=cursor)
                page = await persist(self._reads.list, asked, account.owner)
            finally:
                account.give_back(Kind.SNAPSHOTS, estimate)
            items, cursor = _cut(page)
            held = sum(len(stored.encoded) for stored in items)
            del page  # what was cut off is not held
            account.count(Kind.SNAPSHOTS, held)
            try:
                yield items
            finally:
                account.give_back(Kind.SNAPSHOTS, held)
            if cursor is None:
                return
            average = max(1, held // max(1, len(items)))
            size = min(MOST, max(FIRST, 2 * size), max(1, PAGE_BYTES // average))

    @asynccontextmanager
    async def turn(self, owner: str | None) -> AsyncIterator[None]:
        """Wait for a read of another kind to be this owner's turn."""
        async with self._reads.turn(owner):
            yield


async def room(account: HeldAccount, size: int) -> None:
    """Wait until so many bytes may be held for a snapshot, and count them.

    An owner that holds nothing always gets its page: others cannot keep it from reading.
    """
    while not account.take(Kind.SNAPSHOTS, size):
        if account.holds_alone:
            account.count(Kind.SNAPSHOTS, size)
            return
        await asyncio.sleep(PAUSE)


def _cut(page: Page) -> tuple[list[Stored], str | None]:
    """The records that may be held, and the cursor of what follows them."""
    size = 0
    for position, stored in enumerate(page.items):
        size += len(stored.encoded)
        if size > PAGE_BYTES and position:
            return page.items[:position], cursor_behind(page.items[position - 1])
    return page.items, page.cursor


def cursor_behind(stored: Stored) -> str:
    """The cursor of what follows a record in a listing."""
    last = decode_named(stored.encoded)
    return encode_cursor(ListingPlace(last.created_at, last.prediction_id))


async def persist(read: Callable[P, Awaitable[T]], *args: P.args, **kwargs: P.kwargs) -> T:
    """The read's result, tried again if the store says that a retry helps."""
    for delay in RETRIES:
        try:
            return await read(*args, **kwargs)
        except StorageError as error:
            if not error.retryable:
                raise
        await asyncio.sleep(delay)
    return await read(*args, **kwargs)
