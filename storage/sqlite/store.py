"""A store in one SQLite file: the embedded default.

Writes share transactions (`group_commit.py`); single reads and loads run inline on a connection of
their own, which takes less time than a hop to a thread; listings, which may scan much, run in a
second thread.
"""

import asyncio
import sqlite3
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal
from urllib.parse import parse_qsl, unquote

import msgspec

from tidings.storage.clock import SYSTEM_CLOCK, Clock
from tidings.storage.cursor import ListingPlace, decode_cursor, encode_cursor
from tidings.storage.errors import StorageError, StoreMisconfigured
from tidings.storage.prediction import Status
from tidings.storage.sqlite.schema import FORMAT, GET, LOAD, SWEEP, in_use, open_reader
from tidings.storage.sqlite.writer import SqliteWriter
from tidings.storage.store import (
    TIMED,
    Outcome,
    Ownership,
    Page,
    PredictionStore,
    Query,
    Stored,
    Write,
)

_STATUS: dict[str | None, Status | None] = {None: None} | {
    status.value: status for status in Status
}
Rows = list[tuple[Any, ...]]

_to_json = msgspec.json.Encoder().encode
_from_json = msgspec.json.Decoder(
    list[tuple[str, int, str, int | None, str | None, int, int]]
).decode


class SqliteStore(PredictionStore):
    """Opened with `await SqliteStore.open(url)`."""

    name = "sqlite"
    capabilities = TIMED

    def __init__(self, path: Path, writer: SqliteWriter, *, clock: Clock) -> None:
        self.path = path
        self._writer = writer
        self._clock = clock
        self._reader: sqlite3.Connection | None = open_reader(path)
        self._lister: sqlite3.Connection | None = None
        self._listing = ThreadPoolExecutor(1, thread_name_prefix=f"sqlite-lister {path.name}")

    @classmethod
    async def open(
        cls, url: str, *, clock: Clock = SYSTEM_CLOCK, deferred: bool = False
    ) -> "SqliteStore":
        """Open the file, creating it with its folder and tables if they are missing.

        Args:
            url: `sqlite:///relative/file.db` or `sqlite:////absolute/file.db`; with
                `?synchronous=normal` a commit may be lost with the machine's power (not with the
                process).
            clock: What expiry is compared with.
            deferred: Let `persist` wait for the disk instead of each write. For who can write it
                again from a log, and forgets nothing of that before `persist` has returned.

        Raises:
            StoreMisconfigured: The URL has no path or an unknown parameter; the file is of another
                program or format, or cannot be written.
            StoreUnavailable: Another process holds the file, or the disk is full.
        """
        path, synchronous = _parse(url)
        writer = await asyncio.to_thread(
            SqliteWriter, path, synchronous=synchronous, deferred=deferred
        )
        try:
            return cls(path, writer, clock=clock)
        except StorageError:
            await writer.close()
            raise

    async def claim(self, ownership: Ownership) -> Ownership:
        """Write the ownership if none is there yet; return the one that stands."""
        wanted = _to_json(ownership).decode()

        def work(connection: sqlite3.Connection) -> str:
            connection.execute(
                "INSERT INTO meta VALUES ('ownership', ?) ON CONFLICT DO NOTHING", (wanted,)
            )
            return str(
                connection.execute("SELECT value FROM meta WHERE key = 'ownership'").fetchone()[0]
            )

        return msgspec.json.decode(await self._writer.run(work), type=Ownership)

    async def notes(self) -> dict[str, str]:
        """See `Notes`."""
        rows = self._read("SELECT key, value FROM meta WHERE key LIKE 'note:%'", ())
        return {name.removeprefix("note:"): text for name, text in rows}

    async def note(self, name: str, text: str) -> None:
        """See `Notes`."""

        def work(connection: sqlite3.Connection) -> None:
            connection.execute("REPLACE INTO meta VALUES (?, ?)", (f"note:{name}", text))

        await self._writer.run(work)

    async def positions(self) -> dict[int, int]:
        """Per partition the highest offset that was ever written."""
        return dict(self._read('SELECT partition, "offset" FROM positions', ()))

    async def get(self, prediction_id: str) -> Stored | None:
        """The record, unless it is deleted or expired."""
        rows = self._read(GET, (prediction_id,))
        if not rows:
            return None
        version, status, doc, expires_at, owner = rows[0]
        if status is None or (expires_at is not None and expires_at <= self._clock.ms()):
            return None
        return Stored(version, _STATUS[status], doc, expires_at, owner)

    async def load(self, prediction_ids: Sequence[str]) -> dict[str, Stored]:
        """What stands under these ids, tombstones and expired records included."""
        rows = self._read(LOAD, (_to_json(prediction_ids).decode(),))
        return {row[0]: Stored(row[1], _STATUS[row[2]], row[3], row[4], row[5]) for row in rows}

    async def write(self, writes: Sequence[Write]) -> list[Outcome]:
        """Apply each compare-and-set in one transaction.

        Raises ValueError if an id comes twice.
        """
        return await self._writer.write(writes) if writes else []

    async def persist(self) -> None:
        """Wait until what was written survives a power cut."""
        await self._writer.persist()

    async def list(self, query: Query) -> Page:
        """A page, newest first."""
        sql, values = _listing(query, query.at(self._clock.ms()))
        loop = asyncio.get_running_loop()
        rows, docs = await loop.run_in_executor(self._listing, self._scan, sql, values)
        items: list[tuple[ListingPlace, Stored]] = []
        start = 0
        for prediction_id, version, status, expires_at, owner, created_at, size in rows:
            stored = Stored(version, Status(status), docs[start : start + size], expires_at, owner)
            items.append((ListingPlace(created_at, prediction_id), stored))
            start += size
        items.sort(key=lambda item: item[0], reverse=True)
        more = len(items) > query.limit
        del items[query.limit :]
        return Page(
            [stored for _, stored in items], encode_cursor(items[-1][0]) if more and items else None
        )

    async def count(self, query: Query, most: int) -> dict[str, int] | None:
        """How many match, by status: one step in C, in the thread of the listings."""
        sql, values = _counting(query, query.at(self._clock.ms()), most)
        loop = asyncio.get_running_loop()
        text = await loop.run_in_executor(self._listing, self._scan_one, sql, values)
        return msgspec.json.decode(text, type=dict[str, int])

    async def sweep(self, now: int, limit: int) -> int:
        """Remove at most `limit` rows whose `purge_at` is at or before `now`."""
        return await self._writer.run(
            lambda connection: connection.execute(SWEEP, (now, limit)).rowcount
        )

    async def close(self) -> None:
        """Finish what was submitted and close the file. Idempotent."""
        await asyncio.to_thread(self._listing.shutdown)
        for connection in (self._reader, self._lister):
            if connection is not None:
                connection.close()
        self._reader = self._lister = None
        await self._writer.close()

    async def facts(self) -> dict[str, str]:
        """What an operator wants to know: the file, its size, its durability and whose it is."""

        def work(connection: sqlite3.Connection) -> tuple[int, int, str | None]:
            mode = connection.execute("PRAGMA synchronous").fetchone()[0]
            pages, size = (
                connection.execute(f"PRAGMA {name}").fetchone()[0]
                for name in ("page_count", "page_size")
            )
            row = connection.execute("SELECT value FROM meta WHERE key = 'ownership'").fetchone()
            return mode, pages * size, row[0] if row else None

        mode, size, owner = await self._writer.run(work)
        return {
            "server": f"SQLite {sqlite3.sqlite_version}",
            "file": f"{self.path}, {size / 1_048_576:.1f} MiB, format {FORMAT}",
            "durability": "every commit is on the disk"
            if mode >= 2
            else "the machine's power may take the last commits",
            "ownership": owner or "none yet",
        }

    def _read(self, sql: str, values: tuple[Any, ...]) -> Rows:
        if self._reader is None:
            raise StorageError(f"{self.path}: the store is closed; open it again")
        try:
            return self._reader.execute(sql, values).fetchall()
        except sqlite3.Error as error:
            raise in_use(error, self.path) from error

    def _scan(self, sql: str, values: dict[str, Any]) -> tuple[Rows, bytes]:
        facts, docs = self._one_row(sql, values)
        return _from_json(facts), docs or b""

    def _scan_one(self, sql: str, values: dict[str, Any]) -> bytes:
        (value,) = self._one_row(sql, values)
        return bytes(value)

    def _one_row(self, sql: str, values: dict[str, Any]) -> tuple[Any, ...]:
        try:
            if self._lister is None:
                self._lister = open_reader(self.path)
                self._lister.text_factory = bytes
            row: tuple[Any, ...] = self._lister.execute(sql, values).fetchone()
        except sqlite3.Error as error:
            raise in_use(error, self.path) from error
        return row


