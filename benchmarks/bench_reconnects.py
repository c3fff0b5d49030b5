"""Everybody comes back at once: sessions with token, subscription and snapshot that are all cut and reconnect together.

python -m benchmarks.bench_reconnects [SESSIONS]
"""

import asyncio
import select
import socket
import struct
import sys
import time
from collections.abc import Sequence

import jwt
import uvloop
from websockets.frames import Frame, Opcode

from benchmarks.bench_sessions import SECRET, own
from benchmarks.push_clients import HANDSHAKE, Server

ROUNDS = 3
LIMIT = 60.0
"""Seconds after which a round is given up."""

CUT = struct.pack("ii", 1, 0)
"""`SO_LINGER` of 0: closing sends a reset, as a network that is gone does."""


class Storm:
    """Clients on bare sockets: those of an event loop would be slower to connect than the gateway to serve them."""

    def __init__(self, port: int, requests: Sequence[bytes]) -> None:
        self.port = port
        self.requests = requests
        self.sockets: list[socket.socket] = []

    def connect(self) -> tuple[float, int]:
        """Connect all at once; returns the seconds until all were synced, and how many were not."""
        poll = select.epoll()
        waiting: dict[int, tuple[socket.socket, bytes]] = {}
        heard: dict[int, bytes] = {}
        begun = time.perf_counter()
        for request in self.requests:
            one = socket.socket()
            one.setblocking(False)
            one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, CUT)
            one.connect_ex(("127.0.0.1", self.port))
            waiting[one.fileno()] = (one, request)
            poll.register(one.fileno(), select.EPOLLOUT)
        self.sockets = [one for one, _ in waiting.values()]
        while waiting and time.perf_counter() - begun < LIMIT:
            for number, event in poll.poll(1.0, 1000):
                one, request = waiting[number]
                try:
                    if event & select.EPOLLOUT:
                        one.send(request)
                        poll.modify(number, select.EPOLLIN)
                        continue
                    data = one.recv(65_536)
                except OSError:
                    data = b""
                heard[number] = heard.get(number, b"") + data
                if not data or b'"synced"' in heard[number]:
                    poll.unregister(number)
                    if data:
                        del waiting[number]
        poll.close()
        return time.perf_counter() - begun, len(waiting)

    def cut(self) -> None:
        """Cut all connections at once."""
        for one in self.sockets:
            one.close()


def request(number: int, now: int) -> bytes:
    token = jwt.encode({"sub": "someone", "exp": now + 3600, "jti": str(number)}, SECRET)
    head = HANDSHAKE.format(f"Authorization: Bearer {token}\r\n").encode()
    return head + Frame(Opcode.TEXT, own(number)).serialize(mask=True)


async def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    server = Server(SECRET)
    try:
        port = (await server("start", count=count))["port"]
        now = int(time.time())
        storm = Storm(port, [request(number, now) for number in range(count)])
        await server("watch_stalls")
        print(
            f"{'round':>5} {'all synced':>11} {'errors':>7} {'CPU each':>9} {'worst stall':>12} {'cut, until gone':>16}"
        )
        for number in range(1, ROUNDS + 1):
            before = await server("measure")
            elapsed, errors = storm.connect()
            after = await server("measure")
            each = (after["cpu"] - before["cpu"]) / count * 1e6
            begun = time.perf_counter()
            storm.cut()
            while (await server("measure"))["sessions"]:  # noqa: ASYNC110 -- it is another process that is waited for
                await asyncio.sleep(0.02)
            gone = time.perf_counter() - begun
            stall = after["stall"] * 1e3
            print(
                f"{number:5} {elapsed:9.2f} s {errors:7} {each:6.0f} µs {stall:9.1f} ms {gone:14.2f} s",
                flush=True,
            )
    finally:
        server.close()


if __name__ == "__main__":
    uvloop.run(main())
