"""Step 4 of a batch: what is rejected goes to the dead letters, what is large to object storage, records to the store."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence

from tidings.storage.clock import SYSTEM_CLOCK
from tidings.storage.object_storage import ObjectStorage
from tidings.storage.store import Conflict, PredictionStore, WriteRefused
from tidings.streams.log.protocol import DEAD_LETTERS, Log
from tidings.streams.processing.batch import BatchInFlight
from tidings.streams.processing.batch_entry import BatchEntry, SetAside, set_aside
from tidings.streams.processing.dead_letters import append_all
from tidings.streams.processing.outages import Outages
from tidings.streams.processing.statistics import Statistics
from tidings.streams.rules.reducer import Expiry, StorePolicy

PUTS_AT_ONCE = 16
"""Records whose contents are put at a time: a batch of large ones should take no longer than it must."""


class BatchWriter:
    """Writes what has become of a batch's events; waits outages out.

    Args:
        log: Takes the dead letters.
        store: Takes the records.
        objects: Takes what is too large for a record.
        policy: What events are judged by if another processor has written meanwhile.
        expiry: When records are hidden and purged.
        outages: Waits for what is down.
        statistics: Counts dead letters and conflicts.
    """

    def __init__(
        self,
        log: Log,
        store: PredictionStore,
        objects: ObjectStorage,
        policy: StorePolicy,
        expiry: Expiry,
        outages: Outages,
        statistics: Statistics,
    ) -> None:
        self._log = log
        self._store = store
        self._load_fresh = store.load_fresh
        self._objects = objects
        self._policy = policy
        self._expiry = expiry
        self._statistics = statistics
        self._retry = outages.retry_until_available

    async def keep(self, batch: BatchInFlight, records: Sequence[SetAside]) -> None:
        """Put these into the dead letters, each once in a batch."""
        new = [s for s in records if (s.record.partition, s.record.offset) not in batch.kept]
        if not new:
            return
        counts = self._statistics.dead_letters
        for s in new:
            counts[s.code] = counts.get(s.code, 0) + 1
        letters = [s.letter() for s in new]
        await append_all(lambda some: self._retry(self._log.append, DEAD_LETTERS, some), letters)
        batch.kept.update((s.record.partition, s.record.offset) for s in new)

    async def write(self, batch: BatchInFlight, entries: Mapping[str, BatchEntry]) -> None:
        """Put what has changed into the store by compare-and-set on the version."""
        todo = [(i, e) for i, e in entries.items() if e.changed]
        while todo:
            if large := [entry for _, entry in todo if entry.contents]:
                await put_contents(large, self._put)
            now = SYSTEM_CLOCK.ms()
            writes = [entry.write(self._expiry, now) for _, entry in todo]
            outcomes = await self._retry(self._store.write, writes)
            lost = []
            for (prediction_id, entry), outcome in zip(todo, outcomes, strict=True):
                if isinstance(outcome, Conflict):
                    lost.append((prediction_id, entry))
                elif isinstance(outcome, WriteRefused):
                    await self._write_singly(batch, prediction_id, entry, outcome)
            todo = await self._judge_again(batch, lost) if lost else []

    async def _put(self, path: str, content: bytes) -> None:
        await self._retry(self._objects.put, path, content)

    async def _judge_again(
        self, batch: BatchInFlight, lost: Sequence[tuple[str, BatchEntry]]
    ) -> list[tuple[str, BatchEntry]]:
        """Another processor has written: judge the events again by what stands now."""
        self._statistics.conflicts += len(lost)
        fresh = await self._retry(self._load_fresh, [i for i, _ in lost])
        for prediction_id, entry in lost:
            entry.reduce(fresh.get(prediction_id), self._policy)
            batch.look_again(prediction_id)
        # Others may be rejected now than before; they are kept before the record moves past them.
        await self.keep(batch, set_aside(entry for _, entry in lost))
        return [(i, e) for i, e in lost if e.changed]

    async def _write_singly(
        self, batch: BatchInFlight, prediction_id: str, entry: BatchEntry, refused: WriteRefused
    ) -> None:
        """The store will never take this record: write event by event, and keep those that it refuses."""
        if len(entry.all_events) == 1:
            entry.refuse()
            batch.look_again(prediction_id)
            entry.set_aside = [SetAside(entry.all_events[0][1], "refused", refused.reason)]
            await self.keep(batch, entry.set_aside)
            return

        async def attempt(single: BatchEntry) -> None:
            await self.keep(batch, single.set_aside)
            await self.write(batch, {prediction_id: single})

        singles = await entry.event_by_event(self._policy, self._expiry, attempt)
        written = next((single for single in reversed(singles) if single.changed), None)
        entry.set_aside = set_aside(singles)
        entry.refuse()
        if written is not None:
            entry.reduction, entry.changed = written.reduction, True
            entry.encoded, entry.expires_at = written.encoded, written.expires_at
        batch.look_again(prediction_id)


async def put_contents(
    entries: Sequence[BatchEntry], put: Callable[[str, bytes], Awaitable[None]]
) -> None:
    """Put what these records refer to, before any of them stands; several records' at once."""
    left = iter(entries)

    async def put_some() -> None:
        for entry in left:
            # First the note which prediction they belong to, then each content; a repeat is harmless.
            for where, content in entry.contents_to_put().items():
                await put(where, content)

    try:
        async with asyncio.TaskGroup() as group:
            for _ in entries[:PUTS_AT_ONCE]:
                group.create_task(put_some())
    except ExceptionGroup as failed:
        # Each waits outages out for itself: what is left has one cause, and who retries looks for that.
        raise failed.exceptions[0] from None
