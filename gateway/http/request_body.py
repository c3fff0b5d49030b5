"""Reading a request's body within a limit of bytes and time."""

import asyncio

from aiohttp import web

from tidings.gateway.http.problems import Problem, bad_request, too_large

BODY_TIME = 30.0
"""Seconds for a whole body: a client that trickles bytes must not hold a connection for ever."""


async def read_body(request: web.Request, limit: int) -> bytes:
    """The body's bytes as received.

    Args:
        request: The request.
        limit: Bytes that it may have; no more than that and one chunk is ever held.

    Raises:
        Problem: 413 over the limit, 408 where it takes too long, 400 where it is cut or malformed.
    """
    content = request.content
    length = request.content_length
    if length is not None and length > limit:
        raise too_large(limit)
    if content.is_eof() and content.exception() is None:
        body = (
            content.read_nowait()
        )  # it came with the headers: the ordinary case, without a turn of the loop
        if len(body) > limit:
            raise too_large(limit)
        return body
    try:
        async with asyncio.timeout(BODY_TIME):
            return await _read_slowly(request, limit)
    except TimeoutError:
        raise Problem(
            408,
            "body-timeout",
            "Body too slow",
            f"A body has {BODY_TIME:.0f} s to arrive; send it faster.",
        ) from None
    except (web.RequestPayloadError, ValueError) as error:
        raise bad_request(
            "Malformed body", f"The body cannot be read ({error}); check its framing."
        ) from None


async def read_json(request: web.Request, limit: int) -> bytes:
    """The bytes of a body that says it is JSON.

    Raises:
        Problem: 415 where it says something else, and as `read_body` does.
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
    return await read_body(request, limit)


async def _read_slowly(request: web.Request, limit: int) -> bytes:
    chunks: list[bytes] = []
    size = 0
    content = request.content
    while chunk := await content.readany():
        size += len(chunk)
        if size > limit:
            raise too_large(limit)
        chunks.append(chunk)
    return b"".join(chunks)
