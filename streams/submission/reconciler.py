"""The reconciler asks providers about predictions without news, and reports the answers.

It watches the changes without decoding them and keeps a heap of due times: a prediction costs
nothing until it is overdue. What is to be done then is read from its record, so a restart loses
nothing. Every instance knows all predictions and acts on those of the partitions that its group
gives it.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Coroutine, Sequence
from contextlib import suppress
from heapq import heappop, heappush
from typing import Any

import structlog
from msgspec import Struct

from tidings.storage.clock import SYSTEM_CLOCK, Clock
from tidings.storage.errors import StorageError
from tidings.storage.loggers import get_logger
from tidings.storage.prediction import Prediction, Status, decode
from tidings.storage.store import PredictionStore, Query, Stored
from tidings.streams.changes import codec as topic
from tidings.streams.changes.codec import Change
from tidings.streams.log.protocol import CHANGES, Log, LogError
from tidings.streams.log.read_until_end import read_until_end
from tidings.streams.rules.decision import is_late
from tidings.streams.submission.reconcile_policy import Action, Timeouts, action_for, wait_before
from tidings.streams.submission.status_client import StatusClient
from tidings.streams.submission.submitter import Load, Submitter

BATCH = 500  # records loaded at once
GATHER = 0.1
"""Seconds that what is due waits for others: each by itself took a tenth of the loop's time at 100/s."""
AT_ONCE = 64
"""Predictions under way at once, over all providers."""
PAGE = 1000
MIN_PAUSE = 500
"""Ms between two tries."""

_CANCELING = b'"cancelRequestedAt":'
_LATE, _TOLD = b'"errorCode":"deadline"', b'"lateStatus":'
_FAILED = frozenset({Status.FAILED.value, Status.CANCELED.value})
_UNFINISHED = frozenset({Status.STARTING.value, Status.PROCESSING.value})

logger = get_logger(__name__)


class _Watched(Struct, gc=False):
    """An unfinished prediction."""

    seen: int
    """When the last news came, in ms since the epoch."""
    settled: bool = False
    """Nobody can be calling for it."""
    attempted: int = 0
    """When it was first found with an attempt and no answer, ms since the epoch; 0: it was not."""
    due: int = 0
    """The heap's entry that counts."""
    tries: int = 0
    """How often something was done about it since."""
    canceled: bool = False
    """Its provider was asked to cancel it."""
    busy: bool = False
    urgent: bool = False
    """A cancel came while it was being seen to, and is to be carried out right after."""
    at_once: bool = False
    """Not to be waited for."""


