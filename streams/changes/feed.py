"""Follows the changes topic from positions, across outages and gaps, and lets others wait for one change.

Gateways, the reconciler, the fallback's synchronisation and projections all follow through here: what they do with the
changes is theirs, how to get every one of them is settled once.
"""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence

from tidings.storage.errors import StorageError
from tidings.storage.loggers import get_logger
from tidings.storage.resilience.backoff import Backoff, Failures
from tidings.streams.changes.codec import Change, parse
from tidings.streams.log.continuity import (
    EVERY_SECONDS,
    LogReplaced,
    Witness,
    Witnesses,
    check_continuity,
)
from tidings.streams.log.protocol import (
    CHANGES,
    Log,
    LogError,
    LogUnavailable,
    Position,
    Record,
)

BACKOFF = Backoff((0.05, 0.1, 0.2, 0.5, 1.0))
"""Before following again."""

RECENT = 1_024
RECENT_BYTES = 8 * 1024 * 1024
"""What is kept for those who ask for a change that has just come: the last half to the whole of either bound."""

logger = get_logger(__name__)


class ChangeFeed:
    """Reads all partitions of the changes without a group.

    Args:
        log: Where the changes are.
        take: Given each batch, in order. The positions move past a batch once it is taken, so one that failed is
            given again.
        on_caught_up: Awaited each time that it has read everything there is.
        on_interruption: Called with the error when following ends, before it starts over. What it raises ends the feed.
        on_gap: Called when changes were missed for good, once the positions are past the gap: the topic no longer has
            what comes next, or is another one.
    """

    def __init__(
        self,
        log: Log,
        take: Callable[[Sequence[Record]], Awaitable[None]],
        *,
        on_caught_up: Callable[[], Awaitable[None]] | None = None,
        on_interruption: Callable[[Exception], None] | None = None,
        on_gap: Callable[[], None] | None = None,
    ) -> None:
        self._log = log
        self._take = take
        self._on_caught_up = on_caught_up
        self._on_interruption = on_interruption
        self._on_gap = on_gap
        self.positions: dict[int, int] = {}
        """Per partition the next offset to be read; partitions that are not here are read from their beginning."""
        self._witnesses = Witnesses()
        self.caught_up = asyncio.Event()
        """Whether it follows, and had read everything there was a moment ago."""
        self.seen_at = 0.0
        """When it was last caught up or got a batch, on the monotonic clock."""

    async def seek(self, *, to_end: bool) -> None:
        """Read only what comes from now on, or from the beginning. Raises `LogError`."""
        bounds = await self._log.bounds(CHANGES)
        self.positions = {n: end if to_end else first for n, (first, end) in bounds.items()}

    async def run(self) -> None:
        """Follow until cancelled; outages of the log, and of the store that the changes go to, are waited out."""
        failures = Failures(BACKOFF)
        while True:
            started = time.monotonic()
            try:
                await self._step_over_gaps()
                await self._follow()
            except LogReplaced as error:
                self._replaced(str(error))
            except Exception as error:
                if isinstance(error, LogError | StorageError):
                    logger.warning("changes.interrupted", error=str(error))
                else:
                    logger.error("changes.failed", exc_info=error)
                if self._on_interruption is not None:
                    self._on_interruption(error)
            finally:
                self.caught_up.clear()
            # What has gone well for longer than the longest delay begins with the shortest again.
            if time.monotonic() - started > BACKOFF.longest:
                failures.clear()
            await asyncio.sleep(failures.next_wait())

    async def _follow(self) -> None:
        """Read until that fails, or the topic turns out to be another one."""
        tasks = [asyncio.create_task(one) for one in (self._read(), self._look_for_replacement())]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        for task in done:
            task.result()

    async def _look_for_replacement(self) -> None:
        """Raises `LogReplaced` if other records lie in the topic than were read: it was recreated and has grown."""

        async def check(found: Mapping[int, Witness], since: Mapping[int, Witness]) -> None:
            await check_continuity(self._log, CHANGES, {**since, **found})

        while True:
            await asyncio.sleep(EVERY_SECONDS)
            with contextlib.suppress(LogUnavailable):
                await self._witnesses.look(check)

    async def _read(self) -> None:
        batches = self._log.follow(CHANGES, dict(self.positions))
        try:
            async for batch in batches:
                self.seen_at = time.monotonic()
                if batch:
                    last = {record.partition: record for record in batch}
                    self._notice_return(batch)
                    await self._take(batch)
                    self._witnesses.read(last.values())
                    for partition, record in last.items():
                        self.positions[partition] = record.offset + 1
                else:
                    self.caught_up.set()
                    if self._on_caught_up is not None:
                        await self._on_caught_up()
        finally:
            # At once, not when it is collected: it holds a connection.
            if (close := getattr(batches, "aclose", None)) is not None:
                await close()

    def _notice_return(self, batch: Sequence[Record]) -> None:
        """A reader that finds its position beyond the end goes on at the beginning: the topic was recreated."""
        first = batch[0]
        if first.offset < self.positions.get(first.partition, 0):
            raise LogReplaced(f"offset {first.offset} of partition {first.partition} came again")

    def _replaced(self, reason: str) -> None:
        logger.warning("changes.replaced", reason=reason)
        self.positions.clear()
        self._witnesses.clear()
        if self._on_gap is not None:
            self._on_gap()

    async def _step_over_gaps(self) -> None:
        """If the topic no longer has what comes next, go on with what it has.

        Retention may have taken it while this process stood still, or the topic was recreated and ends below.
        """
        gaps: dict[int, tuple[int, int]] = {}
        for number, (first, end) in (await self._log.bounds(CHANGES)).items():
            at = self.positions.setdefault(number, first)
            if not first <= at <= end:
                gaps[number] = at, first
        if gaps:
            logger.warning("changes.gap", partitions=gaps)
            self.positions.update({number: first for number, (_, first) in gaps.items()})
            if self._on_gap is not None:
                self._on_gap()

    async def lag(self) -> int:
        """How many records it is behind. Raises `LogError` if the log does not say where its ends are."""
        bounds = await self._log.bounds(CHANGES)
        return sum(max(0, end - self.positions.get(n, 0)) for n, (_, end) in bounds.items())


