"""Follows the changes topic for a process without a gateway: tells of them, and lets others wait for one."""

import asyncio
from collections.abc import Callable, Sequence

import structlog

from tidings.streams.changes.codec import Change, parse
from tidings.streams.log.protocol import CHANGES, Log, LogError, Record

RETRY = 0.5
"""Seconds before following again."""

_log = structlog.get_logger("tidings.changes")


class ChangesWatch:
    """Follows from the topic's end as it was at the start.

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
        self._changes_log, self._tell, self._on_gap = log, tell, on_gap
        self._positions: dict[int, int] = {}
        self._waiting: dict[str, list[tuple[int, asyncio.Future[Change]]]] = {}
        self.caught_up = asyncio.Event()

    async def start(self) -> None:
        """Take the positions to start from. Raises `LogError`."""
        self._positions = {
            number: end for number, (_, end) in (await self._changes_log.bounds(CHANGES)).items()
        }

    async def run(self) -> None:
        """Follow until cancelled; outages of the log are waited out."""
        while True:
            try:
                await self._step_over_gaps()
                async for batch in self._changes_log.follow(CHANGES, dict(self._positions)):
                    if batch:
                        self._take(batch)
                    else:
                        self.caught_up.set()
            except LogError as error:
                if not error.retryable:
                    raise
                _log.warning("changes.interrupted", error=str(error))
            self.caught_up.clear()
            await asyncio.sleep(RETRY)

    async def wait_for_version(
        self, prediction_id: str, beyond: int, timeout: float
    ) -> Change | None:
        """Wait for a change with a version above `beyond`; None where it has not come in time."""
        arrived: asyncio.Future[Change] = asyncio.get_running_loop().create_future()
        entry = (beyond, arrived)
        self._waiting.setdefault(prediction_id, []).append(entry)
        try:
            async with asyncio.timeout(timeout):
                return await arrived
        except TimeoutError:
            return None
        finally:
            waiting = self._waiting[prediction_id]
            waiting.remove(entry)
            if not waiting:
                del self._waiting[prediction_id]

    async def _step_over_gaps(self) -> None:
        gap = False
        for number, (first, end) in (await self._changes_log.bounds(CHANGES)).items():
            if not first <= self._positions.setdefault(number, first) <= end:
                self._positions[number] = first
                gap = True
        if gap and self._on_gap is not None:
            self._on_gap()

    def _take(self, batch: Sequence[Record]) -> None:
        changes = []
        for record in batch:
            self._positions[record.partition] = record.offset + 1
            change = parse(record)
            if change is None:
                continue
            changes.append(change)
            for beyond, arrived in self._waiting.get(change.prediction_id, ()):
                if change.version > beyond and not arrived.done():
                    arrived.set_result(change)
        self._tell(changes)
