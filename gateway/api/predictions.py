"""Reading predictions over HTTP: one with its ETag, and lists of what the caller may see.

A record goes out as the bytes that the store keeps. It is decoded only if a field has to be picked,
or a right depends on a tag or a model.
"""

from collections.abc import Awaitable, Callable

import msgspec
from aiohttp import web
from msgspec import Raw

from tidings.gateway.api.long_poll import next_change, wait_preferred
from tidings.gateway.auth.permissions import OPEN, Permissions
from tidings.gateway.auth.request_guard import RequestGuard
from tidings.gateway.http.fast_response import LARGE, answer, send_counted
from tidings.gateway.http.held_bytes import HeldBytes, Kind
from tidings.gateway.http.problems import Handler, bad_request, busy, not_found
from tidings.gateway.push.changes_reader import ChangesReader
from tidings.storage.prediction import Prediction, for_readers, valid_id
from tidings.storage.store import Stored
from tidings.storage.wrappers.cache import CachedStore

FIELDS = frozenset(field.encode_name for field in msgspec.structs.fields(Prediction))
"""Names that `?fields=` may pick."""

DEGRADED = "Tidings-Degraded"
PUBLIC_URL = "Tidings-Public-Url"
"""How the service is reached from outside, if it knows; addresses of ours in an answer lie below it."""

_HEAD = b'{"success":true,"data":'
_fields = msgspec.json.Decoder(dict[str, Raw])
_encoder = msgspec.json.Encoder()


_HEADERS = (
    b'Content-Type: application/json\r\nETag: "%d"\r\nCache-Control: no-cache\r\n'
    b"X-Content-Type-Options: nosniff\r\n"
)


def answer_with(
    data: bytes, version: int, *, status: int = 200, degraded: bool = False
) -> web.Response:
    """The answer that carries a record (or some fields of it) as it is encoded."""
    headers = {
        "Content-Type": "application/json",
        "ETag": f'"{version}"',
        "Cache-Control": "no-cache",
        "X-Content-Type-Options": "nosniff",
    }
    if degraded:
        headers[DEGRADED] = "1"
    return web.Response(status=status, body=_HEAD + for_readers(data) + b"}", headers=headers)


def may_read(permissions: Permissions, prediction_id: str, stored: Stored) -> bool:
    """Whether the caller may read this record; decoded only if its tags or model decide."""
    if permissions.may_read(prediction_id, stored.owner, None, ()):
        return True
    if permissions.covers_attempt(stored.encoded):
        return True
    if not permissions.needs_record or stored.owner is None:
        return False
    record = stored.standing()
    return permissions.may_read(prediction_id, record.owner, record.model, record.tags)


def may_watch(permissions: Permissions, prediction_id: str, stored: Stored) -> bool:
    """Whether the caller may be sent this record; decoded as `may_read` does."""
    if permissions.may_watch(prediction_id, stored.owner, None, ()):
        return True
    if permissions.covers_attempt(stored.encoded):
        return True
    if not permissions.needs_record or stored.owner is None:
        return False
    record = stored.standing()
    return permissions.may_watch(prediction_id, record.owner, record.model, record.tags)


Newest = Callable[[Stored], Awaitable[Stored]]
"""The newest attempt of what a record is one of."""


class Records:
    """The records that requests name.

    Args:
        store: Behind its cache.
        degraded: Whether the last read that the cache could not answer came from the fallback
            store: what it says of a 404.
    """

    def __init__(self, store: CachedStore, degraded: Callable[[], bool] = bool) -> None:
        self.store = store
        self._degraded = degraded

    async def find(self, prediction_id: str, *, fresh: bool = False) -> Stored:
        """The record that stands; `fresh` passes the cache by.

        Raises:
            Problem: 404 if there is none.
        """
        if not valid_id(prediction_id):
            raise not_found()
        read = self.store.get_fresh if fresh else self.store.get
        stored = await read(prediction_id)
        if stored is None or stored.deleted:
            raise not_found({DEGRADED: "1"} if self._degraded() else None)
        return stored


def known_version(header: str, version: int) -> bool:
    """Whether `If-None-Match` names this version (RFC 9110, 13.1.2: compared weakly)."""
    if header == f'"{version}"':
        return True
    wanted = f'"{version}"'
    tags = (tag.strip().removeprefix("W/") for tag in header.split(","))
    return any(tag in {wanted, "*"} for tag in tags)


def pick(stored: Stored, names: str) -> bytes:
    """Some fields of a record, each exactly as it is encoded there.

    Raises:
        Problem: 400 for a name that no record has.
    """
    wanted = [name for name in names.split(",") if name]
    for name in wanted:
        if name not in FIELDS:
            raise bad_request(
                "Unknown field",
                f"No record has a field {name[:64]!r}; the fields are named as in it.",
            )
    record = _fields.decode(for_readers(stored.encoded))
    return _encoder.encode({name: record[name] for name in wanted if name in record})


def read_handler(
    guard: RequestGuard,
    records: Records,
    reader: ChangesReader,
    held: HeldBytes,
    newest: Newest,
    public_url: str | None = None,
) -> Handler:
    """The handler of `GET /api/predictions/{id}`; `newest` follows its attempts to the last."""
    peek = records.store.peek
    is_open = guard.open_mode
    lines = _HEADERS
    if public_url is not None:
        lines += f"{PUBLIC_URL}: {public_url}\r\n".replace("%", "%%").encode()

    async def read(request: web.Request) -> web.StreamResponse:
        if is_open:
            guard.check(request)
            permissions = OPEN
        else:
            permissions = await guard.authenticate(request)
        prediction_id = request.match_info["id"]
        stored = peek(prediction_id)
        if stored is None:
            stored = await records.find(prediction_id)
        if not is_open and not may_read(permissions, prediction_id, stored):
            raise not_found()
        query = request.rel_url.raw_query_string
        if query and request.query.get("latest") == "1":
            stored = await newest(stored)
            prediction_id = stored.standing().prediction_id
            if not may_read(permissions, prediction_id, stored):
                raise not_found()
        known = request.headers.get("If-None-Match")
        if known is not None and known_version(known, stored.version):
            wait = wait_preferred(request.headers.get("Prefer"))
            if not wait:
                return not_modified(stored.version)
            newer = await next_change(reader, permissions, prediction_id, stored, wait)
            if newer is None:
                return not_modified(stored.version)
            stored = newer
        data = for_readers(stored.encoded) if not query else _narrowed(request, stored)
        if len(data) > LARGE:
            account = held.account(permissions.subject)
            if not account.take(Kind.PAGES, len(data)):
                raise busy(account, len(data))
            large = answer_with(data, stored.version, degraded=stored.degraded)
            return await send_counted(request, large, account)
        if stored.degraded:
            return answer_with(data, stored.version, degraded=True)
        return answer(request, lines % stored.version, b'{"success":true,"data":%b}' % data)

    return read


def not_modified(version: int) -> web.Response:
    """The answer if the client has this version already."""
    return web.Response(status=304, headers={"ETag": f'"{version}"', "Cache-Control": "no-cache"})


def _narrowed(request: web.Request, stored: Stored) -> bytes:
    fields = request.query.get("fields")
    return for_readers(stored.encoded) if fields is None else pick(stored, fields)
