"""Fills the fallback store from the changes, by version.

It reads the whole compacted topic at every start: what the fallback has already is left alone, and what it missed is
there.
"""

from collections.abc import Iterable, Sequence

import msgspec

from tidings.storage.errors import StorageError
from tidings.storage.loggers import get_logger
from tidings.storage.prediction import Tombstone, decode
from tidings.storage.store import PredictionStore
from tidings.storage.wrappers.fallback import ReplicaWrite, write_replicas
from tidings.streams.changes.codec import Change, newest
from tidings.streams.changes.feed import ChangeFeed
from tidings.streams.log.protocol import Log, Record

SLICE = 500
"""Predictions brought up to date at once."""
logger = get_logger(__name__)


class FallbackSync:
    """Keeps every prediction's newest state in a second store.

    Args:
        log: Where the changes are.
        fallback: The second store; nothing else may write it.
        keep: ms for which a state stays there after it is hidden, or after it was deleted.
    """

    def __init__(self, log: Log, fallback: PredictionStore, *, keep: int) -> None:
        self._feed = ChangeFeed(log, self._take)
        self._fallback = fallback
        self._keep = keep
        self.written = 0
        """States written to the fallback store."""

    @property
    def caught_up(self) -> bool:
        """Whether it had read everything when it last looked."""
        return self._feed.caught_up.is_set()

    async def run(self) -> None:
        """Follow the changes until cancelled; an outage of the log or of the fallback store is waited out."""
        await self._feed.run()

    async def _take(self, records: Sequence[Record]) -> None:
        timestamps = {record.key: record.timestamp for record in records}
        changes = list(newest(records).values())
        for start in range(0, len(changes), SLICE):
            copies = list(self._replica_writes(changes[start : start + SLICE], timestamps))
            self.written += await write_replicas(self._fallback, copies)

    def _replica_writes(
        self, changes: Iterable[Change], timestamps: dict[bytes | None, int]
    ) -> Iterable[ReplicaWrite]:
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
                yield ReplicaWrite(record, msgspec.json.encode(record), None, at + self._keep)
                continue
            try:
                prediction = decode(change.value)
            except (msgspec.DecodeError, StorageError) as error:
                logger.error(
                    "fallback.sync.skipped", prediction_id=change.prediction_id, error=str(error)
                )
                continue
            purge_at = None if change.expires_at is None else change.expires_at + self._keep
            yield ReplicaWrite(prediction, change.value, change.expires_at, purge_at)
