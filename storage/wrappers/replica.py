"""Every record's newest state in memory, as the changes tell it.

What a gateway reads where its store is a projection.

Such a store may show what is a minute old, so nothing is ever read from it. A reader of the changes
fills this from the whole topic before the gateway serves, and keeps it filled. It is a cache that
has everything, and asks nobody.
"""

import asyncio
from bisect import bisect_left, insort
from collections.abc import Sequence

import msgspec
from msgspec import Struct

from tidings.storage.clock import SYSTEM_CLOCK, Clock
from tidings.storage.cursor import ListingPlace, decode_cursor, encode_cursor
from tidings.storage.prediction import decode
from tidings.storage.store import (
    TIMED,
    Capabilities,
    Outcome,
    Page,
    PredictionStore,
    Query,
    Stored,
    Write,
    hidden,
    matches,
)
from tidings.storage.wrappers.cache import CachedStore

TOMBSTONES = 3_600_000
"""Ms for which a deletion is kept, so that an older version that comes late shows nothing."""

STRIDE = 500
"""Records that a listing looks at before it lets the event loop turn."""


class _Created(Struct, rename="camel", gc=False):
    created_at: int


_created = msgspec.json.Decoder(_Created)


class Replica(CachedStore):
    """Fill it by `put`; it never goes back to an older version.

    Args:
        store: The projection. It is written, swept and closed, but not read.
        clock: Dates what is deleted.
    """

    def __init__(self, store: PredictionStore, *, clock: Clock = SYSTEM_CLOCK) -> None:
        super().__init__(store, clock=clock)
        self.capabilities = Capabilities(
            compare_and_set=False, durable=store.capabilities.durable, filters=TIMED.filters
        )
        self._records: dict[str, Stored] = {}
        self._places: list[ListingPlace] = []
        self._created: dict[str, int] = {}
        self._graves: dict[str, int] = {}

    def __len__(self) -> int:
        """How many records there are, tombstones included."""
        return len(self._records)

    def peek(self, prediction_id: str) -> Stored | None:
        """What `get` answers, without waiting."""
        self.hits += 1
        stored = self._records.get(prediction_id)
        return None if stored is None or hidden(stored, self._clock.ms()) else stored

    def put(self, prediction_id: str, stored: Stored) -> None:
        """Keep a state that was announced, unless a newer one is known. Tombstones too."""
        standing = self._records.get(prediction_id)
        if standing is not None and stored.version < standing.version:
            return
        self._records[prediction_id] = stored
        self._size += len(stored.encoded) - (0 if standing is None else len(standing.encoded))
        if stored.status is None:
            self._unlist(prediction_id)
            self._graves[prediction_id] = self._clock.ms()
        elif standing is None or standing.status is None:
            self._graves.pop(prediction_id, None)
            created_at = self._created[prediction_id] = _created.decode(stored.encoded).created_at
            insort(self._places, ListingPlace(created_at, prediction_id))

    def invalidate(self, prediction_id: str) -> None:
        """Forget one record."""
        stored = self._records.pop(prediction_id, None)
        if stored is not None:
            self._size -= len(stored.encoded)
            self._unlist(prediction_id)
            self._graves.pop(prediction_id, None)

    def clear(self) -> None:
        """Forget everything; the whole topic must be read again."""
        self._records.clear()
        self._places.clear()
        self._created.clear()
        self._graves.clear()
        self._size = 0

    async def get(self, prediction_id: str) -> Stored | None:
        """The record, unless it is deleted or expired."""
        return self.peek(prediction_id)

    async def get_fresh(self, prediction_id: str) -> Stored | None:
        """As `get`: there is nothing fresher to ask."""
        return self.peek(prediction_id)

    async def load(self, prediction_ids: Sequence[str]) -> dict[str, Stored]:
        """What is known under these ids, tombstones (without bytes) and expired records included."""
        records = self._records
        return {one: stored for one in prediction_ids if (stored := records.get(one)) is not None}

    async def load_fresh(self, prediction_ids: Sequence[str]) -> dict[str, Stored]:
        """As `load`."""
        return await self.load(prediction_ids)

    async def write(self, writes: Sequence[Write]) -> list[Outcome]:
        """Write to the store; what was written comes back by the changes."""
        return await self.store.write(writes)

    async def list(self, query: Query) -> Page:
        """A page, newest first. Raises ValueError for a cursor that is none."""
        now = query.at(self._clock.ms())
        before = None if query.cursor is None else decode_cursor(query.cursor)
        items: list[Stored] = []
        places: list[ListingPlace] = []
        looked = 0
        while (place := self._below(before)) is not None:
            before = place
            stored = self._records[place.prediction_id]
            if not hidden(stored, now) and _matches(query, stored):
                if len(items) == query.limit:
                    cursor = encode_cursor(places[-1]) if places else None
                    return Page(items, cursor, places)
                items.append(stored)
                places.append(place)
            looked += 1
            if looked % STRIDE == 0:
                await asyncio.sleep(0)
        return Page(items, None, places)

    def forget_hidden(self, now: int) -> int:
        """Forget what has expired by now, and old deletions.

        What comes of them again is kept again.
        """
        due = [one for one, at in self._graves.items() if at + TOMBSTONES <= now]
        due += [one for one in self._created if hidden(self._records[one], now)]
        for one in due:
            self.invalidate(one)
        return len(due)

    def _below(self, place: ListingPlace | None) -> ListingPlace | None:
        """The next place of a listing, wherever others came and went meanwhile."""
        index = (len(self._places) if place is None else bisect_left(self._places, place)) - 1
        return self._places[index] if index >= 0 else None

    def _unlist(self, prediction_id: str) -> None:
        created_at = self._created.pop(prediction_id, None)
        if created_at is not None:
            del self._places[bisect_left(self._places, ListingPlace(created_at, prediction_id))]


def _matches(query: Query, stored: Stored) -> bool:
    """Whether it passes the filters; decoded only if model or tag decide."""
    if query.status is not None and stored.status != query.status:
        return False
    if query.owner is not None and stored.owner != query.owner:
        return False
    if query.owners is not None and stored.owner not in query.owners:
        return False
    times = (query.created_after, query.created_before)
    decoded = (query.model, query.tag, query.provider, query.error, *times)
    return decoded == (None,) * 6 or matches(query, decode(stored.encoded))