class Reconciler:
    """Notices predictions that are overdue, and does something about them.

    Args:
        load: Reads records past any cache.
        status_client: What asks providers.
        submissions: What submits creates that nobody has; None: they are left.
        timeouts: How long is waited.
        mine: Whether this instance acts on a partition.
        clock: Tells the time.
    """

    def __init__(
        self,
        load: Load,
        status_client: StatusClient,
        submissions: Submitter | None,
        *,
        timeouts: Timeouts | None = None,
        mine: Callable[[Collection[int]], bool] = lambda _partitions: True,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._load, self._status_client, self._submissions = load, status_client, submissions
        self._timeouts = timeouts or Timeouts()
        self._mine, self.clock = mine, clock
        self._watched: dict[str, _Watched] = {}
        self._heap: list[tuple[int, str]] = []
        self._wake = asyncio.Event()
        self._under_way: set[asyncio.Task[None]] = set()
        self._expected: set[str] = set()
        self.done: dict[str, int] = {
            action.value: 0 for action in Action if action is not Action.NOTHING
        }
        """How often each action was met."""
        self.failed = 0
        """How often it could not be, for now."""

    def __len__(self) -> int:
        return len(self._watched)

    # ---- what is unfinished ----

    def notice(self, changes: Sequence[Change]) -> None:
        """Take note of changes; nothing of them is decoded."""
        now = self._now()
        watched, timeouts = self._watched, self._timeouts
        for change in changes:
            prediction_id = change.prediction_id
            if change.status not in _UNFINISHED or not change.value:
                watched.pop(prediction_id, None)
                if change.status == "failed" and may_be_late(change.value):
                    late = watched[prediction_id] = _Watched(now)
                    self._at(prediction_id, late, now)
                continue
            known = watched.get(prediction_id)
            if known is None:
                known = watched[prediction_id] = _Watched(now)
                starting = change.status == Status.STARTING.value
                wait = timeouts.unsubmitted if starting else timeouts.silence
                if prediction_id in self._expected:
                    self._expected.discard(prediction_id)
                    known.at_once, wait = True, 0
                self._at(prediction_id, known, now + wait)
            else:
                known.seen = now
                known.tries = 0
            if not known.canceled and _CANCELING in change.value:
                if known.due > now:
                    self._at(prediction_id, known, now)
                elif not known.due:
                    known.urgent = True

    def expect(self, prediction_id: str) -> None:
        """Submit a prediction as soon as it shows: nobody else has it in hand."""
        self._expected.add(prediction_id)

    def remember(self, record: Prediction, *, at_once: bool = False, settled: bool = False) -> None:
        """Watch a prediction that was unfinished when this began.

        Args:
            record: As it stands.
            at_once: Do what it needs now, overdue or not.
            settled: Nobody can be calling for it at this moment.
        """
        if record.prediction_id not in self._watched and action_for(record) is not Action.NOTHING:
            known = _Watched(0 if at_once else record.updated_at, settled, at_once=at_once)
            due = self._now() if at_once else self._due(record, known)
            self._watched[record.prediction_id] = known
            self._at(record.prediction_id, known, due)

    def _at(self, prediction_id: str, known: _Watched, due: int) -> None:
        known.due = due
        heappush(self._heap, (due, prediction_id))
        if self._heap[0][1] == prediction_id:
            self._wake.set()

    def _due(self, record: Prediction, known: _Watched) -> int:
        return known.seen + wait_before(action_for(record), record, known.tries, self._timeouts)

    def _now(self) -> int:
        return self.clock.ms()

    # ---- what is due ----

    async def once(self) -> int:
        """Do what is due by now, each once; returns for how many it could not be done."""
        before = self.failed
        batches = []
        while due := self._take_due():
            batches.append(due)
        for batch in batches:
            await self._act_on(batch)
        while self._under_way:
            await asyncio.wait(self._under_way)
        return self.failed - before

    async def run(self) -> None:
        """Work until cancelled."""
        try:
            while True:
                self._wake.clear()
                left = (self._heap[0][0] - self._now()) / 1000 if self._heap else None
                if left is None or left > 0:
                    await self._sleep(None if left is None else left + GATHER)
                    continue
                due = self._take_due()
                if due:
                    await self._act_on(due)
        finally:
            for task in list(self._under_way):
                task.cancel()
            await asyncio.gather(*self._under_way, return_exceptions=True)

    async def _sleep(self, seconds: float | None) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._wake.wait()

    def _take_due(self) -> list[str]:
        now = self._now()
        due: list[str] = []
        while self._heap and len(due) < BATCH and self._heap[0][0] <= now:
            at, prediction_id = heappop(self._heap)
            known = self._watched.get(prediction_id)
            if known is None or known.due != at:
                continue
            known.due = 0
            due.append(prediction_id)
        return due

    async def _act_on(self, ids: Sequence[str]) -> None:
        try:
            loaded = await self._load(ids)
        except StorageError as error:
            logger.warning("reconciler.store_unavailable", error=str(error))
            self.failed += len(ids)
            for prediction_id in ids:
                self._again(prediction_id, 1000)
            return
        finding: dict[str, list[Prediction]] = {}
        for prediction_id in ids:
            known = self._watched.get(prediction_id)
            if known is None:
                continue
            try:
                due = self._due_now(prediction_id, loaded.get(prediction_id), known)
            except Exception as error:  # one record must not end the watch over all
                self.failed += 1
                logger.error("reconciler.defect", prediction=prediction_id, exc_info=error)
                self._again(prediction_id, self._timeouts.longest)
                continue
            if due is None:
                continue
            record, action = due
            known.busy = True
            if action is Action.FIND:
                finding.setdefault(record.provider or "", []).append(record)
            else:
                await self._start(self._meet(record, action, known))
        for provider, records in finding.items():
            await self._start(self._find(provider, records))

    def _due_now(
        self, prediction_id: str, stored: Stored | None, known: _Watched
    ) -> tuple[Prediction, Action] | None:
        """The record and what it needs now; None: nothing yet, or nothing any more."""
        record = decode(stored.encoded) if stored is not None and not stored.deleted else None
        action = Action.NOTHING if record is None else action_for(record)
        if record is None or action is Action.NOTHING or not self._possible(record, action):
            del self._watched[prediction_id]
            return None
        if action is Action.FIND and not known.attempted:
            # The record's time is that of the `submit`, which may have waited for a processor for
            # long: whoever calls began when the record showed it.
            known.attempted = record.updated_at if known.settled else self._now()
        if action is Action.CANCEL:
            known.urgent = False  # it is carried out herewith
        left = 0 if known.at_once or known.urgent else self._due(record, known) - self._now()
        if left > 0 or not self._ours(record):
            self._again(prediction_id, max(left, self._timeouts.unanswered))
            return None
        return record, action

    def _possible(self, record: Prediction, action: Action) -> bool:
        provider = record.provider or ""
        if action is Action.SUBMIT:
            return self._submissions is not None and self._submissions.refusal(provider) is None
        return action is Action.FIND or self._status_client.supports(provider)

    def _ours(self, record: Prediction) -> bool:
        return record.source is None or self._mine(
            [int(partition) for partition in record.source.offsets]
        )

    def _again(self, prediction_id: str, milliseconds: int) -> None:
        known = self._watched.get(prediction_id)
        if known is not None and not known.due:
            self._at(prediction_id, known, self._now() + milliseconds)

    async def _start(self, work: Coroutine[Any, Any, None]) -> None:
        while len(self._under_way) >= AT_ONCE:
            await asyncio.wait(self._under_way, return_when=asyncio.FIRST_COMPLETED)
        task = asyncio.create_task(work)
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)

    async def _meet(self, record: Prediction, action: Action, known: _Watched) -> None:
        prediction_id = record.prediction_id
        structlog.contextvars.bind_contextvars(prediction=prediction_id)  # of this task alone
        try:
            self.done[action.value] += 1
            if action is Action.SUBMIT:
                assert self._submissions is not None
                self._submissions.enqueue(prediction_id, record.provider or "", record.owner)
            elif action is Action.CANCEL:
                known.canceled = await self._status_client.cancel(record)
                self.failed += not known.canceled
            else:
                self.failed += not await self._status_client.refresh(record, "overdue")
        except (LogError, StorageError) as error:
            self.failed += 1
            logger.warning("reconciler.interrupted", prediction=prediction_id, error=str(error))
        except Exception as error:
            self.failed += 1
            logger.error("reconciler.defect", prediction=prediction_id, exc_info=error)
        finally:
            self._tried(record, known)

    async def _still_unanswered(self, records: Sequence[Prediction]) -> list[Prediction]:
        """Those of which nothing was heard while the provider's list was read.

        A webhook may have come meanwhile.
        """
        if not records:
            return []
        loaded = await self._load([record.prediction_id for record in records])
        still = []
        for record in records:
            stored = loaded.get(record.prediction_id)
            now = stored.standing() if stored is not None else None
            if (
                isinstance(now, Prediction)
                and (not now.status.terminal or is_late(now))
                and now.provider_id is None
                and now.attempt == record.attempt
            ):
                still.append(record)
        return still

    async def _find(self, provider: str, records: Sequence[Prediction]) -> None:
        try:
            self.done[Action.FIND.value] += len(records)
            sought = await self._status_client.find(
                provider, records, [one for one in records if self._given_up(one)]
            )
            self.failed += sought.untold
            for record in await self._still_unanswered(sought.lost):
                await self._status_client.give_up(record)
        except (LogError, StorageError) as error:
            self.failed += len(records)
            logger.warning("reconciler.interrupted", provider=provider, error=str(error))
        except Exception as error:
            self.failed += len(records)
            logger.error("reconciler.defect", provider=provider, exc_info=error)
        finally:
            for record in records:
                known = self._watched.get(record.prediction_id)
                if known is not None:
                    self._tried(record, known)

    def _given_up(self, record: Prediction) -> bool:
        """Whether an attempt has been known for so long that nobody can be calling any more."""
        known = self._watched.get(record.prediction_id)
        since = record.updated_at if known is None else known.attempted
        return self._now() - since >= self._timeouts.unknown

    def _tried(self, record: Prediction, known: _Watched) -> None:
        known.busy = known.at_once = False
        urgent, known.urgent = known.urgent, False
        known.tries = 0 if urgent else known.tries + 1
        if self._watched.get(record.prediction_id) is known:
            pause = wait_before(action_for(record), record, known.tries, self._timeouts)
            pause = max(
                MIN_PAUSE, pause, int(self._status_client.closed_for(record.provider or "") * 1000)
            )
            self._again(record.prediction_id, 0 if urgent else pause)


