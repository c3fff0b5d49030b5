"""Answers for the routes with the most traffic, written as one piece of bytes.

The server's own `Response` builds a multi-valued dictionary of headers and serializes it for each
request, which is a third of what a status read costs. Only the ordinary case is taken here; the
rest is left to `Response`.
"""

import time
from email.utils import formatdate
from http import HTTPStatus
from typing import Any

from aiohttp import HttpVersion11, web

from tidings.gateway.http.held_bytes import HeldAccount
from tidings.gateway.http.problems import CONTENT_TYPE, Problem

LARGE = 64 * 1024
"""Bytes of an answer from which it counts as held until its client has taken it: as much as a
transport buffers before it asks for a pause."""


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


def whole_answer(lines: bytes, body: bytes) -> bytes:
    """All bytes of a 200: lines of a header, each with its line end, without length and date; a body."""
    return b"HTTP/1.1 200 OK\r\n%bContent-Length: %d\r\n%b%b" % (
        lines,
        len(body),
        _date.line(),
        body,
    )


class FastAnswer(web.StreamResponse):
    """A 200 as lines of a header and a body; as much of a response as the server asks for.

    Args:
        lines: Of the header, each with its line end, without length and date; ASCII.
        body: The content.
    """

    def __init__(self, lines: bytes, body: bytes) -> None:
        self.lines = lines
        self.body = body

    @property
    def keep_alive(self) -> bool:
        """Whether the connection goes on."""
        return True

    async def prepare(self, request: web.BaseRequest) -> Any:
        """Write all of it."""
        writer = self._written = request.writer
        await writer.write(whole_answer(self.lines, self.body))
        return writer

    async def write_eof(self, data: bytes = b"") -> None:  # noqa: ARG002 - the server's signature
        """Nothing is left to write."""
        await self._written.write_eof()


class _Last(FastAnswer):
    """Bytes that are a whole answer, the last one of a connection."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    @property
    def keep_alive(self) -> bool:
        """The connection ends."""
        return False

    async def prepare(self, request: web.BaseRequest) -> Any:
        """Write all of it."""
        writer = self._written = request.writer
        await writer.write(self._data)
        return writer


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
        return FastAnswer(headers, body)
    lines = (line.partition(": ") for line in headers.decode().splitlines())
    return web.Response(body=body, headers={name: value for name, _, value in lines})


async def send_counted(
    request: web.Request, response: web.Response, account: HeldAccount
) -> web.StreamResponse:
    """Send an answer whose body the account holds, and let go of it when the client has taken it.

    Args:
        request: What is answered.
        response: The answer.
        account: Holds the body; it is closed.
    """
    with account:
        await response.prepare(request)
        await response.write_eof()
    return response


def problem_response(problem: Problem) -> web.StreamResponse:
    """A problem as the last answer of a connection, if no application is there to make one."""
    return _Last(whole_problem(problem, goes_on=False))


def whole_problem(problem: Problem, *, goes_on: bool) -> bytes:
    """All bytes of an answer that is a problem; `goes_on`: the connection does, behind it."""
    body = problem.body()
    lines = {"Content-Type": CONTENT_TYPE, "Cache-Control": "no-store", **problem.headers}
    headers = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    first = f"HTTP/1.1 {problem.status} {HTTPStatus(problem.status).phrase}\r\n"
    return b"%b%bX-Content-Type-Options: nosniff\r\n%bContent-Length: %d\r\n%b%b" % (
        first.encode(),
        headers.encode(),
        b"" if goes_on else b"Connection: close\r\n",
        len(body),
        _date.line(),
        body,
    )
