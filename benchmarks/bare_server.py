"""The least that keeps WebSockets open: a bare protocol that answers the handshake, and pings everybody in groups.

For benchmarks, beside the gateway. It checks no token, keeps no subscription, and never closes the silent.
"""

import asyncio
import json
import sys
from typing import Any

import uvloop

from benchmarks.push_server import cpu, rss
from tidings.observability.gc_tuning import freeze_startup_objects

ANSWER = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b'Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n\x81\x11{"type":"synced"}'
)
GROUPS = 100
HEARTBEAT = 25.0


class Session(asyncio.Protocol):
    """One connection."""

    __slots__ = ("_transport",)
    groups: tuple[set["Session"], ...] = tuple(set() for _ in range(GROUPS))
    made = 0

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        Session.made += 1
        self.groups[Session.made % GROUPS].add(self)

    def data_received(self, data: bytes) -> None:
        if data.startswith(b"GET "):
            self._transport.write(ANSWER)

    def ping(self) -> None:
        self._transport.write(b"\x89\x00")


async def sweep() -> None:
    """Ping one group after the other, each once in a heartbeat."""
    while True:
        for group in Session.groups:
            for session in group:
                session.ping()
            await asyncio.sleep(HEARTBEAT / GROUPS)


async def serve() -> None:
    """Say the port, then answer each line with where things stand."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Session, "127.0.0.1", 0, backlog=4096)
    freeze_startup_objects()
    sweeping = loop.create_task(sweep())
    lines = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    while await lines.readline():
        port = server.sockets[0].getsockname()[1]
        print(
            json.dumps({"port": port, "cpu": cpu(), "rss": rss(), "sessions": Session.made}),
            flush=True,
        )
    sweeping.cancel()


if __name__ == "__main__":
    uvloop.run(serve())
