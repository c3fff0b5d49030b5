"""The tables and statements of the Postgres store.

`created_at` is NULL for a tombstone, which keeps it out of every listing. Ids are compared by their
bytes (collation `C`), so that a cursor means the same in every store.
"""

from collections.abc import Mapping

import asyncpg

from tidings.storage.errors import StoreMisconfigured
from tidings.storage.postgres.index import OLDER, IndexStatements, make_words
from tidings.storage.postgres.index import TABLES as INDEX_TABLES

FORMAT = 2
"""Raised when the tables change; kept in `tidings_meta`."""
STEPS: Mapping[int, str] = {1: INDEX_TABLES + OLDER}
"""Statements that take tables of an older format to the next (`{s}`: the schema); a format that
none leads from is refused."""
_LOCK = 0x54494453
"""Of the advisory lock under which tables are made: several processes may start at once."""

_TABLES = """
CREATE TABLE {s}tidings_predictions (
    id text COLLATE "C" PRIMARY KEY, version bigint NOT NULL, status text, owner text, model text, created_at bigint,
    expires_at bigint, purge_at bigint, tags text[], doc bytea NOT NULL
) WITH (fillfactor = 80);
CREATE INDEX ON {s}tidings_predictions (created_at, id) WHERE created_at IS NOT NULL;
CREATE INDEX ON {s}tidings_predictions (status, created_at, id) WHERE created_at IS NOT NULL;
CREATE INDEX ON {s}tidings_predictions (owner, created_at, id) WHERE created_at IS NOT NULL AND owner IS NOT NULL;
CREATE INDEX ON {s}tidings_predictions (model, created_at, id) WHERE created_at IS NOT NULL AND model IS NOT NULL;
CREATE INDEX ON {s}tidings_predictions USING gin (tags) WHERE tags IS NOT NULL;
CREATE INDEX ON {s}tidings_predictions USING brin (purge_at) WITH (pages_per_range = 32, autosummarize = on);
CREATE TABLE {s}tidings_positions (partition int PRIMARY KEY, "offset" bigint NOT NULL);
CREATE TABLE {s}tidings_meta (key text PRIMARY KEY, value text NOT NULL);
"""

_WRITE = """
WITH w AS (
    SELECT * FROM unnest($1::text[], $2::bigint[], $3::text[], $4::text[], $5::text[], $6::bigint[], $7::bigint[],
        $8::bigint[], $9::text[], $10::bytea[], $11::bigint[])
    AS w (id, version, status, owner, model, created_at, expires_at, purge_at, tags, doc, expected)
), inserted AS (
    INSERT INTO {s}tidings_predictions (id, version, status, owner, model, created_at, expires_at, purge_at, tags, doc)
    SELECT id, version, status, owner, model, created_at, expires_at, purge_at, tags::text[], doc FROM w
    WHERE expected = 0
    ON CONFLICT DO NOTHING RETURNING id
), updated AS (
    UPDATE {s}tidings_predictions AS p SET version = w.version, status = w.status, owner = w.owner, model = w.model,
        created_at = w.created_at, expires_at = w.expires_at, purge_at = w.purge_at, tags = w.tags::text[], doc = w.doc
    FROM w WHERE w.expected > 0 AND p.id = w.id AND p.version = w.expected
    RETURNING p.id
), written AS (
    SELECT id FROM inserted UNION ALL SELECT id FROM updated
), placed AS (
    INSERT INTO {s}tidings_positions AS o
    SELECT * FROM unnest($12::int[], $13::bigint[]) WHERE EXISTS (SELECT FROM written)
    ON CONFLICT (partition) DO UPDATE SET "offset" = excluded."offset" WHERE o."offset" < excluded."offset"
)
SELECT coalesce(array_agg(id), '{{}}') FROM written
"""

_LOAD = """
SELECT id, version, status, doc, expires_at, owner FROM {s}tidings_predictions WHERE id = ANY($1::text[])
"""
_SWEEP = """
WITH gone AS (
    DELETE FROM {s}tidings_predictions WHERE id IN (
        SELECT id FROM {s}tidings_predictions WHERE purge_at <= $1 LIMIT $2 FOR UPDATE SKIP LOCKED
    ) AND purge_at <= $1 RETURNING 1
) SELECT count(*) FROM gone
"""


