"""Filling an empty store from the changes topic, which holds whole records: one of each prediction, once compacted.

Every event before the processor's committed offset was judged, and what came of it announced, before that offset was
committed. So two things make the store that the processor has: the highest version of each
prediction in the topic, and the events from there on through the same rules. An event that a
record's `source` already names is a duplicate.

Routing and listing need what the headers say; of a record's JSON the two times alone are decoded, and of versions that
newer ones replace not even the headers.
"""

import asyncio
from collections.abc import Callable, Sequence

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from tidings.storage.prediction import Prediction, Source, Status
from tidings.storage.store import Conflict, PredictionStore, Write, WriteRefused
from tidings.streams.changes.codec import Change, parse, restored
from tidings.streams.log.protocol import CHANGES, EVENTS, Log, Position, Record
from tidings.streams.log.read_until_end import read_until_end
from tidings.streams.replay.rebuild import Progress, Span, taken
from tidings.streams.rules.reducer import DAY, Expiry

BATCH, BATCH_BYTES = 5000, 16_777_216
"""Predictions, and bytes of their records, that gather before they are written: versions that follow one another
closely are written once."""


class _Times(Struct, frozen=True, gc=False, rename="camel"):
    """What of a record stands in no header."""

    created_at: int
    updated_at: int


_STATUSES: dict[str | None, Status] = {status.value: status for status in Status}
_times = msgspec.json.Decoder(_Times).decode


