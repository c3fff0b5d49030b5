"""Keeping a log's file small: old records go, and of the changes only the newest of each prediction stays."""

import asyncio
import functools
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from tidings.streams.log.factory import LogOptions
from tidings.streams.log.protocol import (
    CHANGES,
    DEAD_LETTERS,
    DELIVERIES,
    EVENTS,
    TEXT,
    TEXT_SECONDS,
)
from tidings.streams.log.sqlite.schema import connect, table
from tidings.streams.log.sqlite.transaction import Transaction, end_offset
from tidings.streams.log.sqlite.writer import LogWriter

_STEP = 1000
"""Records removed in one transaction: a few milliseconds."""
_SCAN = 2000
"""Records looked at in one read transaction; a long one would keep the write-ahead log from starting over."""
_PASS = 50_000
"""Keys that one compaction holds in memory."""
_FEWEST = 1000
"""Changes that gather before a compaction is worth while; beyond that, half as many as it kept last time."""
_DELETIONS_MS = 86_400_000
"""How long deletions stay at least, for readers that are behind; Kafka's default (`delete.retention.ms`)."""
_DEAD_LETTERS_SECONDS = 14 * 86_400


class Retention:
    """Removes records through a log's writer."""

    def __init__(self, path: Path, writer: LogWriter, options: LogOptions) -> None:
        self._path = path
        self._writer = writer
        self._seconds = {
            EVENTS: options.retention,
            CHANGES: options.changes_retention,
            DEAD_LETTERS: _DEAD_LETTERS_SECONDS,
            TEXT: TEXT_SECONDS,
            DELIVERIES: options.deliveries_retention,
        }

    async def run(self, known: Callable[[str], int | None], now: int) -> int:
        """Do everything there is to do at this time (ms), by the topics' numbers; how many records went."""
        removed = 0
        for topic in self._seconds:
            if (number := known(topic)) is not None:
                removed += await self.trim(topic, number, now)
        for topic in (CHANGES, DELIVERIES):
            if (number := known(topic)) is not None:
                removed += await self.compact(number, now)
        return removed

    async def trim(self, topic: str, number: int, now: int) -> int:
        """Remove a topic's oldest records up to the first that is young enough; how many."""
        seconds = self._seconds[topic]
        if not seconds:
            return 0
        removed = 0
        while count := await self._write(functools.partial(_trim, number, now - seconds * 1000)):
            removed += count
        return removed

    async def compact(self, number: int, now: int) -> int:
        """Remove records of a topic whose key comes again later, and old deletions; how many."""
        removed = 0
        while (plan := await asyncio.to_thread(_plan, self._path, number, now)) is not None:
            obsolete, upto, kept = plan
            for start in range(0, len(obsolete), _STEP):
                await self._write(
                    functools.partial(_remove, number, obsolete[start : start + _STEP])
                )
            await self._write(functools.partial(_cleaned, number, upto, kept))
            removed += len(obsolete)
        return removed

    async def _write(self, step: functools.partial[int]) -> int:
        removed: int = await self._writer.submit(step, durable=False, size=0)
        return removed


def _trim(number: int, before: int, transaction: Transaction) -> int:
    """One step: among the oldest records, those before the first that is not older than `before`."""
    connection = transaction.connection
    rows = connection.execute(
        f"SELECT offset, timestamp FROM {table(number)} ORDER BY offset LIMIT ?",  # noqa: S608
        (_STEP,),
    ).fetchall()
    last = -1
    count = 0
    for offset, timestamp in rows:
        if timestamp >= before:
            break
        last = offset
        count += 1
    if count:
        _keep_floor(connection, number)
        connection.execute(f"DELETE FROM {table(number)} WHERE offset <= ?", (last,))  # noqa: S608
    return count


def _keep_floor(connection: sqlite3.Connection, number: int) -> None:
    """Note the next offset: it must not start over when the last record is removed."""
    connection.execute(
        "UPDATE topics SET floor = ? WHERE number = ?", (end_offset(connection, number), number)
    )


def _remove(number: int, offsets: Sequence[int], transaction: Transaction) -> int:
    connection = transaction.connection
    _keep_floor(connection, number)
    connection.executemany(
        f"DELETE FROM {table(number)} WHERE offset = ?",  # noqa: S608
        [(offset,) for offset in offsets],
    )
    return len(offsets)


def _cleaned(number: int, upto: int, kept: int, transaction: Transaction) -> int:
    transaction.connection.execute(
        "UPDATE topics SET cleaned = ?, kept = ? WHERE number = ?", (upto, kept, number)
    )
    return 0


def _plan(path: Path, number: int, now: int) -> tuple[list[int], int, int] | None:
    """What a compaction would remove, the offset up to which it looked, and how many stay; None: not worth while."""
    connection = connect(path)
    try:
        statement = "SELECT cleaned, kept FROM topics WHERE number = ?"
        cleaned, kept = connection.execute(statement, (number,)).fetchone()
        end = end_offset(connection, number)
        if end - cleaned < max(_FEWEST, kept // 2):
            return None
        newest: dict[bytes, int] = {}
        upto = cleaned
        for offset, key, _, _ in _scan(connection, number, cleaned, end):
            if len(newest) >= _PASS:
                break
            if key is not None:
                newest[key] = offset
            upto = offset + 1
        else:
            upto = end  # whatever lay between has been removed since
        obsolete: list[int] = []
        stay = 0
        for offset, key, timestamp, deletion in _scan(connection, number, 0, upto):
            replaced = key is not None and newest.get(key, offset) > offset
            if replaced or (deletion and offset < cleaned and timestamp < now - _DELETIONS_MS):
                obsolete.append(offset)
            else:
                stay += 1
        return obsolete, upto, stay
    finally:
        connection.close()


def _scan(
    connection: sqlite3.Connection, number: int, start: int, end: int
) -> Iterator[tuple[int, bytes | None, int, int]]:
    """offset, key, timestamp and whether it is a deletion, of the records from `start` to below `end`."""
    statement = (
        f"SELECT offset, key, timestamp, coalesce(length(value), 0) = 0 FROM {table(number)} "  # noqa: S608
        "WHERE offset >= ? AND offset < ? ORDER BY offset LIMIT ?"
    )
    while rows := connection.execute(statement, (start, end, _SCAN)).fetchall():
        yield from rows
        start = rows[-1][0] + 1
