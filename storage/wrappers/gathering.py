"""A store whose lone writes are gathered for a moment, for the one process that writes and reads it.

An event by itself costs a transaction of the store, which takes as long as deciding what the event
means. If events come one by one and close together, what they write waits for a few hundredths of a
second, and one transaction serves all of it. Nothing depends on it: what is not in the store yet
comes again from the log if the process ends.

- What waits is seen: whatever is asked of the store is answered with it.
- The offsets of a log are committed behind it (`persist`).
- What others read of the changes is behind it as well: `written` is called once it is in the store.
- Nobody else may write: a conflict is found when the change was announced already. It ends the
  process, and the events are judged again.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from time import monotonic

from tidings.storage.errors import StorageError
from tidings.storage.loggers import get_logger
from tidings.storage.prediction import Prediction
from tidings.storage.store import (
    Conflict,
    Outcome,
    Ownership,
    Page,
    PredictionStore,
    Query,
    Stored,
    Write,
)
from tidings.storage.usage import UsageSums

GATHER = 0.05
"""Seconds that a write waits at most, and that two events may lie apart to be close together."""
MOST_WRITES = 16
MOST_BYTES = 49_152
"""What is gathered at most: the event loop writes it, in a millisecond."""

logger = get_logger(__name__)


class GatheringStore(PredictionStore):
    """Gathers the writes of events that come one by one.

    Args:
        store: What is written.
        ready: Whether what is announced may wait, too, at this moment.
        written: Awaited when everything is in the store.
    """

    def __init__(
        self,
        store: PredictionStore,
        ready: Callable[[], bool],
        written: Callable[[], Awaitable[None]],
    ) -> None:
        self.store = store
        self.name = store.name
        self.capabilities = store.capabilities
        self._ready = ready
        self._written = written
        self._waiting: dict[str, Write] = {}
        self._bytes = 0
        self._under_way: dict[str, Write] = {}
        self._turn = asyncio.Lock()
        self._timer: asyncio.TimerHandle | None = None
        self._flushing: asyncio.Task[None] | None = None
        self._failed = False
        self._untold = False
        """Whether something came into the store, and `written` was not awaited since."""
        self._last = float("-inf")

    @property
    def gathering(self) -> bool:
        """Whether something is not in the store yet."""
        return bool(self._waiting or self._untold)

    async def write(self, writes: Sequence[Write]) -> list[Outcome]:
        """As the store does; a lone one is kept for a moment."""
        now, before = monotonic(), self._last
        self._last = now
        if (
            now - before > GATHER
            or len(writes) != 1
            or self._failed
            or not isinstance(record := writes[0].record, Prediction)
            # How a text is cut into versions depends on time: each must stand before it is told.
            or record.text_length is not None
            or len(writes[0].encoded) > MOST_BYTES
            or not self._ready()
        ):
            await self.flush()
            return await self.store.write(writes)
        return [await self._keep(record.prediction_id, writes[0])]

    async def _keep(self, prediction_id: str, write: Write) -> Outcome:
        earlier = self._waiting.get(prediction_id)
        last = earlier or self._under_way.get(prediction_id)
        if last is not None and last.record.version != write.expected:
            return Conflict(last.record.version)
        if earlier is not None:
            write = _joined(earlier, write)
        self._waiting[prediction_id] = write
        self._bytes += len(write.encoded)
        if len(self._waiting) >= MOST_WRITES or self._bytes >= MOST_BYTES:
            await self.flush()
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(GATHER, self._due)
        return None

    async def flush(self) -> None:
        """Wait until everything is in the store, and told.

        Raises:
            StorageError: It is not; all of it waits on.
        """
        if not self.gathering:
            return
        async with self._turn:
            self._failed = True
            while self._waiting:
                await self._write_some()
            # From here to the first thing that `written` does nothing else runs: what it brings
            # after the store is in the store.
            if self._untold:
                await self._written()
            self._failed, self._untold = False, False

    async def _write_some(self) -> None:
        writes = self._under_way = self._waiting
        self._waiting, self._bytes, self._untold = {}, 0, True
        try:
            outcomes = await self.store.write([*writes.values()])
        except BaseException:
            self._wait_on(writes)
            raise
        finally:
            self._under_way = {}
        for write, outcome in zip(writes.values(), outcomes, strict=True):
            # If the one before was cut off, its outcome unknown, it may have stood.
            if outcome is not None and outcome != Conflict(write.record.version):
                raise StorageError(
                    f"somebody else has written to the {self.name} store ({outcome}); the processor of its log "
                    "must be the only one: stop the other, then start again"
                )

    def _wait_on(self, writes: dict[str, Write]) -> None:
        """They were not taken: what has come meanwhile goes on top of them."""
        for prediction_id, later in self._waiting.items():
            earlier = writes.get(prediction_id)
            writes[prediction_id] = later if earlier is None else _joined(earlier, later)
        self._waiting = writes
        self._bytes = sum([len(write.encoded) for write in writes.values()])

    def _due(self) -> None:
        self._timer = None
        if self.gathering:
            self._flushing = asyncio.get_running_loop().create_task(self._flush_in_time())

    async def _flush_in_time(self) -> None:
        try:
            await self.flush()
        except Exception as error:  # the next write meets it, too, and waits it out
            logger.warning("store.gathered.not_written", error=str(error))
            if self._timer is None and self.gathering:
                self._timer = asyncio.get_running_loop().call_later(1.0, self._due)

    # What waits is seen.

    async def load(self, prediction_ids: Sequence[str]) -> dict[str, Stored]:
        """As the store does."""
        if not self.gathering:
            return await self.store.load(prediction_ids)
        found: dict[str, Stored] = {}
        for prediction_id in prediction_ids:
            write = self._waiting.get(prediction_id) or self._under_way.get(prediction_id)
            if write is not None:
                found[prediction_id] = write.stored
        if len(found) < len(prediction_ids):
            found |= await self.store.load([one for one in prediction_ids if one not in found])
        return found

    async def get(self, prediction_id: str) -> Stored | None:
        """As the store does."""
        await self.flush()
        return await self.store.get(prediction_id)

    async def claim(self, ownership: Ownership) -> Ownership:
        """As the store does."""
        await self.flush()
        return await self.store.claim(ownership)

    async def positions(self) -> dict[int, int]:
        """As the store does."""
        await self.flush()
        return await self.store.positions()

    async def list(self, query: Query) -> Page:
        """As the store does."""
        await self.flush()
        return await self.store.list(query)

    async def count(self, query: Query, most: int) -> dict[str, int] | None:
        """As the store does."""
        await self.flush()
        return await self.store.count(query, most)

    async def find(self, phrase: str, query: Query) -> Page | None:
        """As the store does."""
        await self.flush()
        return await self.store.find(phrase, query)

    async def unsearchable(self, query: Query) -> int | None:
        """As the store does."""
        await self.flush()
        return await self.store.unsearchable(query)

    async def usage(self, query: Query, by: Sequence[str]) -> UsageSums | None:
        """As the store does."""
        await self.flush()
        return await self.store.usage(query, by)

    async def index(self) -> int:
        """As the store does."""
        await self.flush()
        return await self.store.index()

    async def sweep(self, now: int, limit: int) -> int:
        """As the store does."""
        await self.flush()
        return await self.store.sweep(now, limit)

    async def persist(self) -> None:
        """As the store does."""
        await self.flush()
        await self.store.persist()

    async def mark_filled(self) -> None:
        """As the store does."""
        await self.flush()
        await self.store.mark_filled()

    async def facts(self) -> dict[str, str]:
        """As the store does."""
        await self.flush()
        return await self.store.facts()

    async def close(self) -> None:
        """Write what waits, and close the store."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        try:
            await self.flush()
        except Exception as error:  # it comes again from the log
            logger.warning("store.gathered.not_written", error=str(error))
        await self.store.close()


def _joined(earlier: Write, later: Write) -> Write:
    """What two writes of one prediction come to."""
    return Write(later.record, later.encoded, earlier.expected, later.expires_at, later.purge_at)