class Statements:
    """The statements for one schema (None: the connection's own search path)."""

    def __init__(self, schema: str | None) -> None:
        self.schema = schema
        prefix = "" if schema is None else quoted(schema) + "."
        self.table = f"{prefix}tidings_predictions"
        self.meta = f"{prefix}tidings_meta"
        self.prefix = prefix
        self.tables = (_TABLES + INDEX_TABLES).format(s=prefix)
        self.index = IndexStatements(prefix, self.table, self.meta)
        self.write = _WRITE.format(s=prefix)
        self.load = _LOAD.format(s=prefix)
        self.get = self.load.replace("= ANY($1::text[])", "= $1")
        self.sweep = _SWEEP.format(s=prefix)
        self.versions = f"SELECT id, version FROM {self.table} WHERE id = ANY($1::text[])"
        self.positions = f'SELECT partition, "offset" FROM {prefix}tidings_positions'
        self.claim = f"INSERT INTO {self.meta} VALUES ('ownership', $1) ON CONFLICT DO NOTHING"
        self.claimed = f"SELECT value FROM {self.meta} WHERE key = 'ownership'"
        self.format = f"SELECT value FROM {self.meta} WHERE key = 'format'"
        self.birth = (
            "SELECT (SELECT oid FROM pg_database WHERE datname = current_database()) || '/' ||"
            f" coalesce(to_regclass({literal(self.meta)})::oid::text, 'none')"
        )
        self.filled = f"SELECT value FROM {self.meta} WHERE key = 'filled'"
        self.fill = f"INSERT INTO {self.meta} VALUES ('filled', $1) ON CONFLICT (key) DO UPDATE SET value = $1"
        self.notes = f"SELECT key, value FROM {self.meta} WHERE key LIKE 'note:%'"
        self.note = f"INSERT INTO {self.meta} VALUES ($1, $2) ON CONFLICT (key) DO UPDATE SET value = excluded.value"
        self.formatted = f"INSERT INTO {self.meta} VALUES ('format', $1) ON CONFLICT (key) DO UPDATE SET value = excluded.value"

    def step(self, found: int) -> str:
        """What takes the tables from a format to the next."""
        return STEPS[found].format(s=self.prefix)


def literal(text: str) -> str:
    """A string as SQL takes it."""
    return "'" + text.replace("'", "''") + "'"


def quoted(name: str) -> str:
    """A name as SQL takes it, whatever is in it."""
    return '"' + name.replace('"', '""') + '"'


async def prepare(connection: "asyncpg.Connection[asyncpg.Record]", statements: Statements) -> None:
    """Make the tables if they are missing, or take them to this format.

    One process does, others wait for it.

    Raises:
        StoreMisconfigured: The tables are of a newer format, or of an older one that no steps lead
            from.
    """
    if await connection.fetchval("SELECT to_regclass($1)", statements.meta) is None:
        async with connection.transaction():
            await connection.execute("SELECT pg_advisory_xact_lock($1)", _LOCK)
            if statements.schema is not None:
                await connection.execute(f"CREATE SCHEMA IF NOT EXISTS {quoted(statements.schema)}")
            # Looked up through a table: a session that has waited for the lock is told of others'
            # tables only when it locks one itself, and would go on to believe what it found before.
            if not await connection.fetchval(
                "SELECT EXISTS (SELECT FROM pg_class WHERE oid = to_regclass($1))", statements.meta
            ):
                await connection.execute(statements.tables)
                await make_words(connection, statements.prefix)
                await connection.execute(statements.formatted, str(FORMAT))
    found = await connection.fetchval(statements.format)
    if found != str(FORMAT):
        found = await _upgraded(connection, statements)
    if found != str(FORMAT):
        raise StoreMisconfigured(
            f"the tables of {statements.table} have format {found}, this version reads {FORMAT}; use the version that"
            " made them, or rebuild into another schema (`?schema=name`) with `tidings replay --into`"
        )


async def _upgraded(
    connection: "asyncpg.Connection[asyncpg.Record]", statements: Statements
) -> str | None:
    """The format of the tables, which were taken to this version's if steps lead there."""
    async with connection.transaction():
        await connection.execute("SELECT pg_advisory_xact_lock($1)", _LOCK)
        found: str | None = await connection.fetchval(statements.format)
        if (
            found is None
            or not found.isdecimal()
            or not all(one in STEPS for one in range(int(found), FORMAT))
        ):
            return found
        for one in range(int(found), FORMAT):
            await connection.execute(statements.step(one))
        if int(found) < 2 <= FORMAT:
            await make_words(connection, statements.prefix)
        if int(found) < FORMAT:
            await connection.execute(statements.formatted, found := str(FORMAT))
        return found
