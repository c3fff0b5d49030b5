"""What a processor does with one batch between taking it and committing it: steps 2 to 5 of the processor.

Outages are not met here: every call of a store or a log goes through `insist`, which waits them out.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from time import perf_counter
from typing import Protocol, TypeVar

import structlog

from tidings.storage.object_storage import ObjectStorage
from tidings.storage.store import Conflict, PredictionStore, Refused, Stored
from tidings.streams.changes.codec import announcement
from tidings.streams.log.log_fields import fields_of
from tidings.streams.log.protocol import (
    CHANGES,
    DEAD_LETTERS,
    Log,
    NewRecord,
    Position,
    Record,
    RecordTooLarge,
)
from tidings.streams.processing.batch import Batch, Entry, Letter
from tidings.streams.processing.dead_letters import dead_letter, shortened
from tidings.streams.processing.splitting import event_by_event
from tidings.streams.processing.statistics import Statistics
from tidings.streams.providers.protocol import Provider
from tidings.streams.rules.reducer import Expiry, StorePolicy

T = TypeVar("T")

_PUTS_AT_ONCE = 16
"""Records whose contents are put at a time: a batch of large ones should take no longer than it must."""

log_ = structlog.get_logger("tidings.processor")


class Insist(Protocol):
    """Does something, again and again while it fails for reasons that pass."""

    async def __call__(self, operation: Callable[[], Awaitable[T]]) -> T:
        """The operation's result; raises what no retry mends."""


class Work:
    """A batch on its way through the steps.

    Args:
        records: As fetched.
        providers: By name; what webhooks are translated by.
    """

    __slots__ = ("batch", "kept", "records", "seconds")

    def __init__(self, records: Sequence[Record], providers: Mapping[str, Provider]) -> None:
        started = perf_counter()
        self.records = records
        self.batch = Batch(records, providers)
        self.kept: set[tuple[int, int]] = set()
        """Positions of the records that are dead letters by now."""
        self.seconds = [perf_counter() - started]
        """Of the steps so far, in the order of the statistics' stages."""


def _letters(entries: Iterable[Entry]) -> list[Letter]:
    return [letter for entry in entries if entry.letters for letter in entry.letters]


