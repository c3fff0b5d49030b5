"""The listening socket: hands a connection to the WebSocket side or to HTTP by its first request.

A connection costs one small object until its first head is whole (with a time limit, so that slow
heads cannot hold sockets), and none of this afterwards.
"""

import asyncio
import errno
import socket
from collections import deque
from collections.abc import Callable, Mapping
from http import HTTPStatus

from msgspec import Struct

from tidings.gateway.auth.permissions import Permissions
from tidings.gateway.http.problems import Problem
from tidings.gateway.push.session_registry import SessionRegistry
from tidings.gateway.websocket import handshake
from tidings.gateway.websocket.connection import WebSocketConnection
from tidings.gateway.websocket.frames import ParserPool
from tidings.gateway.websocket.handshake import HandshakeRefused, Refusal, RequestHead

PATH = b"GET /api/ws"
MAX_HEAD = 16 * 1024
"""Bytes of a request's head that are waited for here; what is longer is HTTP's to refuse."""

MAX_HANDSHAKE = 8 * 1024
"""Bytes of a handshake served here, the longest line that the library reads; longer ones take the
way over HTTP, which reads tokens of any size that is taken."""

SEND_BUFFER = 64 * 1024
"""`SO_SNDBUF` of the connections: a client that reads nothing is noticed at 144 KB, not 3.9 MB."""

BACKLOG = 4096

TURN = 32
"""WebSockets opened in one turn of the event loop, about 5 ms; the rest of a rush waits."""

MAX_EARLY = 64 * 1024
"""Bytes that a connection may send while its opening waits; then it is read no further."""

Leave = Callable[[], None]

Admit = Callable[[Mapping[str, str], str], Refusal | Leave | None]
"""Decides on a handshake by its headers (names in lower case) and the peer's address.

None lets it in; so does a callable, which is called once when the connection is gone. A refusal
with 429 becomes the close code 4104, which a browser's script can see; any other is the answer to
the handshake.
"""


class AcceptedHandshake(Struct, frozen=True):
    """A handshake that is accepted: its answer, and how the connection goes on."""

    response: bytes
    leave: Leave | None = None
    too_many: str = ""
    """Why it is closed with 4104 at once."""
    permissions: Permissions | None = None
    """What the application around us gives the client; None: its token tells."""


def admit_all(headers: Mapping[str, str], peer: str) -> None:
    """Let everybody in."""


class Acceptor:
    """Opens WebSockets: what the listener and the HTTP route share.

    Args:
        sessions: Of this gateway.
        admit: Checks origin, host and limits of a handshake.
    """

    def __init__(self, sessions: SessionRegistry, admit: Admit = admit_all) -> None:
        self.sessions = sessions
        self._admit = admit
        self._parsers = ParserPool(sessions.limits.message_bytes)
        self._waiting: deque[Callable[[], None]] = deque()
        self._opened = 0

    def enter(self, opening: Callable[[], None]) -> bool:
        """Open a WebSocket now, or in a later turn of the event loop if many come at once.

        Returns:
            Whether it was done at once.
        """
        if not self._opened:
            asyncio.get_running_loop().call_soon(self._turn)
        if self._opened < TURN and not self._waiting:
            self._opened += 1
            opening()
            return True
        self._waiting.append(opening)
        return False

    def _turn(self) -> None:
        self._opened = min(TURN, len(self._waiting))
        if self._waiting:
            asyncio.get_running_loop().call_soon(self._turn)
        for _ in range(self._opened):
            self._waiting.popleft()()

    def admit(self, headers: Mapping[str, str], peer: str) -> tuple[Leave | None, str]:
        """What to call when the connection is gone, and why it is one too many (empty: it is not).

        Raises:
            HandshakeRefused: It is not let in.
        """
        if self.sessions.refusing:
            detail = "The service is shutting down; connect again in a moment."
            raise HandshakeRefused(
                Problem(503, "unavailable", "Shutting down", detail, headers={"Retry-After": "1"})
            )
        admitted = self._admit(headers, peer)
        if admitted is None:
            return None, ""
        if callable(admitted):
            return admitted, ""
        if admitted.status == HTTPStatus.TOO_MANY_REQUESTS:
            return None, "too many connections; open fewer, or wait"
        raise HandshakeRefused(admitted)

    def accept(self, head: RequestHead, peer: str) -> AcceptedHandshake:
        """The answer to a handshake that is accepted.

        Raises:
            HandshakeRefused: It is not.
        """
        leave, too_many = self.admit(head.headers, peer)
        try:
            return AcceptedHandshake(handshake.accept(head), leave, too_many)
        except HandshakeRefused:
            if leave is not None:
                leave()
            raise

    def open(
        self,
        transport: asyncio.Transport,
        accepted: AcceptedHandshake,
        token: str | None,
        rest: bytes,
        on_lost: Callable[[Exception | None], None] | None = None,
    ) -> None:
        """Give the transport to a connection of its own.

        Args:
            transport: Of an HTTP connection whose last request was the handshake.
            accepted: What `accept` returned.
            token: From the handshake's headers.
            rest: Bytes that came behind the handshake.
            on_lost: Called when the connection is gone.
        """
        connection = WebSocketConnection(self.sessions, self._parsers, on_lost, accepted.leave)
        transport.set_protocol(connection)
        connection.open(
            transport, accepted.response, accepted.permissions or token, rest, accepted.too_many
        )


