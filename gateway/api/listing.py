"""`GET /api/predictions`: newest first, filtered, in pages, and only what the caller may see."""

import base64
import binascii
import hmac
import os
from collections.abc import Mapping
from functools import cached_property
from hashlib import sha256
from typing import TYPE_CHECKING

import msgspec
from aiohttp import web

from tidings.gateway.api.predictions import DEGRADED, may_read
from tidings.gateway.auth.permissions import Permissions
from tidings.gateway.auth.request_guard import RequestGuard
from tidings.gateway.http.fast_response import send_counted
from tidings.gateway.http.held_bytes import HeldAccount, HeldBytes, Kind
from tidings.gateway.http.problems import Handler, bad_request, busy
from tidings.gateway.push.pages import cursor_behind
from tidings.storage.prediction import Status
from tidings.storage.store import Page, Query, Stored
from tidings.storage.wrappers.cache import CachedStore

if TYPE_CHECKING:
    from cryptography.fernet import Fernet

DEFAULT_LIMIT = 50
MAX_LIMIT = 1000
PAGES = 10
"""Times the limit that one request may look through for records that the caller may see."""
CHUNK = 50
"""Records that are read from the store at a time: of the largest ones, 25 MiB."""
PAGE_BYTES = 4 * 1024 * 1024
"""Bytes of records in one answer."""

_PARAMETERS = frozenset({"status", "owner", "model", "tag", "limit", "cursor"})
_STATUSES = frozenset(status.value for status in Status)
_EMPTY = Page(items=[], cursor=None)


class CursorSeal:
    """Hides cursors of stores from callers who see a part of a page alone.

    A store's cursor names the last record of its page, which may be a stranger's.

    Args:
        key: The same in every gateway, so that a cursor may go to any of them; None: one of this
            process.
    """

    def __init__(self, key: bytes | None) -> None:
        derived = hmac.new(key or os.urandom(32), b"tidings cursor", sha256).digest()
        self._key = base64.urlsafe_b64encode(derived)

    @cached_property
    def _fernet(self) -> "Fernet":
        from cryptography.fernet import (
            Fernet,  # 5 MB that a service has no use for before its first long list
        )

        return Fernet(self._key)

    def seal(self, cursor: str) -> str:
        """The cursor as the caller gets it."""
        return self._fernet.encrypt(cursor.encode()).decode()

    def unseal(self, sealed: str) -> str:
        """The store's cursor; raises ValueError where it is none that was given out."""
        from cryptography.fernet import InvalidToken

        try:
            return self._fernet.decrypt(sealed.encode()).decode()
        except (InvalidToken, binascii.Error, UnicodeError):
            raise ValueError("not a cursor") from None


def parse_query(parameters: Mapping[str, str], filters: frozenset[str]) -> Query:
    """What is asked for.

    Args:
        parameters: Of the URL.
        filters: What the store can filter by.

    Raises:
        Problem: 400, naming the parameter that is off.
    """
    for name in parameters:
        if name not in _PARAMETERS:
            raise bad_request(
                "Unknown parameter",
                f"{name[:64]!r} is no parameter of a list; use {', '.join(sorted(_PARAMETERS))}.",
            )
        if name not in {"limit", "cursor"} and name not in filters:
            raise bad_request(
                "Unsupported filter",
                f"This store cannot list by {name}; it can by "
                f"{', '.join(sorted(filters)) or 'nothing'}.",
            )
    status = parameters.get("status")
    if status is not None and status not in _STATUSES:
        raise bad_request(
            "Unknown status", f"No status {status[:64]!r}; use one of {', '.join(Status)}."
        )
    return Query(
        status=None if status is None else Status(status),
        owner=parameters.get("owner"),
        model=parameters.get("model"),
        tag=parameters.get("tag"),
        limit=_limit(parameters.get("limit")),
        cursor=parameters.get("cursor") or None,
    )


def list_handler(
    guard: RequestGuard, store: CachedStore, seal: CursorSeal, held: HeldBytes
) -> Handler:
    """The handler of `GET /api/predictions`."""

    async def list_predictions(request: web.Request) -> web.StreamResponse:
        permissions = await guard.authenticate(request)
        capabilities = store.capabilities
        query = parse_query(request.query, capabilities.filters)
        if not capabilities.lists:
            raise bad_request(
                "Cannot list", "This store cannot list; ask for predictions by their ids."
            )
        with held.account(permissions.subject) as account:
            try:
                page = await _page(store, permissions, query, seal, account)
            except ValueError:
                raise bad_request(
                    "Bad cursor", "The cursor is none of this list's; start again without it."
                ) from None
            response = _answer(page)
            size = response.content_length or 0
            del page
            if not account.take(Kind.PAGES, size):
                raise busy(account, size)
            return await send_counted(request, response, account)

    return list_predictions


