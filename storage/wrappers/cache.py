"""A cache in front of a store, itself a store.

It never goes back in time. An older version never replaces a newer one, and a fill from the store
is dropped if a newer state or an invalidation came meanwhile. A deletion is kept as a tombstone, so
that an old fill cannot bring it back.
"""

import asyncio
from collections.abc import Sequence
from itertools import islice

from msgspec import Struct

from tidings.storage.clock import SYSTEM_CLOCK, Clock
from tidings.storage.prediction import Tombstone
from tidings.storage.store import (
    Conflict,
    Outcome,
    Ownership,
    Page,
    PredictionStore,
    Query,
    Stored,
    Write,
    hidden,
)
from tidings.storage.wrappers.fair_listing import FairListing
from tidings.storage.wrappers.pass_through import PassThrough

NEGATIVE_TTL = 2.0
"""Seconds for which the store is not asked again for an id that it does not have."""

_OVERHEAD = 600
"""Bytes an entry takes beside its encoding and its id: 300 of objects (`benchmarks/bench_cache.py`). Holes that
records leave in the heap as they grow take as much again, in a processor."""


class _Entry(Struct, gc=False):
    stored: Stored
    until: float
    """On the monotonic clock, in seconds."""
    used: bool = False
    """Read since the last time that it was spared an eviction, or still to be written."""
    told: bool = False
    """Put by somebody who heard of it, maybe long ago: the store may have something newer."""


class _Fill:
    """A read of one id that several callers wait for."""

    __slots__ = ("overtaken", "result")

    def __init__(self, result: "asyncio.Future[Stored | None]") -> None:
        self.result = result
        self.overtaken = False