def _parse(url: str) -> tuple[Path, Literal["FULL", "NORMAL"]]:
    address, _, parameters = url.partition("?")
    path = unquote(address.partition("://")[2])
    if not path.startswith("/") or len(path) < 2:
        raise StoreMisconfigured(
            f"{url!r} names no file; write sqlite:///data/store.db, or sqlite:////absolute/path"
        )
    synchronous: Literal["FULL", "NORMAL"] = "FULL"
    for name, value in parse_qsl(parameters, keep_blank_values=True):
        if name != "synchronous" or value.lower() not in {"full", "normal"}:
            raise StoreMisconfigured(
                f"{url!r}: {name}={value} is unknown; there is synchronous=full and =normal"
            )
        synchronous = "NORMAL" if value.lower() == "normal" else "FULL"
    return Path(path[1:]), synchronous


def _listing(query: Query, now: int) -> tuple[str, dict[str, Any]]:
    """The statement of a listing.

    All its rows come as one, so that a scan takes the interpreter's lock once.
    """
    source, by, conditions, values = _filtered(query, now)
    values["limit"] = query.limit + 1
    if query.cursor is not None:
        values["created_at"], values["id"] = decode_cursor(query.cursor)
        conditions.append(f"({by}.created_at, {by}.id) < (:created_at, :id)")
    return (
        "SELECT json_group_array(json_array(id, version, status, expires_at, owner, created_at, length(doc))),"
        " group_concat(CAST(doc AS TEXT), '') FROM (SELECT p.id, p.version, p.status, p.expires_at, p.owner,"
        f" p.created_at, p.doc FROM {source} WHERE {' AND '.join(conditions)}"
        f" ORDER BY {by}.created_at DESC, {by}.id DESC LIMIT :limit)"
    ), values


