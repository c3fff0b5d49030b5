"""`GET /api/predictions`: newest first, filtered, searched, in pages, and only what the caller may see.

With `format=ndjson` it gives whole records, one a line. With a limit that is one page, whose header
names the next one; else a stream of all, of which one page at a time is in memory.
"""

import time
from collections.abc import Awaitable, Callable, Mapping

import msgspec
from aiohttp import web

from tidings.gateway.api.predictions import may_read
from tidings.gateway.auth.cursor_seal import CursorSeal
from tidings.gateway.auth.permissions import Permissions
from tidings.gateway.auth.request_guard import RequestGuard
from tidings.gateway.http.fast_response import send_counted
from tidings.gateway.http.held_bytes import HeldAccount, HeldBytes, Kind
from tidings.gateway.http.problems import Handler, Problem, bad_request, busy
from tidings.gateway.lists.listed import Listed, line_headers, lines_answer, lines_of, list_answer
from tidings.gateway.lists.search import (
    LOOKED_THROUGH,
    SEARCH_SECONDS,
    Search,
    counted,
    error_of,
    time_of,
)
from tidings.gateway.push.pages import cursor_behind, persist
from tidings.storage.clock import SYSTEM_CLOCK
from tidings.storage.errors import StorageError
from tidings.storage.loggers import get_logger
from tidings.storage.prediction import (
    GROUP,
    Prediction,
    Status,
    is_group,
    valid_id,
)
from tidings.storage.store import Page, Query, Stored, matches
from tidings.storage.wrappers.cache import CachedStore

DEFAULT_LIMIT = 50
MAX_LIMIT = 1000
PAGES = 10
"""Times the limit that one request may look through for records that the caller may see."""
CHUNK = 50
"""Records that are read from the store at a time: of the largest ones, 25 MiB."""
PAGE_BYTES = 4 * 1024 * 1024
"""Bytes of records in one answer."""

_FILTERS = frozenset({"status", "owner", "model", "tag", "provider", "error"})
_TIMES = {"createdAfter": "created_after", "createdBefore": "created_before"}
"""Parameters with a time, and the store's filters."""
_PARAMETERS = _FILTERS | _TIMES.keys() | {"limit", "cursor", "text", "count", "kind", "format"}
STREAM_PAGE = 100
"""Records that a stream of lines reads at a time, up to `PAGE_BYTES`."""
_STATUSES = frozenset(status.value for status in Status)


logger = get_logger(__name__)


_EMPTY = Listed(items=[], cursor=None)


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
        if name in _FILTERS | _TIMES.keys() and _TIMES.get(name, name) not in filters:
            raise bad_request(
                "Unsupported filter",
                f"This store cannot list by {name}; it can by "
                f"{', '.join(_wire(filters)) or 'nothing'}.",
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
        provider=parameters.get("provider"),
        error=error_of(parameters.get("error")),
        created_after=time_of(parameters, "createdAfter"),
        created_before=time_of(parameters, "createdBefore"),
        limit=limit_of(parameters.get("limit")),
        cursor=parameters.get("cursor") or None,
    )


def _wire(filters: frozenset[str]) -> list[str]:
    """Filters as parameters are named."""
    names = {stored: name for name, stored in _TIMES.items()}
    return sorted(names.get(one, one) for one in filters)


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
        search = Search.of(request.query.get("text"))
        kind = request.query.get("kind")
        if kind not in (None, GROUP):
            raise bad_request("Unknown kind", f"No kind {kind[:64]!r}; say group, or nothing.")
        groups = kind == GROUP
        lines = _as_lines(request.query)
        if lines and "limit" not in request.query:
            query = msgspec.structs.replace(query, limit=STREAM_PAGE)

            async def following(cursor: str | None, account: HeldAccount) -> Listed:
                asked = msgspec.structs.replace(query, cursor=cursor)
                return await _page(store, permissions, asked, seal, account, search, groups)

            with held.account(permissions.subject) as account:
                return await _stream(request, permissions, following, query.cursor, account)
        with held.account(permissions.subject) as account:
            try:
                page = await _page(store, permissions, query, seal, account, search, groups)
            except ValueError:
                raise _bad_cursor() from None
            if request.query.get("count") == "true":
                scoped = _scoped(store, permissions, query)
                counts = await counted(store, scoped, account.owner, groups=groups)
                page = msgspec.structs.replace(page, counts=counts)
            response = lines_answer(page) if lines else list_answer(page)
            size = response.content_length or 0
            del page
            if not account.take(Kind.PAGES, size):
                raise busy(account, size)
            return await send_counted(request, response, account)

    return list_predictions


