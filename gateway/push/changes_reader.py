"""What a gateway does with the changes: cache them, push them, answer those who wait for one.

Every gateway reads all partitions without a group, from their ends at its start. While it is caught
up the cache need not age, because it sees every change.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable, Sequence
from typing import Protocol

from tidings.gateway.push.expiry import Expiries
from tidings.gateway.push.hub import Hub
from tidings.gateway.push.text_hub import TextHub
from tidings.storage.loggers import get_logger
from tidings.storage.prediction import Status, Tombstone, encode
from tidings.storage.store import Stored
from tidings.streams.changes.codec import Change, parse
from tidings.streams.changes.feed import ChangeFeed, ChangeWaiters
from tidings.streams.log.protocol import Log, Record
from tidings.streams.support.histogram import Histogram
from tidings.streams.support.tracing import PREDICTION, Span, Tracing, sampled

SLICE = 1_000
"""Changes taken at once of a larger batch: catching up must not stall the event loop."""

OnChanges = Callable[[Sequence[Change]], None]

logger = get_logger(__name__)


class Cache(Protocol):
    """What changes are kept in; `CachedStore` is one."""

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
        hub: Delivers them to those who watch.
        cache: Keeps the newest states; its `steady` is this reader's to set.
        texts: That grow; told of every record first. None: nobody asks for pieces.
        from_beginning: Read the whole topic first: for a store that cannot be asked for the newest
            state.
        tombstones: Keep deletions in the cache, instead of asking the store about what is gone: for
            such a store, too.
        on_changes: Told of every change before those who watch: other parts of this process.
        on_gap: Called when changes were missed for good, after the cache was cleared.
        expiries: Told of changes once they are pushed.
        tracing: Where the spans of sampled changes go; None: nothing is traced.
    """

    def __init__(
        self,
        log: Log,
        hub: Hub,
        cache: Cache,
        *,
        texts: TextHub | None = None,
        from_beginning: bool = False,
        tombstones: bool = False,
        on_changes: OnChanges | None = None,
        on_gap: Callable[[], None] | None = None,
        expiries: Expiries | None = None,
        tracing: Tracing | None = None,
    ) -> None:
        super().__init__()
        self._expiries = expiries
        self._on_changes = on_changes
        self._tracing = tracing
        self._hub = hub
        self._texts = texts
        self._cache = cache
        self._from_beginning = from_beginning
        self._tombstones = tombstones
        self._on_gap = on_gap
        self._feed = ChangeFeed(
            log,
            self._take,
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
        """From a change's announcement to the end of its fan-out, of the oldest of each batch."""

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
        # What changes now is not seen. A cache that did not age would answer with it forever.
        self._cache.steady = False

    def _forget(self) -> None:
        """Changes were missed for good: what is cached may be outdated."""
        self._cache.clear()
        if self._from_beginning:
            self._feed.positions.clear()  # nobody else can say what the cache has just forgotten
        if self._on_gap is not None:
            self._on_gap()

    async def _take(self, batch: Sequence[Record]) -> None:
        for start in range(0, len(batch), SLICE):
            part = batch[start : start + SLICE]
            changes = self._cached(part)
            self.changes += len(changes)
            if self._texts is not None:
                self._texts.judge(part, changes)
            self.arrived(changes)
            try:
                await self._push(changes)
            except Exception as error:
                # One session's fault must not end the fan-out to all the others.
                logger.error("changes.fan_out.failed", exc_info=error)
            if self._feed.caught_up.is_set():  # what was there before us is not late
                self.to_push.observe(time.time() - part[0].timestamp / 1000)
            if len(batch) >= SLICE:
                await asyncio.sleep(0)  # behind: a log in memory would never let the loop turn

    def _cached(self, batch: Sequence[Record]) -> list[Change]:
        """The changes in these records, each in the cache.

        The cache comes before the hub: a session that is told of a change and asks for the record
        must not be answered with the former one.
        """
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
                # The tombstone's bytes, which a processor in this process needs, are in the store
                # and nowhere else.
                self._cache.invalidate(change.prediction_id)
        return changes

    async def _push(self, changes: Sequence[Change]) -> None:
        if self._on_changes is not None:
            self._on_changes(changes)
        spans = self._spans(changes) if self._tracing is not None else ()
        texts = self._texts
        try:
            if texts is None:
                for _ in self._hub.fan_out(changes):
                    await asyncio.sleep(0)
            else:
                async with texts.turn:
                    texts.changed(changes)
                    for _ in self._hub.fan_out(changes):
                        await asyncio.sleep(0)
            if self._expiries is not None:
                self._expiries.notice(changes)
        finally:
            for span in spans:
                span.end()

    def _spans(self, changes: Sequence[Change]) -> list[Span]:
        """A span for each sampled change that somebody watches, until the last session has it."""
        spans = []
        for change in changes:
            if change.traceparent is None or not sampled(parent := change.traceparent.encode()):
                continue
            watchers = self._hub.watchers(change)
            if not watchers or change.version <= self._hub.version(change.prediction_id):
                continue
            attributes: dict[str, str | int] = {
                PREDICTION: change.prediction_id,
                "tidings.version": change.version,
                "tidings.watchers": watchers,
            }
            assert self._tracing is not None
            spans.append(
                self._tracing.begin("push", "consumer", parent=parent, attributes=attributes)
            )
        return spans


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
