"""Filling the fallback store from the changes, by version.

It reads the whole compacted topic at every start: what the copy has already is left alone, and what it missed is there.
"""

import asyncio
from collections.abc import Iterable, Sequence

import msgspec
import structlog

from tidings.storage.errors import StorageError, StoreUnavailable
from tidings.storage.prediction import Tombstone, decode
from tidings.storage.store import PredictionStore
from tidings.storage.wrappers.fallback import Copy, mirror
from tidings.streams.changes.codec import Change, newest
from tidings.streams.log.protocol import CHANGES, Log, LogUnavailable, Record

SLICE = 500
"""Predictions brought up to date at once."""
BACKOFF = (0.1, 0.5, 1.0, 2.0, 5.0)
"""Seconds before trying again, after the first, second, ... failure in a row."""

_log = structlog.get_logger()


class Mirror:
    """Keeps a copy of every prediction's newest state.

    Args:
        log: Where the changes are.
        fallback: The copy; nothing else may write it.
        keep: ms for which a state stays in the copy after it is hidden, or after it was deleted.
    """

    def __init__(self, log: Log, fallback: PredictionStore, *, keep: int) -> None:
        self._log = log
        self._fallback = fallback
        self._keep = keep
        self._next: dict[int, int] = {}
        self._failures = 0
        self.caught_up = False
        """Whether it had read everything when it last looked."""
        self.written = 0
        """States written to the copy."""

    async def run(self) -> None:
        """Follow the changes until it is cancelled; an outage of the log or of the copy is waited out."""
        while True:
            try:
                # Partitions that it has no place in are read from their beginning.
                for number, (first, end) in (await self._log.bounds(CHANGES)).items():
                    if not first <= self._next.get(number, first) <= end:
                        del self._next[number]
                async for records in self._log.follow(CHANGES, dict(self._next)):
                    await self._take(records)
                    self._failures = 0
            except (LogUnavailable, StoreUnavailable) as error:
                self.caught_up = False
                delay = BACKOFF[min(self._failures, len(BACKOFF) - 1)]
                self._failures += 1
                _log.warning("mirror.waits", error=str(error), seconds=delay)
                await asyncio.sleep(delay)

    async def _take(self, records: Sequence[Record]) -> None:
        if not records:
            self.caught_up = True
            return
        timestamps = {record.key: record.timestamp for record in records}
        changes = list(newest(records).values())
        for start in range(0, len(changes), SLICE):
            copies = list(self._copies(changes[start : start + SLICE], timestamps))
            self.written += await mirror(self._fallback, copies)
        for record in records:
            self._next[record.partition] = record.offset + 1

    def _copies(
        self, changes: Iterable[Change], timestamps: dict[bytes | None, int]
    ) -> Iterable[Copy]:
        for change in changes:
            at = timestamps[change.prediction_id.encode()]
            if change.deleted:
                record = Tombstone(
                    prediction_id=change.prediction_id,
                    deleted=True,
                    version=change.version,
                    updated_at=at,
                    owner=change.owner,
                    model=change.model,
                    tags=change.tags,
                )
                yield Copy(record, msgspec.json.encode(record), None, at + self._keep)
                continue
            try:
                prediction = decode(change.value)
            except (msgspec.DecodeError, StorageError) as error:
                _log.error("mirror.skipped", prediction_id=change.prediction_id, error=str(error))
                continue
            purge_at = None if change.expires_at is None else change.expires_at + self._keep
            yield Copy(prediction, change.value, change.expires_at, purge_at)
