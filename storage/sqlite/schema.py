"""The tables and statements of the SQLite store, and how its connections are opened.

A prediction is one row; `created_at` is NULL for a tombstone, which keeps it out of every listing.
The table of tags is kept by triggers when rows change or go; for new rows by `TAGS`, because a
trigger on inserting made every insert a third slower. A rowid table with a unique index on the id
writes in half the time of a WITHOUT ROWID table. Rows of this size make the b-tree of ids deep.
"""

import sqlite3
import time
from functools import lru_cache
from pathlib import Path

from tidings.storage.errors import StorageError, StoreMisconfigured, StoreUnavailable
from tidings.storage.private_files import make_file, make_folder
from tidings.storage.sqlite.index import HAS_WORDS, WORDS
from tidings.storage.sqlite.index import TABLES as INDEX_TABLES
from tidings.storage.sqlite.upgrade import Steps, reachable, statements, upgrade

APPLICATION_ID = 0x54494453
"""`TIDS`: marks the file as a store of ours (`PRAGMA application_id`)."""
FORMAT = 2
"""Raised when the tables change (`PRAGMA user_version`)."""
STEPS: Steps = {1: INDEX_TABLES}
"""What takes a file of an older format to the next; a format that none leads from is refused."""
BUSY_TIMEOUT = 5.0
"""Seconds to wait for another process that writes."""

_TABLES = """
CREATE TABLE predictions (
    id TEXT NOT NULL, version INTEGER NOT NULL, status TEXT, owner TEXT, model TEXT, created_at INTEGER,
    expires_at INTEGER, purge_at INTEGER, tags TEXT, doc BLOB NOT NULL
);
CREATE UNIQUE INDEX predictions_id ON predictions (id);
CREATE INDEX predictions_created ON predictions (created_at, id) WHERE created_at IS NOT NULL;
CREATE INDEX predictions_status ON predictions (status, created_at, id) WHERE created_at IS NOT NULL;
CREATE INDEX predictions_owner ON predictions (owner, created_at, id)
    WHERE created_at IS NOT NULL AND owner IS NOT NULL;
CREATE INDEX predictions_model ON predictions (model, created_at, id)
    WHERE created_at IS NOT NULL AND model IS NOT NULL;
CREATE INDEX predictions_purge ON predictions (purge_at) WHERE purge_at IS NOT NULL;
CREATE TABLE tags (tag TEXT, created_at INTEGER, id TEXT, PRIMARY KEY (tag, created_at, id)) WITHOUT ROWID;
CREATE TRIGGER tags_updated AFTER UPDATE OF tags, created_at ON predictions BEGIN
    DELETE FROM tags WHERE old.tags IS NOT NULL AND (tag, created_at, id) IN
        (SELECT value, old.created_at, old.id FROM json_each(old.tags));
    INSERT OR IGNORE INTO tags SELECT value, new.created_at, new.id FROM json_each(new.tags)
        WHERE new.tags IS NOT NULL;
END;
CREATE TRIGGER tags_deleted AFTER DELETE ON predictions WHEN old.tags IS NOT NULL BEGIN
    DELETE FROM tags WHERE (tag, created_at, id) IN (SELECT value, old.created_at, old.id FROM json_each(old.tags));
END;
CREATE TABLE positions (partition INTEGER PRIMARY KEY, "offset" INTEGER NOT NULL);
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL);
"""

COLUMNS = 11
"""Values of a row in a statement: id, version, status, owner, model, created_at, expires_at,
purge_at, tags, doc, and the version that must stand."""
NULL = 0.5
"""Stands for NULL among these values: no column holds a fraction. Binding None takes 280 ns, as the driver
looks for an adapter, and so does it for bytes (410) and for an enumeration (410); a number takes 50, a text or a
bytearray 100. So they are bound as those: 1.2 of 5.9 us an event."""
MOST_INSERTED, MOST_UPDATED = 512, 128
"""Rows of one statement, at most. A statement of many rows is one step in C without the
interpreter's lock. A statement per row would ask for that lock 500 times, at up to 5 ms each beside
a busy event loop. Updates go through a temporary table, which is fastest while it fits into the
processor's cache (`benchmarks/bench_sqlite_store.py`)."""

_STEP = 32

