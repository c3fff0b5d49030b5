"""A transaction of a log's file: the records of several appends in few statements."""

import sqlite3
import time
from collections.abc import Callable, Sequence
from typing import Any

from tidings.streams.log.protocol import NewRecord
from tidings.streams.log.sqlite.schema import encode_headers, make_topic, table

_CHUNKS = (256, 64, 16, 4, 1)
"""Rows per INSERT. Each statement gives up the interpreter's lock once and must wait for it again,
up to 5 ms beside a busy event loop. So many rows go into one statement, and few lengths keep the
statements cached."""


_Row = tuple[int, int, bytearray | None, bytearray | None, bytearray | None]


class Transaction:
    """What a job may do within the transaction it shares."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.connection = connection
        self.now = time.time_ns() // 1_000_000
        self._rows: dict[int, list[_Row]] = {}
        self._next: dict[int, int] = {}

    def append(
        self, topic: int | str, records: Sequence[NewRecord], now: int | None = None
    ) -> tuple[int, int]:
        """Add records to a topic, which is made if only its name is given.

        Args:
            topic: Its number or its name.
            records: To append.
            now: The time that they are given, in ms; None: this transaction's.

        Returns:
            The offset of the first, and the time of all.
        """
        if isinstance(topic, str):
            topic = make_topic(self.connection, topic)
        rows = self._rows.get(topic)
        if rows is None:
            rows = self._rows[topic] = []
            self._next[topic] = end_offset(self.connection, topic)
        first = offset = self._next[topic]
        if now is None:
            now = self.now
        for record in records:
            headers = encode_headers(record.headers)
            rows.append((offset, now, _bound(record.key), _bound(headers), _bound(record.value)))
            offset += 1
        self._next[topic] = offset
        return first, now

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


def _bound(value: bytes | None) -> bytearray | None:
    """As the driver takes it without a look for an adapter, which takes 0.3 us for each bytes."""
    return None if value is None else bytearray(value)


def end_offset(connection: sqlite3.Connection, topic: int) -> int:
    """The offset that the next record of a topic will get.

    Trimmed records' offsets are not used again.
    """
    statement = f"SELECT max((SELECT floor FROM topics WHERE number = ?), coalesce((SELECT max(offset) + 1 FROM {table(topic)}), 0))"  # noqa: S608 - a number makes the name
    row = connection.execute(statement, (topic,)).fetchone()
    return int(row[0])


Step = Callable[[Transaction], Any]
"""What a caller does within the transaction that it shares."""
