"""The HTTP server of the gateway: aiohttp's own, with its errors as problems, behind whatever listens."""

import asyncio
from collections.abc import Callable
from http import HTTPStatus

import structlog
from aiohttp import web

from tidings.gateway.http.problems import Problem, bad_request

KEEPALIVE = 75.0
"""Seconds that an idle connection is kept."""

_log = structlog.get_logger()


class Connection(web.RequestHandler):  # type: ignore[type-arg,unused-ignore]
    """One connection. What the server itself refuses (a malformed request line, a header too long) is a problem."""

    __slots__ = ("_when_lost",)

    _when_lost: Callable[[], None] | None

    def when_lost(self, told: Callable[[], None] | None) -> None:
        """Have an answer that waits for news told at once that its client is gone; None: no longer."""
        self._when_lost = told

    def connection_lost(self, exc: BaseException | None) -> None:
        """The client is gone."""
        super().connection_lost(exc)
        told = getattr(self, "_when_lost", None)
        if told is not None:
            told()

    def handle_error(
        self,
        request: web.BaseRequest,  # noqa: ARG002 - the server's signature
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """The answer to a request that no handler has answered."""
        if status < HTTPStatus.INTERNAL_SERVER_ERROR:
            reason = (message or "it is malformed").splitlines()[0][:200]
            return bad_request(
                "Malformed request", f"This is no HTTP request: {reason}; check what sends it."
            ).response()
        _log.error("http.failed", exc_info=exc)
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
            access_log=None,  # type: ignore[arg-type]  # none is kept: it costs a quarter of a request
            auto_decompress=False,  # a webhook's proof is over its raw bytes
            keepalive_timeout=KEEPALIVE,
        )

    async def close(self) -> None:
        """Let requests under way finish, then close every connection."""
        await self._runner.cleanup()
