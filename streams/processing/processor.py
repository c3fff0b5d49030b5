"""The processor: from events to state to announcements, effectively once without transactions of the log.

A batch goes through these steps; the numbers stand in the code as well (2 to 5 in `streams/processing/applier.py`):

1. take a bounded batch, and translate it
2. load the current records in one call
3. reduce: decide
4. keep the dead letters; put what is too large for a record into object storage; write the store by compare-and-set on
   the version
5. announce the changes, and wait for the log's word
6. commit the offsets, in the background, one commit in flight

Three batches may be under way at a time, each in steps of its own and in order: one is written (2 to 4) while the one
before it is announced (5) and, where the processor is behind, the one after it is taken (1). What a batch announces was
written before, and nothing is committed whose announcement, or that of a batch before it, did not stand.

A crash anywhere redelivers: what was applied is a duplicate by its position, is announced again, and subscribers drop
the version that they have. A consumer that lost its partitions without noticing fails the compare-and-set, reloads,
and sees the duplicates. A dead letter is kept before the record moves past its position: after that, a redelivery would
take the event for a duplicate, and it would be nowhere.
"""

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TypeVar

import structlog

from tidings.storage.errors import StorageError
from tidings.storage.object_storage import ObjectStorage
from tidings.storage.store import PredictionStore
from tidings.streams.log.protocol import EVENTS, Consumer, Log, LogError, Record
from tidings.streams.processing.applier import Applier, Work
from tidings.streams.processing.statistics import Statistics
from tidings.streams.providers.protocol import Provider
from tidings.streams.rules.reducer import Expiry, StorePolicy

T = TypeVar("T")

GROUP = "tidings-processor"
"""The consumer group."""

BATCH, BATCH_BEHIND = 500, 2000
"""Records taken at once; more while the processor is behind, since folding and fewer commits pay then."""

RETRY_FIRST, RETRY_MOST = 0.05, 1.0
"""Seconds between attempts at a store or log that is down: it goes on within two seconds of its return."""

_POLL = 0.5
"""Seconds between calls of `fetch` while a batch waits for an outage to end: they keep the group membership."""

log_ = structlog.get_logger("tidings.processor")


def _nothing(_step: int) -> None:
    """Nobody wants to see inside."""


class Abandoned(Exception):
    """The batch's partitions went to another member, or the processor stops; whoever has them next reads it again."""