def _as_lines(query: Mapping[str, str]) -> bool:
    """Whether lines are asked for; raises a 400."""
    wanted = query.get("format")
    if wanted not in (None, "json", "ndjson"):
        raise bad_request("Unknown format", f"No format {wanted[:64]!r}; say json or ndjson.")
    if wanted == "ndjson" and "count" in query:
        raise bad_request("Unknown parameter", "count goes with format=json alone.")
    return wanted == "ndjson"


async def _stream(
    request: web.Request,
    permissions: Permissions,
    read: Callable[[str | None, HeldAccount], Awaitable[Listed]],
    cursor: str | None,
    account: HeldAccount,
) -> web.StreamResponse:
    """All records from a cursor on, a page after the other as the client takes them.

    Whoever has read the end of the body has read all: if a page cannot be read, or the token
    ends, the connection is cut instead.
    """
    page = await _first(read, cursor, account)
    response = web.StreamResponse(headers=line_headers(page))
    await response.prepare(request)
    try:
        while request.method != "HEAD":
            data, cursor = lines_of(page), page.cursor
            del page
            account.count(Kind.PAGES, len(data))
            if data:
                await response.write(data)
            account.give_back(Kind.PAGES, len(data))
            if cursor is None:
                break
            if permissions.expires_at is not None and permissions.expires_at <= time.time():
                raise ConnectionError("the token has ended")
            page = await persist(read, cursor, account)
        await response.write_eof()
    except ConnectionError:
        request.protocol.force_close()
    except (StorageError, ValueError) as error:
        logger.warning("list.stream_failed", error=str(error))
        request.protocol.force_close()
    return response


async def _first(
    read: Callable[[str | None, HeldAccount], Awaitable[Listed]],
    cursor: str | None,
    account: HeldAccount,
) -> Listed:
    try:
        return await read(cursor, account)
    except ValueError:
        raise _bad_cursor() from None


def _bad_cursor() -> Problem:
    return bad_request("Bad cursor", "The cursor is none of this list's; start again without it.")


def _scoped(store: CachedStore, permissions: Permissions, query: Query) -> Query | None:
    """The query of the store that gives what the caller may see, and nothing else; None: there is none."""
    if permissions.may_read_all():
        return query
    by_owner = not (permissions.needs_record or permissions.predictions)
    if not by_owner or "owner" not in store.capabilities.filters:
        return None
    owners = permissions.owners | (
        {permissions.subject} if permissions.subject is not None else set()
    )
    if query.owner is not None and query.owner not in owners:
        owners = frozenset()
    return msgspec.structs.replace(query, owners=tuple(sorted(owners)))


async def _page(
    store: CachedStore,
    permissions: Permissions,
    query: Query,
    seal: CursorSeal,
    account: HeldAccount,
    search: Search | None,
    groups: bool,
) -> Listed:
    room = min(PAGE_BYTES, account.room(Kind.PAGES))
    scoped = _scoped(store, permissions, query)
    if scoped is not None:
        return (
            _EMPTY
            if scoped.owners == ()
            else await _collect(store, scoped, room, account, search, groups=groups)
        )
    if query.cursor is not None:
        query = msgspec.structs.replace(query, cursor=seal.unseal(query.cursor))

    def visible(stored: Stored) -> bool:
        return may_read(permissions, stored.standing().prediction_id, stored)

    page = await _collect(store, query, room, account, search, visible, groups=groups)
    cursor = None if page.cursor is None else seal.seal(page.cursor)
    return msgspec.structs.replace(page, cursor=cursor)


