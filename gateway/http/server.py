"""The HTTP server of the gateway: aiohttp's own, behind whatever listens.

What it adds: the server's own errors are problems, and a client that closes its sending half is
still answered. An answer that nobody takes is given up, and requests behind a refused upgrade are
not lost. A webhook that comes whole takes the short way (`Connection._take_short_way`).
"""

import asyncio
import socket
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from http import HTTPStatus
from typing import Any, Protocol, cast, runtime_checkable

from aiohttp import HttpVersion11, StreamReader, web
from aiohttp.http_exceptions import LineTooLong
from aiohttp.http_writer import StreamWriter
from aiohttp.streams import EMPTY_PAYLOAD

from tidings.gateway.http.fast_response import FastAnswer, problem_response
from tidings.gateway.http.problems import CONTENT_TYPE, Problem, bad_request
from tidings.storage.loggers import get_logger

KEEPALIVE = 75.0
"""Seconds that an idle connection is kept."""

MAX_LINE = 18 * 1024
"""Bytes of a request line or of one header: a token of the largest size, with room."""

MAX_HEAD = 64 * 1024
"""Bytes of a request's whole head."""

NO_PROGRESS = 30.0
"""Seconds after which a client that takes nothing of its answer is given up."""

SWEEP_EVERY = 5.0
"""Seconds between two looks at all connections: a timer for each would cost more."""

MOST_SHORT_WAYS = 64
"""Addresses that are remembered: of each webhook one, and some of its other spellings."""

Taker = Callable[[str, Mapping[str, str], bytes, Callable[[bytes, bool], None]], bool]
"""Takes a provider's webhook by its headers and its body, or returns False and leaves it alone.

Whoever took it calls the last argument once: with all bytes of the answer, and whether the
connection goes on.
"""

TAKER: web.AppKey[Taker] = web.AppKey("TAKER")

logger = get_logger(__name__)


@runtime_checkable
class NoticesLoss(Protocol):
    """A connection that can tell at once that its client is gone."""

    def when_lost(self, told: Callable[[], None] | None) -> None:
        """Call `told` then; None: no longer."""


