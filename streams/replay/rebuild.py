"""Replay: rebuild a store from the log.

The log is the truth. A replay announces nothing and dead-letters nothing; it counts.
"""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence

from msgspec import Struct

from tidings.storage.errors import StorageError
from tidings.storage.memory import MemoryStore
from tidings.storage.store import Conflict, PredictionStore, Query, Stored, Write, WriteRefused
from tidings.streams.log.protocol import CHANGES, EVENTS, Log, Record, Since
from tidings.streams.log.read_until_end import read_by_time
from tidings.streams.processing.batch import BatchInFlight
from tidings.streams.processing.batch_entry import BatchEntry
from tidings.streams.providers.protocol import Provider
from tidings.streams.replay.judgement import UNKNOWN_PROVIDER, Letters, named, prediction_of
from tidings.streams.rules.reducer import Expiry, StorePolicy

BATCH, BATCH_BYTES = 2000, 16_777_216
"""Records, and bytes of their values, that are reduced to one write: whichever is reached first."""

LAG_SECONDS = 1.0
"""Between two looks at the log's end while a replay follows it."""

OVERLAP = 10_000
"""Offsets read again when a replay is resumed: more than one batch spans, so that a batch of which only a part was
written is read whole. What was applied already is a duplicate."""


Limits = Mapping[str, Mapping[int, int]]
"""Per prediction and partition the last offset that counts."""


class StoreInUse(Exception):
    """The target of a rebuild holds records already."""


def taken(prediction_id: str) -> StoreInUse:
    """What is raised if a version stands that the rebuild has not written."""
    return StoreInUse(
        f"somebody else writes prediction {prediction_id!r} in the target store; stop it, or replay into another store"
    )


class Progress(Struct, gc=False):
    """Where a replay stands; one object, changed in place, for a bar to read."""

    total: int = 0
    """Records to read, as far as is known."""
    read: int = 0
    """Events read."""
    applied: int = 0
    stale: int = 0
    rejected: int = 0
    poison: int = 0
    crashed: int = 0
    """Left out, because they ended the processor again and again and were set aside."""
    predictions: int = 0
    """Made: each counts once, however often it was written."""
    changes: int = 0
    """Read from the changes topic."""
    restored: int = 0
    """Predictions taken from there."""
    resumed: bool = False

    @property
    def done(self) -> int:
        """Records read so far, of `total`."""
        return self.read + self.changes


class Span(Struct, frozen=True, gc=False):
    """What of the events topic is read: per partition the first offset, and the first one that is not read."""

    start: dict[int, int]
    end: dict[int, int]

    @property
    def total(self) -> int:
        """Offsets in it."""
        return sum(
            max(0, end - self.start.get(partition, 0)) for partition, end in self.end.items()
        )


async def span(log: Log, since: Since = "beginning", until: int | None = None) -> Span:
    """The span from `since` to the log's end as of now, or to the first record later than `until` (ms)."""
    bounds = await log.bounds(EVENTS)
    end = {partition: last for partition, (_, last) in bounds.items()}
    if until is not None:
        at = await log.offsets_at(EVENTS, until)
        end = {partition: min(last, at.get(partition, last)) for partition, last in end.items()}
    if since == "beginning":
        start = {partition: first for partition, (first, _) in bounds.items()}
    elif since == "end":
        start = dict(end)
    else:
        start = {
            partition: max(first, since.get(partition, first))
            for partition, (first, _) in bounds.items()
        }
    return Span(start, end)


def _within(record: Record, limits: Limits) -> bool:
    """Whether a record may be about one of these predictions, as far as its key says."""
    key = record.key
    if not key or key[:1] == b"\0":  # its body says which, or it is framed
        return True
    return record.offset <= limits.get(key.decode("utf-8", "replace"), {}).get(record.partition, -1)


def _cut(batch: BatchInFlight, limits: Limits) -> None:
    """Leave out what lies beyond its prediction's limit."""
    for prediction_id, entry in list(batch.entries.items()):
        upto = limits.get(prediction_id, {})
        entry.events = [
            one for one in entry.events if one[1].offset <= upto.get(one[1].partition, -1)
        ]
        if not entry.events:
            del batch.entries[prediction_id]


