"""Group commit: calls that wait while a transaction is on its way share the next one.

A large transaction runs in a thread. A small one is made in the event loop. Each statement that the
thread runs gives up the interpreter's lock and waits for it again, which takes longer than a small
transaction. So does the way to the thread and back if the disk is fast (`SHORT`): then the loop
waits for the commit, too, as long as few calls share it. A disk that takes longer is waited for by
the thread, until its commits are short again.

The orders that keep what was acknowledged:

- A call is answered after COMMIT has returned, never before: otherwise a crash would lose what its
  caller was promised.
- One transaction is under way at a time. The loop writes on the connection only while the thread
  does not use it; two at once would be one transaction, and a fault of the second would roll the
  first one back.
- Calls keep their order. One that cannot join the batch ends it, and all behind it wait: a later
  write of a record must not come before an earlier one.
- A transaction made in the loop that meets a fault is rolled back and made again in the thread,
  which waits for other processes. So work may run twice, and only the results of the run that was
  committed count.
- The wish of the most careful call decides: if one call of a batch is durable, the commit of all
  waits for the disk. Transactions lie in the write-ahead log in their order, so a power cut takes
  the others from the end only.
"""

import asyncio
import sqlite3
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from threading import Lock, Thread
from time import perf_counter
from typing import Any, Generic, TypeVar

from msgspec import Struct, field

from tidings.storage.resilience.futures import settle
from tidings.storage.sqlite.interpreter import switch_interval

W = TypeVar("W")

MOST_BYTES = 16_777_216
"""Calls beyond so many bytes wait for the next transaction; a single one may bring more."""
SMALL_BYTES = 65_536
"""What is written in the event loop at most, in about 0.5 ms."""
SHORT = 0.001
"""Seconds that a durable commit takes on average, up to which the event loop waits for it. An fsync on
a fast disk takes 0.2 ms; the two hops of an event to a thread and back took ten context switches."""
FEW = 8
"""Calls that share a commit which the event loop waits for; more of them share the hop as well."""


class CommitRequest(Struct, Generic[W], eq=False):
    """A call's part of a transaction, and the future that its caller waits for."""

    work: W | None
    """What to do; None: nothing, a mark in the order of calls."""
    size: int = 0
    """Its bytes, or what takes as long as writing so many."""
    quick: bool = False
    """Whether it takes no longer than its size says, so that it may run in the event loop."""
    durable: bool = True
    """Whether it must survive a power cut."""
    keys: Collection[str] = ()
    """The records it writes: two calls with a key in common do not share a transaction."""
    alone: bool = False
    """Whether it has a transaction of its own."""
    loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.get_running_loop)
    told: Callable[[Any], None] | None = None
    """Called once, in its loop, with the result or the error; it must not raise."""


class _Uncommitted(Struct, Generic[W], eq=False):
    """A batch whose transaction was made in the loop and lacks its commit."""

    batch: list[CommitRequest[W]]
    results: list[Any]