class CachedStore(PassThrough):
    """Writes go through after the store has them; reads are answered from memory if it is fresh.

    Args:
        store: What is cached. `close` closes it.
        ttl: Seconds for which an entry is believed while nobody says that changes are followed
            (`steady`).
        records: At most this many entries.
        bytes_: At most about this many bytes of memory.
        clock: For expiry and for the age of entries.
        timer: Monotonic seconds, for ageing.
    """

    def __init__(
        self,
        store: PredictionStore,
        *,
        ttl: float = 30.0,
        records: int = 100_000,
        bytes_: int = 67_108_864,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self.store = store
        self.name = store.name
        self.capabilities = store.capabilities
        self._ttl = ttl
        self._most_records = records
        self._most_bytes = bytes_
        self._clock = clock
        self.reads = FairListing(self)
        """Through which everybody lists who serves many callers: they take turns at the store."""
        self._entries: dict[str, _Entry] = {}
        self._size = 0
        self._absent: dict[str, float] = {}
        self._fills: dict[str, _Fill] = {}
        self._bulk: list[set[str]] = []
        self._steady = False
        self._fresh_until = 0.0
        self.hits = 0
        self.misses = 0

    @property
    def steady(self) -> bool:
        """While True entries do not age: a reader of the changes puts every one of them.

        False: they age from now.

        Tombstones and what has expired always age: once the store has purged them, their ids start
        again at version 1.
        """
        return self._steady

    @steady.setter
    def steady(self, value: bool) -> None:
        if self._steady and not value:
            self._fresh_until = self._clock.monotonic() + self._ttl
        self._steady = value

    def __len__(self) -> int:
        """How many entries there are, tombstones included."""
        return len(self._entries)

    @property
    def size(self) -> int:
        """About how many bytes the entries take."""
        return self._size

    # The cache by itself.

    def peek(self, prediction_id: str) -> Stored | None:
        """What `get` would answer from memory; None: not in memory, deleted or expired.

        Never waits.
        """
        entry = self._entries.get(prediction_id)
        if entry is None:
            return None
        stored = entry.stored
        expires_at = stored.expires_at
        if (
            stored.status is None
            or not (self._steady or self._fresh(entry))
            or (expires_at is not None and expires_at <= self._clock.ms())
        ):
            return None
        entry.used = True
        self.hits += 1
        return stored

    def put(self, prediction_id: str, stored: Stored) -> None:
        """Keep a state that was announced, unless a newer one is known. Tombstones too."""
        self._put(prediction_id, stored, told=True)

    def _put(self, prediction_id: str, stored: Stored, *, told: bool) -> None:
        if self._fills and (fill := self._fills.get(prediction_id)) is not None:
            fill.overtaken = True
        for touched in self._bulk:
            touched.add(prediction_id)
        if self._absent:
            self._absent.pop(prediction_id, None)
        self._keep(prediction_id, stored, told=told)

    def invalidate(self, prediction_id: str) -> None:
        """Forget the id; a read of it that is under way is not kept either."""
        if (fill := self._fills.get(prediction_id)) is not None:
            fill.overtaken = True
        for touched in self._bulk:
            touched.add(prediction_id)
        self._absent.pop(prediction_id, None)
        self._drop(prediction_id)

    def clear(self) -> None:
        """Forget everything: the reader of the changes has a gap, or partitions moved."""
        for fill in self._fills.values():
            fill.overtaken = True
        self._fills.clear()
        # A bulk read under way is told apart by not being in the list any more.
        self._bulk.clear()
        self._absent.clear()
        self._entries.clear()
        self._size = 0

    # The store.

    async def claim(self, ownership: Ownership) -> Ownership:
        """As the store does."""
        return await self.store.claim(ownership)

    async def positions(self) -> dict[int, int]:
        """As the store does."""
        return await self.store.positions()

    async def get(self, prediction_id: str) -> Stored | None:
        """The record, from memory if it is fresh; concurrent misses of one id are one read."""
        entry = self._entries.get(prediction_id)
        if entry is not None:
            gone = hidden(entry.stored, self._clock.ms())
            if (
                self._clock.monotonic() < entry.until
                if gone
                else self._steady or self._fresh(entry)
            ):
                entry.used = True
                self.hits += 1
                return None if gone else entry.stored
        if self._absent and (until := self._absent.get(prediction_id)) is not None:
            if self._clock.monotonic() < until:
                self.hits += 1
                return None
            del self._absent[prediction_id]
        self.misses += 1
        return await self._fill(prediction_id)

    async def get_fresh(self, prediction_id: str) -> Stored | None:
        """The record as the store has it now."""
        found = await self.load_fresh((prediction_id,))
        stored = found.get(prediction_id)
        return None if stored is None or hidden(stored, self._clock.ms()) else stored

    async def load(self, prediction_ids: Sequence[str]) -> dict[str, Stored]:
        """What stands under these ids, tombstones and expired ones included.

        Only what is not in memory is read.
        """
        return await self._load(prediction_ids, certain=False)

    async def load_certain(self, prediction_ids: Sequence[str]) -> dict[str, Stored]:
        """As `load`, but what was only heard of (`put`) is read.

        For whoever is the only writer of these records.
        """
        return await self._load(prediction_ids, certain=True)

    async def _load(self, prediction_ids: Sequence[str], *, certain: bool) -> dict[str, Stored]:
        entries = self._entries
        now = self._clock.monotonic()
        all_fresh = self._steady or now < self._fresh_until
        wall = self._clock.ms()
        found: dict[str, Stored] = {}
        missing: list[str] = []
        for prediction_id in prediction_ids:
            entry = entries.get(prediction_id)
            if (
                entry is not None
                and (now < entry.until or (all_fresh and not hidden(entry.stored, wall)))
                and not (certain and entry.told)
            ):
                entry.used = True
                found[prediction_id] = entry.stored
            else:
                missing.append(prediction_id)
        self.hits += len(found)
        self.misses += len(missing)
        if missing:
            found.update(await self.load_fresh(missing))
        return found

    async def load_fresh(self, prediction_ids: Sequence[str]) -> dict[str, Stored]:
        """What stands under these ids in the store now.

        It is kept, unless something newer came meanwhile.
        """
        touched: set[str] = set()
        self._bulk.append(touched)
        try:
            found = await self.store.load(prediction_ids)
        finally:
            current = any(one is touched for one in self._bulk)
            if current:
                self._bulk = [one for one in self._bulk if one is not touched]
        if not current:
            return found
        for prediction_id in prediction_ids:
            stored = found.get(prediction_id)
            if prediction_id in touched:
                entry = self._entries.get(prediction_id)
                if entry is None:
                    continue
                if stored is None or entry.stored.version > stored.version:
                    found[prediction_id] = entry.stored
                else:
                    self._keep(prediction_id, stored)
            elif stored is not None:
                self._keep(prediction_id, stored)
            else:
                self._drop(prediction_id)
        return found

    async def write(self, writes: Sequence[Write]) -> list[Outcome]:
        """Write to the store, then keep what was written; what conflicted, or may have, is forgotten."""
        try:
            outcomes = await self.store.write(writes)
        except BaseException:
            # Of a failed or abandoned write nobody knows what became of it.
            for write in writes:
                self.invalidate(write.record.prediction_id)
            raise
        if not self._fills and not self._bulk and not self._absent and not any(outcomes):
            self._keep_written(writes)  # nobody reads: nothing but the entries is concerned
            return outcomes
        for write, outcome in zip(writes, outcomes, strict=True):
            if outcome is None:
                if write.expected == 0:
                    self._drop(write.record.prediction_id)  # a tombstone that the store has purged
                self._put(write.record.prediction_id, write.stored, told=False)
            elif isinstance(outcome, Conflict):
                self.invalidate(write.record.prediction_id)
        return outcomes

    def _keep_written(self, writes: Sequence[Write]) -> None:
        """Keep what the store has taken, in one pass; it was encoded here, and has nothing of older formats."""
        entries = self._entries
        until = self._clock.monotonic() + self._ttl
        size = self._size
        for write in writes:
            record = write.record
            prediction_id = record.prediction_id
            status = None if isinstance(record, Tombstone) else record.status
            stored = Stored(record.version, status, write.encoded, write.expires_at, record.owner)
            # Where nothing stood, an entry is a tombstone that the store has purged.
            take = entries.get if write.expected else entries.pop
            entry = take(prediction_id, None)
            if entry is not None:
                if write.expected and entry.stored.version > stored.version:
                    continue  # another processor's, announced meanwhile
                size -= len(entry.stored.encoded) + len(prediction_id) + _OVERHEAD
            # What has ended is rarely read again: it goes before what more events are coming for.
            entries[prediction_id] = _Entry(stored, until, not (status is None or status.terminal))
            size += len(stored.encoded) + len(prediction_id) + _OVERHEAD
        self._size = size
        if size > self._most_bytes or len(entries) > self._most_records:
            self._evict()

    async def list(self, query: Query) -> Page:
        """As the store does."""
        return await self.store.list(query)

    async def sweep(self, now: int, limit: int) -> int:
        """As the store does. A purged tombstone may stay here until it ages."""
        return await self.store.sweep(now, limit)

    async def persist(self) -> None:
        """As the store does."""
        await self.store.persist()

    async def mark_filled(self) -> None:
        """As the store does."""
        await self.store.mark_filled()

    async def facts(self) -> dict[str, str]:
        """As the store does."""
        return await self.store.facts()

    async def close(self) -> None:
        """Close the store."""
        self.clear()
        await self.store.close()

    async def _fill(self, prediction_id: str) -> Stored | None:
        while (fill := self._fills.get(prediction_id)) is not None:
            try:
                return await asyncio.shield(fill.result)
            except asyncio.CancelledError:
                task = asyncio.current_task()
                if not fill.result.cancelled() or (task is not None and task.cancelling()):
                    raise
                # The caller that read was cancelled, this one was not: it reads itself.
        fill = _Fill(asyncio.get_running_loop().create_future())
        self._fills[prediction_id] = fill
        try:
            stored = await self.store.get(prediction_id)
        except BaseException as error:
            self._finish(prediction_id, fill)
            if isinstance(error, Exception):
                fill.result.set_exception(error)
                fill.result.exception()  # this caller raises it itself; there may be no other
            else:
                fill.result.cancel()
            raise
        self._finish(prediction_id, fill)
        if not fill.overtaken:
            self._filled(prediction_id, stored)
        elif (entry := self._entries.get(prediction_id)) is not None:
            if stored is None or entry.stored.version > stored.version:
                stored = None if hidden(entry.stored, self._clock.ms()) else entry.stored
            else:
                self._keep(prediction_id, stored)
        fill.result.set_result(stored)
        return stored

    def _finish(self, prediction_id: str, fill: _Fill) -> None:
        if self._fills.get(prediction_id) is fill:
            del self._fills[prediction_id]

    def _filled(self, prediction_id: str, stored: Stored | None) -> None:
        if stored is not None:
            if not stored.degraded:
                self._keep(prediction_id, stored)
            return
        self._drop(prediction_id)
        if len(self._absent) >= self._most_records:
            for oldest in list(islice(self._absent, max(1, self._most_records // 64))):
                del self._absent[oldest]
        self._absent[prediction_id] = self._clock.monotonic() + NEGATIVE_TTL

    def _fresh(self, entry: _Entry) -> bool:
        """Of an entry that is not hidden."""
        now = self._clock.monotonic()
        return now < entry.until or now < self._fresh_until

    def _keep(self, prediction_id: str, stored: Stored, *, told: bool = False) -> None:
        entries = self._entries
        now = self._clock.monotonic()
        until = now + self._ttl
        entry = entries.get(prediction_id)
        if entry is not None:
            standing = entry.stored
            if stored.version < standing.version and (
                now < entry.until or not hidden(standing, self._clock.ms())
            ):
                return
            self._size += len(stored.encoded) - len(entry.stored.encoded)
            entry.told = told and (entry.told or stored.version != entry.stored.version)
            entry.stored = stored
            entry.until = until
            entry.used = not (stored.status is None or stored.status.terminal)
        else:
            entries[prediction_id] = _Entry(stored, until, told=told)
            self._size += len(stored.encoded) + len(prediction_id) + _OVERHEAD
        if self._size > self._most_bytes or len(entries) > self._most_records:
            self._evict()

    def _drop(self, prediction_id: str) -> None:
        entry = self._entries.pop(prediction_id, None)
        if entry is not None:
            self._size -= len(entry.stored.encoded) + len(prediction_id) + _OVERHEAD

    def _evict(self) -> None:
        """Go round like a clock: the oldest entries go, those used since the last round get another.

        About a hundredth goes at once, because finding the first key of a dict walks over what was
        deleted before it.
        """
        records = self._most_records - self._most_records // 100
        size = self._most_bytes - self._most_bytes // 100
        while self._entries and (len(self._entries) > records or self._size > size):
            for prediction_id in list(islice(self._entries, max(1, len(self._entries) // 100))):
                entry = self._entries.pop(prediction_id)
                if entry.used:
                    entry.used = False
                    self._entries[prediction_id] = entry
                else:
                    self._size -= len(entry.stored.encoded) + len(prediction_id) + _OVERHEAD
