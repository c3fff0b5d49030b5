"""Records in Cloudflare KV: a projection for readers at the edge, not a place to decide in.

KV has no compare-and-set, and shows a change elsewhere after "up to 60 seconds or more". So one
writer has each key (the log's partition sees to that) and validates against a copy of its own,
never against KV.

With a log, the truth is its compacted changes topic. When the processor is given partitions it
calls

1. `await restore(writes)` with the newest versions of them. From then on `load` reads only the
   copy, and `write` returns at once. What was restored goes to KV again, as nobody knows what the
   former writer left there;
2. `await flush()` before it hands partitions over, and `forget(ids)` after;
3. `refresh(ids)` if an older version of another writer may have come last.

Without a log, `load` asks KV for what the copy does not know, and `write` returns when KV has taken
it. Then there may be one program only, and its predictions must not have been written by another in
the last minute.
"""

import asyncio
from collections.abc import Iterable, Sequence
from urllib.parse import urlsplit

import msgspec

from tidings.storage.clock import SYSTEM_CLOCK, Clock
from tidings.storage.cloudflare.kv_client import REST, Key, KvNamespace, Metadata, Pair
from tidings.storage.cloudflare.kv_codec import (
    OWNERSHIP,
    POSITION,
    PREDICTION,
    HeldRecord,
    may_match,
    metadata_of,
    refusal_of,
    stored_in,
)
from tidings.storage.cloudflare.kv_write_queue import KvWriteQueue
from tidings.storage.cloudflare.worker_api import required_token, worker_url
from tidings.storage.cursor import ListingPlace, decode_cursor, encode_cursor
from tidings.storage.errors import StorageError, StoreMisconfigured
from tidings.storage.prediction import decode
from tidings.storage.store import (
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

MOST_LISTED = 100_000
"""Predictions that a listing goes through: KV lists by name alone, so the newest are found by
reading all."""

LISTING_AGE = 10.0
"""Seconds that a listing's keys are used again; KV itself may be 60 s behind."""

STALE = 120.0
"""Seconds for which KV may still show what was deleted."""


class CloudflareKvStore(PredictionStore):
    """Opened with `await CloudflareKvStore.open(url)`."""

    name = "cloudflare_kv"
    capabilities = Capabilities(
        compare_and_set=False, filters=frozenset({"status", "owner", "model"})
    )

    def __init__(
        self,
        namespace: KvNamespace,
        *,
        write_interval: float = 1.0,
        timeout: float = 10.0,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._namespace = namespace
        self._timeout = timeout
        self._clock = clock
        self._interval = write_interval
        self._copy: dict[str, HeldRecord] = {}
        self._authoritative = False
        self._gone: dict[str, float] = {}
        self._positions: dict[int, int] = {}
        self._ownership: Ownership | None = None
        self._claiming = asyncio.Lock()
        self._listing = asyncio.Lock()
        self._listed: list[Key] = []
        self._listed_at = float("-inf")
        self._write_queue = KvWriteQueue(namespace, self._pair, self._interval_of, clock)

    @property
    def buffered(self) -> int:
        """Keys that are applied here and not written to KV yet."""
        return self._write_queue.pending

    @classmethod
    async def open(
        cls,
        url: str,
        *,
        token: str | None = None,
        base_url: str | None = None,
        worker_token: str | None = None,
        write_interval: float = 1.0,
        requests: int = 1200,
        timeout: float = 10.0,
        clock: Clock = SYSTEM_CLOCK,
    ) -> "CloudflareKvStore":
        """Make sure that the namespace is there, and open a store on it.

        Args:
            url: `cloudflare-kv://ACCOUNT/NAMESPACE` (ids, by the REST API), or
                `cloudflare-kv+worker://host[/space]` by our Worker
                (`cloudflare-kv+worker+http://host:port` without TLS).
            token: for the REST API, with the permission Workers KV Storage: Edit.
            base_url: of the REST API; None: Cloudflare's.
            worker_token: the Worker's secret `TIDINGS_TOKEN`.
            write_interval: seconds between two writes of one key; KV takes one a second.
            requests: that the REST API takes in five minutes.
            timeout: seconds that one call may take, repeats and waiting for its turn included.
            clock: What expiry is compared with.

        Raises:
            StoreMisconfigured: The URL, a token or its rights, the namespace, or the Worker is
                wrong.
            StoreUnavailable: Nobody answers.
        """
        parts = urlsplit(url)
        if parts.scheme.startswith("cloudflare-kv+worker"):
            namespace = await KvNamespace.by_worker(
                worker_url(url), required_token(worker_token), timeout=timeout
            )
        else:
            account, name = parts.netloc, parts.path.strip("/")
            if not account or not name or "/" in name or "@" in account:
                raise StoreMisconfigured(
                    "the URL of a KV namespace is cloudflare-kv://ACCOUNT/NAMESPACE, by their ids"
                )
            if not token:
                raise StoreMisconfigured(
                    "Cloudflare's REST API wants a token: set TIDINGS_CLOUDFLARE_TOKEN"
                )
            namespace = await KvNamespace.by_rest(
                account, name, token, base_url or REST, requests=requests, timeout=timeout
            )
        return cls(namespace, write_interval=write_interval, timeout=timeout, clock=clock)

    async def claim(self, ownership: Ownership) -> Ownership:
        """As the protocol says, as far as KV can.

        Of two programs that claim at once both may believe they have it.
        """
        async with self._claiming:
            if self._ownership is None:
                found = (await self._namespace.read([OWNERSHIP])).get(OWNERSHIP)
                if found is not None:
                    self._ownership = msgspec.json.decode(found.value, type=Ownership)
                else:
                    self._ownership = ownership
                    try:
                        await self._write_queue.add_and_wait([OWNERSHIP], self._timeout)
                    except StorageError:
                        self._write_queue.discard(OWNERSHIP)
                        self._ownership = None
                        raise
            return self._ownership

    async def positions(self) -> dict[int, int]:
        """As the protocol says; those that other processors wrote may be a minute old."""
        found = dict(self._positions)
        cursor = ""
        while True:
            keys, cursor = await self._namespace.keys(POSITION, cursor)
            for key in keys:
                if key.metadata is not None:
                    partition = int(key.name.removeprefix(POSITION))
                    found[partition] = max(int(key.metadata.v), found.get(partition, -1))
            if not cursor:
                return found

    async def get(self, prediction_id: str) -> Stored | None:
        """As the protocol says.

        What another program wrote may be a minute old, or missing for as long.
        """
        stored = (await self._look_up((prediction_id,), everywhere=True)).get(prediction_id)
        return None if stored is None or hidden(stored, self._clock.ms()) else stored

    async def load(self, prediction_ids: Sequence[str]) -> dict[str, Stored]:
        """As the protocol says; after `restore` from the copy alone."""
        return await self._look_up(prediction_ids, everywhere=not self._authoritative)

    async def _look_up(self, ids: Sequence[str], *, everywhere: bool) -> dict[str, Stored]:
        copy = self._copy
        found = {one: held.stored for one in ids if (held := copy.get(one)) is not None}
        if everywhere and len(found) < len(ids):
            now = self._clock.monotonic()
            missing = [
                PREDICTION + one
                for one in dict.fromkeys(ids)
                if one not in found and self._gone.get(one, 0) <= now
            ]
            for key, value in (await self._namespace.read(missing)).items() if missing else ():
                found[key.removeprefix(PREDICTION)] = stored_in(value)
        return found

    async def write(self, writes: Sequence[Write]) -> list[Outcome]:
        """As the protocol says, against the copy; without a log it waits for KV.

        Raises:
            StoreUnavailable: KV did not take them in time. They stay queued; a repeat meets
                conflicts with itself.
        """
        ids = distinct_ids(writes)
        versions = {one: stored.version for one, stored in (await self.load(ids)).items()}
        outcomes: list[Outcome] = []
        written: list[Write] = []
        for one, write in zip(ids, writes, strict=True):
            held = self._copy.get(one)  # It may have come while KV was asked.
            standing = versions.get(one, 0) if held is None else held.stored.version
            if standing != write.expected:
                outcomes.append(Conflict(standing))
            elif (refusal := refusal_of(write)) is not None:
                outcomes.append(refusal)
            else:
                self._hold(write)
                written.append(write)
                outcomes.append(None)
        keys = [PREDICTION + write.record.prediction_id for write in written]
        keys += self._raise_positions(written)
        if self._authoritative:
            self._write_queue.add(keys)
        else:
            await self._write_queue.add_and_wait(keys, self._timeout)
        return outcomes

    async def _catalogue(self) -> Iterable[tuple[ListingPlace, Metadata]]:
        """Places and metadata of all records.

        KV's keys, and over them what the copy knows better.
        """
        async with self._listing:
            if self._clock.monotonic() - self._listed_at > LISTING_AGE:
                self._listed = await self._all_keys()
                self._listed_at = self._clock.monotonic()
        now = self._clock.monotonic()
        known = {
            one: key.metadata
            for key in self._listed
            if (one := key.name.removeprefix(PREDICTION))
            and self._gone.get(one, 0) <= now
            and key.metadata is not None
        }
        known.update((one, held.metadata) for one, held in self._copy.items())
        return [
            (ListingPlace(meta.c, one), meta) for one, meta in known.items() if meta.c is not None
        ]

    async def _all_keys(self) -> list[Key]:
        found: list[Key] = []
        cursor = ""
        while True:
            keys, cursor = await self._namespace.keys(PREDICTION, cursor)
            found += keys
            if not cursor:
                return found
            if len(found) >= MOST_LISTED:
                raise StorageError(
                    f"KV holds over {MOST_LISTED} predictions, which it cannot list by time; list elsewhere"
                )

    async def sweep(self, now: int, limit: int) -> int:
        """As the protocol says, for the copy.

        KV itself lets go of a record at its time to live, and of a tombstone at its `purge_at`.
        """
        due = [
            one
            for one, held in self._copy.items()
            if held.purge_at is not None and held.purge_at <= now
        ][:limit]
        until = self._clock.monotonic() + STALE
        self._gone = {one: end for one, end in self._gone.items() if end > until - STALE}
        for one in due:
            del self._copy[one]
            self._gone[one] = until
        keys = [PREDICTION + one for one in due]
        if self._authoritative:
            self._write_queue.add(keys)
        else:
            await self._write_queue.add_and_wait(keys, self._timeout)
        return len(due)

    async def facts(self) -> dict[str, str]:
        """What an operator wants to know.

        By which way, what KV is not, the skew of its clock, a round trip (ms).
        """
        start = self._clock.monotonic()
        await self._namespace.read([OWNERSHIP])
        return {
            "reached by": self._namespace.way,
            "consistency": "a change is seen elsewhere after up to 60 s; the truth is in the changes topic",
            **self._namespace.skew,
            "round trip (ms)": f"{(self._clock.monotonic() - start) * 1000:.0f}",
        }

    async def close(self) -> None:
        """As the protocol says; what is queued is written, for as long as `timeout`."""
        await self._write_queue.close(self._timeout)
        await self._namespace.close()

    async def restore(self, writes: Iterable[Write]) -> None:
        """Take these records as the truth about their predictions, and let KV have them again.

        Of several versions of one prediction the highest counts, the copy's own included. May be
        called in parts, and again for further partitions.
        """
        self._authoritative = True
        keys = []
        for number, write in enumerate(writes, 1):
            one = write.record.prediction_id
            held = self._copy.get(one)
            if held is None or held.stored.version <= write.record.version:
                self._hold(write)
                keys.append(PREDICTION + one)
            if number % 1000 == 0:
                await asyncio.sleep(0)
        self._write_queue.add(keys)

    async def flush(self) -> None:
        """Return when KV has taken all that is queued now.

        Raises StoreUnavailable if it does not in time.
        """
        await self._write_queue.drain(self._timeout)

    def refresh(self, prediction_ids: Iterable[str]) -> None:
        """Let KV have these records of the copy again."""
        self._write_queue.add([PREDICTION + one for one in prediction_ids if one in self._copy])

    def forget(self, prediction_ids: Iterable[str]) -> None:
        """Drop these records from the copy: another writer has them now.

        What is queued of them is not written.
        """
        for one in prediction_ids:
            if self._copy.pop(one, None) is not None:
                self._write_queue.discard(PREDICTION + one)

    @property
    def pending(self) -> int:
        """Keys that KV does not have yet."""
        return self._write_queue.pending

    def _hold(self, write: Write) -> None:
        one = write.record.prediction_id
        self._copy[one] = HeldRecord(write.stored, metadata_of(write), write.purge_at)
        self._gone.pop(one, None)

    def _raise_positions(self, writes: Sequence[Write]) -> list[str]:
        raised = {
            p: offset
            for p, offset in high_water(writes).items()
            if offset > self._positions.get(p, -1)
        }
        self._positions |= raised
        return [f"{POSITION}{partition}" for partition in raised]

    def _interval_of(self, key: str) -> float:
        # Positions only tell a recreated log from an old one: with a log behind them they may be
        # seconds late.
        return (
            self._interval * 10
            if self._authoritative and key.startswith(POSITION)
            else self._interval
        )

    def _pair(self, key: str) -> Pair | None:
        if key == OWNERSHIP:
            return Pair(key, msgspec.json.encode(self._ownership).decode())
        if key.startswith(POSITION):
            offset = str(self._positions[int(key.removeprefix(POSITION))])
            return Pair(key, offset, Metadata(offset))
        held = self._copy.get(key.removeprefix(PREDICTION))
        return None if held is None else held.pair(key, self._clock.ms())

    async def list(self, query: Query) -> Page:
        """As the protocol says, for at most 100,000 predictions.

        Raises:
            ValueError: The cursor is none; or it is asked for a tag, which KV's metadata has no
                room for.
            StorageError: There are more predictions than can be gone through.
        """
        if query.tag is not None:
            raise ValueError("Cloudflare KV cannot list by tag; list by status, owner or model")
        before = None if query.cursor is None else decode_cursor(query.cursor)
        now = query.at(self._clock.ms())
        places = [place for place, meta in await self._catalogue() if may_match(query, meta, now)]
        places = sorted(
            (place for place in places if before is None or place < before), reverse=True
        )
        items: list[Stored] = []
        shown: list[ListingPlace] = []
        for start in range(0, len(places), query.limit):
            part = places[start : start + query.limit]
            found = await self._look_up([place.prediction_id for place in part], everywhere=True)
            for number, place in enumerate(part, start):
                stored = found.get(place.prediction_id)
                if stored is None or hidden(stored, now) or not _passes(query, stored):
                    continue
                items.append(stored)
                shown.append(place)
                if len(items) == query.limit:
                    cursor = encode_cursor(place) if number + 1 < len(places) else None
                    return Page(items, cursor, shown)
        return Page(items, None, shown)


def _passes(query: Query, stored: Stored) -> bool:
    """Whether the record itself passes the filters; of one that cannot be read its metadata has said so."""
    try:
        return matches(query, decode(stored.encoded))
    except msgspec.DecodeError:
        return True
