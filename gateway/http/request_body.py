"""Reading a request's body within a limit of bytes and time."""

import asyncio
from collections.abc import Callable

from aiohttp import web

from tidings.gateway.http.held_bytes import HeldAccount, Kind
from tidings.gateway.http.problems import Problem, bad_request, busy, too_large
from tidings.streams.support import compression

BODY_TIME = 30.0
"""Seconds for a whole body: a client that trickles bytes must not hold a connection forever."""


def is_buffered(request: web.Request) -> bool:
    """Whether the whole body came with the headers: the ordinary case."""
    content = request.content
    return content.is_eof() and content.exception() is None


def read_buffered(request: web.Request, limit: int) -> bytes:
    """A body that `is_buffered`; a problem (413) over the limit."""
    body = request.content.read_nowait()
    if len(body) > limit:
        raise too_large(limit)
    return body


def check_length(request: web.Request, limit: int) -> None:
    """Refuse a body by its declared length; a problem (413)."""
    length = request.content_length
    if length is not None and length > limit:
        raise too_large(limit)


async def read_body(
    request: web.Request, limit: int, account: HeldAccount, kind: Kind = Kind.BODIES
) -> bytes:
    """The body's bytes as received.

    Args:
        request: The request.
        limit: Bytes that it may have; no more than that and one chunk is ever held.
        account: Counts them as they come.
        kind: What they are counted as.

    Raises:
        Problem: 413 over the limit, 408 if it takes too long, 400 if it is cut or malformed,
            429 or 503 if too much is held already.
    """
    check_length(request, limit)
    if is_buffered(request):
        return read_buffered(request, limit)
    chunks: list[bytes] = []

    def hold(chunk: bytes) -> None:
        if not account.take(kind, len(chunk)):
            raise busy(account, len(chunk))
        chunks.append(chunk)

    await _read_slowly(request, limit, hold)
    return b"".join(chunks)


async def discard_body(request: web.Request, limit: int) -> None:
    """Read a body without holding it; raises what `read_body` does of one that is refused."""
    await _read_slowly(request, limit, lambda chunk: None)  # noqa: ARG005 - dropped


async def _read_slowly(request: web.Request, limit: int, each: Callable[[bytes], None]) -> None:
    size = 0
    content = request.content
    try:
        async with asyncio.timeout(BODY_TIME):
            while chunk := await content.readany():
                size += len(chunk)
                if size > limit:
                    raise too_large(limit)
                each(chunk)
    except TimeoutError:
        raise Problem(
            408,
            "body-timeout",
            "Body too slow",
            f"A body has {BODY_TIME:.0f} s to arrive; send it faster.",
        ) from None
    except (web.RequestPayloadError, ValueError):
        raise bad_request(
            "Malformed body", "The body ends too early or its framing is broken; send it again."
        ) from None


async def read_json(request: web.Request, limit: int, account: HeldAccount) -> bytes:
    """The bytes of a body that says it is JSON.

    Raises:
        Problem: 415 if it says something else, and as `read_body` does.
    """
    if request.content_type not in {"application/json", "application/octet-stream"}:
        # A page elsewhere can send forms and plain text without asking first, JSON it cannot.
        raise Problem(
            415,
            "not-json",
            "Unsupported media type",
            "Send JSON, with the header Content-Type: application/json.",
        )
    if request.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise Problem(
            415,
            "encoded",
            "Unsupported content encoding",
            "Send the body as it is, without compression.",
        )
    return await read_body(request, limit, account)


def check_encoding(request: web.Request) -> None:
    """Refuse a `Content-Encoding` that `plain` cannot undo; a problem (415)."""
    encoding = request.headers.get("Content-Encoding")
    if encoding is not None and encoding.strip().lower() not in {
        *compression.ENCODINGS,
        "",
        "identity",
    }:
        raise Problem(
            415,
            "encoded",
            "Unsupported content encoding",
            "A body may be compressed with gzip or deflate; send it so, or as it is.",
            headers={"Accept-Encoding": "gzip, deflate"},
        )


def is_compressed(request: web.Request, body: bytes) -> bool:
    """Whether the body is compressed, by its header or by its first bytes: no JSON begins so."""
    return compression.is_compressed(body, request.headers.get("Content-Encoding"))


def plain(request: web.Request, body: bytes, limit: int) -> bytes:
    """The body as it was before it was compressed, if it was; else as it came.

    A proxy that undoes a compression may leave the header there. What makes no sense is not for
    here to refuse: a webhook that is well signed is kept, and the processor says what is wrong.

    Raises:
        Problem: 413 if it has more than `limit` bytes then; no more are made of it.
    """
    if not is_compressed(request, body):
        return body
    try:
        return compression.inflated(body, limit)
    except compression.TooLarge:
        raise too_large(limit) from None
    except ValueError:
        return body
