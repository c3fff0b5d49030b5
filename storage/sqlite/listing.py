"""The statements that list, count, find and sum. Pure."""

from collections.abc import Sequence
from typing import Any

import msgspec

from tidings.storage.cursor import decode_cursor
from tidings.storage.store import Query
from tidings.storage.usage import DAY, MOST_ROWS

_to_json = msgspec.json.Encoder().encode

_FOUND = (
    "(SELECT rowid FROM words WHERE words MATCH :words) AS w CROSS JOIN facts AS f ON f.row = w.rowid"
    " CROSS JOIN predictions AS p ON p.id = f.id"
)
MATCHING = "SELECT count(*) FROM (SELECT 1 FROM words WHERE words MATCH ? LIMIT ?)"


def listing(query: Query, now: int, phrase: str | None = None) -> tuple[str, dict[str, Any]]:
    """The statement of a listing, of what has the phrase if there is one.

    All its rows come as one, so that a scan takes the interpreter's lock once.
    """
    source, by, conditions, values = _filtered(query, now)
    if phrase is not None:
        source, by, values["words"] = _found(by), "f", phrase
    values["limit"] = query.limit + 1
    if query.cursor is not None:
        values["created_at"], values["id"] = decode_cursor(query.cursor)
        conditions.append(f"({by}.created_at, {by}.id) < (:created_at, :id)")
    return (
        # A person's own SQL may have left text, whose length would be that in characters.
        "SELECT json_group_array(json_array(id, version, status, expires_at, owner, created_at,"
        " length(CAST(doc AS BLOB)))),"
        " group_concat(CAST(doc AS TEXT), '') FROM (SELECT p.id, p.version, p.status, p.expires_at, p.owner,"
        f" p.created_at, p.doc FROM {source} WHERE {' AND '.join(conditions)}"
        f" ORDER BY {by}.created_at DESC, {by}.id DESC LIMIT :limit)"
    ), values


def counting(query: Query, now: int, most: int) -> tuple[str, dict[str, Any]]:
    """The statement of a count, whose one row is a JSON object: status and number."""
    source, _, conditions, values = _filtered(query, now)
    values["most"] = most
    return (
        "SELECT json_group_object(status, number) FROM (SELECT status, count(*) AS number FROM"
        f" (SELECT p.status FROM {source} WHERE {' AND '.join(conditions)} LIMIT :most) GROUP BY status)"
    ), values


def summing(query: Query, now: int, by: Sequence[str]) -> tuple[str, dict[str, Any]]:
    """The statement of sums, whose one row is a JSON array of rows as `usage.of_rows` takes them."""
    places = {
        "owner": "p.owner",
        "model": "p.model",
        "provider": "f.provider",
        "day": f"f.created_at / {DAY}",
    }
    groups = [places[name] for name in by]
    figures = ["count(*)"]
    for name in ("input_tokens", "output_tokens", "images"):
        figures += [f"sum(f.{name} >> 26)", f"sum(f.{name} & 67108863)"]
    figures += ["sum(f.micros)", "sum(f.units)", "sum(f.fraction)"]
    query = msgspec.structs.replace(query, status=None, tag=None, error=None)
    _, _, conditions, values = _filtered(query, now, sums=True)
    values["most"] = MOST_ROWS
    columns = [
        f"{one} AS c{number}" for number, one in enumerate([*groups, "f.currency", *figures])
    ]
    # Of an owner or a model there are fewer records than used something in all.
    whose = next((name for name in ("owner", "model") if f"p.{name} = :{name}" in conditions), None)
    source = (
        "facts AS f INDEXED BY facts_used CROSS JOIN predictions AS p ON p.id = f.id"
        if whose is None
        else f"predictions AS p INDEXED BY predictions_{whose} CROSS JOIN facts AS f ON f.id = p.id"
    )
    keys = ", ".join(str(number) for number in range(1, len(groups) + 2))
    names = ", ".join(f"c{number}" for number in range(len(columns)))
    return (
        f"SELECT json_group_array(json_array({names})) FROM (SELECT {', '.join(columns)} FROM {source}"
        f" WHERE {' AND '.join(conditions)} GROUP BY {keys} LIMIT :most)"
    ), values


def apart(query: Query, now: int) -> tuple[str, dict[str, Any]]:
    """The statement that counts the records whose prompt lies apart, up to a thousand."""
    _, _, conditions, values = _filtered(msgspec.structs.replace(query, tag=None), now, sums=True)
    conditions[-1] = "f.apart IS NOT NULL"
    return (
        "SELECT count(*) FROM (SELECT 1 FROM facts AS f INDEXED BY facts_apart CROSS JOIN predictions AS p"
        f" ON p.id = f.id WHERE {' AND '.join(conditions)} LIMIT 1000)"
    ), values


def _found(by: str) -> str:
    return _FOUND if by != "t" else f"{_FOUND} CROSS JOIN tags AS t ON t.id = p.id"


def _filtered(
    query: Query, now: int, *, sums: bool = False
) -> tuple[str, str, list[str], dict[str, Any]]:
    """What to read from, the table that the order is of, the conditions, and their values."""
    values: dict[str, Any] = {"now": now}
    owners = query.owners
    if owners is not None and len(owners) == 1 and query.owner in {None, owners[0]}:
        query, owners = msgspec.structs.replace(query, owner=owners[0]), None
    conditions = ["p.created_at IS NOT NULL", "(p.expires_at IS NULL OR p.expires_at > :now)"]
    source, by = ("", "f") if sums else _source(query)
    if query.tag is not None:
        conditions.append("t.tag = :tag")
        values["tag"] = query.tag
    for name in ("status", "owner", "model"):
        if (value := getattr(query, name)) is not None:
            conditions.append(f"p.{name} = :{name}")
            values[name] = value
    if query.provider is not None:
        conditions.append("f.provider = :provider")
        values["provider"] = query.provider
    if query.error is not None:
        conditions.append(
            "f.error IS NOT NULL AND (f.code = :error OR instr(lower(f.error), lower(:error)))"
        )
        values["error"] = query.error
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
    if sums:
        conditions.append("f.used IS NOT NULL")
    return source, by, conditions, values


_GROUP = "p.model IS NULL AND substr(p.doc, instr(p.doc, x'2c') + 1, 14) = CAST('\"kind\":\"group\"' AS BLOB)"
"""As `prediction.is_group`; no group has a model, so hardly any document is read for it."""


def _source(query: Query) -> tuple[str, str]:
    """What to walk, newest first, and what it is called.

    The index is named because the planner knows nothing of how rare a value is. Whose or of which
    model a record is says more than who made it: so of both the first is walked.
    """
    facts = query.provider is not None or query.error is not None
    joined = " CROSS JOIN facts AS f ON f.id = p.id" if facts else ""
    if query.tag is not None:
        return f"tags AS t CROSS JOIN predictions AS p ON p.id = t.id{joined}", "t"
    if facts and query.owner is None and query.model is None:
        index = "facts_failed" if query.error is not None else "facts_provider"
        return f"facts AS f INDEXED BY {index} CROSS JOIN predictions AS p ON p.id = f.id", "f"
    return f"predictions AS p INDEXED BY {_index(query)}{joined}", "p"


def _index(query: Query) -> str:
    if query.owner is not None:
        return "predictions_owner"
    if query.model is not None:
        return "predictions_model"
    return "predictions_status" if query.status is not None else "predictions_created"