class Rebuild:
    """Builds records from the log into a store that nobody else writes.

    Args:
        log: Where the events are.
        store: The target.
        providers: By name; what webhooks are translated by.
        policy: As of the log and the live store.
        expiry: When records are hidden and purged.
        only: This prediction alone.
        letters: What the dead letters say is to be left out.
        notice: Called after each batch.
        limits: These predictions alone, each up to the last offset that is given per partition.
    """

    def __init__(
        self,
        log: Log,
        store: PredictionStore,
        providers: Mapping[str, Provider],
        policy: StorePolicy,
        *,
        expiry: Expiry | None = None,
        only: str | None = None,
        letters: Letters | None = None,
        notice: Callable[[Progress], None] | None = None,
        limits: Limits | None = None,
    ) -> None:
        self._letters = letters or Letters()
        self._limits = limits
        self._log = log
        self._store = store
        self._providers = providers
        self._policy = policy
        self._expiry = expiry or Expiry()
        self._only = only
        self.notice = notice
        self._writing: asyncio.Task[None] | None = None
        self._coming: dict[str, Stored] = {}
        """What the store has once the write under way has ended."""
        self._refused: set[str] = set()
        """Predictions of which it has something else, because it refused that."""
        self.progress = Progress()
        self.unjudged: dict[str, str] = dict(self._letters.unreadable)
        """Per prediction, or `ANYBODY`, what of it cannot be judged here, and why."""
        self.next: dict[int, int] = {}
        """Per partition the first offset not read yet."""

    async def folded_up_to(self, limits: Limits) -> dict[str, Stored]:
        """What these predictions were at these positions, whatever followed.

        Args:
            limits: Per prediction and partition the last offset that counts.
        """
        end: dict[int, int] = {}
        for offsets in limits.values():
            for partition, offset in offsets.items():
                end[partition] = max(end.get(partition, 0), offset + 1)
        scratch = MemoryStore()
        again = Rebuild(
            self._log,
            scratch,
            self._providers,
            self._policy,
            expiry=self._expiry,
            letters=self._letters,
            limits=limits,
        )
        await again.run(Span(dict.fromkeys(end, 0), end))
        return await scratch.load(list(limits))

    async def require_empty(self) -> None:
        """Make sure that nothing is poured into a store in use; raises `StoreInUse`."""
        if await self._store.positions() or (await self._store.list(Query(limit=1))).items:
            raise StoreInUse(
                "the store holds records already: replay into an empty one (--into URL), compare with --verify, "
                "fix with --repair, or go on with an interrupted rebuild by --resume"
            )

    async def resume_point(self) -> dict[int, int]:
        """Where an interrupted rebuild of this store goes on."""
        written = await self._store.positions()
        return {partition: max(0, offset + 1 - OVERLAP) for partition, offset in written.items()}

    async def run(self, what: Span) -> Progress:
        """Read the span and write what it says."""
        self.next = dict(what.start)
        self.progress.total += what.total
        await self._read(what.end)
        return self.progress

    async def extend(self, end: Mapping[int, int]) -> None:
        """Read on from where `run` ended, to these offsets."""
        self._expect(end)
        await self._read(end)

    async def follow(self, stopping: asyncio.Event) -> None:
        """Read on with what comes until `stopping` is set, and then to the log's end as of that moment."""
        batches = self._log.follow(EVENTS, self.next)
        stop = asyncio.create_task(stopping.wait())
        looked = 0.0
        try:
            while not stopping.is_set():
                coming = asyncio.ensure_future(anext(batches))
                await asyncio.wait((coming, stop), return_when=asyncio.FIRST_COMPLETED)
                if not coming.done():
                    coming.cancel()
                    await asyncio.wait((coming,))
                    break
                records = coming.result()
                if records:
                    await self._apply(self._judged(records))
                    self.next |= {record.partition: record.offset + 1 for record in records}
                if time.monotonic() - looked >= LAG_SECONDS or not records:
                    looked = time.monotonic()
                    await self._written()
                    self._expect(await self._ends())
        finally:
            stop.cancel()
        await self._written()
        await self.extend(await self._ends())

    async def _ends(self) -> dict[int, int]:
        return {partition: end for partition, (_, end) in (await self._log.bounds(EVENTS)).items()}

    def _expect(self, end: Mapping[int, int]) -> None:
        self.progress.total = self.progress.done + Span(self.next, dict(end)).total
        if self.notice is not None:
            self.notice(self.progress)

    async def _read(self, end: Mapping[int, int]) -> None:
        pending: list[Record] = []
        size = 0
        async for records in read_by_time(self._log, EVENTS, self.next, end):
            for record in records:
                self.next[record.partition] = record.offset + 1
            for record in self._judged(records):
                pending.append(record)
                size += len(record.value or b"")
                if len(pending) == BATCH or size >= BATCH_BYTES:
                    await self._apply(pending)
                    pending, size = [], 0
        if pending:
            await self._apply(pending)
        await self._written()
        for partition, to in end.items():  # the last offsets may hold no records
            self.next[partition] = max(to, self.next.get(partition, 0))

    def _judged(self, records: Sequence[Record]) -> list[Record]:
        """Without those that were set aside before anybody judged them, or lie beyond a limit."""
        if self._limits is not None:
            records = [one for one in records if _within(one, self._limits)]
        crashed = self._letters.crashed
        kept = [one for one in records if named(one) not in crashed] if crashed else list(records)
        self.progress.crashed += len(records) - len(kept)
        return kept

    async def _apply(self, records: list[Record]) -> None:
        """Fold a batch; its write goes on while the next one is read, translated and judged (a store works beside us).

        Nobody else writes, so what is being written is known here before the store has it.
        """
        batch = BatchInFlight(records, self._providers, self._only)
        if self._limits is not None:
            _cut(batch, self._limits)
        self._note_unjudged(batch)
        entries, coming = batch.entries, self._coming
        loaded = await self._store.load([i for i in entries if i not in coming])
        loaded |= {i: coming[i] for i in entries.keys() & coming.keys()}
        batch.reduce(loaded, self._policy)
        await self._written()
        if self._refused:  # some of it was not what came to stand
            again = list(entries.keys() & self._refused)
            fresh = await self._store.load(again)
            for prediction_id in again:
                entries[prediction_id].reduce(fresh.get(prediction_id), self._policy)
            self._refused.clear()
        changed = [entry for entry in entries.values() if entry.changed]
        writes = [entry.write(self._expiry) for entry in changed]
        self._coming = {write.record.prediction_id: write.stored for write in writes}
        self._writing = asyncio.create_task(self._write(batch, len(records), changed, writes))
        await asyncio.sleep(0)  # lets it begin

    def _note_unjudged(self, batch: BatchInFlight) -> None:
        """A webhook that the processor may have understood says nothing here without its provider's settings."""
        for aside in batch.poison:
            record = aside.record
            if aside.code == UNKNOWN_PROVIDER and named(record) not in self._letters.unknown:
                reason = f"event {record.partition}:{record.offset}: {aside.reason}"
                self.unjudged.setdefault(prediction_of(record), reason)

    async def _written(self) -> None:
        writing, self._writing = self._writing, None
        if writing is not None:
            await writing

    async def _write(
        self,
        batch: BatchInFlight,
        count: int,
        changed: Sequence[BatchEntry],
        writes: Sequence[Write],
    ) -> None:
        if changed:
            await self._put(changed, writes)
        progress = self.progress
        progress.read += count
        progress.poison += len(batch.poison)
        progress.predictions += sum(one.before is None for one in changed if one.changed)
        for entry in batch.entries.values():
            self._count(entry)
        if self.notice is not None:
            self.notice(progress)

    def _count(self, entry: BatchEntry) -> None:
        progress, reduction = self.progress, entry.reduction
        if reduction is not None:
            progress.applied += reduction.applied
            progress.stale += reduction.stale
            progress.rejected += len(reduction.rejected)

    async def _put(self, entries: Sequence[BatchEntry], writes: Sequence[Write]) -> None:
        """Write; what the store refuses is written by event, as the processor does, and counted here."""
        outcomes = await self._store.write(writes)
        for entry, outcome in zip(entries, outcomes, strict=True):
            if isinstance(outcome, Conflict):
                raise taken(entry.events[0][0].prediction_id)
            if not isinstance(outcome, WriteRefused):
                continue
            entry.refuse()
            self._refused.add(entry.events[0][0].prediction_id)
            if len(entry.events) == 1:
                self.progress.rejected += 1
                continue
            for single in await entry.event_by_event(self._policy, self._expiry, self._put_changed):
                self._count(single)

    async def _put_changed(self, entry: BatchEntry) -> None:
        if entry.changed:
            await self._put([entry], [entry.write(self._expiry)])


async def check_filled(log: Log, store: PredictionStore) -> None:
    """Refuse an empty store if changes were announced from another: a processor would begin in the middle.

    Raises:
        StorageError: With what to do about it.
    """
    # In this order: what another processor announces was written before.
    announced = any(end for _, end in (await log.bounds(CHANGES)).values())
    if announced and store.capabilities.durable and not await store.positions():
        raise StorageError(
            "the store is empty, but its log's events were processed before: fill it with tidings replay, then start again"
        )
