"""Deadlines: an index of those that are to come, and the events that say that one has passed.

The index is fed by the headers of the changes and rebuilt at the start from what is unfinished. No
record is read when a deadline passes: the event says which deadline it stands for, and the rules
judge it. So an outdated one is Stale, and so is one that another reconciler has appended too. What
has not ended by its event is told again.
"""

import asyncio
import contextlib
from collections.abc import Callable, Collection, Sequence
from heapq import heapify, heappop, heappush

import msgspec
from msgspec import Struct

from tidings.storage.clock import SYSTEM_CLOCK, Clock
from tidings.storage.loggers import get_logger
from tidings.storage.prediction import Prediction, decode
from tidings.storage.resilience.backoff import Backoff
from tidings.streams.changes.codec import Change
from tidings.streams.log.protocol import NewRecord
from tidings.streams.rules.timeouts import DefaultTimeouts
from tidings.streams.submission.event_publisher import EventPublisher

BATCH = 1_000
"""Events appended at once."""
NOT_MINE = 500
"""Ms until it is looked whether a partition has become this instance's."""
AGAIN = Backoff.doubling(5.0, 300.0, jitter=0)
"""Until a deadline is told again whose prediction has not ended by it: the processor may be behind,
or the log's clock."""
SLACK = 4
"""The heap is made again when it has so many times more entries than predictions wait."""

_UNFINISHED = frozenset({"starting", "processing"})
_NO_DEFAULTS = DefaultTimeouts({})

logger = get_logger(__name__)
_encoder = msgspec.json.Encoder()


class _Waiting(Struct, gc=False):
    """A prediction with a deadline."""

    deadline: int
    partition: int | None
    due: int
    """When it is looked at next: the deadline, and later if that was told."""
    created_at: int | None = None
    tries: int = 0


class Deadlines:
    """Appends an event for each deadline that passes.

    Args:
        publisher: Where events go.
        defaults: Of predictions that come without a deadline from elsewhere; the event brings it.
        mine: Whether this instance acts on a partition.
        clock: Tells the time.
    """

    def __init__(
        self,
        publisher: EventPublisher,
        *,
        defaults: DefaultTimeouts = _NO_DEFAULTS,
        mine: Callable[[Collection[int]], bool] = lambda _partitions: True,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._publisher, self._defaults, self._mine, self._clock = publisher, defaults, mine, clock
        self._waiting: dict[str, _Waiting] = {}
        self._heap: list[tuple[int, str]] = []
        self._wake = asyncio.Event()
        self.told = 0
        """Events appended."""

    def __len__(self) -> int:
        return len(self._waiting)

    # ---- what is to come ----

    def notice(self, changes: Sequence[Change]) -> None:
        """Take note of changes; without defaults nothing of them is decoded."""
        waiting, defaults = self._waiting, self._defaults
        for change in changes:
            if change.deadline is not None:
                partition = change.position.partition if change.position is not None else None
                self._expect(change.prediction_id, change.deadline, partition, None)
            elif defaults and change.value and change.status in _UNFINISHED:
                if change.prediction_id not in waiting:
                    self.remember(decode(change.value))
            elif waiting:
                waiting.pop(change.prediction_id, None)

    def remember(self, record: Prediction) -> None:
        """Take note of a prediction as the store has it."""
        if (record.pending or record.status).terminal:
            return
        deadline, created_at = record.deadline, None
        if deadline is None:
            timeout = self._defaults.of(record.provider, record.model) if self._defaults else None
            if timeout is None:
                return
            deadline, created_at = record.created_at + timeout, record.created_at
        partitions = list(record.source.offsets) if record.source is not None else []
        partition = int(partitions[0]) if len(partitions) == 1 else None
        self._expect(record.prediction_id, deadline, partition, created_at)

    def _expect(
        self, prediction_id: str, deadline: int, partition: int | None, created_at: int | None
    ) -> None:
        known = self._waiting.get(prediction_id)
        if known is not None and known.deadline == deadline:
            known.partition = partition
            return
        self._waiting[prediction_id] = _Waiting(deadline, partition, deadline, created_at)
        self._push(prediction_id, deadline)

    def _push(self, prediction_id: str, due: int) -> None:
        heap = self._heap
        if len(heap) > 1_000 and len(heap) > SLACK * len(self._waiting):
            # Predictions mostly end before their deadlines, which then lie here for nothing.
            heap[:] = [(one.due, name) for name, one in self._waiting.items()]
            heapify(heap)
        heappush(heap, (due, prediction_id))
        if heap[0][1] == prediction_id:
            self._wake.set()

    # ---- what is due ----

    async def run(self) -> None:
        """Work until cancelled. Outages of the log are waited out."""
        while True:
            self._wake.clear()
            left = (self._heap[0][0] - self._clock.ms()) / 1000 if self._heap else None
            if left is None or left > 0:
                with contextlib.suppress(TimeoutError):  # which is when the first one is due
                    async with asyncio.timeout(left):
                        await self._wake.wait()
                continue
            await self.once()

    async def once(self) -> int:
        """Append the events of the deadlines that have passed, at most a batch; returns how many."""
        now = self._clock.ms()
        records: list[NewRecord] = []
        while self._heap and len(records) < BATCH and self._heap[0][0] <= now:
            due, prediction_id = heappop(self._heap)
            known = self._waiting.get(prediction_id)
            if known is None or known.due != due:
                continue
            if known.partition is not None and not self._mine((known.partition,)):
                known.due = now + NOT_MINE
            else:
                records.append(self._event(prediction_id, known))
                known.tries += 1
                known.due = now + round(AGAIN.bound(known.tries) * 1000)
            heappush(self._heap, (known.due, prediction_id))
        if records:
            await self._publisher.publish(records)
            self.told += len(records)
            logger.info("deadlines.passed", predictions=len(records), waiting=len(self._waiting))
        return len(records)

    def _event(self, prediction_id: str, known: _Waiting) -> NewRecord:
        """The event, alike whoever appends it."""
        said: dict[str, object] = {
            "type": "deadline",
            "predictionId": prediction_id,
            "id": f"deadline-{known.deadline}",
            "at": known.deadline,
            "deadline": known.deadline,
            "source": self._publisher.source,
        }
        if known.created_at is not None:
            said["createdAt"] = known.created_at
        key = prediction_id.encode()
        return NewRecord(key, _encoder.encode(said), (), known.partition)