def _counting(query: Query, now: int, most: int) -> tuple[str, dict[str, Any]]:
    """The statement of a count, whose one row is a JSON object: status and number."""
    source, _, conditions, values = _filtered(query, now)
    values["most"] = most
    return (
        "SELECT json_group_object(status, number) FROM (SELECT status, count(*) AS number FROM"
        f" (SELECT p.status FROM {source} WHERE {' AND '.join(conditions)} LIMIT :most) GROUP BY status)"
    ), values


def _filtered(query: Query, now: int) -> tuple[str, str, list[str], dict[str, Any]]:
    """What to read from, the table that the order is of, the conditions, and their values."""
    values: dict[str, Any] = {"now": now}
    owners = query.owners
    if owners is not None and len(owners) == 1 and query.owner in {None, owners[0]}:
        query, owners = msgspec.structs.replace(query, owner=owners[0]), None
    source = f"predictions AS p INDEXED BY {_index(query)}"
    by = "p"
    conditions = ["p.created_at IS NOT NULL", "(p.expires_at IS NULL OR p.expires_at > :now)"]
    if query.tag is not None:
        source, by = "tags AS t CROSS JOIN predictions AS p ON p.id = t.id", "t"
        conditions.append("t.tag = :tag")
        values["tag"] = query.tag
    for name in ("status", "owner", "model"):
        if (value := getattr(query, name)) is not None:
            conditions.append(f"p.{name} = :{name}")
            values[name] = value
    if query.created_after is not None:
        conditions.append(f"{by}.created_at >= :after")
        values["after"] = query.created_after
    if query.created_before is not None:
        conditions.append(f"{by}.created_at < :before")
        values["before"] = query.created_before
    if query.groups is not None:
        conditions.append(_GROUP if query.groups else f"NOT ({_GROUP})")
    if owners is not None:
        conditions.append("p.owner IN (SELECT value FROM json_each(:owners))")
        values["owners"] = _to_json(owners).decode()
    return source, by, conditions, values


_GROUP = "p.model IS NULL AND substr(p.doc, instr(p.doc, x'2c') + 1, 14) = CAST('\"kind\":\"group\"' AS BLOB)"
"""As `prediction.is_group`; no group has a model, so hardly any document is read for it."""


def _index(query: Query) -> str:
    """The index to walk, named because the planner knows nothing of how rare a value is."""
    if query.owner is not None:
        return "predictions_owner"
    if query.model is not None:
        return "predictions_model"
    return "predictions_status" if query.status is not None else "predictions_created"
