"""A store in the memory of this process.

For tests and for programs whose predictions may die with them.
"""

from bisect import bisect_left, insort
from collections import Counter
from collections.abc import Sequence
from itertools import islice

from msgspec import Struct, structs

from tidings.storage.clock import SYSTEM_CLOCK, Clock
from tidings.storage.cursor import ListingPlace, decode_cursor, encode_cursor
from tidings.storage.errors import StoreMisconfigured
from tidings.storage.prediction import Prediction
from tidings.storage.store import (
    TIMED,
    Capabilities,
    Conflict,
    Outcome,
    Ownership,
    Page,
    PredictionStore,
    Query,
    Stored,
    Write,
    distinct_ids,
    hidden,
    high_water,
    matches,
)
from tidings.storage.usage import UsageSums, merged, of_record


class _Row(Struct, frozen=True, gc=False):
    stored: Stored
    record: Prediction | None
    """None: a tombstone."""
    purge_at: int | None


class MemoryStore(PredictionStore):
    """Keeps everything in dictionaries, and its ids in the order of a listing.

    Args:
        clock: What expiry is compared with.
    """

    name = "memory"
    capabilities = Capabilities(durable=False, filters=TIMED.filters)

    def __init__(self, *, clock: Clock = SYSTEM_CLOCK) -> None:
        self._clock = clock
        self._rows: dict[str, _Row] = {}
        self._places: list[ListingPlace] = []
        self._positions: dict[int, int] = {}
        self._ownership: Ownership | None = None
        self._notes: dict[str, str] = {}

    @classmethod
    async def open(cls, url: str, *, clock: Clock = SYSTEM_CLOCK) -> "MemoryStore":
        """An empty store; the URL is `memory://`."""
        if url.partition("://")[2].strip("/"):
            raise StoreMisconfigured(f"{url!r}: a store in memory has no path; write memory://")
        return cls(clock=clock)

    async def claim(self, ownership: Ownership) -> Ownership:
        """Write the ownership if none is there yet; return the one that stands."""
        if self._ownership is None:
            self._ownership = ownership
        return self._ownership

    async def notes(self) -> dict[str, str]:
        """See `Notes`."""
        return dict(self._notes)

    async def note(self, name: str, text: str) -> None:
        """See `Notes`."""
        self._notes[name] = text

    async def positions(self) -> dict[int, int]:
        """Per partition the highest offset that was ever written."""
        return dict(self._positions)

    async def get(self, prediction_id: str) -> Stored | None:
        """The record, unless it is deleted or expired."""
        row = self._rows.get(prediction_id)
        return None if row is None or hidden(row.stored, self._clock.ms()) else row.stored

    async def load(self, prediction_ids: Sequence[str]) -> dict[str, Stored]:
        """What stands under these ids, tombstones and expired records included."""
        rows = self._rows
        return {one: row.stored for one in prediction_ids if (row := rows.get(one)) is not None}

    async def write(self, writes: Sequence[Write]) -> list[Outcome]:
        """Apply each compare-and-set; raises ValueError if an id comes twice."""
        ids = distinct_ids(writes)
        outcomes: list[Outcome] = []
        written: list[Write] = []
        for prediction_id, write in zip(ids, writes, strict=True):
            row = self._rows.get(prediction_id)
            standing = 0 if row is None else row.stored.version
            if standing != write.expected:
                outcomes.append(Conflict(standing))
                continue
            self._put(prediction_id, write, row)
            written.append(write)
            outcomes.append(None)
        for partition, offset in high_water(written).items():
            self._positions[partition] = max(offset, self._positions.get(partition, -1))
        return outcomes

    async def list(self, query: Query) -> Page:
        """A page, newest first."""
        now = query.at(self._clock.ms())
        end = (
            len(self._places)
            if query.cursor is None
            else bisect_left(self._places, decode_cursor(query.cursor))
        )
        items: list[Stored] = []
        places: list[ListingPlace] = []
        for index in range(end - 1, -1, -1):
            place = self._places[index]
            row = self._rows[place.prediction_id]
            if row.record is None or hidden(row.stored, now) or not matches(query, row.record):
                continue
            if len(items) == query.limit:
                cursor = encode_cursor(places[-1]) if places else None
                return Page(items, cursor, places)
            items.append(row.stored)
            places.append(place)
        return Page(items, None, places)

    async def count(self, query: Query, most: int) -> dict[str, int] | None:
        """How many match, by status."""
        now = query.at(self._clock.ms())
        found = (
            row.record.status.value
            for row in self._rows.values()
            if row.record is not None and not hidden(row.stored, now) and matches(query, row.record)
        )
        return dict(Counter(islice(found, most)))

    async def usage(self, query: Query, by: Sequence[str]) -> UsageSums | None:
        """The sums."""
        wanted = structs.replace(query, status=None, tag=None, error=None)
        now = query.at(self._clock.ms())
        used = [
            of_record(row.record, by)
            for row in self._rows.values()
            if row.record is not None
            and row.record.usage is not None
            and not hidden(row.stored, now)
            and matches(wanted, row.record)
        ]
        return merged({key: one} for key, one in used)

    async def sweep(self, now: int, limit: int) -> int:
        """Remove at most `limit` rows whose `purge_at` is at or before `now`."""
        due = [
            one
            for one, row in self._rows.items()
            if row.purge_at is not None and row.purge_at <= now
        ][:limit]
        for prediction_id in due:
            self._unlist(prediction_id, self._rows.pop(prediction_id))
        return len(due)

    async def close(self) -> None:
        """Nothing to let go of; what was written stays until the store itself goes."""

    def _put(self, prediction_id: str, write: Write, before: _Row | None) -> None:
        record = write.record if isinstance(write.record, Prediction) else None
        old = before.record if before is not None else None
        if (old and old.created_at) != (record and record.created_at):
            self._unlist(prediction_id, before)
            if record is not None:
                insort(self._places, ListingPlace(record.created_at, prediction_id))
        self._rows[prediction_id] = _Row(write.stored, record, write.purge_at)

    def _unlist(self, prediction_id: str, row: _Row | None) -> None:
        if row is not None and row.record is not None:
            del self._places[
                bisect_left(self._places, ListingPlace(row.record.created_at, prediction_id))
            ]
