"""Follows the changes topic: into the cache, out to the hub, and to whoever waits for one change.

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
from tidings.streams.log.protocol import CHANGES, Log, LogError, Position, Record
from tidings.streams.support.histogram import Histogram

SLICE = 1_000
"""Changes taken at once out of a larger batch, so that catching up does not stall the event loop."""

RECENT = 1_024
RECENT_BYTES = 8 * 1024 * 1024
"""What is kept for those who ask for a change that has just come: the last half to the whole of either bound."""

BACKOFF = (0.05, 0.1, 0.2, 0.5, 1.0)
"""Seconds before following again, after the first, second, ... failure in a row."""

_log = structlog.get_logger()


class Cache(Protocol):
    """What changes are kept in; `storage.cached.CachedStore` is one."""

    steady: bool

    def put(self, prediction_id: str, stored: Stored) -> None:
        """Keep a state, unless a newer one is known."""

    def invalidate(self, prediction_id: str) -> None:
        """Forget a prediction."""

    def clear(self) -> None:
        """Forget everything."""


class _Waiter:
    __slots__ = ("arrived", "wants")

    def __init__(self, wants: Callable[[Change], bool]) -> None:
        self.wants = wants
        self.arrived: asyncio.Future[Change] = asyncio.get_running_loop().create_future()


class ChangesReader:
    """One gateway's eyes on the changes.

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
        self._changes_log = log
        self._hub = hub
        self._cache = cache
        self._from_beginning = from_beginning
        self._tombstones = tombstones
        self._on_gap = on_gap
        self._positions: dict[int, int] = {}
        self._task: asyncio.Task[None] | None = None
        self._caught_up = asyncio.Event()
        self._waiters: dict[str, list[_Waiter]] = {}
        self._recent: dict[str, Change] = {}
        self._older: dict[str, Change] = {}
        self._recent_bytes = 0
        self.changes = 0
        """Changes read so far."""
        self.lag = 0
        """Records behind the ends of the topic, as `measure` found last."""
        self.to_push = Histogram()
        """From the announcement of a change to the end of its fan-out, of the oldest of those that are read at once."""
        self.seen_at = 0.0
        """When it was last caught up or got a batch, on the monotonic clock."""

    @property
    def caught_up(self) -> bool:
        """Whether it follows, and had read everything there was a moment ago."""
        return self._caught_up.is_set()

    @property
    def positions(self) -> dict[int, int]:
        """Per partition the next offset to be read."""
        return dict(self._positions)

    async def start(self) -> None:
        """Take the positions to start from, and follow from there in the background.

        Raises:
            LogError: The log does not say where its ends are.
        """
        bounds = await self._changes_log.bounds(CHANGES)
        self._positions = {
            number: first if self._from_beginning else end
            for number, (first, end) in bounds.items()
        }
        self._task = asyncio.create_task(self._run(), name="changes-reader")

    async def ready(self) -> None:
        """Wait until it is caught up."""
        await self._caught_up.wait()

    async def close(self) -> None:
        """Stop following. Whoever waits for a change waits for its time limit."""
        task, self._task = self._task, None
        self._cache.steady = False
        self._caught_up.clear()
        if task is not None:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def measure(self) -> int:
        """How many records it is behind by now; also kept in `lag`.

        Raises:
            LogError: The log does not say where its ends are.
        """
        bounds = await self._changes_log.bounds(CHANGES)
        self.lag = sum(
            max(0, end - self._positions.get(number, 0)) for number, (_, end) in bounds.items()
        )
        return self.lag

    async def wait_for(
        self, prediction_id: str, position: Position, timeout: float
    ) -> Change | None:
        """The prediction's first change that includes the event at this position; also where it has come just now.

        Args:
            prediction_id: Whose.
            position: Of an event, in the events topic.
            timeout: Seconds.

        Returns:
            The change, or None where it has not come in time.
        """

        def includes(change: Change) -> bool:
            at = change.position
            return (
                at is not None
                and at.partition == position.partition
                and at.offset >= position.offset
            )

        return await self._wait(prediction_id, includes, timeout)

    async def wait_for_version(
        self, prediction_id: str, beyond: int, timeout: float
    ) -> Change | None:
        """The prediction's first change with a version above `beyond`, as `wait_for`."""
        return await self._wait(prediction_id, lambda change: change.version > beyond, timeout)

    async def _wait(
        self, prediction_id: str, wants: Callable[[Change], bool], timeout: float
    ) -> Change | None:
        change = self._recent.get(prediction_id) or self._older.get(prediction_id)
        if change is not None and wants(change):
            return change
        waiter = _Waiter(wants)
        self._waiters.setdefault(prediction_id, []).append(waiter)
        try:
            async with asyncio.timeout(timeout):
                return await waiter.arrived
        except TimeoutError:
            return None
        finally:
            waiting = self._waiters[prediction_id]
            waiting.remove(waiter)
            if not waiting:
                del self._waiters[prediction_id]

    # Following

    async def _run(self) -> None:
        failures = 0
        while True:
            started = time.monotonic()
            try:
                await self._follow()
            except LogError as error:
                _log.warning("changes.interrupted", error=str(error))
            except Exception as error:
                _log.error("changes.failed", exc_info=error)
            self._caught_up.clear()
            self._cache.steady = False
            failures = 0 if time.monotonic() - started > BACKOFF[-1] else failures
            await asyncio.sleep(BACKOFF[min(failures, len(BACKOFF) - 1)])
            failures += 1

    async def _follow(self) -> None:
        await self._step_over_gaps()
        async for batch in self._changes_log.follow(CHANGES, dict(self._positions)):
            self.seen_at = time.monotonic()
            if not batch:
                self._caught_up.set()
                self._cache.steady = True
                continue
            for start in range(0, len(batch), SLICE):
                await self._take(batch[start : start + SLICE])
                if len(batch) >= SLICE:
                    await asyncio.sleep(0)  # behind: a log in memory would never let the loop turn

    async def _step_over_gaps(self) -> None:
        """Where the topic no longer has what comes next, go on with what it has, and forget what may be outdated."""
        gaps: dict[int, int] = {}
        for number, (first, end) in (await self._changes_log.bounds(CHANGES)).items():
            at = self._positions.setdefault(number, first)
            if not first <= at <= end:
                gaps[number] = first
        if gaps:
            _log.warning(
                "changes.gap",
                partitions={number: (self._positions[number], gaps[number]) for number in gaps},
            )
            self._positions.update(gaps)
            self._cache.clear()
            if self._from_beginning:
                self._positions.clear()  # nobody else can say what the cache has just forgotten
            if self._on_gap is not None:
                self._on_gap()

    async def _take(self, batch: Sequence[Record]) -> None:
        changes: list[Change] = []
        positions = self._positions
        put = self._cache.put
        for record in batch:
            positions[record.partition] = record.offset + 1
            change = parse(record)
            if change is None:
                _log.warning("changes.foreign", partition=record.partition, offset=record.offset)
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
        self._remember(changes)
        for _ in self._hub.fan_out(changes):
            await asyncio.sleep(0)
        if self._caught_up.is_set():  # what was there before us is not late
            self.to_push.observe(time.time() - batch[0].timestamp / 1000)

    def _remember(self, changes: Sequence[Change]) -> None:
        """Keep the last changes for a while, and answer those who wait for one."""
        recent = self._recent
        waiters = self._waiters
        for change in changes:
            recent[change.prediction_id] = change
            self._recent_bytes += len(change.value)
            if waiters and change.prediction_id in waiters:
                for waiter in waiters[change.prediction_id]:
                    if not waiter.arrived.done() and waiter.wants(change):
                        waiter.arrived.set_result(change)
        if len(recent) >= RECENT or self._recent_bytes >= RECENT_BYTES:
            self._older, self._recent = recent, {}
            self._recent_bytes = 0


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
