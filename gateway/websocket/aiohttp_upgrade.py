"""WebSockets whose upgrade comes as a later request on a connection of the HTTP server's.

A proxy may reuse a kept-alive connection for the upgrade. The transport is taken over from the HTTP
server, so the session and every rule of the framing are the same as for a connection that began
with the upgrade.
"""

import asyncio
from collections.abc import Awaitable, Callable

from aiohttp import web
from multidict import CIMultiDictProxy
from websockets.datastructures import Headers
from websockets.http11 import Request

from tidings.gateway.http.problems import CONTENT_TYPE
from tidings.gateway.websocket import handshake
from tidings.gateway.websocket.handshake import HandshakeRefused
from tidings.gateway.websocket.listener import Acceptor


class _Tail:
    """Collects what the HTTP server has read beyond the handshake, instead of its parser."""

    def __init__(self) -> None:
        self.data = b""

    def feed_data(self, data: bytes) -> tuple[bool, bytes]:
        """Keep the bytes."""
        self.data += data
        return False, b""

    def feed_eof(self) -> None:
        """The connection is gone, which its own protocol notices."""


class _Done(web.StreamResponse):
    """Nothing is left to send: the connection belonged to the WebSocket, and is closed."""

    async def prepare(self, request: web.BaseRequest) -> None:
        """Send nothing."""

    async def write_eof(self, data: bytes = b"") -> None:
        """Send nothing."""


def upgrade_route(acceptor: Acceptor) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    """The handler of `GET /api/ws` for the HTTP server's own routes."""

    async def upgrade(request: web.Request) -> web.StreamResponse:
        """Take the connection over, and come back when it is gone."""
        http, transport = request.protocol, request.transport
        if transport is None:
            return _Done()  # gone already: admitted, it would keep a place of its address forever
        try:
            head = handshake.from_request(_request(request))
            accepted = acceptor.accept(head, request.remote or "")
        except HandshakeRefused as error:
            return _refusal(error)
        lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def on_lost(exc: Exception | None) -> None:
            http.connection_lost(exc)
            if not lost.done():
                lost.set_result(None)

        tail = _Tail()
        http.keep_alive(False)
        # aiohttp asks no more of a parser than `_Tail` has.
        http.set_parser(tail)  # type: ignore[arg-type]
        transport.resume_reading()
        acceptor.open(transport, accepted, head.token, tail.data, on_lost)
        await lost
        return _Done()

    return upgrade


def _request(request: web.Request) -> Request:
    headers = Headers()
    for name, value in _pairs(request.headers):
        headers[name] = value
    version = f"HTTP/{request.version.major}.{request.version.minor}"
    return Request(request.path_qs, headers, request.method, version)


def _pairs(headers: CIMultiDictProxy[str]) -> list[tuple[str, str]]:
    return list(headers.items())


def _refusal(error: HandshakeRefused) -> web.Response:
    refusal = error.refusal
    return web.Response(
        status=refusal.status,
        body=refusal.body(),
        headers=refusal.headers,
        content_type=CONTENT_TYPE,
    )
