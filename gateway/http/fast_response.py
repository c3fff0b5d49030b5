"""Answers for the routes with the most traffic, written as one piece of bytes.

The server's own `Response` builds a multi-valued dictionary of headers and serializes it for each request, which is a
third of what a status read costs. Only the ordinary case is taken here; the rest is left to `Response`.
"""

import time
from email.utils import formatdate
from typing import Any

from aiohttp import HttpVersion11, web


class _Date:
    """The `Date` header, formatted once a second."""

    def __init__(self) -> None:
        self._second = 0
        self._line = b""

    def line(self) -> bytes:
        now = int(time.time())
        if now != self._second:
            self._second = now
            self._line = f"Date: {formatdate(now, usegmt=True)}\r\n\r\n".encode()
        return self._line


_date = _Date()


class _Answer(web.StreamResponse):
    """Bytes that are a whole answer; as much of a response as the server asks for."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    @property
    def keep_alive(self) -> bool:
        """The connection goes on: others are not answered this way."""
        return True

    async def prepare(self, request: web.BaseRequest) -> Any:
        """Write all of it."""
        writer = request.writer
        self._written = writer
        await writer.write(self._data)
        return writer

    async def write_eof(self, data: bytes = b"") -> None:  # noqa: ARG002 - the server's signature
        """Nothing is left to write."""
        await self._written.write_eof()


def answer(request: web.Request, headers: bytes, body: bytes) -> web.StreamResponse:
    """A 200 with this body.

    Args:
        request: What is answered.
        headers: Lines of the header, each with its line end, without length and date; ASCII.
        body: The content.
    """
    if (
        request.version == HttpVersion11
        and request.keep_alive
        and request.method != "HEAD"
        and "Origin" not in request.headers  # those get headers for browsers
    ):
        return _Answer(
            b"HTTP/1.1 200 OK\r\n%bServer: tidings\r\nContent-Length: %d\r\n%b%b"
            % (headers, len(body), _date.line(), body)
        )
    lines = (line.partition(": ") for line in headers.decode().splitlines())
    return web.Response(body=body, headers={name: value for name, _, value in lines})
