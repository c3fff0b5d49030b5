"""The processor: from events to state to announcements, effectively once without transactions of the log.

A batch goes through these steps; the numbers stand in the code as well:

1. take a bounded batch
2. load the current records in one call
3. fold: translate, decide
4. keep the dead letters; put what is too large for a record into object storage; write the store by compare-and-set on
   the version
5. announce the changes, and wait for the log's word
6. commit the offsets, in the background, one commit in flight

A crash anywhere redelivers: what was applied is a duplicate by its position, is announced again, and subscribers drop
the version that they have. A consumer that lost its partitions without noticing fails the compare-and-set, reloads,
and sees the duplicates. A dead letter is kept before the record moves past its position: after that, a redelivery would
take the event for a duplicate, and it would be nowhere.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from time import perf_counter
from typing import TypeVar

import structlog

from storage.errors import StorageError
from storage.objects import ObjectStorage
from storage.store import Conflict, PredictionStore, Refused, Stored
from streams.batch import Batch, Entry, Letter
from streams.changes import announcement
from streams.dead_letters import dead_letter, shortened
from streams.fold import Expiry, Rules
from streams.log import (
    CHANGES,
    DEAD_LETTERS,
    EVENTS,
    Consumer,
    Log,
    LogError,
    NewRecord,
    Position,
    Record,
    RecordTooLarge,
)
from streams.providers.provider import Provider
from streams.statistics import Statistics

T = TypeVar("T")

GROUP = "tidings-processor"
"""The consumer group."""

BATCH, BATCH_BEHIND = 500, 2000
"""Records taken at once; more while the processor is behind, since folding and fewer commits pay then."""

RETRY_FIRST, RETRY_MOST = 0.05, 1.0
"""Seconds between attempts at a store or log that is down: it goes on within two seconds of its return."""

log_ = structlog.get_logger("tidings.processor")


def _nothing(_step: int) -> None:
    """Nobody wants to see inside."""


def _letters(entries: Iterable[Entry]) -> Iterable[Letter]:
    return (letter for entry in entries for letter in entry.letters)


class Abandoned(Exception):
    """The batch's partitions went to another member, or the processor stops; whoever has them next reads it again."""