class GroupCommit(Generic[W]):
    """Owns the connection that writes and the thread that waits for the disk.

    Calls may come from several loops.

    Args:
        connection: To write through.
        reconnect: Opens another one after a transaction could not even be rolled back.
        execute: Does the works of a batch within a transaction; returns a result for each.
        explain: Makes the error that a call raises, from what went wrong and whether others shared
            the transaction.
        path: The file, for the thread's name.
        busy_timeout: Seconds that the thread waits for other processes.
        synchronous: SQLite's mode of a durable commit.
        close_within: Seconds that closing waits at most for what is under way; None: as long as
            that takes.
    """

    def __init__(
        self,
        connection: sqlite3.Connection,
        *,
        reconnect: Callable[[], sqlite3.Connection],
        execute: Callable[[sqlite3.Connection, Sequence[W]], list[Any]],
        explain: Callable[[Exception, bool], Exception],
        path: Path,
        busy_timeout: float,
        synchronous: str = "FULL",
        close_within: float | None = None,
    ) -> None:
        self._connection: sqlite3.Connection | None = connection
        self._reconnect = reconnect
        self._execute = execute
        self._explain = explain
        self._busy_timeout = busy_timeout
        self._synchronous = synchronous
        self._close_within = close_within
        self._modes: dict[str, str | int] = {}
        """The busy timeout and the mode of commits that were set last on the connection."""
        self._commit_seconds = 0.0
        """Of durable commits, a mean over the last ten or so: after a slow one the loop waits for no
        other until they are short again."""
        self._state = Lock()
        """Guards the three below, which loops in other threads may use as well."""
        self._waiting: list[CommitRequest[W]] = []
        self._under_way = False
        self._resuming: asyncio.AbstractEventLoop | None = None
        """The loop that is to hand over what waits; if it was closed before it could, the next
        caller does it."""
        self.closing = False
        """Whether nothing more is taken."""
        self._between: Callable[[sqlite3.Connection], object] | None = None
        self.on_finished: Callable[[Sequence[CommitRequest[W]]], None] | None = None
        """Called in a loop after each transaction, with its batch."""
        self._batches: SimpleQueue[list[CommitRequest[W]] | _Uncommitted[W] | None] = SimpleQueue()
        self._thread = Thread(target=self._work, name=f"sqlite-commit {path.name}", daemon=True)
        self._thread.start()

    def submit(self, job: CommitRequest[W]) -> "asyncio.Future[Any]":
        """Do it in the next transaction that it can join.

        The future is done once that is committed.

        A caller that is cancelled meanwhile harms nobody: its work is done all the same.
        """
        done: asyncio.Future[Any] = job.loop.create_future()
        job.told = partial(settle, done)
        self.put(job)
        return done

    def put(self, job: CommitRequest[W]) -> None:
        """As `submit`, for a caller that needs no future: `told` is called instead."""
        with self._state:
            self._waiting.append(job)
            lost = self._resuming is not None and self._resuming.is_closed()
            begin = not self._under_way or lost
            if begin:
                self._under_way = True
                self._resuming = job.loop
        if begin and job.durable and job.quick and job.size <= SMALL_BYTES:
            # At the end of this turn of the loop: callers that run in the same turn share the
            # transaction.
            job.loop.call_soon(self._hand_over)
        elif begin:
            # What need not wait for the disk takes less time than a turn of the loop, and the thread
            # need not wait for a busy one to come round.
            self._hand_over()

    def between_transactions(self, work: Callable[[sqlite3.Connection], object]) -> None:
        """Let the thread do this once and soon, while nobody writes.

        It must not wait for other processes.
        """
        self._between = work
        self.submit(CommitRequest(None, alone=True))

    async def close(self) -> None:
        """Finish what was submitted, end the thread and close the connection. Idempotent."""
        if not self.closing:
            self.closing = True
            last = self.submit(CommitRequest(None, alone=True))
            await asyncio.wait([last], timeout=self._close_within)
            self._batches.put(None)
        await asyncio.to_thread(self._thread.join, self._close_within)

    # In a loop

    def _hand_over(self) -> None:
        """Make the transactions of what has gathered, up to one that is the thread's."""
        while True:
            with self._state:
                self._resuming = None
                batch = self._take()
            if not batch:
                return
            commit = not any(job.durable for job in batch) or self._waits_here(batch)
            results = self._make_in_loop(batch, commit) if self._small(batch) else None
            if results is None or not commit:
                switch_interval.lower()
                self._batches.put(batch if results is None else _Uncommitted(batch, results))
                return
            self._answer(batch, results)

    def _waits_here(self, batch: list[CommitRequest[W]]) -> bool:
        return len(batch) <= FEW and self._commit_seconds < SHORT

    def _take(self) -> list[CommitRequest[W]]:
        """The next calls that can share a transaction, off the queue.

        None: nothing is under way any more.
        """
        waiting = self._waiting
        if not waiting:
            self._under_way = False
            return []
        size, count, keys = 0, 0, set[str]()
        for job in waiting:
            size += job.size
            if count and (
                job.alone
                or waiting[0].alone
                or size > MOST_BYTES
                or (job.keys and not keys.isdisjoint(job.keys))
            ):
                break
            if job.keys:
                keys.update(job.keys)
            count += 1
        batch, self._waiting = waiting[:count], waiting[count:]
        return batch

    def _small(self, batch: list[CommitRequest[W]]) -> bool:
        size = 0
        for job in batch:
            if not job.quick:
                return False
            size += job.size
        return size <= SMALL_BYTES and self._between is None

    def _make_in_loop(self, batch: list[CommitRequest[W]], commit: bool) -> list[Any] | None:
        """A small transaction, with its commit or without.

        None if it came to nothing, most of all because another process writes: the thread waits
        for that, and says what the rest means.
        """
        if self._connection is None:
            return None
        try:
            return self._transact(batch, wait=False, commit=commit)
        except Exception:
            return None

    def _finish(self, batch: list[CommitRequest[W]], results: Sequence[Any] | Exception) -> None:
        """Answer those who wait for the thread, and go on with what has gathered meanwhile."""
        self._answer(batch, results)
        self._hand_over()

    def _answer(self, batch: list[CommitRequest[W]], results: Sequence[Any] | Exception) -> None:
        loop = asyncio.get_running_loop()
        for number, job in enumerate(batch):
            result: Any = (
                self._explain(results, len(batch) > 1)
                if isinstance(results, Exception)
                else results[number]
            )
            if job.loop is loop:
                tell(job, result)
            else:
                with suppress(RuntimeError):  # that loop is closed: nobody waits any more
                    job.loop.call_soon_threadsafe(tell, job, result)
        if self.on_finished is not None:
            self.on_finished(batch)

    # In the thread

    def _work(self) -> None:
        while self._do_next():
            pass
        if self._connection is not None:
            self._connection.close()

    def _do_next(self) -> bool:
        """One batch, of which nothing is held while the next one is waited for; whether there was one."""
        if (item := self._batches.get()) is None:
            return False
        batch = item.batch if isinstance(item, _Uncommitted) else item
        results: Sequence[Any] | Exception
        try:
            if isinstance(item, _Uncommitted):
                self._commit()
                results = item.results
            else:
                results = self._transact(batch, wait=True, commit=True)
        except Exception as error:
            # Whatever it is belongs to the callers; the thread must outlive it.
            results = error
        if self._between is not None:
            self._do_between(self._between)
        self._resume(batch, results)
        switch_interval.restore()
        return True

    def _do_between(self, work: Callable[[sqlite3.Connection], object]) -> None:
        self._between = None
        if self._connection is None:
            return
        with suppress(sqlite3.Error):  # what was committed stands, whatever becomes of this
            self._set(self._connection, "busy_timeout", 0)
            work(self._connection)

    def _resume(self, batch: list[CommitRequest[W]], results: Sequence[Any] | Exception) -> None:
        """Let a loop finish the batch: that of one who waits for it, or for the next."""
        with self._state:
            for job in (*batch, *self._waiting):
                with suppress(RuntimeError):  # it is closed
                    job.loop.call_soon_threadsafe(self._finish, batch, results)
                    self._resuming = job.loop
                    return
            self._under_way = False  # nobody waits; the next caller begins with what is left

    # In either, never in both at once

    def _transact(self, batch: list[CommitRequest[W]], *, wait: bool, commit: bool) -> list[Any]:
        """A transaction; `wait` for other processes, or raise; `commit`, or leave it open."""
        works = [job.work for job in batch if job.work is not None]
        if not works:
            return [None] * len(batch)
        if self._connection is None:
            self._connection = self._reconnect()
            self._modes = {}
        connection = self._connection
        # Set for each transaction, as SQLite takes it only outside of one.
        durable = any(job.durable for job in batch)
        self._set(connection, "busy_timeout", round(self._busy_timeout * 1000) if wait else 0)
        self._set(connection, "synchronous", self._synchronous if durable else "NORMAL")
        try:
            connection.execute("BEGIN IMMEDIATE")
            results = self._execute(connection, works)
        except BaseException:
            self._roll_back(connection)
            raise
        if commit:
            self._commit()
        return results

    def _set(self, connection: sqlite3.Connection, name: str, value: str | int) -> None:
        if self._modes.get(name) != value:
            connection.execute(f"PRAGMA {name} = {value}")
            self._modes[name] = value

    def _commit(self) -> None:
        connection = self._connection
        assert connection is not None
        started = perf_counter()
        try:
            connection.execute("COMMIT")
        except BaseException:
            self._roll_back(connection)
            raise
        if self._modes["synchronous"] != "NORMAL":
            self._commit_seconds += (perf_counter() - started - self._commit_seconds) / 8

    def _roll_back(self, connection: sqlite3.Connection) -> None:
        """Leave no transaction open, so that the call can be made again.

        Drop a connection that cannot.
        """
        try:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
        except sqlite3.Error:
            self._connection = None
            connection.close()


def tell(job: CommitRequest[Any], result: Any) -> None:
    """Give a caller its result or its error, unless it was told before."""
    if (told := job.told) is not None:
        job.told = None
        told(result)
