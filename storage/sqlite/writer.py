"""What writes to a SQLite store.

Compare-and-set of many records in few statements, by group commit.
"""

import asyncio
import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from tidings.storage.errors import StorageError
from tidings.storage.prediction import Status, Tombstone
from tidings.storage.sqlite.group_commit import CommitRequest, GroupCommit
from tidings.storage.sqlite.index import BYTES_AT_ONCE, FORGET, MOST_NOTES, NOTE, take
from tidings.storage.sqlite.schema import (
    BUSY_TIMEOUT,
    COLUMNS,
    MOST_INSERTED,
    MOST_UPDATED,
    NULL,
    POSITIONS,
    TAGS,
    VERSIONS,
    advance_sql,
    in_use,
    insert_sql,
    open_writer,
    replace_sql,
    statement_rows,
)
from tidings.storage.store import Conflict, Outcome, Write, distinct_ids, high_water

T = TypeVar("T")
Value = str | int | float | bytearray

_ROW_COST = 3_000
"""A row takes as long as writing so many bytes: sixteen small rows are what the event loop does by
itself, and 4,000 what shares one transaction."""

_to_json = msgspec.json.Encoder().encode


class _Prepared:
    """The values to bind for some writes."""

    __slots__ = ("gone", "inserts", "positions", "size", "tagged", "touched", "updates")

    def __init__(self, writes: Sequence[Write]) -> None:
        self.size = len(writes)
        self.inserts: list[Value] = []
        self.updates: list[Value] = []
        self.tagged: list[str] = []
        self.touched = _notes(writes)
        self.gone = [w.record.prediction_id for w in writes if isinstance(w.record, Tombstone)]
        self.positions = high_water(writes)
        updates, inserts = self.updates, self.inserts
        for write in writes:
            if write.expected:
                updates += _row(write)
            else:
                inserts += (row := _row(write))
                if row[8] != NULL:
                    self.tagged.append(write.record.prediction_id)

    def add(self, other: "_Prepared") -> None:
        """Take in another's, of other predictions."""
        self.size += other.size
        self.inserts += other.inserts
        self.updates += other.updates
        self.tagged += other.tagged
        self.gone += other.gone
        for size, ids in other.touched:
            if self.touched and self.touched[-1][0] + size <= BYTES_AT_ONCE:
                self.touched[-1] = (self.touched[-1][0] + size, self.touched[-1][1] + ids)
            else:
                self.touched.append((size, ids))
        for partition, offset in other.positions.items():
            self.positions[partition] = max(offset, self.positions.get(partition, offset))

    def execute(self, connection: sqlite3.Connection) -> bool:
        """Insert and update; whether all of them matched."""
        inserted = _in_chunks(connection, insert_sql, self.inserts, MOST_INSERTED)
        if self.gone:  # words of what is erased must not be found, nor lie there, a moment longer
            connection.execute(FORGET, (_to_json(self.gone).decode(),))
        for size, ids in self.touched:
            noted = connection.execute(NOTE, (_to_json(ids).decode(), len(ids), size))
            if (noted.lastrowid or 1) % MOST_NOTES == 0:
                _index_some(connection)
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


class _Writes:
    """The writes of one call, prepared in its thread.

    The other one would have to fight for the interpreter's lock.
    """

    __slots__ = ("ids", "prepared", "writes")

    def __init__(self, writes: Sequence[Write]) -> None:
        self.writes = writes
        self.ids = distinct_ids(writes)
        self.prepared = _Prepared(writes)


class SqliteWriter:
    """Owns the connection that writes.

    Args:
        path: The file; created with its tables if missing.
        synchronous: `FULL` (a commit is on the disk) or `NORMAL` (the last ones may be lost with
            the machine's power).
        deferred: Whether `persist` waits for the disk, and no write does.

    Raises:
        StoreMisconfigured, StoreUnavailable: As `open_writer` does.
    """

    def __init__(self, path: Path, *, synchronous: str, deferred: bool = False) -> None:
        self._path = path
        self._deferred = deferred
        self._unsynced = False
        self._commits = GroupCommit[_Writes | Callable[[sqlite3.Connection], Any]](
            open_writer(path, synchronous=synchronous),
            reconnect=lambda: open_writer(path, synchronous=synchronous),
            execute=_execute,
            explain=self._explain,
            path=path,
            busy_timeout=BUSY_TIMEOUT,
            synchronous=synchronous,
        )

    async def write(self, writes: Sequence[Write]) -> list[Outcome]:
        """Apply the writes in one transaction, possibly together with those of other callers."""
        work = _Writes(writes)
        size = sum([len(write.encoded) + _ROW_COST for write in writes])
        outcomes: list[Outcome] = await self._submit(
            CommitRequest(work, size=size, quick=True, keys=work.ids, durable=not self._deferred)
        )
        self._unsynced = self._deferred
        return outcomes

    async def persist(self) -> None:
        """Bring to the disk what was written; one commit that waits for it takes along all before it."""
        if not self._unsynced:
            return
        self._unsynced = False
        try:
            await self._submit(CommitRequest(_touch, quick=True, alone=True))
        except BaseException:
            self._unsynced = True
            raise

    async def run(self, work: Callable[[sqlite3.Connection], T], *, durable: bool = True) -> T:
        """Run `work` in a transaction of its own; not durable: what can be done again."""
        result: T = await self._submit(CommitRequest(work, alone=True, durable=durable))
        return result

    async def close(self) -> None:
        """Finish what was submitted, then close the connection. Idempotent."""
        await self._commits.close()

    def _submit(
        self, job: CommitRequest[_Writes | Callable[[sqlite3.Connection], Any]]
    ) -> "asyncio.Future[Any]":
        if self._commits.closing:
            raise StorageError(f"{self._path}: the store is closed; open it again")
        return self._commits.submit(job)

    def _explain(self, error: Exception, _shared: bool) -> Exception:
        return in_use(error, self._path) if isinstance(error, sqlite3.Error) else error


