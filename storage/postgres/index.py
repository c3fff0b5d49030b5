"""What a store's records are found and summed by, beside their rows: tables that follow the writes.

Triggers note the ids that a statement has touched, one row for the statement, whichever version of
Tidings has written; taking the records apart is left for later. `take` does that, some at a time: a
reader that needs the tables calls it until nothing is left, and the service calls it every few
seconds.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import asyncpg
import msgspec
from msgspec import Raw, Struct

from tidings.storage.prediction import ABSENT, Usage

if TYPE_CHECKING:
    Connection = asyncpg.Connection[asyncpg.Record]

TABLES = """
CREATE TABLE {s}tidings_unindexed (n bigserial PRIMARY KEY, ids text[] NOT NULL);
CREATE TABLE {s}tidings_facts (
    id text COLLATE "C" PRIMARY KEY, created_at bigint NOT NULL, provider text, code text, error text, apart boolean,
    used boolean, input_tokens bigint, output_tokens bigint, micros bigint, images bigint, units bigint,
    fraction bigint, currency text, words text NOT NULL
);
CREATE INDEX ON {s}tidings_facts (provider, created_at, id) WHERE provider IS NOT NULL;
CREATE INDEX ON {s}tidings_facts (created_at, id) WHERE error IS NOT NULL;
CREATE INDEX ON {s}tidings_facts (created_at) WHERE used;
CREATE INDEX ON {s}tidings_facts (created_at, id) WHERE apart;
CREATE FUNCTION {s}tidings_note() RETURNS trigger LANGUAGE plpgsql AS $body$
BEGIN
    INSERT INTO {s}tidings_unindexed (ids) SELECT array_agg(id) FROM touched HAVING count(*) > 0;
    DELETE FROM {s}tidings_facts WHERE id IN (SELECT t.id FROM touched AS t WHERE t.created_at IS NULL);
    RETURN NULL;
END $body$;
CREATE FUNCTION {s}tidings_forget() RETURNS trigger LANGUAGE plpgsql AS $body$
BEGIN
    DELETE FROM {s}tidings_facts AS f USING touched AS t WHERE f.id = t.id;
    RETURN NULL;
END $body$;
CREATE TRIGGER tidings_inserted AFTER INSERT ON {s}tidings_predictions REFERENCING NEW TABLE AS touched
    FOR EACH STATEMENT EXECUTE FUNCTION {s}tidings_note();
CREATE TRIGGER tidings_updated AFTER UPDATE ON {s}tidings_predictions REFERENCING NEW TABLE AS touched
    FOR EACH STATEMENT EXECUTE FUNCTION {s}tidings_note();
CREATE TRIGGER tidings_deleted AFTER DELETE ON {s}tidings_predictions REFERENCING OLD TABLE AS touched
    FOR EACH STATEMENT EXECUTE FUNCTION {s}tidings_forget();
"""
OLDER = "\nINSERT INTO {s}tidings_meta VALUES ('unindexed', '');\n"
"""Only of tables that were there before: the last id of those that the index has caught up with."""

WORDS = "CREATE INDEX tidings_facts_words ON {s}tidings_facts USING gin (words {t}.gin_trgm_ops)"
"""Apart from the others: not everybody may create an extension."""

AT_ONCE = 500
"""Records of one step, about."""
DOCS_AT_ONCE = 50
"""Records in memory: of the largest ones, 25 MiB."""
ERROR_CHARACTERS = 1000
"""Of an error those that are searched."""
DIGITS = 12
"""Behind the point of a cost."""
_LOCK = 0x54494449
"""Of the advisory lock under which records are taken apart: of two who did it at once the slower one could put back
what the faster one had read later."""


class _Head(Struct, rename="camel", gc=False):
    """What of a record the index has."""

    prediction_id: str
    created_at: int | None = None
    """None: a tombstone."""
    provider: str | None = None
    prompt: Any = None
    payload: Raw = ABSENT
    error: Any = None
    error_code: str | None = None
    usage: Usage | None = None


class _Payload(Struct, gc=False):
    prompt: Any = None


_head = msgspec.json.Decoder(_Head)
_payload = msgspec.json.Decoder(_Payload)
Row = tuple[Any, ...]


def row_of(doc: bytes) -> Row:
    """The record's row: an id, and NULL for all else of a tombstone."""
    head = _head.decode(doc)
    if head.created_at is None:
        return (head.prediction_id, *[None] * 14)
    usage = head.usage or Usage()
    whole, _, behind = (usage.cost or "").partition(".")
    error = head.error[:ERROR_CHARACTERS] if isinstance(head.error, str) else ""
    return (
        head.prediction_id,
        head.created_at,
        _plain(head.provider),
        _plain(head.error_code),
        _plain(error) if head.error is not None or head.error_code is not None else None,
        True if isinstance(head.prompt, dict) else None,
        True if head.usage is not None else None,
        usage.input_tokens,
        usage.output_tokens,
        None if usage.seconds is None else round(usage.seconds * 1_000_000),
        usage.images,
        int(whole) if whole else None,
        int(behind.ljust(DIGITS, "0")) if whole else None,
        usage.currency,
        _words(head),
    )


def _words(head: _Head) -> str:
    """What is searched: each on a line of its own, as no words go over a line's end."""
    texts = [head.prediction_id]
    if isinstance(head.prompt, str):
        texts.append(head.prompt)
    if b'"prompt"' in bytes(head.payload) and bytes(head.payload)[:1] == b"{":
        given = _payload.decode(head.payload).prompt
        if isinstance(given, str) and given not in texts:
            texts.append(given)
    return "\n".join(text.replace("\0", "") for text in texts)


