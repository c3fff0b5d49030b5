"""The statements that list and count. Pure."""

from typing import Any

from tidings.storage.cursor import decode_cursor
from tidings.storage.store import Query

_GROUP = (
    "(model IS NULL AND substring(doc FROM position('\\x2c'::bytea IN doc) + 1 FOR 14)"
    " = convert_to('\"kind\":\"group\"', 'UTF8'))"
)
"""As `prediction.is_group`; no group has a model, so hardly any document is read for it."""


def listing(query: Query, now: int, table: str) -> tuple[str, list[Any]]:
    """The statement of a page, newest first, and its values."""
    conditions, values = _filtered(query, now)
    if query.cursor is not None:
        place = decode_cursor(query.cursor)
        conditions.append(
            f"(created_at, id) < (${len(values) + 1}::bigint, ${len(values) + 2}::text)"
        )
        values += place
    values.append(query.limit + 1)
    return (
        f"SELECT id, version, status, doc, expires_at, owner, created_at FROM {table}"
        f" WHERE {' AND '.join(conditions)} ORDER BY created_at DESC, id DESC LIMIT ${len(values)}"
    ), values


def counting(query: Query, now: int, table: str, most: int) -> tuple[str, list[Any]]:
    """The statement of a count by status among the first `most` that match, and its values."""
    conditions, values = _filtered(query, now)
    values.append(most)
    return (
        f"SELECT status, count(*) FROM (SELECT status FROM {table} WHERE {' AND '.join(conditions)}"
        f" LIMIT ${len(values)}) AS found GROUP BY status"
    ), values


def _filtered(query: Query, now: int) -> tuple[list[str], list[Any]]:
    values: list[Any] = [now]
    conditions = ["created_at IS NOT NULL", "(expires_at IS NULL OR expires_at > $1)"]

    def add(condition: str, value: Any) -> None:
        values.append(value)
        conditions.append(condition.format(f"${len(values)}"))

    for name in ("status", "owner", "model"):
        if (value := getattr(query, name)) is not None:
            add(name + " = {}", value)
    if query.tag is not None:
        add("tags @> ARRAY[{}::text]", query.tag)
    if query.created_after is not None:
        add("created_at >= {}::bigint", query.created_after)
    if query.created_before is not None:
        add("created_at < {}::bigint", query.created_before)
    if query.groups is not None:
        conditions.append(_GROUP if query.groups else f"NOT ({_GROUP})")
    if query.owners is not None:
        add("owner = ANY({}::text[])", query.owners)
    return conditions, values