class Restoration:
    """Writes the newest announced version of every prediction into an empty store that nobody else writes.

    The versions written are kept in memory: about 150 bytes a prediction. Until all is written, the store's `positions`
    stay empty, so that a rebuild that resumes an interrupted restoration reads the events from the beginning.

    Args:
        log: Where the changes are.
        store: The target.
        owner: The id of the log that the store belongs to.
        progress: Counted in here.
        expiry: When records are purged.
        only: This prediction alone.
        notice: Called after each batch.
    """

    def __init__(
        self,
        log: Log,
        store: PredictionStore,
        owner: str,
        progress: Progress,
        *,
        expiry: Expiry | None = None,
        only: str | None = None,
        notice: Callable[[Progress], None] | None = None,
    ) -> None:
        self._log = log
        self._store = store
        self._owner = owner
        self._progress = progress
        self._retention = (expiry or Expiry()).retention
        self._only = None if only is None else only.encode()
        self._notice = notice
        self._pending: dict[bytes, tuple[int, Record]] = {}
        self._size = 0
        self._versions: dict[str, int] = {}
        self._highest: dict[int, tuple[int, Write]] = {}
        """Per partition the highest offset that the store's records came of, and the newest record of that prediction."""
        self._writing: asyncio.Task[None] | None = None
        self._refused: dict[str, int] = {}
        """Predictions whose last write the store has refused, and the version that stands."""

    async def run(self, group: str) -> dict[int, int]:
        """Read the changes up to their end as of now, and write; returns per partition where the events go on.

        Args:
            group: The processor's, whose commits say up to where events were announced. Partitions that it never
                committed are left out: all of their events are to be read.

        Raises:
            StoreInUse: Somebody else writes the store.
            LogError, StorageError: As the log and the store do.
        """
        committed = await self._log.committed(
            EVENTS, group
        )  # before the ends of the changes: these hold what it says
        bounds = await self._log.bounds(CHANGES)
        await self._read(
            Span(
                {p: first for p, (first, _) in bounds.items()},
                {p: end for p, (_, end) in bounds.items()},
            )
        )
        return committed

    async def _read(self, what: Span) -> None:
        left = what.total
        self._progress.total += left
        if not left:
            return
        position = dict(what.start)
        async for records in read_until_end(self._log, CHANGES, start=what.start, end=what.end):
            self._gather(records)
            for record in records:
                position[record.partition] = record.offset + 1
            # Compaction leaves gaps: how much is still to come is known by the offsets alone.
            still = Span(position, what.end).total
            self._progress.total -= left - still - len(records)
            left = still
            if len(self._pending) >= BATCH or self._size >= BATCH_BYTES:
                await self._flush()
        self._progress.total -= left
        await self._flush()
        await self._written()
        await self._place()

    def _gather(self, records: Sequence[Record]) -> None:
        """Keep the highest version of each prediction."""
        pending, only = self._pending, self._only
        self._progress.changes += len(records)
        for record in records:
            key = record.key
            if key is None or (only is not None and key != only):
                continue
            version = _version(record)
            held = pending.get(key)
            if held is None or version >= held[0]:
                pending[key] = version, record
                self._size += len(record.value or b"")

    async def _flush(self) -> None:
        """Write what has gathered; that goes on while more is read."""
        pending, self._pending, self._size = self._pending, {}, 0
        versions = self._versions
        writes: list[tuple[Write, Position | None]] = []
        for _, record in pending.values():
            change = parse(record)
            try:
                if change is None:
                    raise ValueError("no change of ours")
                standing = versions.get(change.prediction_id, 0)
                if change.version > standing:
                    writes.append(
                        (self._write(change, record.timestamp, standing), change.position)
                    )
                    versions[change.prediction_id] = change.version
            except (msgspec.DecodeError, ValueError, KeyError):
                self._progress.poison += 1
        await self._written()  # what is written meanwhile takes as long as all this
        if self._refused:
            writes = [(self._behind_refused(write), at) for write, at in writes]
            self._refused.clear()
        self._writing = asyncio.create_task(self._put(writes))
        await asyncio.sleep(0)  # lets it begin

    def _behind_refused(self, write: Write) -> Write:
        """With the version that really stands, if the store has refused the one before."""
        standing = self._refused.get(write.record.prediction_id)
        return write if standing is None else replace(write, expected=standing)

    def _write(self, change: Change, announced_at: int, expected: int) -> Write:
        if change.deleted:
            whole = restored(
                change, log=self._owner, announced_at=announced_at, retention=self._retention
            )
            return Write(
                replace(whole.record, source=None), whole.encoded, expected, None, whole.purge_at
            )
        times = _times(change.value)
        facts = Prediction(
            prediction_id=change.prediction_id,
            status=_STATUSES[change.status],
            version=change.version,
            created_at=times.created_at,
            updated_at=times.updated_at,
            owner=change.owner,
            model=change.model,
            tags=change.tags,
        )
        expires_at = change.expires_at
        purge_at = None if expires_at is None else expires_at + self._retention + DAY
        return Write(facts, change.value, expected, expires_at, purge_at)

    async def _place(self) -> None:
        """Write what came of each partition's highest offset once more, with it: that makes the store's positions."""
        placed: dict[str, tuple[Write, dict[str, int]]] = {}
        for partition, (offset, write) in self._highest.items():
            _, offsets = placed.setdefault(write.record.prediction_id, (write, {}))
            offsets[str(partition)] = offset
        again = [
            replace(
                write,
                record=replace(write.record, source=Source(self._owner, offsets)),
                expected=write.record.version,
            )
            for write, offsets in placed.values()
        ]
        await self._put([(write, None) for write in again])

    async def _written(self) -> None:
        writing, self._writing = self._writing, None
        if writing is not None:
            await writing

    async def _put(self, writes: Sequence[tuple[Write, Position | None]]) -> None:
        """Write, and remember what was accepted."""
        accepted: dict[str, Write] = {}
        outcomes = await self._store.write([write for write, _ in writes])
        for (write, at), outcome in zip(writes, outcomes, strict=True):
            prediction_id = write.record.prediction_id
            if isinstance(outcome, Conflict):
                raise taken(prediction_id)
            if isinstance(outcome, WriteRefused):
                self._progress.rejected += 1
                self._refused[prediction_id] = write.expected
                if self._versions[prediction_id] == write.record.version:
                    self._versions[prediction_id] = write.expected
                continue
            accepted[prediction_id] = write
            if not write.expected:
                self._progress.restored += 1
            if at is not None and (
                (held := self._highest.get(at.partition)) is None or held[0] < at.offset
            ):
                self._highest[at.partition] = at.offset, write
        for partition, (offset, write) in self._highest.items():
            # If events lie in several partitions, the newest record may have come of another one's offset.
            self._highest[partition] = offset, accepted.get(write.record.prediction_id, write)
        if self._notice is not None:
            self._notice(self._progress)


def _version(record: Record) -> int:
    """Of a change; 0 if it is none."""
    try:
        name, value = record.headers[0]  # where we write it
        if name == "v":
            return int(value)
    except (LookupError, ValueError, TypeError):
        return 0
    change = parse(record)
    return change.version if change is not None else 0