class _Waiter:
    __slots__ = ("arrived", "wants")

    def __init__(self, wants: Callable[[Change], bool]) -> None:
        self.wants = wants
        self.arrived: asyncio.Future[Change | None] = asyncio.get_running_loop().create_future()


class ChangeWaiters:
    """Those who wait for one change of one prediction."""

    def __init__(self) -> None:
        self._waiters: dict[str, list[_Waiter]] = {}
        self._stopped = False
        # Two generations: the older is forgotten when the younger is full, so no order of single changes is kept.
        self._recent: dict[str, Change] = {}
        self._older: dict[str, Change] = {}
        self._recent_bytes = 0

    def __len__(self) -> int:
        """For how many predictions somebody waits."""
        return len(self._waiters)

    async def wait_for(
        self, prediction_id: str, position: Position, timeout: float
    ) -> Change | None:
        """The prediction's first change that includes the event at this position; also if it has come just now.

        Args:
            prediction_id: Whose.
            position: Of an event, in the events topic.
            timeout: Seconds.

        Returns:
            The change, or None if it has not come in time.
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
        if self._stopped:
            return None
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

    def stop_waiting(self) -> None:
        """Whoever waits, now or later, is told at once that it has not come: the process ends."""
        self._stopped = True
        for waiters in self._waiters.values():
            for waiter in waiters:
                if not waiter.arrived.done():
                    waiter.arrived.set_result(None)

    def arrived(self, changes: Sequence[Change]) -> None:
        """Keep these for a while, and answer those who wait for one."""
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


class ChangeListener(ChangeWaiters):
    """Follows from the topic's end, for a process without a gateway.

    Args:
        log: Where the changes are.
        tell: Told of every batch.
        on_gap: Called when changes were missed for good.
    """

    def __init__(
        self,
        log: Log,
        tell: Callable[[Sequence[Change]], None],
        on_gap: Callable[[], None] | None = None,
    ) -> None:
        super().__init__()
        self._tell = tell
        self._feed = ChangeFeed(log, self._take, on_gap=on_gap)

    async def start(self) -> None:
        """Take the positions to start from. Raises `LogError`."""
        await self._feed.seek(to_end=True)

    async def run(self) -> None:
        """Follow until cancelled."""
        await self._feed.run()

    async def _take(self, batch: Sequence[Record]) -> None:
        changes = parse_all(batch)
        self.arrived(changes)
        self._tell(changes)


def parse_all(batch: Sequence[Record]) -> list[Change]:
    """The changes in these records; records that are no changes of ours are left out."""
    return [change for record in batch if (change := parse(record)) is not None]
