"""A store in one SQLite file: the embedded default.

Writes share transactions (`group_commit.py`); single reads and loads run inline on a connection of
their own, which takes less time than a hop to a thread; listings, which may scan much, run in a
second thread.
"""

import asyncio
import sqlite3
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any, Literal
from urllib.parse import parse_qsl, unquote

import msgspec

from tidings.storage.clock import SYSTEM_CLOCK, Clock
from tidings.storage.cursor import ListingPlace, encode_cursor
from tidings.storage.errors import IndexBehind, StorageError, StoreMisconfigured
from tidings.storage.prediction import Status
from tidings.storage.sqlite.index import HAS_WORDS, LEFT, MOST_FOUND, PLACE, take
from tidings.storage.sqlite.index import phrase as search_of
from tidings.storage.sqlite.listing import MATCHING, apart, counting, listing, summing
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
    as_read,
)
from tidings.storage.usage import UsageSums, of_rows

CATCH_UP = 2.0
"""Seconds that a reader of the index waits for it: about 200,000 records."""

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
        return as_read(version, _STATUS[status], doc, expires_at, owner)

    async def load(self, prediction_ids: Sequence[str]) -> dict[str, Stored]:
        """What stands under these ids, tombstones and expired records included."""
        rows = self._read(LOAD, (_to_json(prediction_ids).decode(),))
        return {row[0]: as_read(row[1], _STATUS[row[2]], row[3], row[4], row[5]) for row in rows}

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
        if query.provider is not None or query.error is not None:
            await self._need_index()
        return await self._page(query, *listing(query, query.at(self._clock.ms())))

    async def find(self, phrase: str, query: Query) -> Page | None:
        """As `list`, by the groups of three characters that the phrase has."""
        wanted = search_of(phrase)
        if wanted is None or not self._read(HAS_WORDS, ())[0][0]:
            return None
        if not await self._catch_up():
            return None
        loop = asyncio.get_running_loop()
        number = await loop.run_in_executor(
            self._listing, self._one_row, MATCHING, (wanted, MOST_FOUND + 1)
        )
        if number[0] > MOST_FOUND:
            return None
        return await self._page(query, *listing(query, query.at(self._clock.ms()), wanted))

    async def unsearchable(self, query: Query) -> int | None:
        """How many have a prompt that lies apart."""
        if not await self._catch_up():
            return None
        sql, values = apart(query, query.at(self._clock.ms()))
        loop = asyncio.get_running_loop()
        row = await loop.run_in_executor(self._listing, self._one_row, sql, values)
        return int(row[0])

    async def usage(self, query: Query, by: Sequence[str]) -> UsageSums | None:
        """The sums, made in a thread of their own: of a million records they take seconds."""
        await self._need_index()
        sql, values = summing(query, query.at(self._clock.ms()), by)

        def work() -> bytes:
            with closing(open_reader(self.path)) as reader:
                return str(reader.execute(sql, values).fetchone()[0]).encode()

        try:
            text = await asyncio.to_thread(work)
        except sqlite3.Error as error:
            raise in_use(error, self.path) from error
        return of_rows(msgspec.json.decode(text, type=list[list[Any]]), len(by))

    async def index(self) -> int:
        """Index about a thousand records; how many are left."""
        if not self._read(LEFT, ())[0][0]:
            return 0
        return await self._writer.run(take, durable=False)

    async def _catch_up(self) -> bool:
        """Wait until what was written before now is in the index; whether it came to that in time."""
        limit = self._clock.monotonic() + CATCH_UP
        ((_, _, last),) = self._read(PLACE, ())
        while await self.index():
            ((older, first, _),) = self._read(PLACE, ())
            if not older and (first is None or last is None or first > last):
                break
            if self._clock.monotonic() > limit:
                return False
        return True

    async def _need_index(self) -> None:
        if not await self._catch_up():
            raise IndexBehind(self._read(LEFT, ())[0][0])

    async def _page(self, query: Query, sql: str, values: dict[str, Any]) -> Page:
        loop = asyncio.get_running_loop()
        rows, docs = await loop.run_in_executor(self._listing, self._scan, sql, values)
        items: list[tuple[ListingPlace, Stored]] = []
        start = 0
        for prediction_id, version, status, expires_at, owner, created_at, size in rows:
            stored = as_read(version, Status(status), docs[start : start + size], expires_at, owner)
            items.append((ListingPlace(created_at, prediction_id), stored))
            start += size
        items.sort(key=lambda item: item[0], reverse=True)
        more = len(items) > query.limit
        del items[query.limit :]
        places = [place for place, _ in items]
        cursor = encode_cursor(places[-1]) if more and items else None
        return Page([stored for _, stored in items], cursor, places)

    async def count(self, query: Query, most: int) -> dict[str, int] | None:
        """How many match, by status: one step in C, in the thread of the listings."""
        if query.provider is not None or query.error is not None:
            await self._need_index()
        sql, values = counting(query, query.at(self._clock.ms()), most)
        loop = asyncio.get_running_loop()
        text = await loop.run_in_executor(self._listing, self._scan_one, sql, values)
        return msgspec.json.decode(text, type=dict[str, int])

    async def sweep(self, now: int, limit: int) -> int:
        """Remove at most `limit` rows whose `purge_at` is at or before `now`, and index a few."""
        swept = await self._writer.run(
            lambda connection: connection.execute(SWEEP, (now, limit)).rowcount
        )
        await self.index()  # programs without a service that does it have this alone
        return swept

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

        def work(connection: sqlite3.Connection) -> tuple[int, int, str | None, int]:
            left = connection.execute(LEFT).fetchone()[0]
            mode = connection.execute("PRAGMA synchronous").fetchone()[0]
            pages, size = (
                connection.execute(f"PRAGMA {name}").fetchone()[0]
                for name in ("page_count", "page_size")
            )
            row = connection.execute("SELECT value FROM meta WHERE key = 'ownership'").fetchone()
            return mode, pages * size, row[0] if row else None, left

        mode, size, owner, left = await self._writer.run(work)
        return {
            "server": f"SQLite {sqlite3.sqlite_version}",
            "file": f"{self.path}, {size / 1_048_576:.1f} MiB, format {FORMAT}",
            "index": "up to date" if not left else f"{left} records behind",
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

    def _one_row(self, sql: str, values: dict[str, Any] | tuple[Any, ...]) -> tuple[Any, ...]:
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
