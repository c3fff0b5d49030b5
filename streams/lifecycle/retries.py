"""Retries: those that policies ask for, and the creates of the successors that records name.

A record that has failed, or was canceled, says what is owed: its policy asks for a retry, or its
`retriedAs` names a successor. So a crash at any point loses none, and none is made twice: the
successor's id follows from the record.
"""

from collections.abc import Callable, Collection, Sequence

from tidings.storage.clock import SYSTEM_CLOCK, Clock
from tidings.storage.errors import StorageError
from tidings.storage.loggers import get_logger
from tidings.storage.prediction import Prediction, decode
from tidings.streams.changes.codec import Change
from tidings.streams.lifecycle.follow_ups import FollowUps
from tidings.streams.lifecycle.schedule import Schedule
from tidings.streams.log.protocol import NewRecord
from tidings.streams.rules.retries import due_retry
from tidings.streams.submission.submitter import Load

BATCH = 500
NOT_MINE = 500
"""Ms until it is looked whether a partition has become this instance's."""
AGAIN = 5_000
"""Ms until it is looked whether what was appended has been applied."""

_ENDED = frozenset({"failed", "canceled"})
_POLICY, _RETRIED = b'"retries":', b'"retriedAs":'

logger = get_logger(__name__)


class Retries:
    """Makes the retries that records ask for.

    Args:
        load: Reads records past any cache.
        follow_ups: Appends the events.
        expect: Told of the id of each successor before it is created, and of its group.
        retention: Ms for which a deleted successor's tombstone is sure to be there: what was
            retried longer ago is left alone.
        mine: Whether this instance acts on a partition.
        clock: Tells the time.
    """

    def __init__(
        self,
        load: Load,
        follow_ups: FollowUps,
        expect: Callable[[str, str | None], None] = lambda _prediction_id, _group: None,
        *,
        retention: int,
        mine: Callable[[Collection[int]], bool] = lambda _partitions: True,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._load, self._follow_ups, self._expect = load, follow_ups, expect
        self._retention, self._mine, self._clock = retention, mine, clock
        self._schedule = Schedule(clock)
        self.asked = 0
        """Retries asked for by policies."""
        self.created = 0
        """Successors created."""

    def notice(self, changes: Sequence[Change]) -> None:
        """Take note of changes; only what has failed or was canceled is looked through."""
        for change in changes:
            if change.status in _ENDED and may_be_retried(change.value):
                self._schedule.put(change.prediction_id, self._clock.ms())

    def remember(self, record: Prediction) -> None:
        """Take note of a record as the store has it."""
        if record.status.value in _ENDED and (record.retries or record.retried_as is not None):
            self._schedule.put(record.prediction_id, self._clock.ms())

    async def run(self) -> None:
        """Work until cancelled."""
        while True:
            await self._schedule.wait()
            await self.once()

    async def once(self) -> int:
        """Do what is due by now, at most a batch; returns how many were looked at."""
        due = self._schedule.take(BATCH)
        if not due:
            return 0
        try:
            await self._act_on(due)
        except StorageError as error:
            logger.warning("retries.store_unavailable", error=str(error))
            self._again(due, AGAIN)
        except Exception as error:  # one record must not end the watch over all
            logger.error("retries.defect", predictions=due[:10], exc_info=error)
            self._again(due, 60_000)
        return len(due)

    def _again(self, ids: Sequence[str], milliseconds: int) -> None:
        for prediction_id in ids:
            self._schedule.put(prediction_id, self._clock.ms() + milliseconds)

    async def _act_on(self, ids: Sequence[str]) -> None:
        loaded = await self._load(ids)
        events: list[NewRecord] = []
        retried: list[Prediction] = []
        for stored in loaded.values():
            if stored.deleted:
                continue
            record = decode(stored.encoded)
            if not self._ours(record):
                self._again([record.prediction_id], NOT_MINE)
            elif record.retried_as is not None:
                if record.updated_at > self._clock.ms() - self._retention:
                    retried.append(record)
            elif (wanted := due_retry(record)) is not None:
                left = wanted.at - self._clock.ms()
                if left > 0:
                    self._again([record.prediction_id], left)
                elif not await self._group_is_canceled(record):
                    events.append(self._follow_ups.retry(record, wanted.elsewhere))
                    self.asked += 1
                    self._again([record.prediction_id], AGAIN)
        await self._follow_ups.publish(events)
        await self._create(retried)

    async def _group_is_canceled(self, record: Prediction) -> bool:
        if record.group is None:
            return False
        stored = (await self._load([record.group])).get(record.group)
        if stored is None or stored.deleted:
            return True
        return decode(stored.encoded).cancel_requested_at is not None

    async def _create(self, retried: Sequence[Prediction]) -> None:
        wanted = {one.retried_as: one for one in retried if one.retried_as is not None}
        if not wanted:
            return
        there = await self._load(list(wanted))
        missing = [record for name, record in wanted.items() if name not in there]
        creates = [await self._follow_ups.successor(record) for record in missing]
        for record in missing:
            assert record.retried_as is not None
            self._expect(record.retried_as, record.group)
        await self._follow_ups.publish(creates)
        self.created += len(creates)
        self._again([record.prediction_id for record in missing], AGAIN)

    def _ours(self, record: Prediction) -> bool:
        return record.source is None or self._mine([int(one) for one in record.source.offsets])


def may_be_retried(encoded: bytes) -> bool:
    """Whether an ended record may be one that asks for a retry, or for its successor's create."""
    return _RETRIED in encoded or _POLICY in encoded
