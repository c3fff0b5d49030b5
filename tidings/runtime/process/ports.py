"""The ports of a process: health and metrics on one, and the file that says which were chosen."""

import asyncio
import os
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from aiohttp import web

from tidings.gateway.api.health import Check
from tidings.gateway.http.server import HttpServer
from tidings.storage.store import PredictionStore


def store_check(store: PredictionStore) -> Check:
    """Whether the store answers that is written: a copy for reads does not help who writes."""

    async def check() -> str | None:
        await store.load(["tidings-readiness"])
        return None

    return check


@asynccontextmanager
async def serving_health(app: web.Application, listening: socket.socket) -> AsyncIterator[int]:
    """Health and metrics on a socket of their own; gives its port."""
    http = HttpServer(app)
    async with AsyncExitStack() as stack:
        stack.push_async_callback(http.close)
        await http.start()
        server = await asyncio.get_running_loop().create_server(http.connection, sock=listening)
        stack.callback(server.close)
        yield listening.getsockname()[1]


def write_port(file: Path, *ports: int) -> None:
    """Whole or not at all: whoever waits for the file reads numbers."""
    draft = file.with_name(f".{file.name}.{os.getpid()}")
    draft.write_text("".join(f"{port}\n" for port in ports))
    draft.chmod(0o644)  # it holds no secret, and whoever waits may be another user
    draft.replace(file)
