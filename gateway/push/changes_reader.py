"""What a gateway does with the changes: into the cache, out to the hub, and to whoever waits for one of them.

Every gateway reads all partitions without a group, from the ends as they were at its start. While it is caught up the
cache need not age, because it sees every change.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable, Sequence
from typing import Protocol

import structlog

from tidings.gateway.push.hub import Hub
from tidings.storage.prediction import Status, Tombstone, encode
from tidings.storage.store import Stored
from tidings.streams.changes.codec import Change, parse
from tidings.streams.changes.feed import ChangeFeed, ChangeWaiters
from tidings.streams.log.protocol import Log, Record
from tidings.streams.support.histogram import Histogram

SLICE = 1_000
"""Changes taken at once out of a larger batch, so that catching up does not stall the event loop."""

logger = structlog.get_logger(__name__)


class Cache(Protocol):
    """What changes are kept in; `storage.cached.CachedStore` is one."""

    steady: bool

    def put(self, prediction_id: str, stored: Stored) -> None:
        """Keep a state, unless a newer one is known."""

    def invalidate(self, prediction_id: str) -> None:
        """Forget a prediction."""

    def clear(self) -> None:
        """Forget everything."""


class ChangesReader(ChangeWaiters):
    """Keeps one gateway up to date.

    Args:
        log: Where the changes are.
        hub: Who is told.
        cache: What is kept; its `steady` is this reader's to set.
        from_beginning: Read the whole topic first: for a store that cannot be asked for the newest state.
        tombstones: Keep deletions in the cache, instead of asking the store about what is gone: for such a store too.
        on_gap: Called when changes were missed for good, after the cache was cleared.
    """

    def __init__(
        self,
        log: Log,
        hub: Hub,
        cache: Cache,
        *,
        from_beginning: bool = False,
        tombstones: bool = False,
        on_gap: Callable[[], None] | None = None,
    ) -> None:
        super().__init__()
        self._hub = hub
        self._cache = cache
        self._from_beginning = from_beginning
        self._tombstones = tombstones
        self._on_gap = on_gap
        self._feed = ChangeFeed(
            log,
            self._take_in_slices,
            on_caught_up=self._caught_up,
            on_interruption=self._interrupted,
            on_gap=self._forget,
        )
        self._task: asyncio.Task[None] | None = None
        self.changes = 0
        """Changes read so far."""
        self.lag = 0
        """Records behind the ends of the topic, as `measure` found last."""
        self.to_push = Histogram()
        """From the announcement of a change to the end of its fan-out, of the oldest of those that are read at once."""

    @property
    def caught_up(self) -> bool:
        """Whether it follows, and had read everything there was a moment ago."""
        return self._feed.caught_up.is_set()

    @property
    def seen_at(self) -> float:
        """When it was last caught up or got a batch, on the monotonic clock."""
        return self._feed.seen_at

    @property
    def positions(self) -> dict[int, int]:
        """Per partition the next offset to be read."""
        return dict(self._feed.positions)

    async def start(self) -> None:
        """Take the positions to start from, and follow from there in the background.

        Raises:
            LogError: The log does not say where its ends are.
        """
        await self._feed.seek(to_end=not self._from_beginning)
        self._task = asyncio.create_task(self._feed.run(), name="changes-reader")

    async def ready(self) -> None:
        """Wait until it is caught up."""
        await self._feed.caught_up.wait()

    async def close(self) -> None:
        """Stop following. Whoever waits for a change waits for its time limit."""
        task, self._task = self._task, None
        self._cache.steady = False
        if task is not None:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def measure(self) -> int:
        """How many records it is behind by now; also kept in `lag`.

        Raises:
            LogError: The log does not say where its ends are.
        """
        self.lag = await self._feed.lag()
        return self.lag

    async def _caught_up(self) -> None:
        self._cache.steady = True

    def _interrupted(self, _: Exception) -> None:
        self._cache.steady = False  # what changes now is not seen: from here on what is cached ages

    def _forget(self) -> None:
        """Changes were missed for good: what is cached may be outdated."""
        self._cache.clear()
        if self._from_beginning:
            self._feed.positions.clear()  # nobody else can say what the cache has just forgotten
        if self._on_gap is not None:
            self._on_gap()

    async def _take_in_slices(self, batch: Sequence[Record]) -> None:
        for start in range(0, len(batch), SLICE):
            try:
                await self._take(batch[start : start + SLICE])
            except Exception as error:
                # One session's fault must not end the fan-out to all the others.
                logger.error("changes.fan_out.failed", exc_info=error)
            if len(batch) >= SLICE:
                await asyncio.sleep(0)  # behind: a log in memory would never let the loop turn

    async def _take(self, batch: Sequence[Record]) -> None:
        changes: list[Change] = []
        put = self._cache.put
        for record in batch:
            change = parse(record)
            if change is None:
                logger.warning("changes.foreign", partition=record.partition, offset=record.offset)
                continue
            changes.append(change)
            if change.value and change.status in _STATUSES:
                put(change.prediction_id, _stored(change))
            elif self._tombstones and not change.value:
                put(change.prediction_id, _deleted(change, record.timestamp))
            else:
                # The tombstone's bytes, which a processor beside us needs, are in the store and nowhere else.
                self._cache.invalidate(change.prediction_id)
        self.changes += len(changes)
        self.arrived(changes)
        for _ in self._hub.fan_out(changes):
            await asyncio.sleep(0)
        if self.caught_up:  # what was there before us is not late
            self.to_push.observe(time.time() - batch[0].timestamp / 1000)


_STATUSES = {status.value: status for status in Status}


def _deleted(change: Change, announced_at: int) -> Stored:
    """What is known of a deleted prediction, for those who cannot ask the store."""
    tombstone = Tombstone(
        prediction_id=change.prediction_id,
        deleted=True,
        version=change.version,
        updated_at=announced_at if change.deleted_at is None else change.deleted_at,
        owner=change.owner,
        model=change.model,
        tags=change.tags,
    )
    return Stored(change.version, None, encode(tombstone), None, change.owner)


def _stored(change: Change) -> Stored:
    """What the store holds for this change."""
    return Stored(
        change.version,
        _STATUSES[change.status or ""],
        change.value,
        change.expires_at,
        change.owner,
    )
