"""From a webhook's POST to the frame in the browser: 500 a second, spread over 1,000 sessions, in real processes.

Beside it, in the same run, what the machine does at best: the same rate of POSTs to a bare aiohttp handler that writes a
frame of the same size to one open connection. The service is one `tidings serve`, on SQLite (events, store and changes
on disk before the frame) and on a real Kafka broker (two hops).

    python -m benchmarks.bench_latency [--seconds 10] [--rate 500] [--rounds 3]
"""

import argparse
import asyncio
import contextlib
import json
import tempfile
import time
import uuid
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import uvloop
from aiohttp import web
from websockets.frames import Frame, Opcode

from benchmarks.push_clients import HANDSHAKE, PONG
from tests.support.broker import Broker
from tests.support.conditions import eventually
from tests.support.tidings_process import TidingsProcess
from tests.support.webhooks import SECRET, signed

SESSIONS = 1000
CONNECTIONS = 16
LEAD = 1.0
"""Seconds at the start that are not counted."""


class Arrivals:
    """When each numbered report came back."""

    def __init__(self) -> None:
        self.sent: dict[int, float] = {}
        self.took: list[float] = []
        self.counting = False
        self.open = 0

    def seen(self, data: bytes) -> None:
        """Find the marks in a frame: `"logs":"mark <number> ..."`."""
        now = time.perf_counter()
        start = data.find(b'"logs":"mark ')
        while start >= 0:
            number = int(data[start + 13 : data.index(b" ", start + 13)])
            sent = self.sent.pop(number, None)
            if sent is not None and self.counting:
                self.took.append(now - sent)
            start = data.find(b'"logs":"mark ', start + 13)


class Watcher(asyncio.Protocol):
    """A session that watches one prediction."""

    def __init__(self, arrivals: Arrivals, prediction_id: str) -> None:
        self._arrivals = arrivals
        message = json.dumps(
            {"type": "subscribe", "ref": 1, "predictions": [prediction_id]}
        ).encode()
        self._subscribe = Frame(Opcode.TEXT, message).serialize(mask=True)
        self._synced = False

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        transport.write(HANDSHAKE.format("").encode() + self._subscribe)

    def data_received(self, data: bytes) -> None:
        if b"\x89\x00" in data:  # a ping, maybe behind a change; the changes are ASCII
            self._transport.write(PONG)
        if self._synced:
            self._arrivals.seen(data)
        elif b'"synced"' in data:
            self._synced = True
            self._arrivals.open += 1


class Poster(asyncio.Protocol):
    """A kept-alive connection: one POST after another."""

    def __init__(self) -> None:
        self.answered: asyncio.Future[None] | None = None

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        if self.answered is not None and not self.answered.done():
            assert data.startswith(b"HTTP/1.1 200"), data
            self.answered.set_result(None)

    async def post(self, request: bytes) -> None:
        self.answered = asyncio.get_running_loop().create_future()
        self.transport.write(request)
        await self.answered


