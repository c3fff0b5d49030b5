"""The answers of a list: a page of records as JSON, or as lines."""

import msgspec
from aiohttp import web
from msgspec import Raw, Struct

from tidings.gateway.api.predictions import DEGRADED
from tidings.storage.prediction import for_readers
from tidings.storage.store import Stored

NDJSON = "application/x-ndjson"
NEXT_CURSOR = "Tidings-Next-Cursor"
"""The header with the cursor of the next page of lines."""


class Listed(Struct, frozen=True, kw_only=True):
    """A page, and what the answer says beside it."""

    items: list[Stored]
    cursor: str | None
    degraded: bool = False
    searched: int | None = None
    """Records that were looked through for the words; None: no words were given, or an index has all of them."""
    unsearchable: int | None = None
    """Records whose prompt lies apart, and is not searched; None: no words were given."""
    counts: bytes | None = None
    """As `search.counted` makes them; None: they were not asked for."""


def list_answer(page: Listed) -> web.Response:
    """The answer with these records."""
    cursor = msgspec.json.encode(page.cursor)
    body = b'{"success":true,"data":[%s],"cursor":%s%s%s%s}' % (
        b",".join([_listed(for_readers(item.encoded)) for item in page.items]),
        cursor,
        b"" if page.searched is None else b',"searched":%d' % page.searched,
        b"" if page.unsearchable is None else b',"unsearchable":%d' % page.unsearchable,
        b"" if page.counts is None else b',"counts":%s' % page.counts,
    )
    headers = {
        "Content-Type": "application/json",
        "Cache-Control": "no-cache",
        "X-Content-Type-Options": "nosniff",
    }
    if page.degraded:
        headers[DEGRADED] = "1"
    return web.Response(body=body, headers=headers)


def lines_answer(page: Listed) -> web.Response:
    """The answer with these records as lines, and the next cursor in a header."""
    headers = line_headers(page)
    if page.cursor is not None:
        headers[NEXT_CURSOR] = page.cursor
    return web.Response(body=lines_of(page), headers=headers)


def line_headers(page: Listed) -> dict[str, str]:
    """The headers of an answer in lines."""
    headers = {
        "Content-Type": NDJSON,
        "Cache-Control": "no-cache",
        "X-Content-Type-Options": "nosniff",
    }
    return headers | ({DEGRADED: "1"} if page.degraded else {})


def lines_of(page: Listed) -> bytes:
    """Records one a line: between their members JSON as it came may have breaks."""
    return b"".join(
        [
            for_readers(item.encoded).replace(b"\n", b" ").replace(b"\r", b" ") + b"\n"
            for item in page.items
        ]
    )


def _listed(encoded: bytes) -> bytes:
    """A record as lists show it: of a text its length alone."""
    if b'"textLength":' not in encoded:
        return encoded
    members = _members.decode(encoded)
    for name in ("text", "textTail", "textParts"):
        members.pop(name, None)
    return _encode(members)


_members = msgspec.json.Decoder(dict[str, Raw])
_encode = msgspec.json.Encoder().encode
