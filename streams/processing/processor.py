"""The processor: from events to state to announcements, effectively once without transactions of the log.

A batch goes through these steps; the methods below follow in their order, with the same numbers:

1. take a bounded batch, and decode it
2. load the current records in one call
3. reduce: decide what becomes of each prediction
4. keep the dead letters; put what is too large for a record into object storage; write the store by compare-and-set on
   the version
5. announce the changes, and wait for the log's word
6. commit the offsets, now and then and in the background, one commit in flight; what the store has not brought to the
   disk yet it brings there first

Three batches may be under way at a time, each in steps of its own and in order. One is written (2 to 4) while the
previous one is announced (5). If the processor is behind, the next one is taken (1) meanwhile. A batch that is not full
is written where it is taken: a task would only cost time. What a batch announces was written before, and nothing is
committed whose announcement, or that of a batch before it, did not stand.

A crash anywhere redelivers: what was applied is a duplicate by its position, is announced again, and subscribers drop
the version that they have. A consumer that lost its partitions without noticing fails the compare-and-set, reloads,
and sees the duplicates. A dead letter is kept before the record moves past its position: after that, a redelivery would
take the event for a duplicate, and it would be nowhere.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from math import inf
from time import monotonic, perf_counter
from typing import TypeVar

from tidings.storage.errors import StorageError
from tidings.storage.loggers import get_logger
from tidings.storage.object_storage import ObjectStorage
from tidings.storage.store import PredictionStore, Stored
from tidings.streams.log.consumer_loop import Claim, ConsumerLoop
from tidings.streams.log.protocol import CHANGES, EVENTS, TEXT, Consumer, Log, Record
from tidings.streams.processing.batch import BatchInFlight
from tidings.streams.processing.batch_entry import SetAside, set_aside
from tidings.streams.processing.batch_writer import BatchWriter
from tidings.streams.processing.crash_journal import CRASH, ENDS, SPAN, CrashJournal
from tidings.streams.processing.outages import Abandoned, Outages
from tidings.streams.processing.poison_guard import PoisonGuard, poison
from tidings.streams.processing.statistics import Statistics
from tidings.streams.processing.text_flush import FLUSH, Announcements, TextFlush
from tidings.streams.providers.protocol import Provider
from tidings.streams.rules.reducer import Expiry, StorePolicy
from tidings.streams.support.tracing import Step

GROUP = "tidings-processor"
"""The consumer group."""

BATCH, BATCH_BEHIND = 500, 2000
"""Records taken at once; more while the processor is behind: more events share a write, and commits are fewer."""

LARGE = 512 * 1024
"""Bytes of a batch that are decoded in the loop: some milliseconds."""

COMMIT_EVERY = 0.2
"""Seconds between commits of the offsets. A commit takes as long as an event, and a flush of the store twice as long;
what a crash redelivers of so short a time is known as done."""

SHORT = 0.001
"""Seconds; an announcement that took up to this is waited for next time, a longer one goes on beside the next batch."""

POLL = 0.5
"""Seconds between calls of `fetch`, which keep the membership, while nothing comes or a batch waits for an outage."""

T = TypeVar("T")

logger = get_logger(__name__)


class Processor:
    """Applies the events of the partitions that its group gives it.

    Args:
        log: Where events come from, and changes and dead letters go.
        store: What holds the records; a store with a cache in front reads little.
        providers: By name; what webhooks are decoded by.
        policy: The log's id and what was fixed when the store was first opened.
        expiry: When records are hidden and purged.
        objects: Where fields go that are too large for a record; None: into memory.
        group: The consumer group.
        assigned: Called with the partitions at each assignment, before any of their events is judged.
        done: Called with the records of each batch once what they changed is announced.
        reached: Called with each step as it ends, for those who want to see inside.
        guard: Holds it back while nearly everything is poison; None: it goes on whatever comes.
        text_flush: Seconds between two records of a text that grows quickly.
    """

    def __init__(
        self,
        log: Log,
        store: PredictionStore,
        providers: Mapping[str, Provider],
        policy: StorePolicy,
        *,
        expiry: Expiry | None = None,
        objects: ObjectStorage | None = None,
        group: str = GROUP,
        assigned: Callable[[frozenset[int]], Awaitable[None]] | None = None,
        done: Callable[[Sequence[Record]], None] | None = None,
        reached: Callable[[Step], None] | None = None,
        guard: PoisonGuard | None = None,
        text_flush: float = FLUSH,
    ) -> None:
        self._log = log
        self._store = store
        self._providers = providers
        self._policy = policy
        self._group = group
        self._assigned = assigned
        self._done = done
        self._reached = reached
        self.guard, self._flood = guard, guard and guard.reason
        self._load, self._load_fresh = store.load_certain, store.load_fresh
        self._scattered = False  # whether that was said of a prediction
        self._loop: ConsumerLoop | None = None
        self._stopping = asyncio.Event()
        self._held: tuple[int, Sequence[Record]] = (-1, ())  # polled as an outage ended, and when
        self._writing: asyncio.Task[None] | None = None
        self._announcing: asyncio.Task[None] | None = None
        self._announced = asyncio.Event()  # set as a batch is announced that leaves nothing held
        self._announced_in = inf
        self._wait = POLL
        """Seconds that a fetch waits for records: no longer than what is done may lie uncommitted."""
        self.statistics = Statistics()
        self.texts = TextFlush(text_flush)
        self._journal = CrashJournal(store, policy.log)
        self.outages = Outages(self._stopping, self.statistics, self._journal.waiting)
        self._retry = self.outages.retry_until_available
        self._writer = BatchWriter(
            log,
            store,
            objects or ObjectStorage("memory://"),
            policy,
            expiry or Expiry(),
            self.outages,
            self.statistics,
        )

    @property
    def consumer(self) -> Consumer | None:
        """The membership, while it runs."""
        return self._loop.consumer if self._loop is not None else None

    @property
    def positions(self) -> dict[int, int]:
        """Per partition that it has read of since its assignment, the offset below which everything is done."""
        return self._loop.done() if self._loop is not None else {}

    @property
    def obstacle(self) -> str | None:
        """What is being waited out at the moment, for readiness."""
        return self.outages.obstacle

    def stop(self) -> None:
        """Finish the batches under way and leave; `run` returns then."""
        self._stopping.set()

    async def run(self) -> None:
        """Process until `stop`. Outages of log and store are waited out; anything else is raised."""
        loop = ConsumerLoop(
            self._log,
            EVENTS,
            self._group,
            committed=partial(self._reached, Step.COMMITTED) if self._reached else None,
            persist=self._store.persist,
        )
        self._loop = self.outages.loop = loop
        loop.consumer.before_revocation(partial(self._let_go, loop))
        limit = BATCH
        try:
            while not self._stopping.is_set():
                try:
                    if self.guard is not None:
                        limit = min(limit, self._heed(self.guard, loop) or limit)
                    records = await self._take(loop, limit)  # 1
                    fetched_in = loop.consumer.generation()
                    if self._stopping.is_set():
                        break  # whoever comes next reads these again
                    if not loop.current or loop.went_back:
                        await self._drain()
                        await self._take_over(loop)
                        if loop.generation != fetched_in:
                            continue  # reassigned meanwhile: these come again, from before what was dropped
                    self.statistics.alive()
                    if not records:
                        limit = BATCH
                        await self._idle(loop)
                        if not self.texts.wait(1):
                            await self._begin(loop, ())
                            await self._written()
                        continue
                    if first := not self._journal.knows(records):
                        await self._settled(lambda records=records: self._journal.admit(records))  # type: ignore[misc]
                    if self._journal.careful:
                        limit = SPAN
                        await self._singly(loop, records)
                        continue
                    full = len(records) >= limit
                    limit = min(limit * 2, BATCH_BEHIND) if full else BATCH
                    while first and self._journal.suspicious and len(records) > SPAN:
                        await self._begin(loop, records[:SPAN], overlap=True)
                        records = records[SPAN:]
                    # What is taken behind one that is not full would only be smaller, and wait all the same.
                    await self._begin(loop, records, overlap=full)
                except Abandoned:
                    await self._drain()
                    logger.info("processor.batch_abandoned")
            await self._drain()
            await self._write_texts(loop)
            with contextlib.suppress(StorageError):
                await self._journal.close()
        finally:
            for task in (self._writing, self._announcing):
                if task is not None:
                    task.cancel()
                    await asyncio.gather(task, return_exceptions=True)
            await loop.close()

    def _heed(self, guard: PoisonGuard, loop: ConsumerLoop) -> int | None:
        """Take nothing while the guard says so; returns how many records it lets through, None: all."""
        counts = self.statistics
        loop.hold(guard.note(monotonic(), counts.records, poison(counts.dead_letters)), "poison")
        if guard.reason is None and self._flood is not None:
            logger.info("processor.breaker_closed")
        elif guard.reason is not None and self._flood is None:
            logger.error("processor.stopped_by_breaker", reason=guard.reason)
        self._flood = guard.reason
        return guard.most

    # ---- 1: take and decode ----

    async def _take(self, loop: ConsumerLoop, limit: int) -> Sequence[Record]:
        (generation, held), self._held = self._held, (-1, ())
        if held and generation == loop.consumer.generation():
            return held  # otherwise whoever has the partitions now reads them again
        return await loop.fetch(limit, self.texts.wait(self._wait))

    async def _begin(
        self, loop: ConsumerLoop, records: Sequence[Record], *, overlap: bool = False
    ) -> None:
        """Decode a batch, and write it once the one before it is written; with `overlap` beside what comes next."""
        if sum([len(record.value or b"") for record in records]) <= LARGE:
            batch = BatchInFlight(records, self._providers)
        else:  # in a thread: others must not wait until megabytes are decoded, measured and hashed
            batch = await asyncio.to_thread(BatchInFlight, records, self._providers)
        if self._reached is not None:
            self._reached(Step.TAKEN)
        await self._written()
        writing = self._write(loop.begin(records), batch)
        if overlap:
            self._writing = asyncio.create_task(writing)
        else:
            with self.outages.polling(self._poll):
                await writing

    async def _singly(self, loop: ConsumerLoop, records: Sequence[Record]) -> None:
        """Each doubtful record through all steps before the next, as one may end the process; the others go first."""
        doubtful, calm = self._journal.divided(records)
        if calm:
            await self._begin(loop, calm)
        for record in doubtful:
            await self._drain()
            if self._stopping.is_set() or not loop.current:
                return  # whoever has them next reads these again
            if await self._settled(lambda record=record: self._journal.begin(record)):  # type: ignore[misc]
                await self._begin(loop, [record])
            else:
                reason = f"{ENDS} processes ended while nothing but this record was under way"
                batch = BatchInFlight.of_poison(SetAside(record, CRASH, reason))
                self._writing = asyncio.create_task(self._write(loop.begin([record]), batch))
            await self._drain()

    async def _write(self, claim: Claim, batch: BatchInFlight) -> None:
        """Steps 2 to 4, and step 5 once that of the batch before has ended."""
        entries = batch.entries
        started = perf_counter()
        # ---- 2: load, by a cache only what this processor wrote or read itself ----
        unknown = self.texts.join(entries)
        loaded = await self._retry(self._load, unknown) if unknown else {}
        if self._reached is not None:
            self._reached(Step.LOADED)
        loaded_at = perf_counter()

        # ---- 3: reduce ----
        # One that may end the process is written with all that it changes before the next is begun.
        batch.reduce(loaded, self._policy, None if self._journal.careful else self.texts.holds)
        await self._judge_doubtful(batch)
        if self._reached is not None:
            self._reached(Step.REDUCED)
        reduced_at = perf_counter()

        # ---- 4: dead letters, contents, store ----
        if rejected := [*batch.poison, *set_aside(batch.unusual.values())]:
            await self._writer.keep(batch, rejected)
        await self._writer.write(batch, entries)
        assert self._loop is not None
        said = self.texts.settle(batch.unusual, self._loop)
        if self._reached is not None:
            self._reached(Step.WRITTEN)
        batch.seconds += (loaded_at - started, reduced_at - loaded_at, perf_counter() - reduced_at)

        before, self._announcing = self._announcing, None
        if before is not None:
            await before  # if it failed, this batch may not be announced either
        announcing = self._announce(claim, batch, said)
        if self._announced_in < SHORT:
            await announcing
        else:
            self._announcing = asyncio.create_task(announcing)

    async def _judge_doubtful(self, batch: BatchInFlight) -> None:
        """Events that are about to be dropped for good are judged by what the store has, not by a copy of it."""
        doubtful = [(i, e) for i, e in batch.unusual.items() if e.doubtful]
        if not doubtful or self._load_fresh == self._store.load:
            return
        fresh = await self._retry(self._load_fresh, [i for i, _ in doubtful])
        for prediction_id, entry in doubtful:
            stored = fresh.get(prediction_id)
            if stored is None or entry.before is None or stored.version != entry.before.version:
                entry.reduce(stored, self._policy)
                batch.look_again(prediction_id)

    # ---- 5: announce ----

    async def _announce(self, claim: Claim, batch: BatchInFlight, said: Announcements) -> None:
        """Announce what was written, wait for the log's word, and let step 6 follow."""
        started = perf_counter()
        entries = batch.entries
        changes = [change for e in entries.values() if (change := e.announcement()) is not None]
        if repeated := [i for i, e in batch.unusual.items() if e.repeated]:
            # A crash may have swallowed the announcement of what these events had changed.
            fresh: dict[str, Stored] = await self._retry(self._load_fresh, repeated)
            changes += [entries[i].repeated_announcement(stored) for i, stored in fresh.items()]
        began = perf_counter()
        if said.pieces:
            appends = [(CHANGES, changes), (TEXT, said.pieces)]
            await asyncio.gather(
                *[self._retry(self._log.append, *one) for one in appends if one[1]]
            )
        elif changes:
            await self._retry(self._log.append, CHANGES, changes)
            self._announced_in = perf_counter() - began
        if self._reached is not None:
            self._reached(Step.ANNOUNCED)
        batch.seconds.append(perf_counter() - started)
        assert self._loop is not None
        if not self._scattered and (found := batch.scattered()) is not None:
            self._scattered = True
            logger.warning("processor.scattered", **found)
        # ---- 6: commit ----
        if self._done is not None:
            self._done(batch.records)
        self._loop.finish(claim)
        for held in said.released:
            self._loop.release(held)
        self._loop.commit_every(0 if batch.kept else COMMIT_EVERY)  # a dead letter comes once
        self._wait = COMMIT_EVERY
        if not self.texts.held:
            self._announced.set()
        self.statistics.batch(batch)

    # ---- one batch behind the other ----

    async def _take_over(self, loop: ConsumerLoop) -> None:
        """Begin with what was assigned; raises `Abandoned` if it was taken again meanwhile."""
        # Another member may have written meanwhile: what the cache knows may be old.
        self._store.clear()
        if loop.reassigned():
            self.texts.drop()  # what was held back comes again; without a new assignment it does not
        await self._settled(lambda: self._journal.open(loop.consumer.assigned()))
        if (assigned := self._assigned) is not None:
            await self._settled(lambda: assigned(loop.consumer.assigned()))

    async def _write_texts(self, loop: ConsumerLoop) -> None:
        """Write all that is held back, as far as that goes: whoever comes next reads the rest again."""
        self.texts.everything = True
        if self.texts.held and loop.current:
            await self._begin(loop, ())
            await self._drain()

    async def _let_go(self, loop: ConsumerLoop) -> None:
        """The partitions are about to be taken: have the loop write what is held back, and commit."""
        self.texts.everything = True
        self._announced.clear()
        if self.texts.held:
            await self._announced.wait()
        await loop.commit()

    async def _idle(self, loop: ConsumerLoop) -> None:
        """Nothing came: hear what became of the last batch, and commit what is not committed yet."""
        if self.guard is not None:
            self.guard.caught_up(monotonic())
        if self._writing is not None and self._writing.done():
            await self._written()
        if self._announcing is not None and self._announcing.done():
            announcing, self._announcing = self._announcing, None
            await announcing
        if self._journal.careful and self._writing is None and self._announcing is None:
            await self._settled(partial(self._journal.calm, await loop.at_end()))
        loop.commit_soon()
        self._wait = POLL

    async def _written(self) -> None:
        """Wait until the batch under way is written; raises what made that fail."""
        if (writing := self._writing) is not None:
            try:
                await self._ended(writing)
            finally:
                if writing.done():
                    self._writing = None

    async def _settled(self, operation: Callable[[], Awaitable[T]]) -> T:
        """The operation's result; outages are waited out beside the loop, which goes on polling."""
        task = asyncio.ensure_future(self._retry(operation))
        await self._ended(task)
        return task.result()

    async def _ended(self, task: "asyncio.Future[T]") -> None:
        """Wait for a task; while it waits for the end of an outage keep polling, so that the membership lives on."""
        while not task.done():
            await asyncio.wait((task,), timeout=POLL)
            if self.outages.waiting and not task.done():
                await self._poll()
        task.result()

    async def _poll(self) -> None:
        assert self._loop is not None
        records = await self._loop.fetch(BATCH, 0)
        if records:  # the outage ended a moment ago
            generation, held = self._held
            now = self._loop.consumer.generation()
            self._held = (now, [*held, *records] if generation == now else records)
        self.statistics.alive()

    async def _drain(self) -> None:
        """Let the batches under way end, as far as they can; raises what no retry fixes."""
        for task in (self._writing, self._announcing):
            if task is not None:
                with contextlib.suppress(Abandoned):
                    await self._ended(task)
        if self._announcing is not None:  # that of the batch which was being written
            with contextlib.suppress(Abandoned):
                await self._ended(self._announcing)
        self._writing = self._announcing = None