def _notes(writes: Sequence[Write]) -> list[tuple[int, list[str]]]:
    """The ids that the index has to look at, in portions of so many bytes of records.

    A text that grows is written often, and is no part of it.
    """
    found: list[tuple[int, list[str]]] = []
    size, ids = 0, list[str]()
    for write in writes:
        record = write.record
        if isinstance(record, Tombstone) or record.text_length is None or record.status.terminal:
            length = len(write.encoded)
            if ids and size + length > BYTES_AT_ONCE:
                found.append((size, ids))
                size, ids = 0, []
            size += length
            ids.append(record.prediction_id)
    if ids:
        found.append((size, ids))
    return found


def _index_some(connection: sqlite3.Connection) -> None:
    """Index some of what was noted; where that fails, the write stands all the same."""
    connection.execute("SAVEPOINT indexing")
    try:
        take(connection, 2 * MOST_NOTES)
    except sqlite3.Error:
        connection.execute("ROLLBACK TO indexing")
    connection.execute("RELEASE indexing")


def _touch(connection: sqlite3.Connection) -> None:
    """Change something: SQLite does not wait for the disk if a transaction has changed nothing."""
    connection.execute(
        "INSERT INTO meta VALUES ('persisted', '1')"
        " ON CONFLICT DO UPDATE SET value = CAST(value AS INTEGER) + 1"
    )


def _execute(
    connection: sqlite3.Connection, works: Sequence[_Writes | Callable[[sqlite3.Connection], Any]]
) -> list[Any]:
    calls = [work for work in works if isinstance(work, _Writes)]
    return _apply(connection, calls) if calls else [work(connection) for work in works]  # type: ignore[operator]


def _apply(connection: sqlite3.Connection, calls: list[_Writes]) -> list[list[Outcome]]:
    """Write optimistically.

    If the count says that some did not match, start over and leave those out.
    """
    prepared = calls[0].prepared if len(calls) == 1 else _Prepared(())
    if len(calls) > 1:
        for call in calls:
            prepared.add(call.prepared)
    if prepared.execute(connection):
        return [[None] * len(call.writes) for call in calls]
    connection.execute("ROLLBACK")
    connection.execute("BEGIN IMMEDIATE")
    writes = [write for call in calls for write in call.writes]
    conflicts = _conflicts(connection, writes)
    _Prepared([write for write in writes if write.record.prediction_id not in conflicts]).execute(
        connection
    )
    return [[conflicts.get(one) for one in call.ids] for call in calls]


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
    """Run the statement for all rows, in portions of about the same size."""
    count, left = 0, len(values) // COLUMNS
    begin = 0
    while left:
        rows = -(-left // -(-left // most))
        end = begin + rows * COLUMNS
        chunk = values[begin:end]
        chunk += [NULL] * ((statement_rows(rows) - rows) * COLUMNS)
        count += connection.execute(sql(statement_rows(rows)), chunk).rowcount
        begin, left = end, left - rows
    return count


_TEXT = {status: status.value for status in Status}
"""A plain text for each, which the driver takes as it is."""


def _row(write: Write) -> tuple[Value, ...]:
    """The values of a row, in the order of the columns."""
    record = write.record
    owner, expires_at, purge_at = record.owner, write.expires_at, write.purge_at
    status: Value = NULL
    model: Value = NULL
    created_at: Value = NULL
    tags: Value = NULL
    if not isinstance(record, Tombstone):
        status, created_at = _TEXT[record.status], record.created_at
        if record.model is not None:
            model = record.model
        if record.tags:
            tags = _to_json(record.tags).decode()
    return (
        record.prediction_id,
        record.version,
        status,
        NULL if owner is None else owner,
        model,
        created_at,
        NULL if expires_at is None else expires_at,
        NULL if purge_at is None else purge_at,
        tags,
        bytearray(write.encoded),
        write.expected,
    )
