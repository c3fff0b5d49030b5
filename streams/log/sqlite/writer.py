"""What writes to a log's file: appends and committed offsets, by group commit."""

import asyncio
import sqlite3
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from tidings.storage.resilience.futures import settle
from tidings.storage.sqlite.group_commit import CommitRequest, GroupCommit, tell
from tidings.streams.log.protocol import APPEND_SECONDS, LogError, LogUnavailable
from tidings.streams.log.sqlite.schema import (
    BUSY_SECONDS,
    connect,
    translate,
)
from tidings.streams.log.sqlite.transaction import Step, Transaction

_CLOSE_SECONDS = 5.0
"""What closing waits at most for appends under way: a disk that is stuck must not keep the service
from ending."""

_PAGE = 4096
_CHECKPOINT_BYTES = 4_194_304
"""What is written between two copies of the write-ahead log into the database. They are made beside
the writer, on a connection of their own: within it, appends would wait 30 ms for them."""
_LONGEST_WAL_PAGES = 16_384
"""64 MiB; beyond that the writer itself makes a copy, for only when nothing is written meanwhile
can the file be cut."""


class LogWriter:
    """Owns the writing connection.

    Args:
        connection: To write through; closed by `close`.
        path: The file.
    """

    def __init__(self, connection: sqlite3.Connection, path: Path) -> None:
        self._path = path
        self._loop = asyncio.get_running_loop()
        self._until: dict[CommitRequest[Step], float] = {}
        """When each write under way is given up, on the loop's clock."""
        self._timer: asyncio.TimerHandle | None = None
        self._unchecked = 0
        self._checkpointing: asyncio.Future[int] | None = None
        self._commits = GroupCommit[Step](
            _without_checkpoints(connection),
            reconnect=lambda: _without_checkpoints(connect(path)),
            execute=_execute,
            explain=self._explain,
            path=path,
            busy_timeout=BUSY_SECONDS,
            close_within=_CLOSE_SECONDS,
        )
        self._commits.on_finished = self._count

    def submit(
        self,
        step: Step,
        *,
        durable: bool,
        size: int,
        quick: bool = False,
    ) -> "asyncio.Future[Any]":
        """Do a step in the next transaction; its result is there once that is committed.

        Args:
            step: What to do; may be called a second time, in another transaction, if the first
                came to nothing.
            durable: Whether it must survive a power cut.
            size: Its bytes.
            quick: Whether it takes no longer than its size says, so that a small one may run in the
                event loop.

        Raises `LogUnavailable` after `APPEND_SECONDS`; the outcome is then unknown.
        """
        done: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.put(step, partial(settle, done), durable=durable, size=size, quick=quick)
        return done

    def put(
        self,
        step: Step,
        told: Callable[[Any], None],
        *,
        durable: bool,
        size: int,
        quick: bool = False,
    ) -> None:
        """As `submit`; `told` is called once, with the result or the error, maybe before this returns."""
        if self._commits.closing:
            raise LogUnavailable(f"the log {self._path} is closed; open it again")
        job = CommitRequest(step, size, quick, durable, told=told)
        self._commits.put(job)
        if job.told is None:
            return
        # One timer for all: one for each would cost more than the rest of this call.
        self._until[job] = until = self._loop.time() + APPEND_SECONDS
        if self._timer is None:
            self._timer = self._loop.call_at(until, self._give_up)

    def _give_up(self) -> None:
        """Fail those who have waited for too long, and look again when the next one has."""
        self._timer = None
        now = self._loop.time()
        for job, until in tuple(self._until.items()):  # who came first is first
            if until > now:
                self._timer = self._loop.call_at(until, self._give_up)
                return
            tell(
                job,
                LogUnavailable(f"{self._path} did not take a write in time; is the disk stuck?"),
            )

    def _explain(self, error: Exception, shared: bool) -> Exception:
        if isinstance(error, sqlite3.Error):
            return translate(error, self._path)
        if isinstance(error, LogError):
            return type(error)(
                *error.args
            )  # each caller its own: a raised error keeps its traceback
        # A fault of one who wrote: those who shared the transaction may try again.
        kind = LogUnavailable if shared else LogError
        return kind(f"{self._path} cannot take a write: {type(error).__name__}: {error}")

    def _count(self, batch: Sequence[CommitRequest[Step]]) -> None:
        """These are done; copy the write-ahead log into the database whenever so much was written."""
        for job in batch:
            self._until.pop(job, None)
            self._unchecked += job.size + _PAGE
        if (
            self._unchecked > _CHECKPOINT_BYTES
            and self._checkpointing is None
            and not self._commits.closing
        ):
            self._unchecked = 0
            self._checkpointing = self._loop.run_in_executor(None, _checkpoint, self._path)
            self._checkpointing.add_done_callback(self._checkpointed)

    def _checkpointed(self, pages: "asyncio.Future[int]") -> None:
        """If the write-ahead log grows although it is copied, let the writer copy it with nobody writing."""
        self._checkpointing = None
        if (
            not pages.cancelled()
            and pages.exception() is None
            and pages.result() > _LONGEST_WAL_PAGES
            and not self._commits.closing
        ):
            self._commits.between_transactions(
                lambda connection: connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            )

    async def close(self) -> None:
        """Finish what was submitted and close the connection. Idempotent."""
        await self._commits.close()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._checkpointing is not None:
            await asyncio.wait([self._checkpointing])


def _execute(connection: sqlite3.Connection, steps: Sequence[Step]) -> list[Any]:
    transaction = Transaction(connection)
    results = [step(transaction) for step in steps]
    transaction.flush()
    return results


def _without_checkpoints(connection: sqlite3.Connection) -> sqlite3.Connection:
    connection.execute("PRAGMA wal_autocheckpoint = 0")
    return connection


def _checkpoint(path: Path) -> int:
    """Copy what is in the write-ahead log into the database; the pages that the former holds."""
    connection = connect(path)
    try:
        _, pages, _ = connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
        return int(pages)
    finally:
        connection.close()