class Applier:
    """Applies batches, one at a time and in order.

    Args:
        log: Where changes and dead letters go.
        store: What holds the records.
        policy: The log's id and what was fixed when the store was first opened.
        expiry: When records are hidden and purged.
        objects: Where fields go that are too large for a record.
        insist: Waits outages out.
        reached: Called with the number of each step as it ends.
        statistics: Counts.
    """

    def __init__(
        self,
        log: Log,
        store: PredictionStore,
        policy: StorePolicy,
        *,
        expiry: Expiry,
        objects: ObjectStorage,
        insist: Insist,
        reached: Callable[[int], None],
        statistics: Statistics,
    ) -> None:
        self._log = log
        self._store = store
        self._policy = policy
        self._expiry = expiry
        self._objects = objects
        self._insist = insist
        self._reached = reached
        self._statistics = statistics

    async def write(self, work: Work) -> None:
        """Steps 2 to 4: load, reduce, keep the dead letters, write the store."""
        entries = work.batch.entries
        started = perf_counter()
        loaded = await self._insist(lambda: self._load(list(entries)))  # 2
        self._reached(2)
        load_done = perf_counter()

        work.batch.reduce(loaded, self._policy)  # 3
        await self._look_again(entries)
        self._reached(3)
        reduced = perf_counter()

        await self._keep(work, [*work.batch.poison, *_letters(entries.values())])  # 4
        await self._write(work, entries)
        await self._keep(work, _letters(entries.values()))
        self._reached(4)
        work.seconds += (load_done - started, reduced - load_done, perf_counter() - reduced)

    async def announce(self, work: Work) -> None:
        """Step 5: announce what was written, and wait for the log's word."""
        started = perf_counter()
        changes = self._announcements(work.batch.entries)
        changes += await self._repeat(work.batch.entries)
        if changes:
            await self._insist(lambda: self._log.append(CHANGES, changes))  # 5
        self._reached(5)
        work.seconds.append(perf_counter() - started)

    async def _look_again(self, entries: Mapping[str, Entry]) -> None:
        """Events that are about to be dropped for good are judged by what the store has, not by a copy of it."""
        doubtful = [(i, e) for i, e in entries.items() if e.doubtful]
        if not doubtful or not hasattr(self._store, "load_fresh"):
            return
        fresh = await self._insist(
            lambda: self._load_fresh([prediction_id for prediction_id, _ in doubtful])
        )
        for prediction_id, entry in doubtful:
            stored = fresh.get(prediction_id)
            if stored is None or entry.before is None or stored.version != entry.before.version:
                entry.reduce(stored, self._policy)

    # ---- 4: dead letters ----

    async def _keep(self, work: Work, letters: Iterable[Letter]) -> None:
        """Put these into the dead letters, each once in a batch."""
        new = [
            letter for letter in letters if (letter[0].partition, letter[0].offset) not in work.kept
        ]
        if not new:
            return
        records = [self._letter(*letter) for letter in new]
        try:
            await self._insist(lambda: self._log.append(DEAD_LETTERS, records))
        except RecordTooLarge:
            for record in records:
                await self._keep_alone(record)
        work.kept.update((record.partition, record.offset) for record, _, _ in new)

    async def _keep_alone(self, letter: NewRecord) -> None:
        try:
            await self._insist(lambda: self._log.append(DEAD_LETTERS, [letter]))
        except RecordTooLarge:
            await self._insist(lambda: self._log.append(DEAD_LETTERS, [shortened(letter)]))

    def _letter(self, record: Record, code: str, message: str) -> NewRecord:
        self._statistics.dead_letters[code] = self._statistics.dead_letters.get(code, 0) + 1
        log_.warning(
            "processor.dead_letter",
            code=code,
            reason=message[:200],
            partition=record.partition,
            offset=record.offset,
            **fields_of(record),
        )
        return dead_letter(record, code, message)

    # ---- 4: write ----

    async def _write(self, work: Work, entries: Mapping[str, Entry]) -> None:
        todo = [(i, e) for i, e in entries.items() if e.changed]
        while todo:
            await self._keep(work, _letters(entry for _, entry in todo))
            if large := [entry for _, entry in todo if entry.contents]:
                await self._put_all(large)
            writes = [entry.write(self._expiry) for _, entry in todo]
            outcomes = await self._insist(lambda writes=writes: self._store.write(writes))  # type: ignore[misc]
            lost = []
            for (prediction_id, entry), outcome in zip(todo, outcomes, strict=True):
                if isinstance(outcome, Conflict):
                    lost.append((prediction_id, entry))
                elif isinstance(outcome, Refused):
                    await self._split(work, prediction_id, entry, outcome)
            todo = await self._refold(lost) if lost else []

    async def _put_all(self, entries: Sequence[Entry]) -> None:
        """Put what these records refer to, before any of them stands; several records' at once."""
        left = iter(entries)

        async def put() -> None:
            for entry in left:
                await self._put_contents(entry)

        try:
            async with asyncio.TaskGroup() as group:
                for _ in entries[:_PUTS_AT_ONCE]:
                    group.create_task(put())
        except ExceptionGroup as failed:
            # Each waits outages out for itself: what is left has one cause, and who retries looks for that.
            raise failed.exceptions[0] from None

    async def _put_contents(self, entry: Entry) -> None:
        """One record's: first the note whose they are, then each content; a repeat is harmless."""
        for path, content in entry.contents_to_put().items():
            await self._insist(lambda path=path, content=content: self._objects.put(path, content))  # type: ignore[misc]

    async def _refold(self, lost: Sequence[tuple[str, Entry]]) -> list[tuple[str, Entry]]:
        """Somebody else has written: judge the events again by what stands now."""
        self._statistics.conflicts += len(lost)
        ids = [prediction_id for prediction_id, _ in lost]
        fresh = await self._insist(lambda: self._load_fresh(ids))
        for prediction_id, entry in lost:
            entry.reduce(fresh.get(prediction_id), self._policy)
        return [(i, e) for i, e in lost if e.changed]

    async def _split(self, work: Work, prediction_id: str, entry: Entry, refused: Refused) -> None:
        """The store will never take this record: write event by event, and keep those that it refuses."""
        if len(entry.events) == 1:
            entry.reduction = None
            entry.letters = [(entry.events[0][1], "refused", refused.reason)]
            await self._keep(work, entry.letters)
            return

        async def attempt(single: Entry) -> None:
            await self._keep(work, single.letters)
            await self._write(work, {prediction_id: single})

        singles = await event_by_event(entry, self._policy, self._expiry, attempt)
        written = next((single for single in reversed(singles) if single.changed), None)
        entry.letters = _letters(singles)
        entry.reduction = written.reduction if written is not None else None
        if written is not None:
            entry.encoded, entry.expires_at = written.encoded, written.expires_at

    async def _load(self, ids: Sequence[str]) -> dict[str, Stored]:
        """What stands, by a cache only where it is what this processor wrote or read."""
        load = getattr(self._store, "load_certain", None) or self._store.load
        result: dict[str, Stored] = await load(ids)
        return result

    async def _load_fresh(self, ids: Sequence[str]) -> dict[str, Stored]:
        fresh = getattr(self._store, "load_fresh", None) or self._store.load
        result: dict[str, Stored] = await fresh(ids)
        return result

    # ---- 5: announce ----

    def _announcements(self, entries: Mapping[str, Entry]) -> list[NewRecord]:
        changes = []
        for entry in entries.values():
            reduction = entry.reduction
            if (
                reduction is not None
                and reduction.position is not None
                and reduction.record is not None
            ):
                changes.append(
                    announcement(
                        reduction.record,
                        entry.encoded,
                        position=reduction.position,
                        expires_at=entry.expires_at,
                        traceparent=reduction.traceparent,
                    )
                )
        return changes

    async def _repeat(self, entries: Mapping[str, Entry]) -> list[NewRecord]:
        """Records whose events came again: the announcement may be what a crash has swallowed."""
        again = {
            i: e
            for i, e in entries.items()
            if e.reduction is not None and e.reduction.duplicates and not e.changed
        }
        if not again:
            return []
        fresh = await self._insist(lambda: self._load_fresh(list(again)))
        changes = []
        for prediction_id, stored in fresh.items():
            record = stored.standing()
            last = again[prediction_id].events[-1][1]
            offsets = record.source.offsets if record.source is not None else {}
            position = Position(last.partition, offsets.get(str(last.partition), last.offset))
            changes.append(
                announcement(
                    record, stored.encoded, position=position, expires_at=stored.expires_at
                )
            )
        return changes
