"""A service of a few lines on a real port, that does to its clients what it is told: cuts, freezes, refusals."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import WSMsgType, web


def record(
    prediction_id: str, version: int, status: str = "processing", **fields: Any
) -> dict[str, Any]:
    """A prediction's record as JSON."""
    times = {"createdAt": 1, "updatedAt": version}
    return {"predictionId": prediction_id, "status": status, "version": version, **times, **fields}


class ScriptedService:
    """Speaks `tidings.v1` to the letter unless told otherwise, and notes what it is asked."""

    def __init__(self) -> None:
        self.records: dict[str, dict[str, Any]] = {}
        self.gone: dict[str, int] = {}
        self.sockets: list[web.WebSocketResponse] = []
        self.handshakes = 0
        self.received: list[dict[str, Any]] = []
        self.tokens: list[str | None] = []
        self.good_tokens: set[str] | None = None
        self.refuse_handshake: list[int] = []
        self.answers: list[web.Response] = []
        self.requests: list[tuple[str, str, dict[str, str], bytes]] = []
        self.welcomes = True
        self.anonymous = False
        """Whether the welcome says that no token is looked at."""
        self.subscription_errors: list[str] = []
        """Codes of errors that the next subscriptions are answered with, one each."""
        self.port = 0
        self._runner: web.AppRunner | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def start(self) -> None:
        app = web.Application()
        app.router.add_get("/api/ws", self._socket)
        app.router.add_route("*", "/api/{rest:.*}", self._request)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self.port, reuse_address=True)
        await site.start()
        self.port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        await self.cut()
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    def subscriptions(self) -> list[dict[str, Any]]:
        return [message for message in self.received if message["type"] == "subscribe"]

    async def change(self, *, announce: bool = True, **fields: Any) -> None:
        """Change a prediction, and tell every client unless `announce` is off."""
        value = record(**fields)
        self.records[value["predictionId"]] = value
        if announce:
            await self.tell({"type": "change", "prediction": value})

    async def delete(self, prediction_id: str, version: int) -> None:
        del self.records[prediction_id]
        self.gone[prediction_id] = version
        await self.tell({"type": "deleted", "predictionId": prediction_id, "version": version})

    async def tell(self, message: dict[str, Any]) -> None:
        for socket in list(self.sockets):
            await socket.send_json(message)

    async def cut(self) -> None:
        """Break every connection without a word."""
        for socket in list(self.sockets):
            transport = socket._req.transport if socket._req is not None else None
            if transport is not None:
                transport.abort()

    async def close(self, code: int, reason: str = "") -> None:
        for socket in list(self.sockets):
            await socket.close(code=code, message=reason.encode())

    async def _socket(self, request: web.Request) -> web.StreamResponse:
        self.handshakes += 1
        if self.refuse_handshake:
            return web.Response(status=self.refuse_handshake.pop(0), headers={"Retry-After": "0"})
        token = request.headers.get("Authorization", "").removeprefix("Bearer ") or None
        self.tokens.append(token)
        socket = web.WebSocketResponse(protocols=("tidings.v1",))
        await socket.prepare(request)
        if self.good_tokens is not None and token not in self.good_tokens:
            await socket.close(code=4102, message=b"expired")
            return socket
        if self.welcomes:
            welcome = {"type": "welcome", "session": "s", "heartbeat": 25000}
            await socket.send_json(welcome | ({"anonymous": True} if self.anonymous else {}))
        self.sockets.append(socket)
        try:
            async for message in socket:
                if message.type is WSMsgType.TEXT:
                    assert len(message.data.encode()) <= 256 * 1024
                    await self._message(socket, json.loads(message.data))
        except ConnectionError:
            pass  # cut by the test
        finally:
            self.sockets.remove(socket)
        return socket

    async def _message(self, socket: web.WebSocketResponse, message: dict[str, Any]) -> None:
        self.received.append(message)
        if message["type"] != "subscribe":
            return
        await socket.send_json({"type": "subscribed", "ref": message["ref"]})
        if self.subscription_errors:
            code = self.subscription_errors.pop(0)
            await socket.send_json(
                {"type": "error", "ref": message["ref"], "code": code, "message": code}
            )
            return
        known = message.get("known", {})
        for prediction_id in message.get(
            "predictions", [*self.records, *(set(known) - set(self.records))]
        ):
            if (value := self.records.get(prediction_id)) is not None:
                if value["version"] > known.get(prediction_id, 0) and message.get("snapshot", True):
                    await socket.send_json({"type": "snapshot", "prediction": value})
            elif prediction_id in known:
                version = self.gone.get(prediction_id, known[prediction_id])
                await socket.send_json(
                    {"type": "deleted", "predictionId": prediction_id, "version": version}
                )
            else:
                await socket.send_json({"type": "unknown", "predictionId": prediction_id})
        await socket.send_json({"type": "synced", "ref": message["ref"], "more": False})

    async def _request(self, request: web.Request) -> web.Response:
        headers = {name.lower(): value for name, value in request.headers.items()}
        self.requests.append((request.method, request.path_qs, headers, await request.read()))
        return self.answers.pop(0)


@asynccontextmanager
async def scripted_service() -> AsyncIterator[ScriptedService]:
    """A running `ScriptedService`."""
    service = ScriptedService()
    await service.start()
    try:
        yield service
    finally:
        await service.stop()


class Proxy:
    """A TCP proxy that can stop passing anything on, as a network does that nobody announced to be down."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._open = asyncio.Event()
        self._open.set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.port = 0
        self._server: asyncio.Server | None = None

    def freeze(self) -> None:
        self._open.clear()

    def thaw(self) -> None:
        self._open.set()

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._target)
        for source, target in ((reader, far_writer), (far_reader, writer)):
            task = asyncio.create_task(self._pass_on(source, target))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _pass_on(self, source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        try:
            while data := await source.read(65536):
                await self._open.wait()
                target.write(data)
                await target.drain()
        except ConnectionError:
            pass  # one side went away; the other is closed below
        finally:
            target.close()
