"""The HTTP side beside a bare aiohttp handler that answers the same bytes: CPU of the server's process.

Beside both the ASGI door: the same application, driven by uvicorn (httptools) as `tidings.asgi` is.

Two tables: a signed 1 KB webhook with its append, beside a handler that reads the body and computes one HMAC; a status
read out of the cache, beside a handler that answers the same body. 64 kept-alive connections from a second process,
many short rounds interleaved, medians of the CPU time per request (user and system). The ratio is the median of those of
each round to the bare one before it.

    python -m benchmarks.bench_http [--rounds 15] [--requests 1000] [--logs memory,sqlite,kafka] [--without-asgi]
"""

import argparse
import asyncio
import base64
import hashlib
import hmac
import multiprocessing
import tempfile
import time
from contextlib import AsyncExitStack
from functools import partial
from multiprocessing.connection import Connection as Pipe
from pathlib import Path
from statistics import median
from typing import Any, cast

import uvloop
from aiohttp import web
from prometheus_client import CollectorRegistry

from tests.support.broker import Broker
from tests.support.gateway.doors import uvicorn_serving
from tidings.gateway.api.health import Health
from tidings.gateway.api.sse import EventStreams
from tidings.gateway.app import Parts, build_app, connect
from tidings.gateway.asgi.application import AsgiGateway
from tidings.gateway.asgi.scope import Receive, Scope, Send
from tidings.gateway.auth.request_guard import RequestGuard
from tidings.gateway.http.held_bytes import HeldBytes
from tidings.gateway.http.server import HttpServer
from tidings.gateway.push.changes_reader import ChangesReader
from tidings.gateway.push.hub import Hub
from tidings.storage.memory import MemoryStore
from tidings.storage.prediction import Prediction, Status, encode
from tidings.storage.store import Write
from tidings.storage.wrappers.cache import CachedStore
from tidings.streams.log.factory import open_log
from tidings.streams.log.protocol import Log
from tidings.streams.providers.configuration import Configuration
from tidings.streams.providers.registry import open_providers

CONNECTIONS = 64
SECRET = base64.b64encode(bytes(range(32))).decode()
BODY = (
    b'{"id":"p%07d","status":"processing","input":{"prompt":"a jersey"},"logs":"'
    + b"x" * 900
    + b'"}'
)


async def store_with(record: Prediction) -> CachedStore:
    store = CachedStore(MemoryStore())
    await store.write([Write(record, encode(record), 0)])
    return store


def webhook_request(path: str, number: int) -> bytes:
    body = BODY % number
    identifier, stamp = f"msg_{number}", str(int(time.time()))
    signed = f"{identifier}.{stamp}.".encode() + body
    signature = base64.b64encode(hmac.digest(base64.b64decode(SECRET), signed, "sha256")).decode()
    head = (
        f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        f"webhook-id: {identifier}\r\nwebhook-timestamp: {stamp}\r\nwebhook-signature: v1,{signature}\r\n\r\n"
    )
    return head.encode() + body


