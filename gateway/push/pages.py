"""Pages of records for snapshots: small, counted while they are held, and read in turn.

A client that reads slowly, or not at all, keeps the page that its snapshot stands at in memory. So
a page is cut to `PAGE_BYTES`, the next one is read when the client has taken it, and what all of
them hold is bounded per owner and in all. Few are read at once, owners take turns, and subscribers
that wait for the same page share one read.
"""

import asyncio
from collections import OrderedDict, deque
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import ParamSpec, Protocol, TypeVar

import msgspec
from msgspec import Struct, structs

from tidings.gateway.http.held_bytes import HeldAccount, Kind
from tidings.storage.cursor import Place, encode_cursor
from tidings.storage.errors import StorageError
from tidings.storage.store import Page, Query, Stored

FIRST = 16
"""Records of a first page, whose size nobody knows yet; the next ones grow to `MOST`."""

MOST = 128

PAGE_BYTES = 1024 * 1024
"""Bytes of a page that is held; at least one record."""

READS = 2
"""Pages read at once: more would only wait for the store, each with its records in memory."""

PAUSE = 0.1
"""Seconds between two looks for room in the budget."""

RETRIES = (0.05, 0.2, 0.8, 2.0)
"""Seconds before each further try of a read that failed in a way that may pass."""

T = TypeVar("T")
P = ParamSpec("P")


class Lister(Protocol):
    """What lists records."""

    async def list(self, query: Query) -> Page:
        """A page of what `get` would show."""


class Named(Struct, gc=False, rename="camel"):
    """Of a record what is needed to go on behind it."""

    prediction_id: str
    created_at: int = 0


decode_named = msgspec.json.Decoder(Named).decode


class PageReader:
    """Reads pages for those who hold them while a client takes its time.

    Args:
        records: Where from.
    """

    def __init__(self, records: Lister) -> None:
        self._records = records
        self._turns = Turns(READS)
        self._next: dict[Query, asyncio.Task[Page]] = {}
        """Reads that have not begun yet, which others may share."""

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
                page = await persist(self._read, asked, account.owner or "")
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
        async with self._turns.turn(owner or ""):
            yield

    async def _read(self, query: Query, owner: str) -> Page:
        task = self._next.get(query)
        if task is None:
            task = asyncio.get_running_loop().create_task(self._read_in_turn(query, owner))
            self._next[query] = task
        return await asyncio.shield(task)

    async def _read_in_turn(self, query: Query, owner: str) -> Page:
        async with self._turns.turn(owner):
            # From here on nobody may join: what is written now may be missing in this page, and was
            # announced before whoever comes later had subscribed.
            del self._next[query]
            return await self._records.list(query)


class Turns:
    """Lets a few run at once, and has the owners that wait take turns.

    Args:
        most: How many at once.
    """

    def __init__(self, most: int) -> None:
        self._free = most
        self._waiting: OrderedDict[str, deque[asyncio.Future[None]]] = OrderedDict()

    @asynccontextmanager
    async def turn(self, owner: str) -> AsyncIterator[None]:
        """Wait until it is the owner's turn, and give it on at the end."""
        if self._free:
            self._free -= 1
        else:
            turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.setdefault(owner, deque()).append(turn)
            try:
                await turn
            except asyncio.CancelledError:
                if turn.done() and not turn.cancelled():
                    self._give_on()  # it had come, and nobody takes it
                raise
        try:
            yield
        finally:
            self._give_on()

    def _give_on(self) -> None:
        while self._waiting:
            owner, turns = self._waiting.popitem(last=False)
            turn = turns.popleft()
            if turns:
                self._waiting[owner] = turns  # behind the others
            if not turn.done():
                turn.set_result(None)
                return
        self._free += 1


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
    return encode_cursor(Place(last.created_at, last.prediction_id))


async def persist(read: Callable[P, Awaitable[T]], *args: P.args, **kwargs: P.kwargs) -> T:
    """The read's result, tried again where the store says that a retry helps."""
    for delay in RETRIES:
        try:
            return await read(*args, **kwargs)
        except StorageError as error:
            if not error.retryable:
                raise
        await asyncio.sleep(delay)
    return await read(*args, **kwargs)