class Processor:
    """Applies the events of the partitions that its group gives it.

    Args:
        log: Where events come from, and changes and dead letters go.
        store: What holds the records; a store with a cache in front reads little.
        providers: By name; what webhooks are translated by.
        policy: The log's id and what was fixed when the store was first opened.
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
        policy: StorePolicy,
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
        self._group = group
        self._assigned = assigned
        self._reached = reached or _nothing
        self._consumer: Consumer | None = None
        self._generation = -1
        self._stopping = asyncio.Event()
        self._held: tuple[int, Sequence[Record]] = (-1, ())
        """Taken as an outage ended that a batch before them waited for, and in which generation."""
        self._writing: asyncio.Task[None] | None = None
        self._announcing: asyncio.Task[None] | None = None
        self._waiting = 0
        """Operations that wait for the end of an outage."""
        self._done: dict[int, int] = {}
        self._uncommitted = False
        self._committer: asyncio.Task[None] | None = None
        self.statistics = Statistics()
        self.obstacle: str | None = None
        """What is being waited out at the moment, for readiness."""
        self._applier = Applier(
            log,
            store,
            policy,
            expiry=expiry or Expiry(),
            objects=objects or ObjectStorage("memory://"),
            insist=self._insist,
            reached=self._reached,
            statistics=self.statistics,
        )

    @property
    def consumer(self) -> Consumer | None:
        """The membership, while it runs."""
        return self._consumer

    @property
    def positions(self) -> dict[int, int]:
        """Per partition that it has processed anything of since its assignment, the next offset."""
        return dict(self._done)

    def stop(self) -> None:
        """Finish the batches under way and leave; `run` returns then."""
        self._stopping.set()

    async def run(self) -> None:
        """Process until `stop`. Outages of log and store are waited out; anything else is raised."""
        consumer = self._consumer = self._log.consume(EVENTS, self._group)
        limit = BATCH
        try:
            while not self._stopping.is_set():
                try:
                    records = await self._take(consumer, limit)  # 1
                    if self._stopping.is_set():
                        break  # whoever comes next reads these again
                    if consumer.generation() != self._generation:
                        await self._drain()
                        await self._take_over(consumer)
                    self.statistics.alive()
                    if not records:
                        limit = BATCH
                        await self._idle(consumer)
                        continue
                    full = len(records) >= limit
                    limit = min(limit * 2, BATCH_BEHIND) if full else BATCH
                    await self._begin(records)
                    if (
                        not full
                    ):  # taken now, the next batch would only be smaller, and wait all the same
                        await self._written()
                except Abandoned:
                    await self._drain()
                    log_.info("processor.batch_abandoned")
            await self._drain()
        finally:
            await self._finish(consumer)

    # ---- 1: take ----

    async def _take(self, consumer: Consumer, limit: int) -> Sequence[Record]:
        (generation, held), self._held = self._held, (-1, ())
        if (
            held and generation == consumer.generation()
        ):  # otherwise whoever has the partitions now reads them again
            return held
        try:
            return await consumer.fetch(limit, 0.5)
        except LogError as error:
            if not error.retryable:
                raise
            log_.warning("processor.log_unavailable", error=str(error))
            await asyncio.sleep(RETRY_FIRST)
            return ()

    async def _take_over(self, consumer: Consumer) -> None:
        """Begin with what was assigned; raises `Abandoned` where it was taken again meanwhile."""
        # Another member may have written meanwhile: what the cache knows may be old.
        self._generation = consumer.generation()
        self._done.clear()
        clear = getattr(self._store, "clear", None)
        if clear is not None:
            clear()
        log_.info("processor.assigned", partitions=sorted(consumer.assigned()))
        if self._assigned is not None:
            self._writing = asyncio.create_task(self._prepare(self._assigned, consumer.assigned()))
            await self._written()

    async def _prepare(
        self, assigned: Callable[[frozenset[int]], Awaitable[None]], partitions: frozenset[int]
    ) -> None:
        await self._insist(lambda: assigned(partitions))

    async def _idle(self, consumer: Consumer) -> None:
        """Nothing came: hear what became of the last batch, and commit what is not committed yet."""
        if self._writing is not None and self._writing.done():
            await self._written()
        if self._announcing is not None and self._announcing.done():
            announcing, self._announcing = self._announcing, None
            await announcing
        if self._uncommitted:
            self._commit_soon(consumer)

    # ---- 2 to 5, one batch behind the other ----

    async def _begin(self, records: Sequence[Record]) -> None:
        """Translate a batch, and write it once the one before it is written."""
        work = Work(records, self._providers)
        self._reached(1)
        await self._written()
        self._writing = asyncio.create_task(self._write(work))

    async def _write(self, work: Work) -> None:
        await self._applier.write(work)
        before, self._announcing = self._announcing, None
        if before is not None:
            await before  # where it failed, this batch may not be announced either
        self._announcing = asyncio.create_task(self._announce(work))

    async def _announce(self, work: Work) -> None:
        await self._applier.announce(work)
        assert self._consumer is not None
        for record in work.records:
            self._done[record.partition] = record.offset + 1
        self._commit_soon(self._consumer)  # 6
        batch = work.batch
        self.statistics.unknown_fields += batch.unknown_fields
        self.statistics.batch(
            batch.entries.values(), records=len(work.records), seconds=work.seconds
        )

    async def _written(self) -> None:
        """Wait until the batch under way is written; raises what kept it from it."""
        if (writing := self._writing) is not None:
            try:
                await self._turn(writing)
            finally:
                if writing.done():
                    self._writing = None

    async def _turn(self, task: "asyncio.Future[None]") -> None:
        """Wait for a step; while it waits for the end of an outage keep polling, so that the membership lives on."""
        while not task.done():
            await asyncio.wait((task,), timeout=_POLL)
            if self._waiting and not task.done():
                await self._poll()
        task.result()

    async def _poll(self) -> None:
        consumer = self._consumer
        assert consumer is not None
        try:
            records = await consumer.fetch(BATCH, 0)
        except LogError as error:
            log_.debug("processor.log_unavailable", error=str(error))
        else:
            if records:  # the outage ended a moment ago
                generation, held = self._held
                now = consumer.generation()
                self._held = (now, [*held, *records] if generation == now else records)
        self.statistics.alive()

    async def _drain(self) -> None:
        """Let the batches under way end, as far as they can; raises what no retry mends."""
        for task in (self._writing, self._announcing):
            if task is not None:
                with contextlib.suppress(Abandoned):
                    await self._turn(task)
        if self._announcing is not None:  # that of the batch which was being written
            with contextlib.suppress(Abandoned):
                await self._turn(self._announcing)
        self._writing = self._announcing = None

    # ---- 6: commit ----

    def _commit_soon(self, consumer: Consumer) -> None:
        self._uncommitted = True
        if self._committer is None or self._committer.done():
            self._committer = asyncio.create_task(self._commit(consumer))

    async def _commit(self, consumer: Consumer) -> None:
        while self._uncommitted:
            self._uncommitted = False
            assigned = consumer.assigned()
            positions = {
                partition: offset
                for partition, offset in self._done.items()
                if partition in assigned
            }
            try:
                await consumer.commit(positions)
            except LogError as error:
                # Whoever reads from the older offset meets duplicates, which are harmless.
                log_.warning("processor.commit_failed", error=str(error))
                self._uncommitted = True
                return
            self._reached(6)

    async def _finish(self, consumer: Consumer) -> None:
        for task in (self._writing, self._announcing):
            if task is not None:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
        if self._committer is not None:
            await asyncio.wait([self._committer], timeout=2)
        if self._uncommitted:
            await self._commit(consumer)
        await consumer.close()

    # ---- outages ----

    async def _insist(self, operation: Callable[[], Awaitable[T]]) -> T:
        """Do it, waiting out outages; meanwhile nothing is taken."""
        delay = RETRY_FIRST
        waiting = False
        try:
            while True:
                try:
                    result = await operation()
                except (StorageError, LogError) as error:
                    if not error.retryable:
                        raise
                    self._still_ours()
                    self.obstacle = str(error)
                    if not waiting:
                        waiting = True
                        self._pause(str(error))
                    with contextlib.suppress(TimeoutError):
                        # Jitter: many processors should not come back at once.
                        async with asyncio.timeout(delay * random.uniform(0.5, 1)):  # noqa: S311 - nothing secret
                            await self._stopping.wait()
                    delay = min(delay * 2, RETRY_MOST)
                else:
                    self.statistics.alive()  # a batch may have many of them
                    return result
        finally:
            if waiting:
                self._resume()

    def _pause(self, reason: str) -> None:
        self._waiting += 1
        if self._waiting == 1:
            assert self._consumer is not None
            self._consumer.pause()
            self.statistics.pauses += 1
            log_.warning("processor.paused", error=reason)

    def _resume(self) -> None:
        self._waiting -= 1
        if not self._waiting:
            assert self._consumer is not None
            self.obstacle = None
            self._consumer.resume()
            log_.info("processor.resumed")

    def _still_ours(self) -> None:
        assert self._consumer is not None
        if self._stopping.is_set() or self._consumer.generation() != self._generation:
            raise Abandoned
