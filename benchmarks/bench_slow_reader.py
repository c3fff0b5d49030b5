"""A client that stops reading for 30 s beside others that read: what it costs them, and the process.

python -m benchmarks.bench_slow_reader [READERS] [SECONDS] [STOPPED]

READERS watch `all` while 1,000 predictions change 200 times a second, for SECONDS, then for STOPPED seconds with two
more clients that read nothing, then for SECONDS again. One of the two reads again and must end up with the newest of
every prediction; the other never does, and is closed with 4000.
"""

import asyncio
import re
import socket
import sys
import time
from statistics import quantiles
from typing import Any

import uvloop
from websockets.frames import Frame, Opcode

from benchmarks.push_clients import HANDSHAKE, PONG, Server

PREDICTIONS = 1_000
RATE = 200
PATIENCE = 30.0
"""Seconds without any progress after which the gateway closes a connection with 4000."""
SUBSCRIBE = b'{"type":"subscribe","ref":1,"all":true,"snapshot":false}'
MARK = b'"logs":"mark '
PING = b"\x89\x00"
"""Never part of a text frame here: its text is ASCII, and begins with a brace."""
VERSION = re.compile(rb'"predictionId":"(marked-\d+)".{1,40}?"version":(\d+)')


class Reader(asyncio.Protocol):
    """One that reads all, and notes how long each change took to come."""

    def __init__(self) -> None:
        self.took: list[int] = []
        self.synced = False
        self.newest: dict[bytes, int] | None = None
        self._rest = b""

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        transport.write(
            HANDSHAKE.format("").encode() + Frame(Opcode.TEXT, SUBSCRIBE).serialize(mask=True)
        )

    def data_received(self, data: bytes) -> None:
        if PING in data:  # often behind a change, in one piece with it
            self.transport.write(PONG)
            data = data.replace(PING, b"")
        self.synced = self.synced or b'"synced"' in data
        now = time.perf_counter_ns()
        data = self._rest + data
        last = data.rfind(b"\x81")  # in text that is ASCII it only begins frames
        whole = last + 4 + int.from_bytes(data[last + 2 : last + 4]) <= len(data)
        self._rest = b"" if last < 0 or whole else data[last:]
        data = data if whole else data[:last]
        start = data.find(MARK)
        while start >= 0:
            end = data.index(b" ", start + len(MARK))
            self.took.append(now - int(data[start + len(MARK) : end]))
            start = data.find(MARK, end)
        if self.newest is not None:
            self.newest.update((name, int(version)) for name, version in VERSION.findall(data))


async def connect(port: int, *, small: bool = False) -> Reader:
    """A client that watches everything; `small`: with as small a buffer as the kernel gives."""
    plain = socket.socket()
    if small:
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    plain.setblocking(False)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(plain, ("127.0.0.1", port))
    _, reader = await loop.create_connection(Reader, sock=plain)
    while not reader.synced:  # noqa: ASYNC110 -- an event would cost at each frame
        await asyncio.sleep(0.005)
    return reader


async def phase(server: Server, readers: list[Reader], seconds: float) -> dict[str, float]:
    """Change predictions for a time; what the readers saw of it, times in ms."""
    for reader in readers:
        reader.took.clear()
    done = await server("marked", count=PREDICTIONS, rate=RATE, seconds=seconds)
    await asyncio.sleep(0.5)
    took = [one / 1e6 for reader in readers for one in reader.took]
    cuts = quantiles(took, n=100)
    return {**done, "seen": len(took), "p50": cuts[49], "p99": cuts[98], "max": max(took)}


async def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 100
    seconds = float(sys.argv[2]) if len(sys.argv) > 2 else 8.0
    stopped = float(sys.argv[3]) if len(sys.argv) > 3 else 30.0
    held = min(stopped, PATIENCE - 3.0)  # so that the one that reads again still can
    server = Server()
    try:
        port = (await server("start"))["port"]
        readers = [await connect(port) for _ in range(count)]
        before = await phase(server, readers, seconds)
        slow, never = await connect(port, small=True), await connect(port, small=True)
        slow.transport.pause_reading()
        never.transport.pause_reading()
        during = await phase(server, readers, held)
        slow.newest = {}
        slow.transport.resume_reading()
        late = await phase(server, readers, stopped - held + 6.0)
        after = await phase(server, readers, seconds)
        codes = await server("closes")
    finally:
        server.close()
    print(
        f"{f'{count} readers of {RATE}/s':24}{'p50 ms':>8}{'p99 ms':>8}{'max ms':>8}{'CPU %':>7}{'RSS MB':>8}{'p99 ratio':>10}"
    )
    usual = (before["p99"] + after["p99"]) / 2
    phases = (
        ("all read", before, seconds),
        ("two have stopped", during, held),
        ("all read again", after, seconds),
    )
    for name, row, length in phases:
        assert row["seen"] == row["sent"] * count, "a reader missed a change"
        print(
            f"{name:24}{row['p50']:8.2f}{row['p99']:8.2f}{row['max']:8.1f}{row['cpu'] / length * 100:7.1f}"
            f"{row['rss'] / 2**20:8.1f}{row['p99'] / usual:10.2f}"
        )
    newest = set(range(int(after["version"]) - PREDICTIONS + 1, int(after["version"]) + 1))
    has = len(newest & set(slow.newest.values()))
    print(f"conflated for the stopped ones: {late['conflated']:,} changes")
    print(f"the one that read again has the newest of {has:,} of {PREDICTIONS:,}")
    print(
        f"closed with 4000: {codes.get('4000', 0)}, the one that never did; otherwise: {sum(codes.values()) - codes.get('4000', 0)}"
    )


if __name__ == "__main__":
    uvloop.run(main())
