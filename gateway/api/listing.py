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
from tidings.gateway.http.problems import Handler, bad_request
from tidings.storage.prediction import Status
from tidings.storage.store import Page, Query, Stored
from tidings.storage.wrappers.cache import CachedStore

if TYPE_CHECKING:
    from cryptography.fernet import Fernet

DEFAULT_LIMIT = 50
MAX_LIMIT = 1000
PAGES = 10
"""Pages of the store that one request may look through for records that the caller may see."""

_PARAMETERS = frozenset({"status", "owner", "model", "tag", "limit", "cursor"})
_STATUSES = frozenset(status.value for status in Status)
_EMPTY = Page(items=[], cursor=None)


class CursorSeal:
    """Hides cursors of stores from callers who see a part of a page alone.

    A store's cursor names the last record of its page, which may be a stranger's.

    Args:
        key: The same in every gateway, so that a cursor may go to any of them; None: one of this process.
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
                f"This store cannot list by {name}; it can by {', '.join(sorted(filters)) or 'nothing'}.",
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


def list_handler(guard: RequestGuard, store: CachedStore, seal: CursorSeal) -> Handler:
    """The handler of `GET /api/predictions`."""

    async def list_predictions(request: web.Request) -> web.StreamResponse:
        permissions = await guard.authenticate(request)
        capabilities = store.capabilities
        query = parse_query(request.query, capabilities.filters)
        if not capabilities.lists:
            raise bad_request(
                "Cannot list", "This store cannot list; ask for predictions by their ids."
            )
        try:
            page = await _page(store, permissions, query, seal)
        except ValueError:
            raise bad_request(
                "Bad cursor", "The cursor is none of this list's; start again without it."
            ) from None
        return _answer(page)

    return list_predictions


async def _page(
    store: CachedStore, permissions: Permissions, query: Query, seal: CursorSeal
) -> Page:
    if permissions.may_read_all():
        return await store.list(query)
    by_owner = not (permissions.needs_record or permissions.predictions)
    if by_owner and "owner" in store.capabilities.filters:
        owners = permissions.owners | (
            {permissions.subject} if permissions.subject is not None else set()
        )
        if not owners or (query.owner is not None and query.owner not in owners):
            return _EMPTY
        return await store.list(msgspec.structs.replace(query, owners=tuple(sorted(owners))))
    return await _sifted(store, permissions, query, seal)


async def _sifted(
    store: CachedStore, permissions: Permissions, query: Query, seal: CursorSeal
) -> Page:
    """Pages of everything, less what the caller may not see; a page may come out short, and the cursor goes on."""
    cursor = None if query.cursor is None else seal.unseal(query.cursor)
    seen: list[Stored] = []
    degraded = False
    for _ in range(PAGES):
        asked = msgspec.structs.replace(query, cursor=cursor, limit=query.limit - len(seen))
        page = await store.list(asked)
        seen += [
            stored
            for stored in page.items
            if may_read(permissions, stored.standing().prediction_id, stored)
        ]
        cursor = page.cursor
        degraded |= page.degraded
        if cursor is None or len(seen) >= query.limit:
            break
    return Page(items=seen, cursor=None if cursor is None else seal.seal(cursor), degraded=degraded)


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
