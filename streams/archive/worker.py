"""The archiver: follows the changes and has the files of finished predictions kept.

An offset is committed when everything up to it is done, so a crash redelivers what was under way.
"""

import asyncio
import time
from collections import deque
from collections.abc import Sequence

import structlog

from tidings.storage.errors import StorageError
from tidings.storage.loggers import get_logger
from tidings.streams.archive.output_urls import may_need_archiving
from tidings.streams.archive.transfer import ArchiveTask, FileTransfer, RetryLater
from tidings.streams.changes.codec import Change, parse
from tidings.streams.log.consumer_loop import Claim, ConsumerLoop
from tidings.streams.log.log_fields import fields
from tidings.streams.log.protocol import CHANGES, Log, LogError, Record

GROUP = "tidings-archiver"
"""The consumer group."""
AT_ONCE = 8
"""Predictions worked on at once."""
MAX_WAITING = 10_000
"""Predictions that wait for their turn or their next try; the log keeps the rest."""
FETCH = 500
COMMIT_EVERY = 1.0
FETCH_GATHER = 0.2
"""Seconds that a broker lets changes gather: a fetch costs as much as what it brings, and a download takes longer."""
GATHER = 0.05
"""Seconds in which changes gather: most need no archiving, and to be woken for each costs 4% of what an event costs."""

logger = get_logger(__name__)