async def _collect(
    store: CachedStore,
    query: Query,
    room: int,
    account: HeldAccount,
    search: Search | None,
    visible: Callable[[Stored], bool] | None = None,
    groups: bool = False,
) -> Listed:
    """A page out of small ones of the store, so that few large records are in memory at a time.

    It may come out short, and its cursor goes on. It ends after `room` bytes; after `PAGES` times
    as many records as were asked for, if the caller may not see most of them; and after
    `LOOKED_THROUGH` records or `SEARCH_SECONDS`, if words are searched for.

    Args:
        store: Listed.
        query: What is asked for.
        room: Bytes of records; the first one is taken whatever its size.
        account: Of the caller, who takes turns with others at the store.
        search: The words that a record must have; None: any.
        visible: Whether the caller may see a record; None: all of them.
        groups: List groups, which are left out otherwise.
    """
    keep = _all(visible, search, _is_group if groups else _is_no_group)
    seen: list[Stored] = []
    cursor, degraded, looked = query.cursor, False, 0
    most = PAGES * query.limit if search is None else LOOKED_THROUGH
    chunk, finds = CHUNK, search is not None
    deadline = SYSTEM_CLOCK.monotonic() + SEARCH_SECONDS
    if search is not None and query.cursor is None:
        seen = await _with_id(store, search.words, query, visible)
    while True:
        limit = chunk if search is not None else min(query.limit - len(seen), CHUNK)
        asked = msgspec.structs.replace(query, cursor=cursor, limit=limit)
        page = await _found(store, search, asked, account) if finds else None
        if page is None:
            finds, page = False, await store.reads.list(asked, account.owner)
        degraded |= page.degraded
        fitting, looked_at = _fitting(page.items, keep, room, query.limit - len(seen))
        looked += looked_at
        if looked_at < len(page.items):
            if looked_at:
                seen, cursor = seen + fitting, cursor_behind(page.items[looked_at - 1])
            break
        room -= sum(len(stored.encoded) for stored in fitting)
        seen += fitting
        cursor = page.cursor
        if cursor is None or len(seen) >= query.limit or looked >= most:
            break
        if search is not None:
            chunk = search.next_chunk(page.items, chunk)
            if SYSTEM_CLOCK.monotonic() > deadline:
                break
    if search is None:
        return Listed(items=seen, cursor=cursor, degraded=degraded)
    apart = await store.unsearchable(query) if finds and visible is None else None
    return Listed(
        items=seen,
        cursor=cursor,
        degraded=degraded,
        searched=None if finds else looked,
        unsearchable=search.apart if apart is None else apart,
    )


async def _found(
    store: CachedStore, search: Search | None, query: Query, account: HeldAccount
) -> Page | None:
    """A page of what the store finds by the words; None: its records have to be looked through."""
    if search is None:
        return None
    async with store.reads.turn(account.owner):
        return await store.find(search.words, query)


async def _with_id(
    store: CachedStore, words: str, query: Query, visible: Callable[[Stored], bool] | None
) -> list[Stored]:
    """The record with this id, if the list may show it."""
    if not valid_id(words):
        return []
    stored = await store.get(words)
    if stored is None or stored.status is None or (visible is not None and not visible(stored)):
        return []
    record = stored.standing()
    return [stored] if isinstance(record, Prediction) and matches(query, record) else []


def _is_group(stored: Stored) -> bool:
    return is_group(stored.encoded)


def _is_no_group(stored: Stored) -> bool:
    return not is_group(stored.encoded)


def _all(
    visible: Callable[[Stored], bool] | None, search: Search | None, kind: Callable[[Stored], bool]
) -> Callable[[Stored], bool]:
    checks = [kind]
    if search is not None:
        checks.append(search.matches)
    if visible is not None:
        checks.append(visible)
    return kind if len(checks) == 1 else lambda stored: all(check(stored) for check in checks)


def _fitting(
    items: list[Stored], keep: Callable[[Stored], bool] | None, room: int, most: int
) -> tuple[list[Stored], int]:
    """Those to show, at most `most` and up to `room` bytes; and how many of all items that covers."""
    fitting: list[Stored] = []
    for number, stored in enumerate(items):
        if keep is not None and not keep(stored):
            continue
        room -= len(stored.encoded)
        if (room < 0 and fitting) or len(fitting) >= most:
            return fitting, number
        fitting.append(stored)
    return fitting, len(items)


def limit_of(text: str | None) -> int:
    """How many records a page is to have; raises a 400."""
    if text is None:
        return DEFAULT_LIMIT
    if not (text.isascii() and text.isdecimal() and len(text) <= 6 and 1 <= int(text) <= MAX_LIMIT):
        raise bad_request(
            "Bad limit", f"The limit is {text[:20]!r}; give a number from 1 to {MAX_LIMIT}."
        )
    return int(text)
