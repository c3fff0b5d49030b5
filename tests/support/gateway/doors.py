"""The two ways into a gateway: its own listener, and a host's server that drives it by ASGI.

The tests of the gateway run through both; which one is in force is a context variable, so that
helpers need not be told.
"""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from contextvars import ContextVar
from typing import Literal, get_args

import uvicorn

from tests.support.conditions import eventually
from tidings.gateway.asgi.application import AsgiGateway, not_upgraded
from tidings.gateway.asgi.scope import Receive, Scope, Send
from tidings.gateway.auth.request_guard import RequestGuard
from tidings.gateway.http.problems import Handler
from tidings.gateway.http.server import HttpServer
from tidings.gateway.websocket.aiohttp_upgrade import upgrade_route
from tidings.gateway.websocket.listener import Listener

Door = Literal["lean", "asgi"]
DOORS: tuple[Door, ...] = get_args(Door)

door: ContextVar[Door] = ContextVar("door", default="lean")


class Server(uvicorn.Server):
    """One that leaves the signals to pytest."""

    async def serve_here(self, listening: socket.socket) -> None:
        self.config.load()
        self.lifespan = self.config.lifespan_class(self.config)
        await self.startup(sockets=[listening])
        await self.main_loop()
        await self.shutdown(sockets=[listening])


@asynccontextmanager
async def uvicorn_serving(app: object, **options: object) -> AsyncIterator[int]:
    """The ASGI application behind uvicorn on a port of its own, which the block gets."""
    listening = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(
        app,  # type: ignore[arg-type]
        lifespan="off",
        log_level="error",
        timeout_graceful_shutdown=2,
        ws_ping_interval=None,
        proxy_headers=False,
        server_header=False,
        **options,  # type: ignore[arg-type]
    )
    server = Server(config)
    task = asyncio.create_task(server.serve_here(listening))
    await eventually(lambda: server.started or task.done(), 10)
    try:
        yield listening.getsockname()[1]
    finally:
        server.should_exit = True
        await task


class Front:
    """What listens for a gateway under test, by the door in force.

    Args:
        listener: Of the gateway.
        http: Likewise.
        guard: Likewise.
    """

    def __init__(self, listener: Listener, http: HttpServer, guard: RequestGuard) -> None:
        self.listener = listener
        self._http = http
        self._guard = guard
        self._by_asgi = door.get() == "asgi"
        self._ended = asyncio.Event()
        self._serving: asyncio.Task[None] | None = None

    async def start(self) -> int:
        """Listen; returns the port."""
        if not self._by_asgi:
            return await self.listener.start()
        self.listener.acceptor.sessions.start()
        port: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._serving = asyncio.create_task(self._serve(port))
        return await port

    async def _serve(self, port: "asyncio.Future[int]") -> None:
        gateway = AsgiGateway(self._http, self.listener.acceptor, self._guard)

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await gateway(scope, receive, send)

        async with uvicorn_serving(app) as chosen:
            port.set_result(chosen)
            await self._ended.wait()

    async def end(self) -> None:
        """Listen no more, after the farewell."""
        self._ended.set()
        if self._serving is not None:
            await self._serving


def websocket_handler(listener: Listener) -> Handler:
    """What serves `GET /api/ws` where it comes as an ordinary request."""
    if door.get() == "asgi":
        return not_upgraded
    return upgrade_route(listener.acceptor)