class Connection(web.RequestHandler):  # type: ignore[type-arg,unused-ignore]
    """One connection. What the server itself refuses (a malformed request line) is a problem."""

    __slots__ = (
        "_answered",
        "_connections",
        "_half_closed",
        "_head_bytes",
        "_last_body",
        "_short",
        "_short_ways",
        "_stuck_since",
        "_taker",
        "_unsent",
        "_when_lost",
        "_wire",
    )

    def __init__(
        self,
        manager: web.Server,
        connections: "set[Connection]",
        short_ways: dict[str, web.UrlMappingMatchInfo],
        taker: Taker | None,
        **settings: Any,
    ) -> None:
        super().__init__(manager, **settings)
        self._taker = taker
        self._connections = connections
        """All of the server, this one as long as it lasts."""
        self._short_ways = short_ways
        """Of the server: where a POST to an address goes, as the router said before."""
        self._short: asyncio.Task[None] | Taker | None = None
        """Who answers the request that is on the short way."""
        self._unsent = 0
        self._stuck_since = 0.0
        self._when_lost: Callable[[], None] | None = None
        self._half_closed = False
        self._answered = 0
        """Requests whose answers are sent."""
        self._last_body: StreamReader | None = None
        """Of the last request whose head came."""
        self._head_bytes = 0
        """Of a head that is not whole yet."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client has connected."""
        super().connection_made(transport)
        # The base class forgets its transport once it closes it, while bytes may still wait there.
        self._wire = cast("asyncio.Transport", transport)  # uvloop's is of no subclass
        self._connections.add(self)

    def when_lost(self, told: Callable[[], None] | None) -> None:
        """Tell an answer that waits for news at once that its client is gone; None: no longer."""
        self._when_lost = told

    def connection_lost(self, exc: BaseException | None) -> None:
        """The client is gone."""
        self._connections.discard(self)
        super().connection_lost(exc)
        if self._when_lost is not None:
            self._when_lost()

    def data_received(self, data: bytes) -> None:
        """Hand the bytes to the parser, as long as a head that is not whole stays within limits."""
        # Held back meanwhile: the base class would wake its task at once.
        waiter, self._waiter = self._waiter, None
        if b"pgrade" in data or b"PGRADE" in data:
            self._receive_upgrade(data)
        else:
            super().data_received(data)
        self._waiter = waiter
        if self._short is None:
            idle = waiter is not None and not waiter.done()
            if idle and len(self._messages) == 1 and self._take_short_way():
                self._head_bytes = 0
                return
            self._wake()
        if self._messages:
            self._last_body = self._messages[-1][1]
        waits_for_head = self._waiter is not None or not self._request_count
        if self._messages or not waits_for_head:
            self._head_bytes = 0
            return
        self._head_bytes += len(data)
        if self._head_bytes > MAX_HEAD and self.transport is not None:
            self.transport.write(_TOO_LARGE)
            self.force_close()

    def _receive_upgrade(self, data: bytes) -> None:
        # aiohttp's parser drops the bytes that came together with, and behind, a request for an
        # upgrade that it does not know (`h2c`): each head is given to it by itself.
        for piece in _heads(data):
            super().data_received(piece)
        if any(
            getattr(message, "upgrade", False) and payload is not EMPTY_PAYLOAD
            for message, payload in self._messages
        ):
            self.keep_alive(False)  # what was behind its body is lost, and must not seem answered

    def _wake(self) -> None:
        """Let the base class's task answer what waits."""
        if self._messages and self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _take_short_way(self) -> bool:
        """Answer a webhook that came whole without the router and without the base class's task.

        The connection does nothing else, and the router has said before where the address leads.
        Both take a fifth of what a webhook costs, into a log in memory. Whatever is not ordinary
        goes the long way, as do requests that come behind this one.
        """
        message, payload = cast("tuple[Any, StreamReader]", self._messages[0])
        way = self._short_ways.get(getattr(message, "path", ""))
        if (
            way is None
            or message.method != "POST"
            or message.version != HttpVersion11
            or message.should_close
            or message.upgrade
            or not payload.is_eof()
            or "Expect" in message.headers
            or self._manager is None
            or self._request_factory is None
        ):
            return False
        self._messages.popleft()
        self._last_body = payload
        if (consumed := getattr(self._parser, "message_consumed", None)) is not None:
            consumed()  # newer versions of the library count what waits
        self._manager.requests_count += 1
        loop = self._loop
        self._next_keepalive_close_time = loop.time() + KEEPALIVE
        if self._taken(str(way["provider"]), message, payload):
            return True
        writer = StreamWriter(self, loop)
        task = cast("asyncio.Task[None]", self._task_handler)
        request = cast("web.Request", self._request_factory(message, payload, self, writer, task))
        request._match_info = way  # noqa: SLF001 - what the router would set
        self._short = loop.create_task(self._answer_shortly(request, way.handler))
        return True

    def _taken(self, provider: str, message: Any, payload: Any) -> bool:
        """Let the webhook be taken in this very call, without a request object and a task.

        Both take a quarter of what is left of HTTP then. False: it is not ordinary, and untouched.
        """
        pieces: Sequence[bytes] = getattr(payload, "_buffer", ())
        if self._taker is None or len(pieces) != 1 or self._reading_paused:
            return False
        self._short, self._request_in_progress = self._taker, True  # the answer may come at once
        if self._taker(provider, message.headers, pieces[0], self._answer_taken):
            return True
        self._short, self._request_in_progress = None, False
        return False

    def _answer_taken(self, answer: bytes, goes_on: bool) -> None:
        """Send the answer to what was taken, and go on with what came behind."""
        self._short, self._request_in_progress = None, False
        self._answered += 1
        transport = self.transport
        if transport is not None and not transport.is_closing():
            transport.write(answer)
        if (waiter := self._handler_waiter) is not None and not waiter.done():
            waiter.set_result(None)  # the end of the service waited for this one
        if self._close or not goes_on or (self._half_closed and not self._messages):
            self.force_close()
        self._wake()

    async def _answer_shortly(self, request: web.Request, handler: Any) -> None:
        """Answer, then go on with what came behind; a former answer must not be overtaken."""
        goes_on = False
        try:
            response, lost = await self._handle_request(request, None, handler)
            goes_on = bool(response.keep_alive) and not lost and not self._close
        except ConnectionError:
            pass  # the client went away
        finally:
            self._short = None
            if not goes_on:
                self.force_close()
        self._next_keepalive_close_time = self._loop.time() + KEEPALIVE
        self._wake()

    def give_up_if_stuck(self, now: float) -> None:
        """Cut the connection if its client has taken nothing for too long.

        Args:
            now: Seconds of a clock that only goes forward.
        """
        if self._wire.get_protocol() is not self:
            return  # it has become a WebSocket
        unsent = self._wire.get_write_buffer_size()
        if not unsent or unsent < self._unsent or not self._stuck_since:
            self._stuck_since = now
        self._unsent = unsent
        if unsent and now - self._stuck_since >= NO_PROGRESS:
            plain = self._wire.get_extra_info("socket")
            if plain is not None:  # else the kernel would go on offering what it has buffered
                plain.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self._wire.abort()

    def eof_received(self) -> bool:  # type: ignore[override]
        """The client has closed its sending half (`nc -N`): it still gets its answers.

        Returns:
            Whether the connection stays open for that. An answer that waits for news is ended: its
            client cannot be told from one that is gone.
        """
        body = self._last_body
        if (
            self._when_lost is not None
            or self._answered == self._request_count
            or body is None
            or not body.is_eof()
        ):
            return False
        self._half_closed = True
        if not self._messages:
            self.close()  # after the answer that is under way
        return True

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """Send an answer; after the last one a connection that is half closed is closed."""
        if self._half_closed and not self._messages:
            self.close()
        finished = await super().finish_response(request, resp, start_time)
        self._answered += 1
        if isinstance(resp, FastAnswer) and request.method == "POST":
            self._remember(cast("web.Request", request))
        return finished

    def _remember(self, request: web.Request) -> None:
        """Where the router led a POST that was taken: the next one to this address need not ask it."""
        ways, path = self._short_ways, request.raw_path
        if path in ways or "?" in path or len(ways) >= MOST_SHORT_WAYS:
            return
        if request.match_info.keys() == {"provider"}:
            ways[path] = request.match_info

    def handle_error(
        self,
        request: web.BaseRequest,  # noqa: ARG002 - the server's signature
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,  # noqa: ARG002 - the library's own text
    ) -> web.StreamResponse:
        """The answer to a request that no handler has answered."""
        if isinstance(exc, LineTooLong):  # its text repeats the line, which may hold a token
            return problem_response(_too_large())
        if status < HTTPStatus.INTERNAL_SERVER_ERROR:
            return problem_response(
                bad_request(
                    "Malformed request", "The bytes are no HTTP request; check what sends them."
                )
            )
        if not isinstance(exc, ConnectionError):  # a client that went away is nobody's failure
            logger.error("http.failed", exc_info=exc)
        problem = Problem(
            500, "internal", "Internal error", "The service failed; its log has the particulars."
        )
        return problem_response(problem)