def read_request(path: str, number: int) -> bytes:  # noqa: ARG001 - as `webhook_request`
    return f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: */*\r\n\r\n".encode()


MAKERS = {"webhook": webhook_request, "read": read_request}


class Caller(asyncio.Protocol):
    """One kept-alive connection: the next request when the answer to the last is whole."""

    def __init__(self, requests: "list[bytes]", done: asyncio.Future[None]) -> None:
        self._requests = requests
        self._done = done
        self._left = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop has a class of its own
        self._next()

    def data_received(self, data: bytes) -> None:
        data = self._left + data
        head, separator, body = data.partition(b"\r\n\r\n")
        length = (
            int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0]) if separator else 1
        )
        if len(body) < length:
            self._left = data
            return
        self._left = b""
        assert head.startswith(b"HTTP/1.1 200"), head
        self._next()

    def _next(self) -> None:
        if self._requests:
            self._transport.write(self._requests.pop())
        else:
            self._transport.close()
            if not self._done.done():
                self._done.set_result(None)


async def call(port: int, kind: str, path: str, count: int) -> float:
    """Seconds for all of them."""
    loop = asyncio.get_running_loop()
    requests = [MAKERS[kind](path, number) for number in range(count)]
    done = [loop.create_future() for _ in range(CONNECTIONS)]
    started = time.perf_counter()
    for future in done:
        await loop.create_connection(partial(Caller, requests, future), "127.0.0.1", port)
    await asyncio.gather(*done)
    return time.perf_counter() - started


def load(pipe: Pipe) -> None:
    """The second process: does what it is told until it is told nothing."""
    while (job := pipe.recv()) is not None:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            pipe.send(runner.run(call(*job)))


def bare_app(answer: bytes) -> web.Application:
    """What a person would write: read, one HMAC, answer."""
    key = base64.b64decode(SECRET)

    async def receive(request: web.Request) -> web.Response:
        body = await request.read()
        signed = (
            f"{request.headers['webhook-id']}.{request.headers['webhook-timestamp']}.".encode()
            + body
        )
        expected = base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest())
        if not hmac.compare_digest(
            request.headers["webhook-signature"].encode(), b"v1," + expected
        ):
            raise web.HTTPUnauthorized
        return web.Response(body=b'{"success":true}', content_type="application/json")

    async def read(request: web.Request) -> web.Response:  # noqa: ARG001
        return web.Response(body=answer, content_type="application/json")

    app = web.Application()
    app.router.add_post("/api/webhooks/{provider}", receive)
    app.router.add_get("/api/predictions/{id}", read)
    return app


async def serve(app: web.Application) -> tuple[HttpServer, int]:
    server = HttpServer(app)
    await server.start()
    listening = await asyncio.get_running_loop().create_server(server.connection, "127.0.0.1", 0)
    return server, listening.sockets[0].getsockname()[1]


def cpu() -> float:
    return time.process_time()


async def measure(pipe: Pipe, port: int, kind: str, path: str, count: int) -> tuple[float, float]:
    """CPU microseconds a request, and requests a second."""
    before = cpu()
    pipe.send((port, kind, path, count))
    elapsed = await asyncio.to_thread(pipe.recv)
    return (cpu() - before) / count * 1e6, count / elapsed


def application(log: Log, store: CachedStore) -> tuple[web.Application, RequestGuard]:
    """The gateway's application on this log."""
    hub, guard = Hub(), RequestGuard()

    async def nowhere(request: web.Request) -> web.StreamResponse:  # noqa: ARG001 - a handler's signature
        raise web.HTTPNotFound

    endpoints = connect(
        guard,
        Parts(
            log=log,
            store=store,
            reader=ChangesReader(log, hub, store),
            health=Health(guard, registry=CollectorRegistry()),
            event_streams=EventStreams(guard, store, hub, HeldBytes()),
            websocket=nowhere,
            providers=open_providers({"standard": Configuration(secret=(f"whsec_{SECRET}",))}),
            held=HeldBytes(),
        ),
    )
    return build_app(endpoints, guard), guard


async def run(pipe: Pipe, logs: dict[str, Log], rounds: int, count: int, asgi: bool) -> None:
    record = Prediction(
        prediction_id="p1",
        status=Status.PROCESSING,
        version=3,
        created_at=1,
        updated_at=2,
        logs="x" * 300,
    )
    store = await store_with(record)
    answer = b'{"success":true,"data":' + encode(record) + b"}"
    _, bare = await serve(bare_app(answer))
    ports = {"bare": bare}
    async with AsyncExitStack() as stack:
        for name, log in logs.items():
            app, guard = application(log, store)
            server, ports[name] = await serve(app)
            if asgi and name == "memory":
                gateway = AsgiGateway(server, cast("Any", None), guard)  # nobody opens a WebSocket

                async def mounted(scope: Scope, receive: Receive, send: Send) -> None:
                    await gateway(scope, receive, send)  # noqa: B023 - there is one

                mounting = uvicorn_serving(mounted, http="httptools", access_log=False)
                ports["memory, asgi"] = await stack.enter_async_context(mounting)
        print("| request, 64 connections | x bare | CPU us | requests/s |\n|---|---|---|---|")
        for kind, path in (
            ("webhook", "/api/webhooks/standard"),
            ("read", "/api/predictions/p1"),
        ):
            figures: dict[str, list[tuple[float, float]]] = {name: [] for name in ports}
            for turn in range(rounds + 1):
                for name, port in ports.items():
                    if kind == "webhook" or name in ("bare", "memory", "memory, asgi"):
                        figure = await measure(pipe, port, kind, path, count)
                        if turn:
                            figures[name].append(figure)
            for name, found in figures.items():
                if found:
                    ratio = median(
                        one / least
                        for (one, _), (least, _) in zip(found, figures["bare"], strict=True)
                    )
                    cpu_us, rate = (median(values) for values in zip(*found, strict=True))
                    print(f"| {kind}, {name} | {ratio:.2f} | {cpu_us:.0f} | {rate:,.0f} |")


async def whole(pipe: Pipe, options: argparse.Namespace) -> None:
    async with AsyncExitStack() as stack:
        urls = {"memory": "memory://"}
        if "sqlite" in options.logs:
            folder = stack.enter_context(tempfile.TemporaryDirectory())
            urls["SQLite"] = f"sqlite:///{Path(folder) / 'log.db'}"
        if "kafka" in options.logs:
            broker = Broker()
            stack.callback(broker.close)
            await asyncio.to_thread(broker.start)
            urls["Kafka"] = f"kafka://{broker.bootstrap}"
        logs = {}
        for name, url in urls.items():
            logs[name] = await open_log(url)
            stack.push_async_callback(logs[name].close)
        await run(pipe, logs, options.rounds, options.requests, not options.without_asgi)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--logs", default="memory,sqlite,kafka")
    parser.add_argument("--without-asgi", action="store_true")
    options = parser.parse_args()
    near, far = multiprocessing.get_context("spawn").Pipe()
    process = multiprocessing.get_context("spawn").Process(target=load, args=(far,), daemon=True)
    process.start()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(whole(near, options))
    near.send(None)
    process.join()


if __name__ == "__main__":
    main()
