"""The protocol that every store speaks.

A wrapper (cache, fallback, split, metrics) is a store too.
"""

from collections.abc import Iterable, Sequence
from typing import Protocol

from msgspec import Struct

from tidings.storage.cursor import ListingPlace
from tidings.storage.prediction import (
    GROUP,
    Prediction,
    Standing,
    Status,
    Tombstone,
    decode,
    decode_tombstone,
    without_report,
)
from tidings.storage.usage import UsageSums


class Stored(Struct, frozen=True, gc=False):
    """A record as it rests in a store.

    Its bytes, and what routing and expiry need without decoding them. What was read is made by `as_read`.
    """

    version: int
    status: Status | None
    """None: a tombstone."""
    encoded: bytes
    expires_at: int | None = None
    """Outside reads hide the record from this time on (ms); None: never. `encoded` does not change
    with it."""
    owner: str | None = None
    degraded: bool = False
    """Read from a fallback while the store was away: it may be behind, and is not to be kept."""

    @property
    def deleted(self) -> bool:
        """Whether this is a tombstone."""
        return self.status is None

    def standing(self) -> Standing:
        """The record or tombstone, decoded."""
        return decode_tombstone(self.encoded) if self.status is None else decode(self.encoded)


def as_read(
    version: int,
    status: Status | None,
    encoded: bytes | str,
    expires_at: int | None = None,
    owner: str | None = None,
) -> Stored:
    """What a store gives: every read of every store passes here, and not at each door that shows a record.

    A check in `Stored` itself made each write dearer by 0.5 us, whose record was encoded a moment ago.
    """
    if isinstance(encoded, str):  # SQLite gives text if a person's own SQL has written it
        encoded = encoded.encode()
    return Stored(version, status, without_report(encoded), expires_at, owner)


class Write(Struct, frozen=True, gc=False):
    """One compare-and-set.

    Applied only if `expected` is the version that stands (0: nothing there at all).
    """

    record: Standing
    encoded: bytes
    expected: int
    expires_at: int | None = None
    purge_at: int | None = None
    """The row may be removed from this time on (ms); None: never."""

    @property
    def stored(self) -> Stored:
        """What a store holds once this is written."""
        record = self.record
        status = None if isinstance(record, Tombstone) else record.status
        return as_read(record.version, status, self.encoded, self.expires_at, record.owner)


class Conflict(Struct, frozen=True, gc=False):
    """Another version stands than the write expected; nothing was written for it."""

    version: int
    """The version that stands; 0 if there is nothing, or if the store cannot tell."""


class WriteRefused(Struct, frozen=True, gc=False):
    """The store will never take this write (too large for it, for example).

    The others of the batch were written.
    """

    reason: str


Outcome = Conflict | WriteRefused | None


BEFORE_ALL = -1
"""Earlier than every time. Not 0, which the Worker of the Durable Objects takes for "not said"."""


class Query(Struct, frozen=True, kw_only=True):
    """What to list: newest first by creation, ties by id.

    Filters that are None match everything.
    """

    status: Status | None = None
    owner: str | None = None
    model: str | None = None
    tag: str | None = None
    provider: str | None = None
    error: str | None = None
    """Failed with this code, or with an error that has these words, whatever their case (of ASCII), in its first thousand
    characters."""
    owners: tuple[str, ...] | None = None
    """Any of these owners."""
    created_after: int | None = None
    """Created at this time (ms) or later."""
    created_before: int | None = None
    """Created before this time (ms)."""
    groups: bool | None = None
    """True: groups alone. False: all else. Stores that count heed it when they do."""
    limit: int = 50
    cursor: str | None = None
    """From the page before. A cursor is opaque, and stable while records come and go."""
    hidden: bool = False
    """Expired ones, too: for whoever looks after the store, never for outside reads."""

    def at(self, now: int) -> int:
        """The time (ms) that expiry is compared with: `now`, or one that nothing expires before."""
        return BEFORE_ALL if self.hidden else now


class Page(Struct, frozen=True):
    """A page of a listing, and the cursor of the next one (None: this was the last)."""

    items: list[Stored]
    cursor: str | None
    places: list[ListingPlace]
    """Where each item lies in the listing, as the store's index says, whatever its bytes hold."""

    @property
    def predictions(self) -> list[Prediction]:
        """The records themselves."""
        standing = (stored.standing() for stored in self.items)
        return [one for one in standing if isinstance(one, Prediction)]

    degraded: bool = False
    """Read from a fallback while the store was away."""


class Capabilities(Struct, frozen=True, kw_only=True):
    """What a store can do."""

    compare_and_set: bool = True
    durable: bool = True
    filters: frozenset[str] = frozenset({"status", "owner", "model", "tag"})
    """Names of the `Query` filters that it lists by; empty with `lists` False: it cannot list at
    all."""
    lists: bool = True


TIMES = frozenset({"created_after", "created_before"})
"""The filters by time, which stores that list from their own indexes have."""
INDEXED = TIMES | {"provider", "error"}
"""The filters that not every store has."""
TIMED = Capabilities(filters=Capabilities().filters | INDEXED)
"""Of a store that has all filters."""


