"""Expired records: whoever watches one is told when it is hidden, from what its changes say of that.

Nothing is appended for it: each gateway tells its own clients, by the expiry that changes and
snapshots carry.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from heapq import heapify, heappop, heappush

from tidings.gateway.push.hub import Hub
from tidings.storage.clock import SYSTEM_CLOCK, Clock
from tidings.storage.errors import StorageError
from tidings.storage.loggers import get_logger
from tidings.storage.prediction import Prediction
from tidings.storage.store import Stored, hidden
from tidings.streams.changes.codec import EXPIRED, Change

REMEMBERED = 100_000
"""Predictions whose expiry is waited for; beyond that those that were seen first are left out."""
BATCH = 500
PAUSE = 1.0
"""Seconds until a store that was away is asked again."""

Load = Callable[[Sequence[str]], Awaitable[dict[str, Stored]]]
"""Reads records, hidden ones included. Raises `StorageError`."""

logger = get_logger(__name__)


class Expiries:
    """Tells those who watch a prediction that it is hidden by now.

    Args:
        hub: Knows who watches.
        load: Reads records.
        clock: Tells the time.
        remembered: Predictions whose expiry is waited for.
    """

    def __init__(
        self,
        hub: Hub,
        load: Load,
        clock: Clock = SYSTEM_CLOCK,
        remembered: int = REMEMBERED,
    ) -> None:
        self._hub, self._load, self._clock = hub, load, clock
        self._remembered = remembered
        self._due: dict[str, int] = {}
        self._heap: list[tuple[int, str]] = []
        """When to look at each of them; some entries are of predictions that are left out by now."""
        self._wake = asyncio.Event()
        self.told = 0
        hub.expect_expiry = self.expect

    def __len__(self) -> int:
        return len(self._due)

    def notice(self, changes: Sequence[Change]) -> None:
        """Take note of changes that somebody was just told of."""
        version = self._hub.version
        for change in changes:
            if change.expires_at is not None and version(change.prediction_id) == change.version:
                self.expect(change.prediction_id, change.expires_at)

    def expect(self, prediction_id: str, expires_at: int) -> None:
        """Tell those who watch it when it is hidden."""
        known = self._due.pop(prediction_id, None)
        self._due[prediction_id] = expires_at
        if known is not None and known <= expires_at:
            return  # its entry in the heap comes first, and is put off then
        heappush(self._heap, (expires_at, prediction_id))
        if self._heap[0][1] == prediction_id:
            self._wake.set()
        if len(self._due) > self._remembered:
            del self._due[next(iter(self._due))]
        if len(self._heap) > 2 * self._remembered:
            # Made anew once in 100,000 times: 20 ms. To search the heap for each that is left out
            # would take as long every time, and without it they would stay until their hour.
            self._heap = [(at, name) for name, at in self._due.items()]
            heapify(self._heap)

    async def run(self) -> None:
        """Work until cancelled."""
        while True:
            self._wake.clear()
            left = (self._heap[0][0] - self._clock.ms()) / 1000 if self._heap else None
            if left is None or left > 0:
                with contextlib.suppress(TimeoutError):  # which is when the first one is due
                    async with asyncio.timeout(left):
                        await self._wake.wait()
                continue
            try:
                await self.once()
            except StorageError as error:
                logger.warning("expiry.store_unavailable", error=str(error))
                await asyncio.sleep(PAUSE)

    async def once(self) -> None:
        """Tell of what is hidden by now, at most a batch."""
        now = self._clock.ms()
        due: list[str] = []
        while self._heap and len(due) < BATCH and self._heap[0][0] <= now:
            _, prediction_id = heappop(self._heap)
            expires_at = self._due.get(prediction_id)
            if expires_at is None:
                continue
            if expires_at > now:
                heappush(self._heap, (expires_at, prediction_id))
            elif self._hub.may_be_watched(prediction_id):
                due.append(prediction_id)
            else:
                del self._due[prediction_id]
        try:
            loaded = await self._load(due) if due else {}
        except StorageError:
            for prediction_id in due:
                heappush(self._heap, (self._due[prediction_id], prediction_id))
            raise
        for prediction_id in due:
            self._due.pop(prediction_id, None)
            stored = loaded.get(prediction_id)
            record = None if stored is None else stored.standing()
            if stored is None or not isinstance(record, Prediction):
                continue
            if not hidden(stored, now):  # a change that was not seen here has put it off
                if stored.expires_at is not None:
                    self.expect(prediction_id, stored.expires_at)
                continue
            gone = Change(
                prediction_id, stored.version, b"", EXPIRED, record.owner, record.model, record.tags
            )
            self._hub.expire(gone)
            self.told += 1
