"""What writes to a SQLite store: one transaction at a time, shared by the calls that wait while another is on its way.

A large transaction runs in a thread. A small one that finds nothing under way is made by its caller, in the event loop,
and the thread is left what waits for the disk: the commit. Each statement that the thread runs gives up the
interpreter's lock and waits for it again; for a small transaction that takes longer than the transaction.
"""

import asyncio
import sqlite3
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Lock, Thread
from typing import Any, TypeVar

import msgspec

from tidings.storage.errors import StorageError
from tidings.storage.prediction import Tombstone
from tidings.storage.sqlite.interpreter import impatience
from tidings.storage.sqlite.schema import (
    BUSY_TIMEOUT,
    COLUMNS,
    MOST_INSERTED,
    MOST_UPDATED,
    POSITIONS,
    TAGS,
    VERSIONS,
    advance_sql,
    in_use,
    insert_sql,
    open_writer,
    replace_sql,
)
from tidings.storage.store import Conflict, Outcome, Write, distinct_ids, high_water

T = TypeVar("T")
Value = str | int | bytes | None

_MOST_WRITES = 4096
"""Writes of one transaction; a single call may bring more."""

_SMALL_WRITES, _SMALL_BYTES = 16, 65_536
"""What a caller writes by itself at most: about 0.5 ms of its event loop."""

_to_json = msgspec.json.Encoder().encode


class _Prepared:
    """The values to bind for some writes."""

    __slots__ = ("inserts", "positions", "size", "tagged", "updates")

    def __init__(self, writes: Sequence[Write]) -> None:
        self.size = len(writes)
        self.inserts: list[Value] = []
        self.updates: list[Value] = []
        self.tagged: list[str] = []
        self.positions = high_water(writes)
        for write in writes:
            if write.expected:
                self.updates += _row(write)
            else:
                self.inserts += (row := _row(write))
                if row[8] is not None:
                    self.tagged.append(write.record.prediction_id)

    def add(self, other: "_Prepared") -> None:
        """Take in another's, of other predictions."""
        self.size += other.size
        self.inserts += other.inserts
        self.updates += other.updates
        self.tagged += other.tagged
        for partition, offset in other.positions.items():
            self.positions[partition] = max(offset, self.positions.get(partition, offset))

    def execute(self, connection: sqlite3.Connection) -> bool:
        """Insert and update; whether all of them matched."""
        inserted = _in_chunks(connection, insert_sql, self.inserts, MOST_INSERTED)
        if self.tagged:
            connection.execute(TAGS, (_to_json(self.tagged).decode(),))
        updated, wanted = 0, self.size - len(self.inserts) // COLUMNS
        if wanted:
            updated = _in_chunks(connection, advance_sql, self.updates, MOST_UPDATED)
            if updated != wanted:
                updated += _in_chunks(connection, replace_sql, self.updates, MOST_UPDATED)
        if self.positions:
            connection.execute(POSITIONS, (_to_json(self.positions).decode(),))
        return inserted + updated == self.size


class _Job:
    """A call that waits: either writes, or something to run in a transaction of its own."""

    __slots__ = ("future", "ids", "loop", "prepared", "run", "writes")

    def __init__(
        self, writes: Sequence[Write], run: Callable[[sqlite3.Connection], Any] | None
    ) -> None:
        self.writes = writes
        self.ids = distinct_ids(writes)
        # In the caller's thread: in the other one it would have to fight for the interpreter's lock.
        self.prepared = _Prepared(writes)
        self.run = run
        self.loop = asyncio.get_running_loop()
        self.future: asyncio.Future[Any] = self.loop.create_future()


class _Uncommitted:
    """A call whose transaction lacks its commit; without a call: the connection is free again."""

    __slots__ = ("job", "outcomes")

    def __init__(self, job: _Job | None, outcomes: list[list[Outcome]]) -> None:
        self.job = job
        self.outcomes = outcomes