class Ownership(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Written into a store by its first opener; whoever opens it later must bring the same."""

    log: str | None
    """The id of the log that it is built from; None: the library's door writes it."""
    strict: bool = False
    record_max: int = 524288


class PredictionStore(Protocol):
    """Where records rest.

    Methods raise `StoreUnavailable` if a retry helps, other `StorageError`s if not.

    Stores are subclasses: what a kind of store has nothing to do for is done here.
    """

    name: str
    """The kind of store, as metrics and messages call it: `sqlite`, `postgres`, ..."""
    capabilities: Capabilities

    async def claim(self, ownership: Ownership) -> Ownership:
        """Write the ownership if none is there yet; return the one that stands.

        Atomic over processes.
        """

    async def positions(self) -> dict[int, int]:
        """Per partition the highest offset in any record's `source` that was ever written."""

    async def get(self, prediction_id: str) -> Stored | None:
        """An outside read: deleted and expired records are hidden."""

    async def load(self, prediction_ids: Sequence[str]) -> dict[str, Stored]:
        """The processor's read, in one round trip.

        Tombstones and expired records included, missing ones left out.
        """

    async def write(self, writes: Sequence[Write]) -> list[Outcome]:
        """Apply each compare-and-set in one round trip (ids are distinct).

        Outcomes are in the order of the writes.
        """

    async def list(self, query: Query) -> Page:
        """A page of what `get` would show.

        Raises ValueError for a cursor that is not one of this store's.
        """

    async def count(self, query: Query, most: int) -> dict[str, int] | None:  # noqa: ARG002 - for stores that can
        """How many records the query's filters match, by status; its limit and cursor do not count.

        Args:
            query: The filters.
            most: Look at no more than about this many: a sum that reaches it is a lower bound.

        Returns:
            Statuses that no record has are left out. None: this store cannot count at a bounded
            cost.
        """
        return None

    async def find(self, phrase: str, query: Query) -> Page | None:  # noqa: ARG002 - for stores that can
        """As `list`, of those alone whose id or prompt has the phrase, whatever its case.

        Returns:
            None: this store cannot look it up, or so many records have it that it is found sooner
            among the newest.
        """
        return None

    async def unsearchable(self, query: Query) -> int | None:  # noqa: ARG002 - for stores that can
        """How many that the filters match have a prompt that lies apart, up to a thousand; None: unknown."""
        return None

    async def usage(self, query: Query, by: Sequence[str]) -> UsageSums | None:  # noqa: ARG002 - for stores that can
        """What the predictions that `get` would show have used, summed.

        Args:
            query: `owner`, `owners`, `model`, `provider` and the times count; nothing else does.
            by: Of `usage.GROUPS`: what the sums are told apart by, in this order.

        Returns:
            None: this store cannot sum.

        Raises:
            TooManyGroups: There would be more sums than fit into an answer.
        """
        return None

    async def index(self) -> int:
        """Bring up to date, by a thousand records or so, what is found and summed by; how many are left."""
        return 0

    async def sweep(self, now: int, limit: int) -> int:
        """Remove at most `limit` rows whose `purge_at` is at or before `now`.

        Return how many went.
        """

    async def close(self) -> None:
        """Finish what is under way and let go of connections, threads and files. Idempotent."""

    async def load_certain(self, prediction_ids: Sequence[str]) -> dict[str, Stored]:
        """As `load`, if a cache may answer only what it is sure of."""
        return await self.load(prediction_ids)

    async def load_fresh(self, prediction_ids: Sequence[str]) -> dict[str, Stored]:
        """As `load`, past any cache."""
        return await self.load(prediction_ids)

    def clear(self) -> None:
        """Forget what a cache holds: somebody else may have written."""
        return

    async def persist(self) -> None:
        """Wait until what was written survives a power cut, if `write` does not wait for that."""
        return

    async def mark_filled(self) -> None:
        """Say that everything is there, after a rebuild: writers that were held back go on."""
        return

    async def facts(self) -> dict[str, str]:
        """What an operator wants to know about the store, by name."""
        return {}


def distinct_ids(writes: Sequence[Write]) -> list[str]:
    """The ids of a batch's writes, in their order.

    Raises:
        ValueError: An id comes twice: what the second one expects is then not decided by the store.
    """
    ids = [write.record.prediction_id for write in writes]
    if len(set(ids)) != len(ids):
        twice = next(one for one in ids if ids.count(one) > 1)
        raise ValueError(f"a batch writes {twice!r} twice; fold its changes into one write")
    return ids


def high_water(writes: Iterable[Write]) -> dict[int, int]:
    """Per partition the highest offset in these records' `source`, for `PredictionStore.positions`."""
    highest: dict[str, int] = {}
    for write in writes:
        source = write.record.source
        if source is not None:
            for partition in source.offsets:
                offset = source.offsets[partition]
                if partition not in highest or offset > highest[partition]:
                    highest[partition] = offset
    return {int(partition): offset for partition, offset in highest.items()}


def hidden(stored: Stored, now: int) -> bool:
    """Whether outside reads must not see it."""
    return stored.status is None or (stored.expires_at is not None and stored.expires_at <= now)


def _failed_with(words: str, record: Prediction) -> bool:
    text = record.error[:1000] if isinstance(record.error, str) else ""
    return record.error_code == words or words.casefold() in text.casefold()


def matches(query: Query, record: Prediction) -> bool:
    """Whether the record passes the query's filters (not its cursor)."""
    return (
        (query.status is None or record.status == query.status)
        and (query.owner is None or record.owner == query.owner)
        and (query.owners is None or record.owner in query.owners)
        and (query.model is None or record.model == query.model)
        and (query.tag is None or query.tag in record.tags)
        and (query.provider is None or record.provider == query.provider)
        and (query.error is None or _failed_with(query.error, record))
        and (query.created_after is None or record.created_at >= query.created_after)
        and (query.created_before is None or record.created_at < query.created_before)
        and (query.groups is None or (record.kind == GROUP) is query.groups)
    )
