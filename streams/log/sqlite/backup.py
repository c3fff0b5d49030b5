"""Copies of SQLite files while they are in use, and of a log with its groups set back to where they were before."""

import sqlite3
from collections.abc import Sequence
from pathlib import Path

from tidings.streams.log.protocol import TEXT, LogMisconfigured
from tidings.streams.log.sqlite.schema import APPLICATION_ID, Translating, table
from tidings.streams.log.sqlite.transaction import end_offset

Committed = Sequence[tuple[str, str, int]]
"""Topic, group and the next offset that it will read."""


def copy(source: Path, target: Path) -> None:
    """Copy a database as of one moment, by SQLite's backup API; writers go on meanwhile.

    Raises:
        LogMisconfigured, LogUnavailable: The source cannot be read, or the target not be written.
    """
    with Translating(source):
        reading = sqlite3.connect(f"{source.absolute().as_uri()}?mode=ro", uri=True, timeout=5)
        try:
            writing = sqlite3.connect(target)
            try:
                reading.backup(
                    writing
                )  # in one step: of several, each write in between would start it again
                writing.execute(
                    "PRAGMA journal_mode = DELETE"
                )  # one file, without a write-ahead log beside it
            finally:
                writing.close()
        finally:
            reading.close()


def committed(log: Path) -> Committed:
    """What the groups of a log have committed."""
    with Translating(log):
        connection = sqlite3.connect(f"{log.absolute().as_uri()}?mode=ro", uri=True, timeout=5)
        try:
            (application,) = connection.execute("PRAGMA application_id").fetchone()
            if application != APPLICATION_ID:
                raise LogMisconfigured(
                    f"{log} is no log of Tidings; name the file that TIDINGS_LOG names"
                )
            return connection.execute("SELECT topic, member, next FROM positions").fetchall()
        finally:
            connection.close()


def set_back(log: Path, positions: Committed) -> None:
    """Let the groups of a copy go on from here: what they read again they know as read.

    Pieces of texts are left out: what they say stands in the records, or is judged again.
    """
    with Translating(log):
        connection = sqlite3.connect(log)
        try:
            with connection:
                _leave_out(connection, TEXT)
                connection.execute("DELETE FROM positions")
                connection.executemany(
                    "INSERT INTO positions (topic, member, next) VALUES (?, ?, ?)", positions
                )
        finally:
            connection.close()


def _leave_out(connection: sqlite3.Connection, topic: str) -> None:
    found = connection.execute("SELECT number FROM topics WHERE name = ?", (topic,)).fetchone()
    if found is not None:
        connection.execute("PRAGMA secure_delete = ON")
        end = end_offset(connection, found[0])
        connection.execute("UPDATE topics SET floor = ? WHERE number = ?", (end, found[0]))
        connection.execute(f"DELETE FROM {table(found[0])}")  # noqa: S608 - a number makes the name
