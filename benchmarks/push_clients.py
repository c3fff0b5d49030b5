"""Many WebSocket clients in one process, that cost little: they count bytes and answer pings."""

import asyncio
import json
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from websockets.frames import Frame, Opcode

HANDSHAKE = (
    "GET /api/ws HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    "Sec-WebSocket-Protocol: tidings.v1\r\n{}\r\n"
)
PONG = Frame(Opcode.PONG, b"").serialize(mask=True)


class Counter:
    """What all clients have got."""

    def __init__(self) -> None:
        self.bytes = 0
        self.synced = 0
        self.awaited: tuple[str, int, asyncio.Future[None]] | None = None

    async def until(self, what: str, amount: int, within: float = 60.0) -> None:
        """Wait until so many bytes came, or clients are synced."""
        if getattr(self, what) >= amount:
            return
        future = asyncio.get_running_loop().create_future()
        self.awaited = (what, amount, future)
        async with asyncio.timeout(within):
            await future

    def check(self) -> None:
        awaited = self.awaited
        if awaited is not None and getattr(self, awaited[0]) >= awaited[1]:
            self.awaited = None
            awaited[2].set_result(None)


class Client(asyncio.BufferedProtocol):
    """One client: subscribes at once, then counts."""

    shared = bytearray(1 << 20)
    view = memoryview(shared)

    def __init__(self, counter: Counter, subscribe: bytes, token: str | None) -> None:
        self.counter = counter
        self.subscribe = subscribe
        self.token = token
        self.synced = False
        self.head = b""

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        header = f"Authorization: Bearer {self.token}\r\n" if self.token else ""
        transport.write(
            HANDSHAKE.format(header).encode()
            + Frame(Opcode.TEXT, self.subscribe).serialize(mask=True)
        )

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002 -- asyncio's signature
        return self.view

    def buffer_updated(self, nbytes: int) -> None:
        if self.synced:
            if nbytes == 2 and self.shared[0] == 0x89:
                self.transport.write(PONG)
                return
            self.counter.bytes += nbytes
        else:
            self.head += self.view[:nbytes]
            if b'"synced"' in self.head:
                self.synced = True
                self.head = b""
                self.counter.synced += 1
        self.counter.check()


class Server:
    """The gateway (or another of the benchmarks' servers) in its own process, on its own core if there are two."""

    def __init__(self, *arguments: str, program: str = "push_server") -> None:
        command = [sys.executable, "-m", f"benchmarks.{program}", *arguments]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    async def __call__(self, name: str, **arguments: Any) -> dict[str, Any]:
        """Run a command there."""
        stdin, stdout = self.process.stdin, self.process.stdout
        if stdin is None or stdout is None:
            raise ValueError("the server was started without pipes")
        stdin.write(json.dumps([name, arguments]) + "\n")
        stdin.flush()
        line = await asyncio.to_thread(stdout.readline)
        answer: dict[str, Any] = json.loads(line)
        return answer

    def close(self) -> None:
        if self.process.stdin is not None:
            self.process.stdin.close()
        self.process.wait(10)


async def connect(
    port: int,
    count: int,
    counter: Counter,
    subscribe: Any,
    tokens: Sequence[str] = (),
    together: int = 200,
) -> list[Client]:
    """Open clients, some at a time; `subscribe(number)` gives each one's message. Returns when all are synced."""
    loop = asyncio.get_running_loop()
    clients: list[Client] = []
    already = counter.synced

    def client() -> Client:
        number = len(clients)
        one = Client(counter, subscribe(number), tokens[number] if tokens else None)
        clients.append(one)
        return one

    for start in range(0, count, together):
        # Addresses of the loopback range, so that more clients fit than one address has ports. To choose one costs
        # the kernel a search for a port that is free on all of them.
        chosen = (f"127.0.0.{1 + start // 20_000}", 0) if count > 20_000 else None
        batch = [
            loop.create_connection(client, "127.0.0.1", port, local_addr=chosen)
            for _ in range(min(together, count - start))
        ]
        await asyncio.gather(*batch)
        await counter.until("synced", already + len(clients))
    return clients