class Processor:
    """Applies the events of the partitions that its group gives it.

    Args:
        log: Where events come from, and changes and dead letters go.
        store: What holds the records; a store with a cache in front reads little.
        providers: By name; what webhooks are translated by.
        rules: The log's id and what was fixed when the store was first opened.
        expiry: When records are hidden and purged.
        objects: Where fields go that are too large for a record; None: into memory.
        group: The consumer group.
        assigned: Called with the partitions at each assignment, before any of their events is judged.
        reached: Called with the number of each step as it ends, for those who want to see inside.
    """

    def __init__(
        self,
        log: Log,
        store: PredictionStore,
        providers: Mapping[str, Provider],
        rules: Rules,
        *,
        expiry: Expiry | None = None,
        objects: ObjectStorage | None = None,
        group: str = GROUP,
        assigned: Callable[[frozenset[int]], Awaitable[None]] | None = None,
        reached: Callable[[int], None] | None = None,
    ) -> None:
        self._log = log
        self._store = store
        self._providers = providers
        self._rules = rules
        self._expiry = expiry or Expiry()
        self._objects = objects or ObjectStorage("memory://")
        self._group = group
        self._assigned = assigned
        self._reached = reached or _nothing
        self._consumer: Consumer | None = None
        self._generation = -1
        self._stopping = asyncio.Event()
        self._done: dict[int, int] = {}
        self._kept: set[tuple[int, int]] = set()
        """Positions of this batch's records that are dead letters by now."""
        self._uncommitted = False
        self._committer: asyncio.Task[None] | None = None
        self.statistics = Statistics()
        self.obstacle: str | None = None
        """What is being waited out at the moment, for readiness."""

    @property
    def consumer(self) -> Consumer | None:
        """The membership, while it runs."""
        return self._consumer

    @property
    def positions(self) -> dict[int, int]:
        """Per partition that it has processed anything of since its assignment, the next offset."""
        return dict(self._done)

    def stop(self) -> None:
        """Finish the batch and leave; `run` returns then."""
        self._stopping.set()

    async def run(self) -> None:
        """Process until `stop`. Outages of log and store are waited out; anything else is raised."""
        consumer = self._consumer = self._log.consume(EVENTS, self._group)
        limit = BATCH
        try:
            while not self._stopping.is_set():
                try:
                    batch = await consumer.fetch(limit, 0.5)  # 1
                except LogError as error:
                    if not error.retryable:
                        raise
                    log_.warning("processor.log_unavailable", error=str(error))
                    await asyncio.sleep(RETRY_FIRST)
                    continue
                if consumer.generation() != self._generation and not await self._take_over(consumer):
                    continue
                self.statistics.alive()
                if not batch:
                    limit = BATCH
                    if self._uncommitted:
                        self._commit_soon(consumer)
                    continue
                limit = min(limit * 2, BATCH_BEHIND) if len(batch) >= limit else BATCH
                try:
                    await self._process(batch, consumer)
                except Abandoned:
                    log_.info("processor.batch_abandoned", records=len(batch))
        finally:
            await self._finish(consumer)

    async def _take_over(self, consumer: Consumer) -> bool:
        """Begin with what was assigned; False where it was taken again meanwhile."""
        # Another member may have written meanwhile: what the cache knows may be old.
        self._generation = consumer.generation()
        self._done.clear()
        clear = getattr(self._store, "clear", None)
        if clear is not None:
            clear()
        log_.info("processor.assigned", partitions=sorted(consumer.assigned()))
        if (assigned := self._assigned) is not None:
            try:
                await self._insist(lambda: assigned(consumer.assigned()))
            except Abandoned:
                return False
        return True

    async def _process(self, batch: Sequence[Record], consumer: Consumer) -> None:
        statistics = self.statistics
        self._reached(1)
        started = perf_counter()
        grouped = Batch(batch, self._providers)
        entries = grouped.entries
        translated = perf_counter()

        loaded = await self._insist(lambda: self._load(list(entries)))  # 2
        self._reached(2)
        load_done = perf_counter()

        grouped.fold(loaded, self._rules)  # 3
        await self._look_again(entries)
        self._reached(3)
        folded = perf_counter()

        self._kept.clear()
        await self._keep([*grouped.poison, *_letters(entries.values())])  # 4
        await self._write(entries)
        await self._keep(_letters(entries.values()))
        self._reached(4)
        written = perf_counter()

        changes = self._announcements(entries)
        changes += await self._repeat(entries)
        if changes:
            await self._insist(lambda: self._log.append(CHANGES, changes))  # 5
        self._reached(5)
        announced = perf_counter()

        for record in batch:
            self._done[record.partition] = record.offset + 1
        self._commit_soon(consumer)  # 6
        statistics.unknown_fields += grouped.unknown_fields
        statistics.batch(
            entries.values(),
            records=len(batch),
            seconds=(
                translated - started,
                load_done - translated,
                folded - load_done,
                written - folded,
                announced - written,
            ),
        )

    async def _look_again(self, entries: Mapping[str, Entry]) -> None:
        """Events that are about to be dropped for good are judged by what the store has, not by a copy of it."""
        doubtful = [(i, e) for i, e in entries.items() if e.doubtful]
        if not doubtful or not hasattr(self._store, "load_fresh"):
            return
        fresh = await self._insist(lambda: self._load_fresh([prediction_id for prediction_id, _ in doubtful]))
        for prediction_id, entry in doubtful:
            stored = fresh.get(prediction_id)
            if stored is None or entry.before is None or stored.version != entry.before.version:
                entry.fold(stored, self._rules)

    # ---- 4: dead letters ----

    async def _keep(self, letters: Iterable[Letter]) -> None:
        """Put these into the dead letters, each once in a batch."""
        new = [letter for letter in letters if (letter[0].partition, letter[0].offset) not in self._kept]
        if not new:
            return
        records = [self._letter(*letter) for letter in new]
        try:
            await self._insist(lambda: self._log.append(DEAD_LETTERS, records))
        except RecordTooLarge:
            for record in records:
                await self._keep_alone(record)
        self._kept.update((record.partition, record.offset) for record, _, _ in new)

    async def _keep_alone(self, letter: NewRecord) -> None:
        try:
            await self._insist(lambda: self._log.append(DEAD_LETTERS, [letter]))
        except RecordTooLarge:
            await self._insist(lambda: self._log.append(DEAD_LETTERS, [shortened(letter)]))

    def _letter(self, record: Record, code: str, message: str) -> NewRecord:
        self.statistics.dead_letters[code] = self.statistics.dead_letters.get(code, 0) + 1
        log_.warning(
            "processor.dead_letter", code=code, reason=message[:200], partition=record.partition, offset=record.offset
        )
        return dead_letter(record, code, message)

    # ---- 4: write ----

    async def _write(self, entries: Mapping[str, Entry]) -> None:
        todo = [(i, e) for i, e in entries.items() if e.changed]
        while todo:
            await self._keep(_letters(entry for _, entry in todo))
            for _, entry in todo:
                if entry.contents:
                    await self._put_contents(entry)
            writes = [entry.write(self._expiry) for _, entry in todo]
            outcomes = await self._insist(lambda writes=writes: self._store.write(writes))  # type: ignore[misc]
            lost = []
            for (prediction_id, entry), outcome in zip(todo, outcomes, strict=True):
                if isinstance(outcome, Conflict):
                    lost.append((prediction_id, entry))
                elif isinstance(outcome, Refused):
                    await self._split(prediction_id, entry, outcome)
            todo = await self._refold(lost) if lost else []

    async def _put_contents(self, entry: Entry) -> None:
        """Before the record that refers to them stands; a repeat is harmless."""
        for path, content in entry.contents_to_put().items():
            await self._insist(lambda path=path, content=content: self._objects.put(path, content))  # type: ignore[misc]

    async def _refold(self, lost: Sequence[tuple[str, Entry]]) -> list[tuple[str, Entry]]:
        """Somebody else has written: judge the events again by what stands now."""
        self.statistics.conflicts += len(lost)
        ids = [prediction_id for prediction_id, _ in lost]
        fresh = await self._insist(lambda: self._load_fresh(ids))
        for prediction_id, entry in lost:
            entry.fold(fresh.get(prediction_id), self._rules)
        return [(i, e) for i, e in lost if e.changed]

    async def _split(self, prediction_id: str, entry: Entry, refused: Refused) -> None:
        """The store will never take this record: write event by event, and keep those that it refuses."""
        if len(entry.events) == 1:
            entry.folded = None
            entry.letters = [(entry.events[0][1], "refused", refused.reason)]
            await self._keep(entry.letters)
            return
        written: Entry | None = None
        before = entry.before
        letters: list[Letter] = []
        for event, record in entry.events:
            single = Entry()
            single.contents = entry.contents
            single.add(event, record)
            single.fold(before, self._rules)
            await self._keep(single.letters)
            await self._write({prediction_id: single})
            letters += single.letters
            if single.changed:
                before, written = single.write(self._expiry).stored, single
        entry.letters = letters
        entry.folded = written.folded if written is not None else None
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
            folded = entry.folded
            if folded is not None and folded.position is not None and folded.record is not None:
                changes.append(
                    announcement(
                        folded.record,
                        entry.encoded,
                        position=folded.position,
                        expires_at=entry.expires_at,
                        traceparent=folded.traceparent,
                    )
                )
        return changes

    async def _repeat(self, entries: Mapping[str, Entry]) -> list[NewRecord]:
        """Records whose events came again: the announcement may be what a crash has swallowed."""
        again = {i: e for i, e in entries.items() if e.folded is not None and e.folded.duplicates and not e.changed}
        if not again:
            return []
        fresh = await self._insist(lambda: self._load_fresh(list(again)))
        changes = []
        for prediction_id, stored in fresh.items():
            record = stored.standing()
            last = again[prediction_id].events[-1][1]
            offsets = record.source.offsets if record.source is not None else {}
            position = Position(last.partition, offsets.get(str(last.partition), last.offset))
            changes.append(announcement(record, stored.encoded, position=position, expires_at=stored.expires_at))
        return changes

    # ---- 6: commit ----

    def _commit_soon(self, consumer: Consumer) -> None:
        self._uncommitted = True
        if self._committer is None or self._committer.done():
            self._committer = asyncio.create_task(self._commit(consumer))

    async def _commit(self, consumer: Consumer) -> None:
        while self._uncommitted:
            self._uncommitted = False
            assigned = consumer.assigned()
            positions = {partition: offset for partition, offset in self._done.items() if partition in assigned}
            try:
                await consumer.commit(positions)
            except LogError as error:
                # Whoever reads from the older offset meets duplicates, which are harmless.
                log_.warning("processor.commit_failed", error=str(error))
                self._uncommitted = True
                return
            self._reached(6)

    async def _finish(self, consumer: Consumer) -> None:
        if self._committer is not None:
            await asyncio.wait([self._committer], timeout=2)
        if self._uncommitted:
            await self._commit(consumer)
        await consumer.close()

    # ---- outages ----

    async def _insist(self, operation: Callable[[], Awaitable[T]]) -> T:
        """Do it, waiting out outages: paused, but polling, so that the group membership lives on."""
        delay = RETRY_FIRST
        paused = False
        try:
            while True:
                try:
                    return await operation()
                except (StorageError, LogError) as error:
                    if not error.retryable:
                        raise
                    self._still_ours()
                    self.obstacle = str(error)
                    if not paused:
                        paused = True
                        assert self._consumer is not None
                        self._consumer.pause()
                        self.statistics.pauses += 1
                        log_.warning("processor.paused", error=str(error))
                    await self._keep_polling(delay * random.uniform(0.5, 1))  # noqa: S311 - jitter
                    delay = min(delay * 2, RETRY_MOST)
        finally:
            if paused:
                assert self._consumer is not None
                self.obstacle = None
                self._consumer.resume()
                log_.info("processor.resumed")

    def _still_ours(self) -> None:
        assert self._consumer is not None
        if self._stopping.is_set() or self._consumer.generation() != self._generation:
            raise Abandoned

    async def _keep_polling(self, seconds: float) -> None:
        assert self._consumer is not None
        until = perf_counter() + seconds
        while (left := until - perf_counter()) > 0 and not self._stopping.is_set():
            try:
                await self._consumer.fetch(1, left)
            except LogError:
                await asyncio.sleep(left)
            else:
                # A paused fetch may return at once.
                await asyncio.sleep(min(left, 0.01))
        self.statistics.alive()