class SniffingProtocol(asyncio.Protocol):
    """One accepted connection, until its first request is known."""

    __slots__ = ("_acceptor", "_deadline", "_head", "_http", "_transport", "_waiting")

    def __init__(self, acceptor: Acceptor, http: Callable[[], asyncio.Protocol]) -> None:
        self._acceptor = acceptor
        self._http = http
        self._head = b""
        self._transport: asyncio.Transport | None = None
        self._deadline = 0.0
        self._waiting = False
        """Whether its handshake is whole, and waits to be served."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Wait for the first request's head."""
        self._transport = transport  # type: ignore[assignment]  # of a TCP connection
        self._deadline = asyncio.get_running_loop().time() + self._acceptor.sessions.limits.head
        self._acceptor.sessions.watch_deadlines(self)

    def data_received(self, data: bytes) -> None:
        """Decide as soon as the head is whole."""
        if self._transport is None:
            return
        head = self._head = self._head + data if self._head else data
        if self._waiting:
            if len(head) > MAX_EARLY:
                self._transport.pause_reading()
            return
        end = head.find(b"\r\n\r\n")
        if end < 0 and len(head) < MAX_HEAD:
            return
        self._acceptor.sessions.unwatch_deadlines(self)
        if 0 <= end <= MAX_HANDSHAKE and _wants_websocket(head, end):
            self._waiting = not self._acceptor.enter(self._open_websocket)
        else:
            self._hand_to_http(head)

    def eof_received(self) -> None:
        """Nothing more comes before the first head is whole: the transport closes itself."""

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 -- asyncio's signature
        """Gone before its first request was known."""
        self._acceptor.sessions.unwatch_deadlines(self)
        self._transport = None

    def check_deadlines(self, now: float) -> bool:
        """See `Deadlined.check_deadlines`: give up on a head that does not come."""
        if self._transport is None:
            return False
        if now < self._deadline:
            return True
        if self._head:
            limit = self._acceptor.sessions.limits.head
            detail = f"The request's head did not arrive within {limit:g} s; send it at once."
            self._refuse(Problem(408, "timeout", "Request timeout", detail))
        else:
            self._transport.abort()
        return False

    def abort(self) -> None:
        """Cut the connection."""
        if self._transport is not None:
            self._transport.abort()

    def _hand_to_http(self, data: bytes) -> None:
        transport, self._transport, self._head = self._transport, None, b""
        if transport is None:
            return
        protocol = self._http()
        transport.set_protocol(protocol)
        protocol.connection_made(transport)
        protocol.data_received(data)

    def _open_websocket(self) -> None:
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        data = self._head
        end = data.index(b"\r\n\r\n") + 4
        peer = transport.get_extra_info("peername")
        try:
            head = handshake.parse(data[:end])
            accepted = self._acceptor.accept(head, peer[0] if isinstance(peer, tuple) else "")
        except HandshakeRefused as error:
            self._refuse(error.refusal)
            return
        self._transport, self._head = None, b""
        if len(data) > MAX_EARLY:
            transport.resume_reading()
        self._acceptor.open(transport, accepted, head.token, data[end:])

    def _refuse(self, refusal: Refusal) -> None:
        transport, self._transport = self._transport, None
        if transport is not None and not transport.is_closing():
            transport.write(handshake.refuse(refusal))
            transport.close()


