"""An ASGI request as aiohttp's handlers know requests, and their answers as ASGI messages."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Generator
from functools import partial
from types import CoroutineType
from typing import Any, cast

from aiohttp import HttpVersion11, web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.http import RawRequestMessage
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from tidings.gateway.asgi.scope import (
    Message,
    Receive,
    Scope,
    Send,
    client_of,
    mount_of,
    mounted_path,
)

BODILESS = frozenset({"GET", "HEAD", "OPTIONS", "DELETE"})
"""Methods whose body nobody reads here."""

SMALL = 64 * 1024
"""Bytes of a body that is waited for before its request is looked at; of a larger one the headers
may show that it is not to be read at all."""

FIRST_PIECE = 1.0
"""Seconds for it."""

_OF_THE_SERVER = frozenset({b"transfer-encoding", b"connection", b"keep-alive", b"date", b"server"})
"""Headers that are the host server's to write: it may speak HTTP/2."""


def at_once(call: Awaitable[Message]) -> Message | Awaitable[Message]:
    """What a coroutine gives without waiting for anything; else what to await for it."""
    if not isinstance(call, CoroutineType):
        return call
    try:
        waits_for = call.send(None)
    except StopIteration as done:
        return cast("Message", done.value)
    return _Begun(call, waits_for)


class _Begun:
    """A coroutine that waits for something already, to be awaited like one that does not."""

    def __init__(self, call: "CoroutineType[Any, Any, Message]", waits_for: Any) -> None:
        self._call, self._waits_for = call, waits_for

    def __await__(self) -> Generator[Any, Any, Message]:
        # As `yield from` does it (PEP 380), of which the first step is taken.
        waits_for = self._waits_for
        while True:
            try:
                value = yield waits_for
            except BaseException as error:
                step = partial(self._call.throw, error)
            else:
                step = partial(self._call.send, value)
            try:
                waits_for = step()
            except StopIteration as done:
                return cast("Message", done.value)


class ReceivedBody:
    """A request's body, instead of aiohttp's `StreamReader`."""

    def __init__(self, receive: Receive) -> None:
        self.next_message = receive
        self._data = b""
        self._whole = False

    async def receive(self) -> None:
        """Wait for the next piece.

        Raises:
            ConnectionResetError: The client is gone.
        """
        self._take(await self.next_message())

    async def receive_first(self) -> None:
        """Wait for the first piece, which came with the headers as a rule; as `receive` does."""
        begun = at_once(self.next_message())
        if not isinstance(begun, Awaitable):  # a timer for nothing costs as much as the message
            self._take(begun)
            return
        with contextlib.suppress(TimeoutError):  # whoever reads on waits as long as a body may take
            async with asyncio.timeout(FIRST_PIECE):
                self._take(await begun)

    def _take(self, message: Message) -> None:
        if message["type"] == "http.disconnect":
            raise ConnectionResetError("the client is gone")
        self._data += message.get("body", b"")
        self._whole = not message.get("more_body", False)

    def is_eof(self) -> bool:
        """Whether all of it has come."""
        return self._whole

    def exception(self) -> BaseException | None:
        """Nothing: a body that breaks off raises when it is read."""
        return None

    def read_nowait(self) -> bytes:
        """What has come."""
        data, self._data = self._data, b""
        return data

    async def readany(self) -> bytes:
        """What comes next; nothing at its end."""
        while not self._data and not self._whole:
            await self.receive()
        return self.read_nowait()