class SqliteWriter:
    """Owns the connection that writes.

    Args:
        path: The file; created with its tables where missing.
        synchronous: `FULL` (a commit is on the disk) or `NORMAL` (the last ones may be lost with the machine's power).

    Raises:
        StoreMisconfigured, StoreUnavailable: As `open_writer` does.
    """

    def __init__(self, path: Path, *, synchronous: str) -> None:
        self._path = path
        self._synchronous = synchronous
        self._connection: sqlite3.Connection | None = open_writer(path, synchronous=synchronous)
        self._patient = True
        """Whether the connection waits for other processes, as when it was opened."""
        self._turn = Lock()
        """Held by whoever uses the connection; for an uncommitted call until the thread has committed it."""
        self._queue: SimpleQueue[_Job | _Uncommitted | None] = SimpleQueue()
        self._held: deque[_Job | None] = deque()
        self._closed = False
        self._thread = Thread(target=self._work, name=f"sqlite-writer {path.name}", daemon=True)
        self._thread.start()

    async def write(self, writes: Sequence[Write]) -> list[Outcome]:
        """Apply the writes in one transaction, possibly together with those of other callers."""
        job = _Job(writes, None)
        small = (
            len(writes) <= _SMALL_WRITES
            and sum([len(write.encoded) for write in writes]) <= _SMALL_BYTES
        )
        outcomes: list[Outcome] = await (self._begin(job) if small else self._submit(job))
        return outcomes

    async def run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Run `work` in a transaction of its own."""
        result: T = await self._submit(_Job((), work))
        return result

    async def close(self) -> None:
        """Finish what was submitted, then close the connection. Idempotent."""
        if not self._closed:
            self._closed = True
            self._queue.put(None)
        await asyncio.to_thread(self._thread.join)

    def _submit(self, job: _Job) -> "asyncio.Future[Any]":
        if self._closed:
            raise StorageError(f"{self._path}: the store is closed; open it again")
        impatience.begin()
        self._queue.put(job)
        return job.future

    def _begin(self, job: _Job) -> "asyncio.Future[Any]":
        """Do all but the commit at once, where nobody uses the connection; otherwise as `_submit`."""
        connection = self._connection
        if self._closed or connection is None or not self._turn.acquire(blocking=False):
            return self._submit(job)
        try:
            self._wait_for_others(connection, patient=False)
            connection.execute("BEGIN IMMEDIATE")
            outcomes = _apply(connection, [job])
        except BaseException as error:
            self._roll_back(connection)
            self._turn.release()
            self._queue.put(_Uncommitted(None, []))  # the thread may wait for its turn
            if not isinstance(error, Exception):
                raise
            # Most of all another process that writes: the thread waits for it, and says what the rest means.
            return self._submit(job)
        impatience.begin()
        self._queue.put(_Uncommitted(job, outcomes))
        return job.future

    def _wait_for_others(self, connection: sqlite3.Connection, *, patient: bool) -> None:
        if self._patient is not patient:
            connection.execute(
                f"PRAGMA busy_timeout = {round(BUSY_TIMEOUT * 1000) if patient else 0}"
            )
            self._patient = patient

    # What follows runs in the thread.

    def _work(self) -> None:
        while (jobs := self._take()) is not None:
            self._await_turn()
            self._attempt(jobs, self._transact)
            self._turn.release()
            for _ in jobs:
                impatience.end()
        self._await_turn()
        if self._connection is not None:
            self._connection.close()

    def _attempt(self, jobs: list[_Job], work: Callable[[list[_Job]], list[Any]]) -> None:
        try:
            results = work(jobs)
        except Exception as error:
            # Whatever it is belongs to the callers; the thread must outlive it.
            failure = in_use(error, self._path) if isinstance(error, sqlite3.Error) else error
            self._deliver(jobs, [failure] * len(jobs))
        else:
            self._deliver(jobs, results)

    def _await_turn(self) -> None:
        """Own the connection; where a caller has it, its commit is on its way through the queue."""
        while not self._turn.acquire(blocking=False):
            self._receive(block=True)

    def _receive(self, *, block: bool) -> None:
        """Take an item from the queue: commit what a caller has begun, hold what is to be done."""
        item = self._queue.get(block)
        if isinstance(item, _Uncommitted):
            self._complete(item)
        else:
            self._held.append(item)

    def _complete(self, uncommitted: _Uncommitted) -> None:
        """Commit what a caller has begun."""
        job = uncommitted.job
        if job is None:
            return

        def commit(_jobs: list[_Job]) -> list[Any]:
            connection = self._connection
            assert connection is not None
            try:
                connection.execute("COMMIT")
            except BaseException:
                self._roll_back(connection)
                raise
            return uncommitted.outcomes

        self._attempt([job], commit)
        self._turn.release()
        impatience.end()

    def _take(self) -> list[_Job] | None:
        """The next jobs that can share a transaction: writes of different predictions. None: the store closes."""
        while not self._held:
            self._receive(block=True)
        with suppress(Empty):
            while True:
                self._receive(block=False)
        first = self._held.popleft()
        if first is None or first.run is not None or not self._held:
            return None if first is None else [first]
        jobs, ids = [first], set(first.ids)
        while self._held and len(ids) < _MOST_WRITES:
            job = self._held[0]
            if job is None or job.run is not None or not ids.isdisjoint(job.ids):
                break
            ids.update(job.ids)
            jobs.append(job)
            self._held.popleft()
        return jobs

    def _transact(self, jobs: list[_Job]) -> list[Any]:
        if self._connection is None:
            self._connection = open_writer(self._path, synchronous=self._synchronous)
            self._patient = True
        connection, run = self._connection, jobs[0].run
        self._wait_for_others(connection, patient=True)
        try:
            connection.execute("BEGIN IMMEDIATE")
            results = [run(connection)] if run is not None else _apply(connection, jobs)
            connection.execute("COMMIT")
        except BaseException:
            self._roll_back(connection)
            raise
        return results

    def _roll_back(self, connection: sqlite3.Connection) -> None:
        """Leave no transaction open, so that the same call can be made again; drop a connection that cannot."""
        try:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
        except sqlite3.Error:
            self._connection = None
            connection.close()

    def _deliver(self, jobs: list[_Job], results: Sequence[Any]) -> None:
        loop = jobs[0].loop
        if all(job.loop is loop for job in jobs):
            _call(loop, jobs, results)
        else:
            for job, result in zip(jobs, results, strict=True):
                _call(job.loop, [job], [result])


def _call(loop: asyncio.AbstractEventLoop, jobs: list[_Job], results: Sequence[Any]) -> None:
    with suppress(RuntimeError):  # the loop of the caller is closed: nobody waits any more
        loop.call_soon_threadsafe(_resolve, jobs, results)


def _resolve(jobs: list[_Job], results: Sequence[Any]) -> None:
    for job, result in zip(jobs, results, strict=True):
        if job.future.done():
            continue  # the caller was cancelled
        if isinstance(result, Exception):
            job.future.set_exception(result)
        else:
            job.future.set_result(result)


def _apply(connection: sqlite3.Connection, jobs: list[_Job]) -> list[list[Outcome]]:
    """Write optimistically; where the count says that some did not match, start over and leave those out."""
    prepared = jobs[0].prepared if len(jobs) == 1 else _Prepared(())
    if len(jobs) > 1:
        for job in jobs:
            prepared.add(job.prepared)
    if prepared.execute(connection):
        return [[None] * len(job.writes) for job in jobs]
    connection.execute("ROLLBACK")
    connection.execute("BEGIN IMMEDIATE")
    writes = [write for job in jobs for write in job.writes]
    conflicts = _conflicts(connection, writes)
    _Prepared([write for write in writes if write.record.prediction_id not in conflicts]).execute(
        connection
    )
    return [[conflicts.get(one) for one in job.ids] for job in jobs]


def _conflicts(connection: sqlite3.Connection, writes: Sequence[Write]) -> dict[str, Conflict]:
    ids = _to_json([write.record.prediction_id for write in writes]).decode()
    standing: dict[str, int] = dict(connection.execute(VERSIONS, (ids,)).fetchall())
    found = ((write, standing.get(write.record.prediction_id, 0)) for write in writes)
    return {
        write.record.prediction_id: Conflict(version)
        for write, version in found
        if version != write.expected
    }


def _in_chunks(
    connection: sqlite3.Connection, sql: Callable[[int], str], values: list[Value], most: int
) -> int:
    """Run the statement for all rows, padded to sizes of powers of two so that few statements are ever prepared."""
    count = 0
    for start in range(0, len(values), most * COLUMNS):
        chunk = values[start : start + most * COLUMNS]
        rows = len(chunk) // COLUMNS
        size = 1 << (rows - 1).bit_length()
        chunk += [None] * ((size - rows) * COLUMNS)
        count += connection.execute(sql(size), chunk).rowcount
    return count


def _row(write: Write) -> tuple[Value, ...]:
    """The values of a row, in the order of the columns."""
    record = write.record
    if isinstance(record, Tombstone):
        return (
            record.prediction_id,
            record.version,
            None,
            record.owner,
            None,
            None,
            write.expires_at,
            write.purge_at,
            None,
            write.encoded,
            write.expected,
        )
    return (
        record.prediction_id,
        record.version,
        record.status,
        record.owner,
        record.model,
        record.created_at,
        write.expires_at,
        write.purge_at,
        _to_json(record.tags).decode() if record.tags else None,
        write.encoded,
        write.expected,
    )
