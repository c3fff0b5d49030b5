"""The file behind a `SqliteLog`: its schema, how it is opened, its rows, and what its errors mean."""

import fcntl
import os
import re
import sqlite3
import time
import uuid
from collections.abc import Sequence
from pathlib import Path

import msgspec

from tidings.storage.private_files import make_file, make_folder
from tidings.storage.sqlite.upgrade import Steps, upgrade
from tidings.streams.log.protocol import LogError, LogMisconfigured, LogUnavailable, StoredRecord

APPLICATION_ID = 0x54_49_44_4C
"""Marks the file as a Tidings log (SQLite's `application_id`): "TIDL"."""

FORMAT = 1
"""The version of the schema (SQLite's `user_version`)."""

STEPS: Steps = {}
"""What takes a file of an older format to the next; a format that none leads from is refused."""

BUSY_SECONDS = 5.0
"""How long to wait for another process's transaction."""

Row = tuple[int, int, bytes | None, bytes | None, bytes | None]
"""offset, timestamp (ms), key, headers (MessagePack; NULL: none), value."""

_SCHEMA = f"""
CREATE TABLE log (id TEXT NOT NULL, created_at INTEGER NOT NULL);
CREATE TABLE topics (number INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, floor INTEGER NOT NULL DEFAULT 0,
    cleaned INTEGER NOT NULL DEFAULT 0, kept INTEGER NOT NULL DEFAULT 0);
CREATE TABLE positions (topic TEXT NOT NULL, member TEXT NOT NULL, next INTEGER NOT NULL,
    PRIMARY KEY (topic, member)) WITHOUT ROWID;
PRAGMA application_id = {APPLICATION_ID};
PRAGMA user_version = {FORMAT};
"""

_encode_headers = msgspec.msgpack.Encoder().encode
_decode_headers = msgspec.msgpack.Decoder(tuple[tuple[str, bytes], ...]).decode


def encode_headers(headers: Sequence[tuple[str, bytes]]) -> bytes | None:
    """Headers as they lie in the file."""
    return _encode_headers(headers) if headers else None


def stored(topic: str, row: Row) -> StoredRecord:
    """The record in a row."""
    offset, timestamp, key, headers, value = row
    return StoredRecord(
        topic, 0, offset, timestamp, key, value, _decode_headers(headers) if headers else ()
    )


def table(number: int) -> str:
    """The table that holds a topic's records."""
    return f"records_{number}"


def translate(error: sqlite3.Error, path: Path) -> LogError:
    """What an error of SQLite means to somebody who uses the log."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return LogMisconfigured(
            f"{path} is damaged or not a log of Tidings ({error}); restore it or name another file"
        )
    if code == sqlite3.SQLITE_FULL:
        return LogUnavailable(f"no room for {path} ({error}); free some space")
    return LogUnavailable(f"{path} cannot be used right now: {error}")


class Translating:
    """A context in which errors of SQLite become errors of the log."""

    __slots__ = ("_path",)

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> None:
        """Nothing to do."""

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        """Raise what the error means."""
        if isinstance(error, sqlite3.Error):
            raise translate(error, self._path) from error


def make_topic(connection: sqlite3.Connection, name: str) -> int:
    """The number of a topic, made within the current transaction if it does not exist."""
    connection.execute("INSERT OR IGNORE INTO topics (name) VALUES (?)", (name,))
    (number,) = connection.execute("SELECT number FROM topics WHERE name = ?", (name,)).fetchone()
    connection.execute(
        f"CREATE TABLE IF NOT EXISTS {table(number)} "
        "(offset INTEGER PRIMARY KEY, timestamp INTEGER NOT NULL, key BLOB, headers BLOB, value BLOB)"
    )
    return int(number)


def connect(path: Path) -> sqlite3.Connection:
    """A connection to an existing or new file, usable from any one thread at a time, without implicit transactions."""
    connection = sqlite3.connect(
        path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False
    )
    connection.execute("PRAGMA synchronous = FULL")
    return connection


def open_file(path: Path, *, create: bool) -> tuple[sqlite3.Connection, str]:
    """Open the file for writing, making it if there is none; a connection and the log's id.

    Raises `LogMisconfigured` for a foreign file or one of another format, `LogUnavailable` if it cannot be opened.
    """
    if not path.exists():
        if not create:
            raise LogMisconfigured(
                f"there is no log at {path}; start the service first or name another file"
            )
        try:
            make_folder(path.parent)
            make_file(path)
        except OSError as error:
            raise LogMisconfigured(
                f"cannot make {path}: {error.strerror}; name another file"
            ) from error
    try:
        connection = connect(path)
        try:
            return connection, _prepare(connection, path)
        except BaseException:
            connection.close()
            raise
    except sqlite3.Error as error:
        if getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_CANTOPEN:
            raise LogMisconfigured(
                f"cannot open {path} ({error}); check its folder and rights"
            ) from error
        raise translate(error, path) from error


def _prepare(connection: sqlite3.Connection, path: Path) -> str:
    """Check the file's marks, lay the schema if the file is empty, and return the log's id."""
    # In this order: another process may lay the schema, which has both, in between.
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    if application != APPLICATION_ID and (application or tables):
        raise LogMisconfigured(
            f"{path} is an SQLite file, but not a log of Tidings; name another file in TIDINGS_LOG"
        )
    _enter_wal(connection)
    connection.execute("BEGIN IMMEDIATE")
    try:
        (application,) = connection.execute("PRAGMA application_id").fetchone()
        if application == 0:
            for statement in filter(str.strip, _SCHEMA.split(";")):
                connection.execute(statement)
            connection.execute(
                "INSERT INTO log VALUES (?, ?)", (str(uuid.uuid4()), time.time_ns() // 1_000_000)
            )
        version = upgrade(connection, FORMAT, STEPS)
        if version != FORMAT:
            raise LogMisconfigured(
                f"{path} has format {version} and this Tidings reads format {FORMAT}; use the release that wrote it"
            )
        (identity,) = connection.execute("SELECT id FROM log").fetchone()
        connection.execute("COMMIT")
    except BaseException:
        connection.execute("ROLLBACK")
        raise
    connection.execute("PRAGMA journal_size_limit = 67108864")
    return str(identity)


def _enter_wal(connection: sqlite3.Connection) -> None:
    """Switch to the write-ahead log; two processes doing so at once refuse each other without waiting."""
    deadline = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.02)


class GroupLock:
    """Lets one consumer of a group work on a file; the kernel releases it when the process ends, however it ends."""

    def __init__(self, path: Path, group: str) -> None:
        side = path.with_name(f"{path.name}.{re.sub(r'[^A-Za-z0-9_.-]', '_', group)}.lock")
        self._descriptor = os.open(side, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._descriptor)
            raise LogMisconfigured(
                f"group {group!r} of {path} is being consumed already ({side.name} is locked); "
                "stop the other process, or run several of them on a kafka:// log"
            ) from error

    def release(self) -> None:
        """Let another consumer in. Idempotent."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
