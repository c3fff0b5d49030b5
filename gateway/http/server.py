"""The HTTP server of the gateway: aiohttp's own, with its errors as problems, for any listener."""

import asyncio
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

import structlog
from aiohttp import StreamReader, web
from aiohttp.http_exceptions import LineTooLong

from tidings.gateway.http.problems import CONTENT_TYPE, Problem, bad_request

KEEPALIVE = 75.0
"""Seconds that an idle connection is kept."""

MAX_LINE = 32 * 1024
"""Bytes of a request line or of one header: a token of the largest size, with room."""

MAX_HEAD = 64 * 1024
"""Bytes of a request's whole head."""

logger = structlog.get_logger(__name__)


class Connection(web.RequestHandler):  # type: ignore[type-arg,unused-ignore]
    """One connection. What the server itself refuses (a malformed request line) is a problem."""

    __slots__ = ("_answered", "_half_closed", "_head_bytes", "_last_body", "_when_lost")

    def __init__(self, manager: web.Server, **settings: Any) -> None:
        super().__init__(manager, **settings)
        self._when_lost: Callable[[], None] | None = None
        self._half_closed = False
        self._answered = 0
        """Requests whose answers are sent."""
        self._last_body: StreamReader | None = None
        """Of the last request whose head came."""
        self._head_bytes = 0
        """Of a head that is not whole yet."""

    def when_lost(self, told: Callable[[], None] | None) -> None:
        """Tell an answer that waits for news at once that its client is gone; None: no longer."""
        self._when_lost = told

    def connection_lost(self, exc: BaseException | None) -> None:
        """The client is gone."""
        super().connection_lost(exc)
        if self._when_lost is not None:
            self._when_lost()

    def data_received(self, data: bytes) -> None:
        """Hand the bytes to the parser, as long as a head that is not whole stays within limits."""
        super().data_received(data)
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
        return finished

    def handle_error(
        self,
        request: web.BaseRequest,  # noqa: ARG002 - the server's signature
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """The answer to a request that no handler has answered."""
        if isinstance(exc, LineTooLong):  # its text repeats the line, which may hold a token
            return _too_large().response()
        if status < HTTPStatus.INTERNAL_SERVER_ERROR:
            reason = (message or "it is malformed").splitlines()[0].partition(":")[0][:200]
            return bad_request(
                "Malformed request", f"This is no HTTP request: {reason}; check what sends it."
            ).response()
        if not isinstance(exc, ConnectionError):  # a client that went away is nobody's failure
            logger.error("http.failed", exc_info=exc)
        problem = Problem(
            500, "internal", "Internal error", "The service failed; its log has the particulars."
        )
        response = problem.response()
        response.force_close()
        return response


class HttpServer:
    """An application as connections that any listener may open.

    Args:
        app: From `build_app`.
        shutdown_timeout: Seconds that requests under way may take to finish at the end.
    """

    def __init__(self, app: web.Application, shutdown_timeout: float = 4.0) -> None:
        self._runner = web.AppRunner(app, shutdown_timeout=shutdown_timeout)

    async def start(self) -> None:
        """Start the application; `connection` may be called from now on."""
        await self._runner.setup()

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
        await self._runner.cleanup()


def _too_large() -> Problem:
    detail = (
        f"A request line or a header may have {MAX_LINE} bytes, and the whole head {MAX_HEAD}; "
        "send less, for example a token with fewer claims, or fewer cookies."
    )
    return Problem(431, "head-too-large", "Request head too large", detail)


_TOO_LARGE = b"HTTP/1.1 431 Request Header Fields Too Large\r\nContent-Type: %b\r\n" % (
    CONTENT_TYPE.encode()
)
_TOO_LARGE += b"Content-Length: %d\r\nConnection: close\r\n\r\n%b" % (
    len(_too_large().body()),
    _too_large().body(),
)
