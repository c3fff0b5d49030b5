"""A store in Postgres, by asyncpg.

One statement, and so one round trip, for a batch read and for a batch written.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import asyncpg
import msgspec

from tidings.storage.clock import SYSTEM_CLOCK, Clock
from tidings.storage.errors import StorageError, StoreMisconfigured, StoreUnavailable
from tidings.storage.postgres.address import PostgresAddress, parse
from tidings.storage.postgres.connector import Connector
from tidings.storage.postgres.findings import STATUS_OF, Findings
from tidings.storage.postgres.listing import counting
from tidings.storage.postgres.pool import Connections
from tidings.storage.postgres.schema import FORMAT, Statements, prepare
from tidings.storage.prediction import Tombstone
from tidings.storage.store import (
    TIMED,
    Conflict,
    Outcome,
    Ownership,
    Page,
    PredictionStore,
    Query,
    Stored,
    Write,
    WriteRefused,
    as_read,
    distinct_ids,
    high_water,
)

T = TypeVar("T")
if TYPE_CHECKING:
    Connection = asyncpg.Connection[asyncpg.Record]

_DEADLOCKS = 3
"""Attempts of a batch that Postgres gave up to end a deadlock: it is then known not to be
written."""
_MEND = ("28", "3D", "3F", "42")
"""Classes of SQLSTATE that say what needs fixing: authorization, database, schema, rights and
tables."""
_RETRY = ("08", "25", "40", "53", "55", "57", "58")
"""Those that pass: connection, read-only (a failover), rolled back, resources, locks, operator,
system."""
_READ_ONLY = "{} is read-only; name the primary, or all hosts and ?target_session_attrs=read-write"


class PostgresStore(Findings, PredictionStore):
    """Opened with `await PostgresStore.open(url)`."""

    name = "postgres"
    capabilities = TIMED

    def __init__(self, address: PostgresAddress, *, clock: Clock) -> None:
        self._address = address
        self._connector = Connector(address)
        self._connections = Connections(self._connect, address.pool, address.timeout, clock)
        self._statements = Statements(address.schema)
        self._clock = clock
        self._birth: str | None = None
        """Of the tables that this store was opened on: another one if they, or the database,
        were made again."""
        self._doubtful = False
        """Whether it has to be asked for again."""

    @classmethod
    async def open(cls, url: str, *, clock: Clock = SYSTEM_CLOCK) -> "PostgresStore":
        """Connect, and make the tables if they are missing.

        Args:
            url: `postgresql://user:password@host/database` with, after `?`, `schema` (default: the
                user's search path), `pool` (8 connections), `timeout` (5 s a statement),
                `statement_cache_size` (0 behind PgBouncer's transaction pooling before 1.21), and
                what libpq takes (`sslmode`, several hosts, ...).
            clock: What expiry is compared with.

        Raises:
            StoreMisconfigured: A wrong URL, password or database, missing rights, or tables of
                another format.
            StoreUnavailable: It cannot be reached.
        """
        store = cls(parse(url), clock=clock)
        try:
            await store._run(partial(_refuse_standby, shown=store._address.shown))
            await store._run(partial(prepare, statements=store._statements))
            store._birth = await store._run(
                lambda connection: connection.fetchval(store._statements.birth)
            )
        except BaseException:
            await store.close()
            raise
        return store

    async def claim(self, ownership: Ownership) -> Ownership:
        """Write the ownership if none is there yet; return the one that stands."""

        async def work(connection: "Connection") -> str:
            await connection.execute(
                self._statements.claim, msgspec.json.encode(ownership).decode()
            )
            return str(await connection.fetchval(self._statements.claimed))

        return msgspec.json.decode(await self._run(work), type=Ownership)

    async def notes(self) -> dict[str, str]:
        """See `Notes`."""
        rows = await self._run(lambda connection: connection.fetch(self._statements.notes))
        return {row[0].removeprefix("note:"): row[1] for row in rows}

    async def note(self, name: str, text: str) -> None:
        """See `Notes`."""
        await self._run(
            lambda connection: connection.execute(self._statements.note, f"note:{name}", text)
        )

    async def positions(self) -> dict[int, int]:
        """Per partition the highest offset that was ever written."""
        rows = await self._run(lambda connection: connection.fetch(self._statements.positions))
        return {row[0]: row[1] for row in rows}

    async def get(self, prediction_id: str) -> Stored | None:
        """The record, unless it is deleted or expired."""
        row = await self._run(
            lambda connection: connection.fetchrow(self._statements.get, prediction_id)
        )
        if row is None:
            return None
        _, version, status, doc, expires_at, owner = row
        if status is None or (expires_at is not None and expires_at <= self._clock.ms()):
            return None
        return as_read(version, STATUS_OF[status], doc, expires_at, owner)

    async def load(self, prediction_ids: Sequence[str]) -> dict[str, Stored]:
        """What stands under these ids, tombstones and expired records included."""
        if not prediction_ids:
            return {}
        rows = await self._run(
            lambda connection: connection.fetch(self._statements.load, prediction_ids)
        )
        return {row[0]: as_read(row[1], STATUS_OF[row[2]], row[3], row[4], row[5]) for row in rows}

    async def write(self, writes: Sequence[Write]) -> list[Outcome]:
        """Apply each compare-and-set in one statement.

        Raises ValueError if an id comes twice.
        """
        ids = distinct_ids(writes)
        if not writes:
            return []
        refused = _refusals(writes)
        # In the order of their ids, so that two batches take the rows' locks in the same order.
        ordered = sorted(
            (write for write in writes if write.record.prediction_id not in refused), key=_id
        )
        written = await self._write(ordered) if ordered else []
        if len(written) == len(writes):
            return [None] * len(writes)
        missed = set(ids).difference(written, refused)
        versions: dict[str, int] = {}
        if missed:
            rows = await self._run(
                lambda connection: connection.fetch(self._statements.versions, list(missed))
            )
            versions = {row[0]: row[1] for row in rows}
        return [
            refused.get(one) or (Conflict(versions.get(one, 0)) if one in missed else None)
            for one in ids
        ]

    async def list(self, query: Query) -> Page:
        """A page, newest first."""
        return await self._page(query, None)

    async def count(self, query: Query, most: int) -> dict[str, int] | None:
        """How many match, by status."""
        await self._need_index_for(query)
        sql, values = counting(
            query,
            query.at(self._clock.ms()),
            self._statements.table,
            self._statements.index.facts,
            most,
        )
        rows = await self._run(lambda connection: connection.fetch(sql, *values))
        return {row[0]: row[1] for row in rows}

    async def sweep(self, now: int, limit: int) -> int:
        """Remove at most `limit` rows whose `purge_at` is at or before `now`.

        Others that sweep get other rows.
        """
        return int(
            await self._run(
                lambda connection: connection.fetchval(self._statements.sweep, now, limit)
            )
        )

    async def close(self) -> None:
        """Close the connections. Idempotent."""
        await self._connections.close()

    async def mark_filled(self) -> None:
        """Say that everything is there.

        Whoever wrote the tables that these replace may go on with them.

        Until then its writes are held back: a processor that poured new events into tables that
        lack the old ones would make records that begin in the middle.
        """
        now = str(self._clock.ms())
        await self._run(lambda connection: connection.execute(self._statements.fill, now))

    async def facts(self) -> dict[str, str]:
        """What an operator wants to know.

        The server, its durability, the skew of its clock (ms), a round trip (ms).
        """

        async def work(connection: "Connection") -> dict[str, str]:
            start = self._clock.ms()
            row = await connection.fetchrow(
                "SELECT current_setting('server_version') AS version, current_setting('fsync') AS fsync,"
                " current_setting('synchronous_commit') AS commit, pg_is_in_recovery() AS replica,"
                " (extract(epoch FROM clock_timestamp()) * 1000)::bigint AS clock"
            )
            end = self._clock.ms()
            owner = await connection.fetchval(self._statements.claimed)
            left = await connection.fetchval(self._statements.index.left)
            assert row is not None
            return {
                "server": f"PostgreSQL {row['version']}",
                "durability": f"fsync {row['fsync']}, synchronous_commit {row['commit']}",
                "read-only": "yes, a replica: name the primary" if row["replica"] else "no",
                "clock skew (ms)": str(row["clock"] - (start + end) // 2),
                "round trip (ms)": str(end - start),
                "schema": f"{self._statements.table}, format {FORMAT}",
                "index": f"{left} records behind" if left else "up to date",
                "ownership": owner or "none yet",
            }

        return await self._run(work)

    async def _write(self, writes: Sequence[Write]) -> Sequence[str]:
        """The ids that were written."""
        positions = sorted(high_water(writes).items())
        columns = [*zip(*map(_row, writes), strict=True)]
        partitions, offsets = [one for one, _ in positions], [offset for _, offset in positions]

        async def work(connection: "Connection") -> Sequence[str]:
            if self._doubtful:
                await self._look(connection)
            found: Sequence[str] = await connection.fetchval(
                self._statements.write, *columns, partitions, offsets
            )
            return found

        for attempt in range(_DEADLOCKS):
            try:
                found = await self._run(work)
            except StoreUnavailable as error:
                if (
                    not isinstance(error.__cause__, asyncpg.DeadlockDetectedError)
                    or attempt == _DEADLOCKS - 1
                ):
                    raise
            else:
                return found
        raise AssertionError("the last attempt returns or raises")

    async def _connect(self) -> "Connection":
        # A database that goes takes its connections with it: what a new one leads to may be another
        # one.
        self._doubtful = self._birth is not None
        return await self._connector.connect()

    async def _look(self, connection: "Connection") -> None:
        """Make sure that these are the tables that were opened, or that they hold again what those held."""
        birth: str = await connection.fetchval(self._statements.birth)
        if birth != self._birth:
            if (
                birth.endswith("/none")
                or await connection.fetchval(self._statements.filled) is None
            ):
                raise StoreUnavailable(
                    f"{self._address.shown} was made again while this process runs; fill it with tidings replay, and it"
                    " goes on by itself"
                )
            self._birth = birth
        self._doubtful = False

    def _pinned(
        self, work: "Callable[[Connection], Awaitable[T]]"
    ) -> "Callable[[Connection], Awaitable[T]]":
        """Within a transaction if a pooler shares connections.

        Parsing and executing meet the same one then.
        """
        return work if self._connector.statements else _in_transaction(work)

    async def _run(self, work: "Callable[[Connection], Awaitable[T]]") -> T:
        """Do `work` on a connection.

        Waiting for one, connecting and each statement have the time limit.
        """
        try:
            try:
                return await self._connections.run(self._pinned(work))
            except (
                asyncpg.InvalidSQLStatementNameError,
                asyncpg.DuplicatePreparedStatementError,
            ):
                # A pooler gave this statement to another connection of the server than the one that
                # it was prepared on. It was not executed.
                self._connector.share()
                self._connections.drop_free()
                return await self._connections.run(self._pinned(work))
        except Exception as error:
            if (meant := _meaning(error, self._address.shown)) is None:
                raise
            if self._birth is not None and isinstance(
                error, asyncpg.InvalidCatalogNameError | asyncpg.UndefinedTableError
            ):
                self._doubtful = True
                meant = StoreUnavailable(
                    f"{meant}; it was there before: make it, and fill it with tidings replay"
                )
            raise meant from error


async def _refuse_standby(connection: "Connection", shown: str) -> None:
    if await connection.fetchval("SELECT current_setting('transaction_read_only')") == "on":
        raise StoreUnavailable(_READ_ONLY.format(shown))


def _in_transaction(
    work: "Callable[[Connection], Awaitable[T]]",
) -> "Callable[[Connection], Awaitable[T]]":
    async def pinned(connection: "Connection") -> T:
        async with connection.transaction():
            return await work(connection)

    return pinned


def _meaning(error: BaseException, shown: str) -> StorageError | None:
    """What a driver's error means to whoever uses the store; None: it is none of the driver's."""
    if isinstance(error, TimeoutError | asyncio.TimeoutError):
        return StoreUnavailable(
            f"{shown} did not answer in time; look at its load and at the network"
        )
    if isinstance(error, OSError | asyncpg.InterfaceError | asyncpg.InternalClientError):
        if isinstance(error, asyncpg.ClientConfigurationError):
            return StoreMisconfigured(f"{shown}: {error}; fix the URL")
        return StoreUnavailable(f"{shown} cannot be reached: {error}")
    if isinstance(error, asyncpg.PostgresError):
        code = str(getattr(error, "sqlstate", None) or "")
        message = str(error).splitlines()[0] if str(error) else type(error).__name__
        if code == "25006":
            return StoreUnavailable(_READ_ONLY.format(shown))
        if code.startswith("28"):
            return StoreMisconfigured(f"{shown} refuses the user or password: {message}")
        if code.startswith(_MEND):
            return StoreMisconfigured(
                f"{shown}: {message}; grant the right or create what is missing"
            )
        if code.startswith(_RETRY):
            return StoreUnavailable(f"{shown}: {message}")
        return StorageError(f"{shown}: {message} (SQLSTATE {code})")
    return None


def _id(write: Write) -> str:
    return write.record.prediction_id


def _row(write: Write) -> tuple[Any, ...]:
    """The values of a row, in the order of the statement's arrays.

    Tags go as an array's literal, because an array of arrays would have to have them all of one
    length.
    """
    record = write.record
    start = (record.prediction_id, record.version)
    end = (write.expires_at, write.purge_at)
    if isinstance(record, Tombstone):
        return (*start, None, record.owner, None, None, *end, None, write.encoded, write.expected)
    tags = _array(record.tags) if record.tags else None
    facts = (record.status, record.owner, record.model, record.created_at)
    return (*start, *facts, *end, tags, write.encoded, write.expected)


def _array(tags: Sequence[str]) -> str:
    """A text[] literal."""
    return (
        "{"
        + ",".join('"' + tag.replace("\\", "\\\\").replace('"', '\\"') + '"' for tag in tags)
        + "}"
    )


def _refusals(writes: Sequence[Write]) -> dict[str, WriteRefused]:
    """Those that Postgres can never take: its text holds no NUL."""
    refused: dict[str, WriteRefused] = {}
    for write in writes:
        record = write.record
        if any(
            text is not None and "\x00" in text
            for text in (record.owner, record.model, *record.tags)
        ):
            refused[record.prediction_id] = WriteRefused(
                "an owner, model or tag with the character U+0000"
            )
    return refused