async def _page(
    store: CachedStore,
    permissions: Permissions,
    query: Query,
    seal: CursorSeal,
    account: HeldAccount,
) -> Page:
    room = min(PAGE_BYTES, account.room(Kind.PAGES))
    if permissions.may_read_all():
        return await _collect(store, query, room, account)
    by_owner = not (permissions.needs_record or permissions.predictions)
    if by_owner and "owner" in store.capabilities.filters:
        owners = permissions.owners | (
            {permissions.subject} if permissions.subject is not None else set()
        )
        if not owners or (query.owner is not None and query.owner not in owners):
            return _EMPTY
        query = msgspec.structs.replace(query, owners=tuple(sorted(owners)))
        return await _collect(store, query, room, account)
    if query.cursor is not None:
        query = msgspec.structs.replace(query, cursor=seal.unseal(query.cursor))
    page = await _collect(store, query, room, account, permissions)
    cursor = None if page.cursor is None else seal.seal(page.cursor)
    return msgspec.structs.replace(page, cursor=cursor)


async def _collect(
    store: CachedStore,
    query: Query,
    room: int,
    account: HeldAccount,
    permissions: Permissions | None = None,
) -> Page:
    """A page out of small ones of the store, so that few large records are in memory at a time.

    It may come out short, and its cursor goes on: after `room` bytes, and after `PAGES` times as
    many records as were asked for where the caller may not see most of them.

    Args:
        store: Listed.
        query: What is asked for.
        room: Bytes of records; the first one is taken whatever its size.
        account: Of the caller, who takes turns with others at the store.
        permissions: What the caller may see; None: all of it.
    """
    seen: list[Stored] = []
    cursor, degraded, looked = query.cursor, False, 0
    while True:
        limit = min(query.limit - len(seen), CHUNK)
        asked = msgspec.structs.replace(query, cursor=cursor, limit=limit)
        page = await store.reads.list(asked, account.owner)
        degraded |= page.degraded
        visible, looked_at = _fitting(page.items, permissions, room, first=not seen)
        looked += looked_at
        if looked_at < len(page.items):
            if looked_at:
                seen, cursor = seen + visible, cursor_behind(page.items[looked_at - 1])
            break
        room -= sum(len(stored.encoded) for stored in visible)
        seen += visible
        cursor = page.cursor
        if cursor is None or len(seen) >= query.limit or looked >= PAGES * query.limit:
            break
    return Page(items=seen, cursor=cursor, degraded=degraded)


def _fitting(
    items: list[Stored], permissions: Permissions | None, room: int, *, first: bool
) -> tuple[list[Stored], int]:
    """Those that the caller may see, up to `room` bytes; and how many of all items that covers."""
    visible: list[Stored] = []
    for number, stored in enumerate(items):
        if permissions is not None and not may_read(
            permissions, stored.standing().prediction_id, stored
        ):
            continue
        room -= len(stored.encoded)
        if room < 0 and (visible or not first):
            return visible, number
        visible.append(stored)
    return visible, len(items)


def _answer(page: Page) -> web.Response:
    cursor = msgspec.json.encode(page.cursor)
    body = b'{"success":true,"data":[%s],"cursor":%s}' % (
        b",".join([item.encoded for item in page.items]),
        cursor,
    )
    headers = {
        "Content-Type": "application/json",
        "Cache-Control": "no-cache",
        "X-Content-Type-Options": "nosniff",
    }
    if page.degraded:
        headers[DEGRADED] = "1"
    return web.Response(body=body, headers=headers)


def _limit(text: str | None) -> int:
    if text is None:
        return DEFAULT_LIMIT
    if not (text.isascii() and text.isdecimal() and len(text) <= 6 and 1 <= int(text) <= MAX_LIMIT):
        raise bad_request(
            "Bad limit", f"The limit is {text[:20]!r}; give a number from 1 to {MAX_LIMIT}."
        )
    return int(text)
