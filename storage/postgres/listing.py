"""The statements that list, count, find and sum. Pure."""

from collections.abc import Sequence
from typing import Any

import msgspec

from tidings.storage.cursor import decode_cursor
from tidings.storage.store import Query
from tidings.storage.usage import DAY, MOST_ROWS

Statement = tuple[str, list[Any]]

_GROUP = (
    "(p.model IS NULL AND substring(p.doc FROM position('\\x2c'::bytea IN p.doc) + 1 FOR 14)"
    " = convert_to('\"kind\":\"group\"', 'UTF8'))"
)
"""As `prediction.is_group`; no group has a model, so hardly any document is read for it."""


def listing(
    query: Query, now: int, table: str, facts: str, pattern: str | None = None
) -> Statement:
    """The statement of a page, newest first, and its values; of what has the pattern if there is one."""
    conditions, values = _filtered(query, now)
    source = _source(query, table, facts, words=pattern is not None)
    if pattern is not None:
        values.append(pattern)
        conditions.append(f"f.words ILIKE ${len(values)}")
    by = "f" if source.startswith(facts) else "p"
    if query.cursor is not None:
        place = decode_cursor(query.cursor)
        conditions.append(
            f"({by}.created_at, {by}.id) < (${len(values) + 1}::bigint, ${len(values) + 2}::text)"
        )
        values += place
    values.append(query.limit + 1)
    return (
        f"SELECT p.id, p.version, p.status, p.doc, p.expires_at, p.owner, p.created_at FROM {source}"
        f" WHERE {' AND '.join(conditions)} ORDER BY {by}.created_at DESC, {by}.id DESC LIMIT ${len(values)}"
    ), values


def matching(pattern: str, most: int, facts: str) -> Statement:
    """The statement that counts what has the pattern, up to a limit."""
    return (
        f"SELECT count(*) FROM (SELECT FROM {facts} WHERE words ILIKE $1 LIMIT $2) AS found",
        [pattern, most],
    )


def counting(query: Query, now: int, table: str, facts: str, most: int) -> Statement:
    """The statement of a count by status among the first `most` that match, and its values."""
    conditions, values = _filtered(query, now)
    values.append(most)
    return (
        f"SELECT status, count(*) FROM (SELECT p.status FROM {_source(query, table, facts)}"
        f" WHERE {' AND '.join(conditions)} LIMIT ${len(values)}) AS found GROUP BY status"
    ), values


def summing(query: Query, now: int, table: str, facts: str, by: Sequence[str]) -> Statement:
    """The statement of sums, whose rows are as `usage.of_rows` takes them."""
    places = {
        "owner": "p.owner",
        "model": "p.model",
        "provider": "f.provider",
        "day": f"f.created_at / {DAY}",
    }
    groups = [places[name] for name in by] + ["f.currency"]
    figures = ["count(*)"]
    for name in ("input_tokens", "output_tokens", "images"):
        figures += [f"sum(f.{name} >> 26)", f"sum(f.{name} & 67108863)"]
    figures += ["sum(f.micros)", "sum(f.units)", "sum(f.fraction)"]
    conditions, values = _filtered(query, now)
    values.append(MOST_ROWS)
    return (
        f"SELECT {', '.join([*groups, *figures])} FROM {facts} AS f JOIN {table} AS p ON p.id = f.id"
        f" WHERE f.used AND {' AND '.join(conditions)}"
        f" GROUP BY {', '.join(str(n) for n in range(1, len(groups) + 1))} LIMIT ${len(values)}"
    ), values


def apart(query: Query, now: int, table: str, facts: str) -> Statement:
    """The statement that counts the records whose prompt lies apart, up to a thousand."""
    conditions, values = _filtered(query, now)
    return (
        f"SELECT count(*) FROM (SELECT FROM {facts} AS f JOIN {table} AS p ON p.id = f.id"
        f" WHERE f.apart AND {' AND '.join(conditions)} LIMIT 1000) AS found"
    ), values


def sums_only(query: Query) -> Query:
    """The query with what sums go by, and nothing else."""
    return msgspec.structs.replace(query, status=None, tag=None, error=None, cursor=None)


def _source(query: Query, table: str, facts: str, *, words: bool = False) -> str:
    if query.provider is None and query.error is None and not words:
        return f"{table} AS p"
    if query.owner is None and query.model is None and query.tag is None:
        return f"{facts} AS f JOIN {table} AS p ON p.id = f.id"
    return f"{table} AS p JOIN {facts} AS f ON f.id = p.id"


def _filtered(query: Query, now: int) -> tuple[list[str], list[Any]]:
    values: list[Any] = [now]
    conditions = ["p.created_at IS NOT NULL", "(p.expires_at IS NULL OR p.expires_at > $1)"]

    def add(condition: str, value: Any) -> None:
        values.append(value)
        conditions.append(condition.format(f"${len(values)}"))

    for name in ("status", "owner", "model"):
        if (value := getattr(query, name)) is not None:
            add(f"p.{name} = {{}}", value)
    if query.tag is not None:
        add("p.tags @> ARRAY[{}::text]", query.tag)
    if query.provider is not None:
        add("f.provider = {}", query.provider)
    if query.error is not None:
        add(
            "f.error IS NOT NULL AND (f.code = {0} OR position(lower({0}) IN lower(f.error)) > 0)",
            query.error,
        )
    if query.created_after is not None:
        add("p.created_at >= {}::bigint", query.created_after)
    if query.created_before is not None:
        add("p.created_at < {}::bigint", query.created_before)
    if query.groups is not None:
        conditions.append(_GROUP if query.groups else f"NOT ({_GROUP})")
    if query.owners is not None:
        add("p.owner = ANY({}::text[])", query.owners)
    return conditions, values