class AnswerWriter(AbstractStreamWriter):
    """An answer, instead of aiohttp's writer.

    Args:
        send: Takes its messages.
        mount: What stands before our own addresses.
    """

    def __init__(self, send: Send, mount: bytes = b"") -> None:
        self._send = send
        self._mount = mount
        self._whole = b""
        self.started = False

    async def write_headers(self, status_line: str, headers: CIMultiDict[str]) -> None:
        """Begin the answer."""
        await self._start(
            int(status_line.split(" ", 2)[1]),
            [
                (name.lower().encode("latin-1"), value.encode("utf-8"))
                for name, value in headers.items()
            ],
        )

    async def write(self, chunk: bytes | bytearray | memoryview) -> None:
        """Send a piece of the body; or all of an answer that was written as one piece of bytes."""
        if self.started:
            body = self._whole + bytes(chunk)
            self._whole = b""
            await self._tell({"type": "http.response.body", "body": body, "more_body": True})
            return
        head, _, body = bytes(chunk).partition(b"\r\n\r\n")
        status, *lines = head.split(b"\r\n")
        pairs = [line.split(b": ", 1) for line in lines]
        await self._start(
            int(status.split(b" ", 2)[1]), [(name.lower(), value) for name, value in pairs]
        )
        self._whole = body  # goes with its end: each message costs the server a write

    async def write_eof(self, chunk: bytes = b"") -> None:
        """End the body."""
        body = self._whole + bytes(chunk)
        self._whole = b""
        await self._tell({"type": "http.response.body", "body": body, "more_body": False})

    async def drain(self) -> None:
        """The server waits for a slow client when it is written to."""

    def enable_compression(self, encoding: str = "deflate", strategy: int | None = None) -> None:
        """Nothing is compressed here."""

    def enable_chunking(self) -> None:
        """The server frames the body as its protocol wants it."""

    async def _start(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        self.started = True
        kept = [
            (name, self._mount + value)
            if name == b"location" and value.startswith(b"/")
            else (name, value)
            for name, value in headers
            if name not in _OF_THE_SERVER
        ]
        await self._tell({"type": "http.response.start", "status": status, "headers": kept})

    async def _tell(self, message: dict[str, Any]) -> None:
        try:
            await self._send(message)
        except ConnectionError:
            raise
        except (
            OSError
        ) as error:  # what the specification has servers raise of a client that is gone
            raise ConnectionResetError(str(error)) from error


class Exchange:
    """A request and its answer, instead of aiohttp's connection."""

    ssl_context = None
    sockname = None
    transport = None

    def __init__(self, scope: Scope, body: ReceivedBody) -> None:
        self.peername = (client_of(scope), 0)
        self.cut = False
        """Whether the answer ends here, whole or not."""
        self._receive = body.next_message
        self._listening: asyncio.Task[None] | None = None

    def force_close(self) -> None:
        """End the answer without its end."""
        self.cut = True

    def when_lost(self, told: Callable[[], None] | None) -> None:
        """Tell an answer that waits for news at once that its client is gone; None: no longer."""
        if self._listening is not None:
            self._listening.cancel()
            self._listening = None
        if told is not None:
            self._listening = asyncio.create_task(self._listen(told))

    async def _listen(self, told: Callable[[], None]) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        told()


async def begin(scope: Scope, receive: Receive, send: Send, prefix: str = "") -> web.Request:
    """The request of a scope, its body as far as it has come in one piece.

    Args:
        scope: Of type `http`.
        receive: Of the request.
        send: Takes the answer.
        prefix: See `mounted_path`.

    Raises:
        ConnectionResetError: The client is gone already.
    """
    body = ReceivedBody(receive)
    request = made(scope, send, prefix, body)
    if request.method not in BODILESS and _is_small(request.headers.get("Content-Length", "")):
        await body.receive_first()
    return request


def made(scope: Scope, send: Send, prefix: str, body: ReceivedBody) -> web.Request:
    """The request of a scope, as aiohttp's handlers know requests; see `begin`."""
    method: str = scope["method"]
    headers: CIMultiDict[str] = CIMultiDict()
    for name, value in scope["headers"]:
        if name != b"expect":  # the server has answered it
            headers.add(name.decode("latin-1"), value.decode("utf-8", "surrogateescape"))
    path = mounted_path(scope, prefix)
    query = scope.get("query_string", b"").decode("latin-1")
    target = f"{path}?{query}" if query else path
    message = RawRequestMessage(
        method,
        target,
        HttpVersion11,
        CIMultiDictProxy(headers),
        (),
        False,
        None,
        False,
        False,
        URL.build(path=path, query_string=query, encoded=True),
    )
    return web.Request(
        message,
        cast("Any", body),
        cast("Any", Exchange(scope, body)),
        AnswerWriter(send, mount_of(scope, prefix).encode()),
        cast("Any", None),  # no task of aiohttp's
        asyncio.get_running_loop(),
    )


def _is_small(length: str) -> bool:
    return length.isdecimal() and len(length) < 8 and int(length) <= SMALL


async def carry_out(request: web.Request, response: web.StreamResponse) -> None:
    """Send all of an answer.

    Raises:
        ConnectionError: The client is gone.
    """
    await response.prepare(request)
    if not cast("Exchange", request.protocol).cut:
        await response.write_eof()
