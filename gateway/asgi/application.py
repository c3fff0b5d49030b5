"""Serves the scopes of a host's server with the HTTP application and the sessions of a gateway."""

from aiohttp import web
from websockets.datastructures import Headers
from websockets.http11 import Request

from tidings.gateway.asgi.fast_lane import FAST_LANE
from tidings.gateway.asgi.request import begin, carry_out
from tidings.gateway.asgi.scope import Message, Receive, Scope, Send, client_of, mounted_path
from tidings.gateway.asgi.websocket import AsgiTransport
from tidings.gateway.auth.request_guard import SCOPE, RequestGuard
from tidings.gateway.http.problems import CONTENT_TYPE, Problem, from_failure
from tidings.gateway.http.server import HttpServer
from tidings.gateway.push.protocol import SUBPROTOCOL
from tidings.gateway.websocket import handshake
from tidings.gateway.websocket.handshake import HandshakeRefused, RequestHead
from tidings.gateway.websocket.listener import AcceptedHandshake, Acceptor

WEBSOCKET_PATH = "/api/ws"

POLICY_VIOLATION = 1008
"""The close code that servers make a 403 of, if they can send no other answer."""


async def not_upgraded(request: web.Request) -> web.StreamResponse:
    """The handler of `GET /api/ws` as an ordinary request, which is none of a WebSocket.

    Raises:
        Problem: 426; or 501 for a proper handshake, which the host's server should have taken.
    """
    headers = Headers()
    for name, value in request.headers.items():
        headers[name] = value
    try:
        handshake.accept(handshake.from_request(Request(request.path_qs, headers, "GET")))
    except HandshakeRefused as error:
        refusal = error.refusal
        return web.Response(
            status=refusal.status,
            body=refusal.body(),
            headers=refusal.headers,
            content_type=CONTENT_TYPE,
        )
    raise Problem(
        501,
        "bad-handshake",
        "No WebSocket here",
        "The server in front of this application serves no WebSockets; for uvicorn install "
        "uvicorn[standard], or websockets.",
    )


class AsgiGateway:
    """One gateway, for whatever server drives it.

    Args:
        http: Started.
        acceptor: Opens the sessions; their sweep is started.
        guard: Who may come in.
        prefix: Below which it is mounted, beside the `root_path` of a scope.
    """

    def __init__(
        self, http: HttpServer, acceptor: Acceptor, guard: RequestGuard, prefix: str = ""
    ) -> None:
        self._http = http
        self._lane = http.app.get(FAST_LANE)
        self._acceptor = acceptor
        self._guard = guard
        self._prefix = prefix

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one scope of type `http` or `websocket`."""
        if scope["type"] == "http":
            await self._serve_request(scope, receive, send)
        else:
            await self._serve_websocket(scope, receive, send)

    async def _serve_request(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            lane = self._lane
            if lane is not None and await lane.serve(
                scope, receive, send, self._prefix, self._guard
            ):
                return
            request = await begin(scope, receive, send, self._prefix)
            request[SCOPE] = scope
            await carry_out(request, await self._answer(request))
        except ConnectionError:
            return  # the client is gone: nobody is left to be answered

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        try:
            self._guard.check_peer(request.remote or "")
            return await self._http.handle(request)
        except ConnectionError:
            raise
        except Exception as error:
            return from_failure(error).response()

    async def _serve_websocket(self, scope: Scope, receive: Receive, send: Send) -> None:
        await receive()  # websocket.connect
        head = RequestHead(_headers_of(scope))
        try:
            accepted, subprotocol = await self._accept(scope, head)
        except HandshakeRefused as error:
            await _refuse(scope, send, error)
            return
        transport = AsgiTransport(receive, send)
        try:
            await send({"type": "websocket.accept", "subprotocol": subprotocol})
        except BaseException:
            if accepted.leave is not None:
                accepted.leave()
            raise
        self._acceptor.open(transport, accepted, head.token, b"")
        await transport.run()

    async def _accept(
        self, scope: Scope, head: RequestHead
    ) -> tuple[AcceptedHandshake, str | None]:
        """What `Acceptor.accept` finds of a handshake, and the subprotocol that is spoken."""
        if mounted_path(scope, self._prefix) != WEBSOCKET_PATH:
            detail = f"WebSockets are served at {WEBSOCKET_PATH}; connect there."
            raise HandshakeRefused(Problem(404, "no-route", "Not found", detail))
        offered: list[str] = scope.get("subprotocols") or []
        if offered and SUBPROTOCOL not in offered:
            detail = f"Connect with the subprotocol {SUBPROTOCOL}, or with none."
            raise HandshakeRefused(Problem(400, "bad-handshake", "Bad WebSocket handshake", detail))
        peer = client_of(scope)
        try:
            self._guard.check_peer(peer)
            permissions = await self._guard.permissions_of(scope)
        except Exception as error:
            raise HandshakeRefused(from_failure(error)) from error
        leave, too_many = self._acceptor.admit(head.headers, peer)
        accepted = AcceptedHandshake(b"", leave, too_many, permissions)
        return accepted, SUBPROTOCOL if offered else None


def _headers_of(scope: Scope) -> dict[str, str]:
    """Names in lower case; values of a repeated one joined with commas (RFC 9110, 5.3)."""
    headers: dict[str, str] = {}
    for name_bytes, value_bytes in scope["headers"]:
        name, value = name_bytes.decode("latin-1").lower(), value_bytes.decode("latin-1")
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    return headers


async def _refuse(scope: Scope, send: Send, error: HandshakeRefused) -> None:
    if "websocket.http.response" not in (scope.get("extensions") or {}):
        await send({"type": "websocket.close", "code": POLICY_VIOLATION})
        return
    refusal = error.refusal
    body = refusal.body()
    named = {
        "content-type": CONTENT_TYPE,
        "content-length": str(len(body)),
        "cache-control": "no-store",
        **{name.lower(): value for name, value in refusal.headers.items()},
    }
    start: Message = {
        "type": "websocket.http.response.start",
        "status": refusal.status,
        "headers": [(name.encode(), value.encode()) for name, value in named.items()],
    }
    await send(start)
    await send({"type": "websocket.http.response.body", "body": body})