def _plain(text: str | None) -> str | None:
    """What a text of Postgres can hold."""
    return None if text is None else text.replace("\0", "")


_COLUMNS: Mapping[str, str] = {
    "id": "text", "created_at": "bigint", "provider": "text", "code": "text", "error": "text", "apart": "boolean",
    "used": "boolean", "input_tokens": "bigint", "output_tokens": "bigint", "micros": "bigint", "images": "bigint",
    "units": "bigint", "fraction": "bigint", "currency": "text", "words": "text",
}  # fmt: skip


class IndexStatements:
    """The statements for tables with this prefix."""

    def __init__(self, prefix: str, table: str, meta: str) -> None:
        names = ", ".join(_COLUMNS)
        arrays = ", ".join(f"${n}::{kind}[]" for n, kind in enumerate(_COLUMNS.values(), start=1))
        new = ", ".join(f"excluded.{name}" for name in _COLUMNS)
        old = ", ".join(f"f.{name}" for name in _COLUMNS)
        self.facts = f"{prefix}tidings_facts"
        self.table = table
        self.lock = f"SELECT pg_try_advisory_xact_lock({_LOCK}, hashtext($1))"
        self.queue = (
            f"WITH first AS (SELECT n, sum(cardinality(ids)) OVER (ORDER BY n) - cardinality(ids) AS before"
            f" FROM (SELECT n, ids FROM {prefix}tidings_unindexed ORDER BY n LIMIT 1000) AS queue)"
            f" DELETE FROM {prefix}tidings_unindexed WHERE n IN (SELECT n FROM first WHERE before < $1) RETURNING ids"
        )
        self.docs = f"SELECT doc FROM {table} WHERE id = ANY($1::text[])"
        self.older = f"SELECT id, doc FROM {table} WHERE id > $1 ORDER BY id LIMIT $2"
        self.upto = f"SELECT value FROM {meta} WHERE key = 'unindexed'"
        self.caught = f"UPDATE {meta} SET value = $1 WHERE key = 'unindexed'"
        self.done = f"DELETE FROM {meta} WHERE key = 'unindexed'"
        self.forget = f"DELETE FROM {self.facts} WHERE id = ANY($1::text[])"
        self.file = (
            f"INSERT INTO {self.facts} AS f ({names}) SELECT {names} FROM unnest({arrays}) AS w ({names})"
            # Only of what stands: it may have been swept since it was read.
            f" WHERE EXISTS (SELECT FROM {table} AS p WHERE p.id = w.id)"
            f" ON CONFLICT (id) DO UPDATE SET ({names}) = ({new}) WHERE ({old}) IS DISTINCT FROM ({new})"
        )
        self.left = (
            f"SELECT coalesce(sum(cardinality(ids)), 0) + (SELECT count(*) FROM {meta} WHERE key = 'unindexed')"
            f" FROM {prefix}tidings_unindexed"
        )
        self.place = (
            f"SELECT (SELECT count(*) FROM {meta} WHERE key = 'unindexed'), min(n), max(n)"
            f" FROM {prefix}tidings_unindexed"
        )
        self.has_words = "SELECT to_regclass($1) IS NOT NULL"
        self.words = f"{prefix}tidings_facts_words"


async def take(
    connection: "Connection", statements: IndexStatements, most: int = AT_ONCE
) -> int | None:
    """Bring the tables up to date by about so many records; how many are left. None: somebody else is at it.

    Called within a transaction.
    """
    if not await connection.fetchval(statements.lock, statements.table):
        return None
    ids = {one for row in await connection.fetch(statements.queue, most) for one in row[0]}
    if ids:
        wanted = list(ids)
        for start in range(0, len(wanted), DOCS_AT_ONCE):
            rows = await connection.fetch(statements.docs, wanted[start : start + DOCS_AT_ONCE])
            await _file(connection, statements, [row[0] for row in rows])
    elif (upto := await connection.fetchval(statements.upto)) is not None:
        rows = await connection.fetch(statements.older, upto, DOCS_AT_ONCE)
        await _file(connection, statements, [row[1] for row in rows])
        if rows:
            await connection.execute(statements.caught, rows[-1][0])
        else:
            await connection.execute(statements.done)
    return int(await connection.fetchval(statements.left))


async def _file(
    connection: "Connection", statements: IndexStatements, docs: Sequence[bytes]
) -> None:
    rows = [row_of(doc) for doc in docs]
    gone = [row[0] for row in rows if row[1] is None]
    if gone:
        await connection.execute(statements.forget, gone)
    standing = [row for row in rows if row[1] is not None]
    if standing:
        await connection.execute(statements.file, *map(list, zip(*standing, strict=True)))


async def make_words(connection: "Connection", prefix: str) -> None:
    """The index of prompts, where this user may have the extension: without it prompts are looked through."""
    try:
        async with connection.transaction():
            await connection.execute("CREATE EXTENSION IF NOT EXISTS pg_trgm")
            schema = await connection.fetchval(
                "SELECT quote_ident(n.nspname) FROM pg_extension AS e JOIN pg_namespace AS n"
                " ON n.oid = e.extnamespace WHERE e.extname = 'pg_trgm'"
            )
            await connection.execute(WORDS.format(s=prefix, t=schema))
    except asyncpg.PostgresError:
        return


def pattern(phrase: str) -> str:
    """What `ILIKE` finds the phrase by."""
    for mark in ("\\", "%", "_"):
        phrase = phrase.replace(mark, "\\" + mark)
    return f"%{phrase}%"