GET = "SELECT version, status, doc, expires_at, owner FROM predictions WHERE id = ?"
LOAD = (
    "SELECT p.id, p.version, p.status, p.doc, p.expires_at, p.owner"
    " FROM json_each(?) AS wanted CROSS JOIN predictions AS p ON p.id = wanted.value"
)
VERSIONS = "SELECT p.id, p.version FROM json_each(?) AS wanted CROSS JOIN predictions AS p ON p.id = wanted.value"
POSITIONS = """
INSERT INTO positions SELECT key, value FROM json_each(?) WHERE true
ON CONFLICT (partition) DO UPDATE SET "offset" = max("offset", excluded."offset")
"""
TAGS = """
INSERT OR IGNORE INTO tags
SELECT t.value, p.created_at, p.id FROM json_each(?) AS w CROSS JOIN predictions AS p ON p.id = w.value
CROSS JOIN json_each(p.tags) AS t WHERE p.created_at IS NOT NULL
"""
SWEEP = """
DELETE FROM predictions WHERE rowid IN
    (SELECT rowid FROM predictions WHERE purge_at IS NOT NULL AND purge_at <= ? ORDER BY purge_at LIMIT ?)
"""


def statement_rows(rows: int) -> int:
    """The rows of the statement that so many are written by: few sizes, so that few are ever prepared, with little padding."""
    return 1 << (rows - 1).bit_length() if rows <= _STEP else -(-rows // _STEP) * _STEP


@lru_cache
def insert_sql(rows: int) -> str:
    """Inserts this many rows if they are not there yet; rows whose id is no text are padding."""
    columns = ", ".join(_nullable(f"column{number}") for number in range(3, 10))
    return (
        "INSERT INTO predictions (id, version, status, owner, model, created_at, expires_at, purge_at, tags, doc)"
        f" SELECT column1, column2, {columns}, column10 FROM (VALUES {_marks(rows)})"
        f" WHERE column1 IS NOT {NULL} ON CONFLICT DO NOTHING"
    )


@lru_cache
def advance_sql(rows: int) -> str:
    """Updates rows whose listing columns stay as they are.

    So only the indexes on status and purging are touched.
    """
    same = " AND ".join(
        f"ifnull(p.{name}, {NULL}) = w.column{number}"
        for name, number in (("created_at", 6), ("owner", 4), ("model", 5), ("tags", 9))
    )
    return (
        f"UPDATE predictions AS p SET version = w.column2, status = {_nullable('w.column3')},"
        f" expires_at = {_nullable('w.column7')}, purge_at = {_nullable('w.column8')}, doc = w.column10"
        f" FROM (VALUES {_marks(rows)}) AS w WHERE p.id = w.column1 AND p.version = w.column11 AND {same}"
    )


@lru_cache
def replace_sql(rows: int) -> str:
    """Updates whole rows.

    After `advance_sql` on the same values it reaches only what that left: the version moved.
    """
    names = ("status", "owner", "model", "created_at", "expires_at", "purge_at", "tags")
    values = ", ".join(
        f"{name} = {_nullable(f'w.column{number}')}" for number, name in enumerate(names, 3)
    )
    return (
        f"UPDATE predictions AS p SET version = w.column2, {values}, doc = w.column10"
        f" FROM (VALUES {_marks(rows)}) AS w WHERE p.id = w.column1 AND p.version = w.column11"
    )


def _marks(rows: int) -> str:
    return ",".join(["(" + ",".join("?" * COLUMNS) + ")"] * rows)


def _nullable(column: str) -> str:
    return f"nullif({column}, {NULL})"


def open_writer(path: Path, *, synchronous: str) -> sqlite3.Connection:
    """The connection that writes; creates the file and its tables if they are missing.

    Raises:
        StoreMisconfigured: The file is something else, of another format, or cannot be written.
        StoreUnavailable: Another process holds it for longer than `BUSY_TIMEOUT`, or the disk is
            full.
    """
    try:
        make_folder(path.parent)
        make_file(path)
        connection = sqlite3.connect(
            path,
            timeout=BUSY_TIMEOUT,
            isolation_level=None,
            check_same_thread=False,
            cached_statements=64,
        )
    except (OSError, sqlite3.Error) as error:
        raise StoreMisconfigured(
            f"{path}: {error}; name a folder that this user may write to"
        ) from error
    try:
        _prepare(connection, path, synchronous)
    except sqlite3.Error as error:
        connection.close()
        raise at_open(error, path) from error
    except StorageError:
        connection.close()
        raise
    return connection


def open_reader(path: Path) -> sqlite3.Connection:
    """A connection that cannot write."""
    try:
        return sqlite3.connect(
            path.absolute().as_uri() + "?mode=ro",
            uri=True,
            timeout=BUSY_TIMEOUT,
            isolation_level=None,
            check_same_thread=False,
        )
    except sqlite3.Error as error:
        raise at_open(error, path) from error


def _prepare(connection: sqlite3.Connection, path: Path, synchronous: str) -> None:
    _refuse_foreign(connection, path)
    _enter_wal(connection)
    connection.execute(f"PRAGMA synchronous = {synchronous}")
    # 16 MiB of log between checkpoints: fewer of them, and each writes a page once that changed
    # many times.
    connection.execute("PRAGMA wal_autocheckpoint = 4000")
    connection.execute("PRAGMA journal_size_limit = 67108864")
    connection.execute("PRAGMA cache_size = -8192")
    connection.execute("PRAGMA temp_store = MEMORY")
    connection.execute("BEGIN IMMEDIATE")
    if connection.execute("PRAGMA user_version").fetchone()[0] == 0:
        for statement in statements(_TABLES + INDEX_TABLES):
            connection.execute(statement)
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version = {FORMAT}")
    upgrade(connection, FORMAT, STEPS)
    _make_words(connection)
    connection.execute("COMMIT")
    _refuse_foreign(connection, path)


def _make_words(connection: sqlite3.Connection) -> None:
    """The index of prompts, where this SQLite can: without it they are looked through."""
    if connection.execute(HAS_WORDS).fetchone()[0]:
        return
    try:
        for statement in statements(WORDS):
            connection.execute(statement)
    except sqlite3.OperationalError:
        return
    connection.execute(
        "UPDATE meta SET value = (SELECT coalesce(max(rowid), 0) FROM predictions) WHERE key = 'unindexed'"
    )


def _refuse_foreign(connection: sqlite3.Connection, path: Path) -> None:
    # In this order: another process may make the tables, and the marks with them, in between.
    empty = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0] == 0
    application = connection.execute("PRAGMA application_id").fetchone()[0]
    found = connection.execute("PRAGMA user_version").fetchone()[0]
    if application != APPLICATION_ID and not (empty and application == 0):
        raise StoreMisconfigured(
            f"{path} is a SQLite file of another program; name another file for the store"
        )
    if not empty and not (found and reachable(found, FORMAT, STEPS)):
        raise StoreMisconfigured(
            f"{path} has format {found}, this version reads {FORMAT}; use the version that wrote it, "
            "or rebuild into a new file with `tidings replay --into`"
        )


def _enter_wal(connection: sqlite3.Connection) -> None:
    """SQLite does not wait for its busy timeout here, so several processes that start at once would fail."""
    limit = time.monotonic() + BUSY_TIMEOUT
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL").fetchone()
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > limit:
                raise
            time.sleep(0.02)
        else:
            return


def at_open(error: sqlite3.Error, path: Path) -> StorageError:
    """What an error while opening means.

    Besides what passes by itself, the settings need fixing.
    """
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_FULL}:
        return StoreUnavailable(f"{path}: {error}; another process holds it, or the disk is full")
    if code == sqlite3.SQLITE_CORRUPT:
        return in_use(error, path)
    if code == sqlite3.SQLITE_NOTADB:
        return StoreMisconfigured(f"{path} is not a SQLite file; name another file for the store")
    return StoreMisconfigured(f"{path}: {error}; name a file that this user may write to")


def in_use(error: sqlite3.Error, path: Path) -> StorageError:
    """What an error of a read or write means: a damaged file needs fixing, all else may pass."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code in {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}:
        return StoreMisconfigured(
            f"{path} is damaged ({error}); move it away and rebuild it with `tidings replay`, or restore a backup"
        )
    return StoreUnavailable(f"{path}: {error}; free space, or end what holds the file")
