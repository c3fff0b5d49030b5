"""`GET /api/usage`: what predictions have used, summed over the records that are kept."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import msgspec
from aiohttp import web

from tidings.gateway.auth.permissions import Permissions
from tidings.gateway.auth.request_guard import RequestGuard
from tidings.gateway.http.problems import Handler, Problem, bad_request, forbidden
from tidings.gateway.lists.search import time_of
from tidings.storage.store import Query
from tidings.storage.usage import DAY, GROUPS, Key, TooManyGroups, UsageSum, UsageSums, amount
from tidings.storage.wrappers.cache import CachedStore

_PARAMETERS = frozenset({"groupBy", "from", "to", "owner", "model", "provider"})
_encoder = msgspec.json.Encoder()


def usage_handler(guard: RequestGuard, store: CachedStore, ttl: int = 0) -> Handler:
    """The handler of `GET /api/usage`.

    Args:
        guard: Who may come in.
        store: Whose records are summed.
        ttl: Seconds that a finished record is kept, which the answer names; 0: forever.
    """

    async def usage(request: web.Request) -> web.StreamResponse:
        permissions = await guard.authenticate(request)
        query, by = parse_usage(request.query)
        owners = _owners(permissions, query.owner)
        query = msgspec.structs.replace(query, owners=owners)
        sums: UsageSums | None = {}
        if owners != ():
            try:
                async with store.reads.turn(permissions.subject):
                    sums = await store.usage(query, by)
            except TooManyGroups as error:
                raise Problem(
                    400, "too-many-sums", "Too many sums", f"There are {error}."
                ) from None
        if sums is None:
            raise Problem(
                400,
                "cannot-sum",
                "Cannot sum",
                "This store cannot sum; SQLite, Postgres and the one in memory can.",
            )
        answer = {
            "success": True,
            "data": [_sum(key, sums[key], by) for key in sorted(sums, key=_place)],
            "groupBy": by,
            "keptSeconds": ttl or None,
        }
        headers = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
        return web.Response(
            body=_encoder.encode(answer), headers=headers, content_type="application/json"
        )

    return usage


def parse_usage(parameters: Mapping[str, str]) -> tuple[Query, tuple[str, ...]]:
    """What is to be summed, and what the sums are told apart by. Raises a 400 that names what is off."""
    for name in parameters:
        if name not in _PARAMETERS:
            raise bad_request(
                "Unknown parameter",
                f"{name[:64]!r} is no parameter of usage; use {', '.join(sorted(_PARAMETERS))}.",
            )
    by = tuple(one for one in parameters.get("groupBy", "").split(",") if one)
    for one in by:
        if one not in GROUPS or by.count(one) > 1:
            raise bad_request(
                "Bad groupBy",
                f"groupBy has {one[:64]!r}; name each of {', '.join(GROUPS)} once at most.",
            )
    begin, end = time_of(parameters, "from"), time_of(parameters, "to")
    if begin is not None and end is not None and end <= begin:
        raise bad_request("Bad time", "`to` is not after `from`; the time between them is summed.")
    return Query(
        owner=parameters.get("owner"),
        model=parameters.get("model"),
        provider=parameters.get("provider"),
        created_after=begin,
        created_before=end,
    ), by


def _owners(permissions: Permissions, owner: str | None) -> tuple[str, ...] | None:
    """Whose records the caller may sum; None: everybody's. Raises a 403 if there is nobody."""
    if permissions.may_read_all():
        return None
    own = {permissions.subject} if permissions.subject is not None else set()
    owners = permissions.owners | own
    if not owners:
        raise forbidden("Usage is summed for an owner, or for everybody with the scope read:all.")
    return tuple(sorted(owners)) if owner is None or owner in owners else ()


def _sum(key: Key, one: UsageSum, by: tuple[str, ...]) -> dict[str, Any]:
    seconds, rest = divmod(one.micros, 1_000_000)
    return {
        **{name: _value(name, value) for name, value in zip(by, key, strict=True)},
        "predictions": one.predictions,
        "inputTokens": one.input_tokens,
        "outputTokens": one.output_tokens,
        "seconds": one.micros / 1_000_000 if rest else seconds,
        "images": one.images,
        "costs": {currency: amount(one.costs[currency]) for currency in sorted(one.costs)},
    }


def _value(name: str, value: str | int | None) -> str | None:
    if name == "day" and isinstance(value, int):
        return datetime.fromtimestamp(value * DAY / 1000, UTC).date().isoformat()
    return None if value is None else str(value)


def _place(key: Key) -> tuple[tuple[bool, str | int], ...]:
    """What has no value comes first."""
    return tuple((value is not None, 0 if value is None else value) for value in key)
