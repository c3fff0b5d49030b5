"""What writes to a log's file, one transaction at a time: whatever is asked for meanwhile shares the next one.

A large transaction runs in a thread. A small one is made in the event loop, and the thread is left what may take long:
the commit that waits for the disk. Each statement that the thread runs gives up the interpreter's lock and waits for it
again; a dozen of those for each of many small transactions cost more than the transactions themselves.
"""

import asyncio
import contextlib
import queue
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from msgspec import Struct

from tidings.storage.sqlite.interpreter import impatience
from tidings.streams.log.protocol import LogError, LogUnavailable, NewRecord
from tidings.streams.log.sqlite.schema import (
    BUSY_SECONDS,
    Row,
    connect,
    encode_headers,
    table,
    translate,
)

_BATCH_BYTES = 16_777_216
"""Jobs beyond this many bytes wait for the next transaction."""

_CLOSE_SECONDS = 5.0

_PAGE = 4096
_CHECKPOINT_BYTES = 4_194_304
"""What is written between two copies of the write-ahead log into the database. They are made beside the writer, on a
connection of their own: within it, appends would wait 30 ms for them."""
_LONGEST_WAL_PAGES = 16_384
"""64 MiB; beyond that the writer itself makes a copy, for only when nothing is written meanwhile can the file start
anew from its beginning."""

_SMALL_BYTES = 65_536
"""What is appended in the event loop at most, in about 0.2 ms."""

_CHUNKS = (256, 64, 16, 4, 1)
"""Rows per INSERT. Each statement gives up the interpreter's lock once and must wait for it again, which beside a busy
event loop takes up to 5 ms: so many rows go into one statement, and few lengths keep the statements cached."""


class Transaction:
    """What a job may do within the transaction it shares."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.connection = connection
        self.now = time.time_ns() // 1_000_000
        self._rows: dict[int, list[Row]] = {}
        self._next: dict[int, int] = {}

    def append(self, topic: int, records: Sequence[NewRecord]) -> int:
        """Add records to a topic, and return the offset of the first."""
        first = self._next.get(topic)
        if first is None:
            first = end_offset(self.connection, topic)
        rows = self._rows.setdefault(topic, [])
        offset = first
        now = self.now
        for record in records:
            rows.append((offset, now, record.key, encode_headers(record.headers), record.value))
            offset += 1
        self._next[topic] = offset
        return first

    def flush(self) -> None:
        """Write what was appended."""
        for topic, rows in self._rows.items():
            start = 0
            for length in _CHUNKS:
                if len(rows) - start < length:
                    continue
                places = ",".join(["(?,?,?,?,?)"] * length)
                statement = f"INSERT INTO {table(topic)} VALUES {places}"  # noqa: S608 - a number makes the name
                while len(rows) - start >= length:
                    flat = [field for row in rows[start : start + length] for field in row]
                    self.connection.execute(statement, flat)
                    start += length


def end_offset(connection: sqlite3.Connection, topic: int) -> int:
    """The offset that the next record of a topic will get; trimmed records' offsets are not used again."""
    statement = f"SELECT max((SELECT floor FROM topics WHERE number = ?), coalesce((SELECT max(offset) + 1 FROM {table(topic)}), 0))"  # noqa: S608 - a number makes the name
    row = connection.execute(statement, (topic,)).fetchone()
    return int(row[0])


class Job(Struct, eq=False):
    """A part of a transaction: what to do, whether it must survive a power cut, and who waits for its result."""

    run: Callable[[Transaction], Any]
    durable: bool
    size: int
    quick: bool
    """Whether it takes no longer than its size says."""
    done: asyncio.Future[Any]


class Prepared(Struct, eq=False):
    """A transaction that lacks its commit."""

    batch: list[Job]
    results: list[Any]


