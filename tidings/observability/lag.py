"""How far readers are behind, and whether they move: measured from outside the loops that read.

A reader that hangs cannot say so itself. So the positions it has reached are held against the ends
of the topic, again and again, by a task of its own.
"""

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping

from tidings.storage.loggers import get_logger
from tidings.streams.log.protocol import LogError

EVERY = 2.0
"""Seconds between two measurements."""
LIMIT = 5.0
"""Seconds for the log to say where its ends are."""
KEPT = 256
"""Measurements kept; the older half is thinned out when there are more."""

logger = get_logger(__name__)

Offsets = Mapping[int, int]


class ReaderLag:
    """What measurements of one reader say. Pure; times are monotonic seconds.

    A reader is so many seconds behind as have passed since its topic ended where it has come to by
    now.
    """

    def __init__(self) -> None:
        self._ends: deque[tuple[float, Offsets]] = deque()
        self._positions: Offsets = {}
        self._moved_at: float | None = None
        self.partitions: dict[int, int] = {}
        """Records that each partition of this reader is behind."""
        self.seconds = 0.0
        """How long the oldest record that it has not passed has waited, about."""

    @property
    def records(self) -> int:
        """Records behind, over all partitions."""
        return sum(self.partitions.values())

    def note(self, now: float, ends: Offsets, positions: Offsets) -> None:
        """A measurement.

        Args:
            now: When.
            ends: Per partition of the reader the offset that the next record will get; taken before
                `positions`.
            positions: Per partition the next offset that it reads.
        """
        self.partitions = {
            number: max(0, end - positions.get(number, 0)) for number, end in ends.items()
        }
        if self._moved_at is None or dict(positions) != self._positions or not self.records:
            self._moved_at = now
        self._positions = dict(positions)
        self._ends.append((now, dict(ends)))
        if not self.records:
            self.seconds = 0.0
            while len(self._ends) > 1:
                self._ends.popleft()
            return
        while self._ends and self._passed(self._ends[0][1]):
            if len(self._ends) > 1 and not self._passed(self._ends[1][1]):
                break
            self._ends.popleft()
        self.seconds = now - self._ends[0][0] if self._ends else 0.0
        if len(self._ends) > KEPT:
            kept = list(self._ends)
            self._ends = deque([*kept[: KEPT // 2 : 2], *kept[KEPT // 2 :]])

    def stalled_seconds(self, now: float) -> float:
        """Seconds for which it has not moved although there was something to read."""
        return now - self._moved_at if self._moved_at is not None and self.records else 0.0

    def _passed(self, ends: Offsets) -> bool:
        return all(
            self._positions.get(number, 0) >= end
            for number, end in ends.items()
            if number in self.partitions
        )


Measure = Callable[[], Awaitable[tuple[Offsets, Offsets]]]
"""Asks for the ends of a reader's partitions and for its positions, in this order. Raises
`LogError`."""


class LagMonitor:
    """Measures readers every few seconds.

    Args:
        every: Seconds between two measurements.
        ask: Asks the log for something, if there is no reader to measure: it may be broken all
            the same. Raises `LogError`.
    """

    def __init__(
        self, every: float = EVERY, ask: Callable[[], Awaitable[object]] | None = None
    ) -> None:
        self._every = every
        self._ask = ask
        self._measures: dict[str, Measure] = {}
        self.progress: dict[str, ReaderLag] = {}
        """By reader."""
        self.log_obstacle: str | None = None
        """Why the log does not say where its ends are; None: it does."""
        self.loop_delay = 0.0
        """Seconds by which the event loop woke this watch too late, the last time."""

    def add(self, reader: str, measure: Measure) -> ReaderLag:
        """Watch a reader."""
        self._measures[reader] = measure
        return self.progress.setdefault(reader, ReaderLag())

    async def run(self) -> None:
        """Measure until canceled."""
        while True:
            await self.measure()
            due = time.monotonic() + self._every
            await asyncio.sleep(self._every)
            self.loop_delay = time.monotonic() - due

    async def measure(self) -> None:
        """Measure every reader now."""
        reader = ""
        try:
            for reader, measure in self._measures.items():
                async with asyncio.timeout(LIMIT):
                    ends, positions = await measure()
                self.progress[reader].note(time.monotonic(), ends, positions)
            if not self._measures and self._ask is not None:
                async with asyncio.timeout(LIMIT):
                    await self._ask()
        except (LogError, TimeoutError) as error:
            reason = str(error) or f"the log has said nothing for {LIMIT:g} s"
            if self.log_obstacle is None:
                logger.warning("progress.unknown", reader=reader or None, error=reason)
            self.log_obstacle = reason
        else:
            self.log_obstacle = None