def _wants_websocket(head: bytes, end: int) -> bool:
    """Whether it is a GET of the WebSocket's path that asks for an upgrade."""
    return (
        head.startswith(PATH)
        and head[len(PATH) : len(PATH) + 1] in b" ?"
        and b"\nupgrade:" in head[:end].lower()
    )


class Listener:
    """Listens, and serves WebSockets and HTTP on one socket.

    Args:
        sessions: Of this gateway; its sweep is started with the server.
        http: Makes a protocol of the HTTP server for one connection (`HttpServer.connection`).
        admit: Decides on handshakes.
    """

    def __init__(
        self,
        sessions: SessionRegistry,
        http: Callable[[], asyncio.Protocol],
        admit: Admit = admit_all,
    ) -> None:
        self.acceptor = Acceptor(sessions, admit)
        self._http = http
        self._server: asyncio.Server | None = None

    async def start(
        self, host: str = "127.0.0.1", port: int = 0, *, reuse_port: bool = False
    ) -> int:
        """Listen; returns the port (the chosen one if 0 was asked for).

        Raises:
            OSError: The address cannot be listened on.
        """
        return await self.serve(listen(host, port, reuse_port=reuse_port))

    async def serve(self, listening: socket.socket) -> int:
        """Serve a socket that is bound already; returns its port."""
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
        self.acceptor.sessions.start()
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            lambda: SniffingProtocol(self.acceptor, self._http), sock=listening, backlog=BACKLOG
        )
        port: int = listening.getsockname()[1]
        return port

    async def close(self, retry_after_spread: float = 5.0, limit: float = 3.0) -> None:
        """Take no more connections, say `bye` to the sessions, and wait until they are gone.

        Connections of HTTP are the HTTP server's to close.

        Args:
            retry_after_spread: Seconds over which the clients are asked to spread their return.
            limit: Seconds to wait at most.
        """
        if self._server is not None:
            self._server.close()
            self._server = None
        await self.acceptor.sessions.drain(retry_after_spread, limit)


def listen(host: str, port: int, *, reuse_port: bool = False) -> socket.socket:
    """A bound, non-blocking TCP socket.

    Raises:
        OSError: The address is taken, or is none of this machine's; the message says which and what to do.
    """
    host = host.strip("[]")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if reuse_port:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listening.bind((host, port))
        listening.setblocking(False)
    except OSError as error:
        listening.close()
        reason = _UNBOUND.get(error.errno or 0, error.strerror or str(error))
        raise OSError(reason.format(port=port, host=host)) from error
    return listening


_UNBOUND = {
    errno.EADDRINUSE: "port {port} of {host} is in use by another program; end that one, or choose "
    "another (--port, --health-port; 0: any that is free)",
    errno.EADDRNOTAVAIL: "{host} is no address of this machine; set TIDINGS_HOST to one that is, "
    "such as 127.0.0.1, or to 0.0.0.0 for all of them",
    errno.EACCES: "port {port} takes rights that this user lacks; choose one from 1024 on, "
    "and let a proxy serve the lower one",
    socket.EAI_NONAME: "{host} is neither an address nor a name that is known here; set TIDINGS_HOST",
}
"""By errno, or by the code of a name that cannot be resolved, what a person can do about it."""