class Writer:
    """Owns the writing connection and the thread that uses it.

    Args:
        connection: to write through; closed by `close`.
        path: for messages.
    """

    def __init__(self, connection: sqlite3.Connection, path: Path) -> None:
        self._connection = connection
        self._path = path
        self._loop = asyncio.get_running_loop()
        self._batches: queue.SimpleQueue[list[Job] | Prepared | None] = queue.SimpleQueue()
        self._waiting: list[Job] = []
        self._busy = False
        self._closing = False
        self._unchecked = 0
        self._checkpoint_now = False
        self._checkpointing: asyncio.Future[int] | None = None
        self._pragmas: dict[str, int | str] = {}
        """As they were set last."""
        connection.execute("PRAGMA wal_autocheckpoint = 0")
        self._thread = threading.Thread(
            target=self._work, name=f"log-writer {path.name}", daemon=True
        )
        self._thread.start()

    async def submit(
        self,
        run: Callable[[Transaction], Any],
        *,
        durable: bool,
        size: int,
        limit: float,
        quick: bool = False,
    ) -> Any:
        """Run a job in the next transaction, and return its result once that is committed.

        Args:
            run: What to do; may be called a second time, in another transaction, where the first came to nothing.
            durable: Whether it must survive a power cut.
            size: Its bytes.
            limit: Seconds.
            quick: Whether it takes no longer than its size says, so that a small one may run in the event loop.

        Raises `LogUnavailable` after `limit` seconds; the outcome is then unknown.
        """
        if self._closing:
            raise LogUnavailable(f"the log {self._path} is closed; open it again")
        return await self._enqueue(
            Job(run, durable, size, quick, self._loop.create_future()), limit
        )

    async def _enqueue(self, job: Job, limit: float) -> Any:
        self._waiting.append(job)
        if not self._busy:
            # The writer starts at the end of this turn of the loop: callers that run in the same turn share it.
            self._busy = True
            self._loop.call_soon(self._hand_over)
        timer = self._loop.call_later(limit, self._give_up, job)
        try:
            return await job.done
        finally:
            timer.cancel()

    def _give_up(self, job: Job) -> None:
        if not job.done.done():
            job.done.set_exception(
                LogUnavailable(f"{self._path} did not take a write in time; is the disk stuck?")
            )

    def _hand_over(self) -> None:
        """Give the writer what has gathered, up to the bound."""
        size = 0
        count = 0
        for job in self._waiting:
            size += job.size
            if count and size > _BATCH_BYTES:
                break
            count += 1
        batch, self._waiting = self._waiting[:count], self._waiting[count:]
        small = (
            size <= _SMALL_BYTES and not self._checkpoint_now and all(job.quick for job in batch)
        )
        results = self._prepare(batch) if small else None
        if results is None:
            impatience.begin()
            self._batches.put(batch)
        elif any(job.durable for job in batch):
            impatience.begin()
            self._batches.put(Prepared(batch, results))
        else:
            self._loop.call_soon(self._finish, batch, results)

    def _prepare(self, batch: list[Job]) -> list[Any] | None:
        """In the loop: all of a small transaction, but for a commit that waits for the disk.

        None where it came to nothing, most of all because another process writes: the thread waits for that.
        """
        durable = any(job.durable for job in batch)
        try:
            return self._run(batch, wait=False, commit=not durable)
        except Exception:
            return None

    def _work(self) -> None:
        """The thread: one transaction after the other."""
        while (item := self._batches.get()) is not None:
            batch = item.batch if isinstance(item, Prepared) else item
            results: list[Any] | LogError
            try:
                results = (
                    self._commit(item)
                    if isinstance(item, Prepared)
                    else self._run(item, wait=True, commit=True)
                )
            except sqlite3.Error as error:
                results = translate(error, self._path)
            except LogError as error:
                results = error
            except Exception as error:
                # A fault of one who wrote: those who shared the transaction may try again, and the thread outlives it.
                kind = LogError if len(batch) == 1 else LogUnavailable
                results = kind(f"{self._path} cannot take a write: {type(error).__name__}: {error}")
            try:
                self._loop.call_soon_threadsafe(self._finish, batch, results)
            except RuntimeError:  # the loop is closed: nobody waits any more
                return
            finally:
                impatience.end()

    def _run(self, batch: list[Job], *, wait: bool, commit: bool) -> list[Any]:
        """A transaction; `wait` for other processes, or raise; `commit`, or leave it open."""
        connection = self._connection
        self._set("busy_timeout", round(BUSY_SECONDS * 1000) if wait else 0)
        # FULL makes SQLite fsync at the commit; NORMAL leaves it to the next FULL one. The order in the file stands.
        self._set("synchronous", "FULL" if any(job.durable for job in batch) else "NORMAL")
        connection.execute("BEGIN IMMEDIATE")
        try:
            transaction = Transaction(connection)
            results = [job.run(transaction) for job in batch]
            transaction.flush()
            if commit:
                connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
        if self._checkpoint_now and commit:
            self._checkpoint_now = False
            connection.execute("PRAGMA wal_checkpoint(PASSIVE)")
        return results

    def _set(self, pragma: str, value: int | str) -> None:
        if self._pragmas.get(pragma) != value:
            self._connection.execute(f"PRAGMA {pragma} = {value}")
            self._pragmas[pragma] = value

    def _commit(self, prepared: Prepared) -> list[Any]:
        connection = self._connection
        try:
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
        return prepared.results

    def _finish(self, batch: list[Job], results: list[Any] | LogError) -> None:
        """In the loop: tell those who wait, and go on with what has gathered meanwhile."""
        for number, job in enumerate(batch):
            if job.done.done():
                continue
            if isinstance(results, LogError):
                job.done.set_exception(type(results)(*results.args))
            else:
                job.done.set_result(results[number])
        if self._waiting:
            self._hand_over()
        else:
            self._busy = False
        self._unchecked += sum(job.size for job in batch) + _PAGE * len(batch)
        if (
            self._unchecked > _CHECKPOINT_BYTES
            and self._checkpointing is None
            and not self._closing
        ):
            self._unchecked = 0
            self._checkpointing = self._loop.run_in_executor(None, _checkpoint, self._path)
            self._checkpointing.add_done_callback(self._checkpointed)

    def _checkpointed(self, pages: asyncio.Future[int]) -> None:
        """Where the write-ahead log grows although it is copied, let the writer copy it with nobody writing."""
        self._checkpointing = None
        if (
            not pages.cancelled()
            and pages.exception() is None
            and pages.result() > _LONGEST_WAL_PAGES
        ):
            self._checkpoint_now = True

    async def close(self) -> None:
        """Finish what was submitted, end the thread and close the connection. Idempotent."""
        if not self._closing:
            self._closing = True
            with contextlib.suppress(
                LogUnavailable
            ):  # those who wait for the writes before it have been told
                nothing = Job(lambda _: None, False, 0, False, self._loop.create_future())
                await self._enqueue(nothing, _CLOSE_SECONDS)
            self._batches.put(None)
        if self._checkpointing is not None:
            await asyncio.wait([self._checkpointing])
        await asyncio.to_thread(self._thread.join, _CLOSE_SECONDS)
        self._connection.close()


def _checkpoint(path: Path) -> int:
    """Copy what is in the write-ahead log into the database; the pages that the former holds."""
    connection = connect(path)
    try:
        _, pages, _ = connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
        return int(pages)
    finally:
        connection.close()