def may_be_late(encoded: bytes) -> bool:
    """Whether a failed record may be one whose provider is still to be asked to cancel it."""
    return _LATE in encoded and _TOLD not in encoded


async def remember_unfinished(
    reconciler: Reconciler,
    store: PredictionStore,
    log: Log,
    *,
    owes: Callable[[bytes], bool] = may_be_late,
    also: Sequence[Callable[[Prediction], None]] = (),
    at_once: bool = False,
    settled: bool = False,
) -> int:
    """Let the reconciler watch what is unfinished by now, or has only failed by its deadline.

    By the store's lists, else by the whole changes topic.

    Args:
        reconciler: Which.
        store: Of the records.
        log: Of the changes.
        owes: Whether what has failed or was canceled, by its bytes, is to be remembered, too.
        also: Others that remember predictions, hidden ones and groups included.
        at_once: See `Reconciler.remember`.
        settled: See `Reconciler.remember`.

    Returns:
        How many are watched.

    Raises:
        StorageError, LogError: It cannot be read.
    """
    now = reconciler.clock.ms()

    def remember(encoded: bytes, expires_at: int | None) -> None:
        try:
            record = decode(encoded)
            for tell in also:
                tell(record)
            if expires_at is None or expires_at > now:
                reconciler.remember(record, at_once=at_once, settled=settled)
        except Exception as error:  # one record must not keep the others from being watched
            logger.error("reconciler.defect", size=len(encoded), exc_info=error)

    if store.capabilities.lists and "status" in store.capabilities.filters:
        for status in (Status.STARTING, Status.PROCESSING, Status.FAILED, Status.CANCELED):
            async for stored in _listed(store, status):
                if not status.terminal or owes(stored.encoded):
                    remember(stored.encoded, stored.expires_at)
        return len(reconciler)
    newest: dict[str, Change] = {}
    async for batch in read_until_end(log, CHANGES):
        newest |= topic.newest(batch)
    for change in newest.values():
        if change.status in _UNFINISHED or (change.status in _FAILED and owes(change.value)):
            remember(change.value, change.expires_at)
    return len(reconciler)


async def _listed(store: PredictionStore, status: Status) -> AsyncIterator[Stored]:
    cursor: str | None = None
    while True:
        page = await store.list(
            Query(status=status, limit=PAGE, cursor=cursor, hidden=not status.terminal)
        )
        for stored in page.items:
            yield stored
        if page.cursor is None:
            return
        cursor = page.cursor
