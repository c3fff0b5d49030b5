"""Groups over HTTP: made by one request with up to a thousand orders, read with their members, deleted with them.

One event holds all orders. Members' creates follow from the group's record, and so does how it
stands.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from aiohttp import web
from msgspec import Raw

from tidings.gateway.api.create import (
    CreateDefaults,
    Order,
    Submitter,
    check_retries,
    check_stream,
    check_tags,
    refuse_unable,
    refuse_unknown,
    taken,
    text_of,
    who_makes,
    without_nulls,
)
from tidings.gateway.api.deadlines import with_deadline
from tidings.gateway.api.mutations import Mutations
from tidings.gateway.api.predictions import Records, may_read
from tidings.gateway.auth.request_guard import RequestGuard
from tidings.gateway.http.problems import Handler, Problem, bad_request, not_found, unprocessable
from tidings.gateway.lifecycle.retries import newest_attempt
from tidings.gateway.lists.listed import Listed, list_answer
from tidings.gateway.lists.listing import limit_of
from tidings.storage.prediction import GROUP, Prediction, is_group, valid_id
from tidings.storage.store import Stored
from tidings.storage.wrappers.cache import CachedStore
from tidings.streams.lifecycle.follow_ups import FollowUps, group_members
from tidings.streams.rules.groups import MAX_MEMBERS, member_id

MAX_GROUP_ID = 250
"""Bytes: a member's id has up to four more."""

_SHARED = frozenset(
    {
        "provider",
        "model",
        "prompt",
        "payload",
        "tags",
        "estimatedTime",
        "deadline",
        "timeout",
        "retries",
        "webhook",
        "webhookEvents",
        "stream",
    }
)
"""What an order may leave to the group."""
_OF_THE_GROUP = ("type", "id", "owner", "tags", "webhook", "webhookEvents")
"""Members of the request that the group's own record gets."""
_TIMES = frozenset({"deadline", "timeout"})
_orders = msgspec.json.Decoder(list[dict[str, Raw]])
_encoder = msgspec.json.Encoder()


class Groups:
    """Makes groups out of orders.

    Args:
        store: What stands.
        submitter: What hands predictions to providers; None: none can be created.
        defaults: Completes an order.
    """

    def __init__(
        self, store: CachedStore, submitter: Submitter | None, defaults: CreateDefaults | None
    ) -> None:
        self._store, self._submitter, self._defaults = store, submitter, defaults

    def parse(self, fields: Mapping[str, Raw]) -> list[dict[str, Raw]]:
        """A group's orders, each whole and one that can be submitted.

        Args:
            fields: Of the request's body; what orders share stands beside them.

        Raises:
            Problem: 422, naming the order that is off.
        """
        refuse_unknown(fields, _SHARED | {"group", "orders", "owner"})
        try:
            given = _orders.decode(fields["orders"])
        except (msgspec.DecodeError, UnicodeError, RecursionError):
            raise unprocessable("Invalid field", "orders must be a list of objects.") from None
        if not 1 <= len(given) <= MAX_MEMBERS:
            raise unprocessable(
                "Bad number of orders", f"A group has 1 to {MAX_MEMBERS} orders, not {len(given)}."
            )
        shared = {name: value for name, value in fields.items() if name in _SHARED}
        able: set[tuple[str, str]] = set()
        orders = []
        for index, own in enumerate(given):
            try:
                silent = bytes(own.get("webhook", b"")) == b"null"  # the group alone is told
                orders.append(self._order(shared, without_nulls(own), able, silent=silent))
            except Problem as problem:
                raise _of_order(index, problem) from None
        return orders

    def _order(
        self,
        shared: Mapping[str, Raw],
        own: Mapping[str, Raw],
        able: set[tuple[str, str]],
        *,
        silent: bool,
    ) -> dict[str, Raw]:
        refuse_unknown(own, _SHARED)
        # Its own time goes before the group's, whichever of the two ways each is said in.
        timed = own.keys() & _TIMES
        order = {name: value for name, value in shared.items() if not (timed and name in _TIMES)}
        order |= own
        if silent:
            order.pop("webhook", None)
            order.pop("webhookEvents", None)
        maker = who_makes(order)
        check_tags(order)
        if maker not in able:
            refuse_unable(self._submitter, *maker)
            able.add(maker)
        if self._submitter is not None:
            check_retries(self._submitter, order)
            check_stream(self._submitter, order)
        return order

    def wanted(self, fields: Mapping[str, Raw]) -> str | None:
        """The id that the group is to have; None: any. Raises a 422 for one that cannot be."""
        if bytes(fields.get("group", b"true")) == b"true":
            return None
        wanted = text_of(fields, "group")
        if wanted is None or not (valid_id(wanted) and len(wanted.encode()) <= MAX_GROUP_ID):
            raise unprocessable(
                "Bad id",
                f"group is true or an id: 1 to {MAX_GROUP_ID} bytes without spaces, commas and "
                "control characters.",
            )
        return wanted

    async def event(self, order: Order, now: int) -> dict[str, Raw]:
        """The members of the event that creates a group with all its orders.

        Raises:
            Problem: 422 if a deadline is not in the future.
        """
        whole = []
        for index, one in enumerate(order.orders or ()):
            more = {} if self._defaults is None else await self._defaults(one)
            try:
                whole.append(with_deadline({**one, **more}, now))
            except Problem as problem:
                raise _of_order(index, problem) from None
        fields = order.fields
        said = group_members(order.prediction_id, whole)
        given = {name: fields[name] for name in _OF_THE_GROUP if name in fields}
        owner = {"owner": fields["owner"]} if "owner" in fields else {}
        said["orders"] = [{**one, **owner} for one in whole]
        return given | {name: Raw(_encoder.encode(value)) for name, value in said.items()}

    async def refuse_taken(self, order: Order) -> None:
        """Refuse a group whose members' ids are in use; raises a 409."""
        group = order.prediction_id
        ids = [member_id(group, index) for index in range(len(order.orders or ()))]
        there = await self._store.load_fresh(ids)
        for name, stored in there.items():
            if not stored.deleted:
                raise taken(f"A prediction {name[:80]!r} exists; choose another group.")