class Archiver:
    """Follows the changes and starts a task for each prediction with files.

    Args:
        log: Where the changes are.
        transfer: Does the work.
        at_once: Predictions worked on at once.
    """

    def __init__(self, log: Log, transfer: FileTransfer, *, at_once: int = AT_ONCE) -> None:
        self._log, self._transfer, self._at_once = log, transfer, at_once
        self._works: dict[str, ArchiveTask] = {}
        self._ready: deque[str] = deque()
        self._running: dict[str, asyncio.Task[None]] = {}
        self._again: set[str] = set()
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._loop: ConsumerLoop
        self._stopping = asyncio.Event()
        self._failure: BaseException | None = None
        self.last_alive = time.monotonic()
        """When the loop last ran, on the monotonic clock."""
        self.obstacle: str | None = None
        """Why the last try failed, for `/readyz`; None: it did not."""
        self.done = 0
        self.retried = 0

    def stop(self) -> None:
        """Make `run` return."""
        self._stopping.set()

    @property
    def transfer(self) -> FileTransfer:
        """What downloads and stores the files, with its counters."""
        return self._transfer

    @property
    def waiting(self) -> int:
        """Predictions whose files are not stored yet."""
        return len(self._works)

    def figures(self) -> dict[str, object]:
        """For `/api/stats`."""
        transfer = self._transfer
        return {
            "files": transfer.files,
            "bytes": transfer.bytes,
            "failed": transfer.failures,
            "retried": self.retried,
            "waiting": len(self._works),
        }

    async def run(self) -> None:
        """Archive until `stop`. Outages are waited out; anything else is raised."""
        loop = ConsumerLoop(self._log, CHANGES, GROUP, gather=FETCH_GATHER)
        self._loop = loop
        try:
            while not self._stopping.is_set():
                records = await loop.fetch(FETCH, 0.5)
                self.last_alive = time.monotonic()
                if loop.reassigned():
                    # What was under way comes again, here or elsewhere.
                    self._forget()
                    self._works.clear()
                self._take(loop, records)
                if self._failure is not None:
                    raise self._failure
                full = len(self._works) >= MAX_WAITING
                loop.hold(full)
                if full:
                    await asyncio.sleep(0.1)
                loop.commit_every(COMMIT_EVERY)
                if records and not full:
                    await asyncio.sleep(GATHER)
        finally:
            self._forget()
            await loop.close()

    # ---- what is to be done ----

    def _forget(self) -> None:
        for task in self._running.values():
            task.cancel()
        for timer in self._timers.values():
            timer.cancel()
        self._running.clear()
        self._timers.clear()
        self._ready.clear()
        self._again.clear()

    def _take(self, loop: ConsumerLoop, records: Sequence[Record]) -> None:
        for record in records:
            change = parse(record)
            if change is not None and (
                change.deleted
                or change.prediction_id in self._works
                or may_need_archiving(change.status, change.value)
            ):
                self._add(change, record, loop.begin([record]))
            else:
                loop.passed([record])

    def _add(self, change: Change, record: Record, claim: Claim) -> None:
        prediction_id = change.prediction_id
        work = self._works.get(prediction_id)
        if work is None:
            work = ArchiveTask(
                prediction_id, change.version, [claim], change.traceparent, kept={}, failed={}
            )
            self._works[prediction_id] = work
            self._ready.append(prediction_id)
        else:
            work.version = max(work.version, change.version)
            work.claims.append(claim)
            if prediction_id in self._running:
                self._again.add(prediction_id)
        if change.deleted:
            work.deleted_at = record.timestamp
            work.kept, work.failed, work.tries = {}, {}, 0
            if (running := self._running.get(prediction_id)) is not None:
                running.cancel()
            elif (timer := self._timers.pop(prediction_id, None)) is not None:
                timer.cancel()
                self._ready.append(prediction_id)
        self._start_some()

    def _start_some(self) -> None:
        while self._ready and len(self._running) < self._at_once:
            prediction_id = self._ready.popleft()
            work = self._works.get(prediction_id)
            if work is None or prediction_id in self._running:
                continue
            task = asyncio.create_task(self._do(work), name="archive")
            self._running[prediction_id] = task
            task.add_done_callback(lambda done, work=work: self._ended(work, done))  # type: ignore[misc]

    async def _do(self, work: ArchiveTask) -> None:
        structlog.contextvars.bind_contextvars(**_fields(work))  # of this task alone
        if work.deleted_at is not None:
            at = work.deleted_at
            await self._transfer.remove(work.prediction_id, at)
            if work.deleted_at == at:
                work.deleted_at = None
        await self._transfer.keep(work)

    def _ended(self, work: ArchiveTask, task: asyncio.Task[None]) -> None:
        prediction_id = work.prediction_id
        if self._running.get(prediction_id) is not task:
            return  # forgotten meanwhile
        del self._running[prediction_id]
        again = prediction_id in self._again
        self._again.discard(prediction_id)
        error = None if task.cancelled() else task.exception()
        if error is None and not again and not task.cancelled():
            del self._works[prediction_id]
            for claim in work.claims:
                self._loop.finish(claim)
            self.done += 1
            self.obstacle = None
        elif error is None or (again and isinstance(error, RetryLater)):
            self._ready.append(prediction_id)
        elif isinstance(error, StorageError):
            # Neither a full disk nor a wrong right may end the process: it is shown until it is
            # fixed.
            self.obstacle = str(error)
            logger.warning("archiver.storage_failed", error=str(error), **_fields(work))
            self._retry(work, error)
        elif isinstance(error, RetryLater):
            self._retry(work, error)
        elif isinstance(error, LogError):
            self._failure = error
        else:
            # A fault in the archiver must not stop everybody's files.
            logger.error("archiver.defect", exc_info=error, **_fields(work))
            self._retry(work, error)
        self._start_some()

    def _retry(self, work: ArchiveTask, error: BaseException) -> None:
        work.tries += 1
        wait = self._transfer.wait(work.tries)
        self.retried += 1
        logger.info(
            "archiver.later", tries=work.tries, wait=wait, reason=str(error)[:300], **_fields(work)
        )
        loop = asyncio.get_running_loop()
        self._timers[work.prediction_id] = loop.call_later(wait, self._due, work.prediction_id)

    def _due(self, prediction_id: str) -> None:
        self._timers.pop(prediction_id, None)
        self._ready.append(prediction_id)
        self._start_some()


def _fields(work: ArchiveTask) -> dict[str, str]:
    return fields(work.prediction_id, work.traceparent)