def request(path: str, body: bytes) -> bytes:
    """A signed POST."""
    lines = [f"POST {path} HTTP/1.1", "Host: 127.0.0.1", f"Content-Length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in signed(body).items()]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def report(number: int) -> bytes:
    """A Replicate webhook of about 700 bytes, new to its prediction."""
    fields = {
        "id": f"latency-{number % SESSIONS:04d}",
        "status": "processing",
        "input": {"prompt": "a jersey", "seed": 17454220438242315174},
        "logs": f"mark {number} " + "x" * (200 + number // SESSIONS),
        "model": "black-forest-labs/flux-kontext-pro",
        "urls": {
            "get": "https://api.replicate.com/v1/predictions/1",
            "cancel": "https://api.replicate.com/v1/predictions/1/cancel",
        },
    }
    return json.dumps(fields, separators=(",", ":")).encode()


async def load(port: int, arrivals: Arrivals, rate: int, seconds: float) -> None:
    """Post at a steady rate over a few connections."""
    loop = asyncio.get_running_loop()
    posters = [
        (await loop.create_connection(Poster, "127.0.0.1", port))[1] for _ in range(CONNECTIONS)
    ]
    free: asyncio.Queue[Poster] = asyncio.Queue()
    for poster in posters:
        free.put_nowait(poster)
    work: set[asyncio.Task[None]] = set()

    async def one(number: int) -> None:
        poster = await free.get()
        prepared = request("/api/webhooks/replicate", report(number))
        arrivals.sent[number] = time.perf_counter()
        await poster.post(prepared)
        free.put_nowait(poster)

    started = time.perf_counter()
    for number in range(int(rate * (seconds + LEAD))):
        due = started + number / rate
        if (wait := due - time.perf_counter()) > 0:
            await asyncio.sleep(wait)
        arrivals.counting = number > rate * LEAD
        task = asyncio.create_task(one(number))
        work.add(task)
        task.add_done_callback(work.discard)
    while work:
        await asyncio.wait(work)
    with contextlib.suppress(AssertionError):
        await eventually(lambda: not arrivals.sent, 3)
    for poster in posters:
        poster.transport.close()


async def measure(settings: dict[str, str], rate: int, seconds: float) -> dict[str, float]:
    """One round on a service of its own."""
    with tempfile.TemporaryDirectory() as folder:
        service = TidingsProcess(Path(folder), {**settings, "TIDINGS_REPLICATE_SECRET": SECRET})
        await service.start()
        arrivals = Arrivals()
        loop = asyncio.get_running_loop()
        sessions = []
        try:
            for number in range(SESSIONS):
                transport, _ = await loop.create_connection(
                    partial(Watcher, arrivals, f"latency-{number:04d}"),
                    "127.0.0.1",
                    service.port,
                )
                sessions.append(transport)
            await eventually(lambda: arrivals.open == SESSIONS, 60)
            await load(service.port, arrivals, rate, seconds)
        finally:
            for transport in sessions:
                transport.abort()
            await service.stop()
    # Two reports of one prediction within a batch are one change: the first is not seen by itself.
    assert len(arrivals.sent) <= rate * seconds / 100, (
        f"{len(arrivals.sent)} reports never came back"
    )
    return figures(arrivals)


async def bare(rate: int, seconds: float) -> dict[str, float]:
    """The same load on a handler that does nothing but write a frame."""
    arrivals = Arrivals()
    clients: list[Any] = []

    async def receive(asked: web.Request) -> web.Response:
        body = await asked.read()
        clients[-1].write(body)
        return web.Response(body=b"{}")

    class Sink(asyncio.Protocol):
        def data_received(self, data: bytes) -> None:
            arrivals.seen(data)

    class Pushing(asyncio.Protocol):
        def connection_made(self, transport: Any) -> None:
            clients.append(transport)

    app = web.Application()
    app.router.add_post("/api/webhooks/replicate", receive)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    loop = asyncio.get_running_loop()
    assert runner.server is not None
    http = await loop.create_server(runner.server, "127.0.0.1", 0)
    push = await loop.create_server(Pushing, "127.0.0.1", 0)
    transport, _ = await loop.create_connection(Sink, "127.0.0.1", push.sockets[0].getsockname()[1])
    await load(http.sockets[0].getsockname()[1], arrivals, rate, seconds)
    transport.close()
    http.close()
    push.close()
    await runner.cleanup()
    return figures(arrivals)


def figures(arrivals: Arrivals) -> dict[str, float]:
    """p50 and p99 in ms."""
    cuts = quantiles(arrivals.took, n=100)
    return {"p50": cuts[49] * 1000, "p99": cuts[98] * 1000, "count": len(arrivals.took)}


async def run(rate: int, seconds: float, rounds: int) -> None:
    """Interleaved rounds; prints the table."""
    async with AsyncExitStack() as stack:
        broker = Broker()
        stack.callback(broker.close)
        await asyncio.to_thread(broker.start)
        found: dict[str, list[dict[str, float]]] = {"bare": [], "SQLite": [], "Kafka": []}
        for _ in range(rounds):
            found["bare"].append(await bare(rate, seconds))
            found["SQLite"].append(await measure({}, rate, seconds))
            prefix = f"l{uuid.uuid4().hex[:8]}."
            kafka = {
                "TIDINGS_LOG": f"kafka://{broker.bootstrap}",
                "TIDINGS_TOPIC_PREFIX": prefix,
                "TIDINGS_PARTITIONS": "4",
            }
            found["Kafka"].append(await measure(kafka, rate, seconds))
    floor = median(r["p50"] for r in found["bare"])
    print(
        f"| POST -> frame, {rate}/s over {SESSIONS:,} sessions | p50 ms | p99 ms | x bare p50 |\n|---|---|---|---|"
    )
    for name, results in found.items():
        p50, p99 = median(r["p50"] for r in results), median(r["p99"] for r in results)
        print(f"| {name} | {p50:.2f} | {p99:.2f} | {p50 / floor:.1f} |")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--rate", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=3)
    arguments, _ = parser.parse_known_args()
    uvloop.run(run(arguments.rate, arguments.seconds, arguments.rounds))


if __name__ == "__main__":
    main()