def _of_order(index: int, problem: Problem) -> Problem:
    """What is wrong with one order, said of the whole request."""
    return Problem(
        problem.status, problem.code, problem.error, f"orders[{index}]: {problem.detail}"
    )


def members_handler(
    guard: RequestGuard, records: Records, follow_ups: FollowUps | None, rest: Handler
) -> Handler:
    """The handler of `GET /api/predictions`: with `group` its members, else what `rest` answers."""

    async def members(request: web.Request) -> web.StreamResponse:
        group = request.query.get("group")
        if group is None or follow_ups is None:
            return await rest(request)
        permissions = await guard.authenticate(request)
        if more := set(request.query) - {"group", "limit", "cursor"}:
            raise bad_request(
                "Unsupported filter", f"The members of a group are not filtered by {min(more)}."
            )
        stored = await records.find(group)
        if not may_read(permissions, group, stored):
            raise not_found()
        record = stored.standing()
        if not isinstance(record, Prediction) or record.kind != GROUP:
            raise bad_request("No group", f"{group[:80]!r} is a prediction; read it by its id.")
        limit, start = limit_of(request.query.get("limit")), _start(request.query.get("cursor"))
        ids = await follow_ups.members(record)
        found: list[Stored] = []
        for name in ids[start : start + limit]:
            one = await records.store.get(name)
            if one is not None and not one.deleted:
                newest = await newest_attempt(records, one)
                if may_read(permissions, newest.standing().prediction_id, newest):
                    found.append(newest)
        end = start + limit
        return list_answer(Listed(items=found, cursor=str(end) if end < len(ids) else None))

    return members


def _start(cursor: str | None) -> int:
    if cursor is None:
        return 0
    if not (cursor.isascii() and cursor.isdecimal() and len(cursor) <= 4):
        raise bad_request(
            "Bad cursor", "The cursor is none of this list's; start again without it."
        )
    return int(cursor)


def delete_handler(mutations: Mutations, records: Records, follow_ups: FollowUps | None) -> Handler:
    """The handler of `DELETE /api/predictions/{id}`: of a group the members go first."""

    async def delete(request: web.Request) -> web.StreamResponse:
        stored = await records.find(request.match_info["id"], fresh=True)
        if follow_ups is None or not is_group(stored.encoded):
            return await mutations.delete(request)
        await mutations.admit_delete(request, stored)
        group = stored.standing()
        assert isinstance(group, Prediction)
        names = await _attempts(records, await follow_ups.members(group))
        await follow_ups.publish([follow_ups.delete(name) for name in names])
        return await mutations.delete(request)

    return delete


async def _attempts(records: Records, names: Sequence[str]) -> list[str]:
    """These predictions and all further attempts at them."""
    found: dict[str, Any] = dict.fromkeys(names)
    following = list(names)
    while following:
        loaded = await records.store.load_fresh(following)
        following = []
        for stored in loaded.values():
            record = stored.standing()
            after = record.retried_as if isinstance(record, Prediction) else None
            if after is not None and after not in found:
                found[after] = None
                following.append(after)
    return list(found)