class HttpServer:
    """An application as connections that any listener may open.

    Args:
        app: From `build_app`.
        shutdown_timeout: Seconds that requests under way may take to finish at the end.
    """

    def __init__(self, app: web.Application, shutdown_timeout: float = 4.0) -> None:
        self.app = app
        self._runner = web.AppRunner(app, shutdown_timeout=shutdown_timeout)
        self._connections: set[Connection] = set()
        self._short_ways: dict[str, web.UrlMappingMatchInfo] = {}
        self._taker = app.get(TAKER)
        self._sweeper: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Start the application; `connection` may be called from now on."""
        await self._runner.setup()
        self._sweeper = asyncio.create_task(self._sweep(), name="http-sweep")

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """The answer to a request that another server has read.

        Raises:
            ValueError: The server is not started, or closed already.
        """
        server = self._runner.server
        if server is None:
            raise ValueError("the HTTP server is not running; await start() first")
        return await server.request_handler(request)

    def connection(self) -> Connection:
        """A protocol for one accepted connection.

        Raises:
            ValueError: The server is not started, or closed already.
        """
        server = self._runner.server
        if server is None:
            raise ValueError("the HTTP server is not running; await start() first")
        return Connection(
            server,
            self._connections,
            self._short_ways,
            self._taker,
            loop=asyncio.get_running_loop(),
            # None is kept: it costs a quarter of a request.
            access_log=None,
            auto_decompress=False,  # a webhook's proof is over its raw bytes
            keepalive_timeout=KEEPALIVE,
            max_line_size=MAX_LINE,
            max_field_size=MAX_LINE,
        )

    async def close(self) -> None:
        """Let requests under way finish, then close every connection."""
        if self._sweeper is not None:
            self._sweeper.cancel()
        await self._runner.cleanup()

    async def _sweep(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(SWEEP_EVERY)
            for connection in tuple(self._connections):
                connection.give_up_if_stuck(loop.time())


def _heads(data: bytes) -> Iterator[bytes]:
    """The bytes, cut behind each empty line."""
    begin = 0
    while (end := data.find(b"\r\n\r\n", begin) + 4) > 3 and end < len(data):
        yield data[begin:end]
        begin = end
    yield data[begin:]


def _too_large() -> Problem:
    detail = (
        f"A request line or a header may have {MAX_LINE} bytes, and the whole head {MAX_HEAD}; "
        "send less, for example a token with fewer claims, or fewer cookies."
    )
    return Problem(400, "head-too-large", "Request head too large", detail)


_TOO_LARGE = b"HTTP/1.1 400 Bad Request\r\nContent-Type: %b\r\n" % (CONTENT_TYPE.encode())
_TOO_LARGE += b"Content-Length: %d\r\nConnection: close\r\n\r\n%b" % (
    len(_too_large().body()),
    _too_large().body(),
)
