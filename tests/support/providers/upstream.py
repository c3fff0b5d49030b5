"""OpenAI, Gemini and AssemblyAI over real HTTP, as far as they are asked in tests."""

import asyncio
import contextlib
import json
from typing import Any

import httpx
from aiohttp import web

from tests.support.webhooks import SECRET, signed

TOKEN = "sk-test"


class Upstream:
    """A server on loopback. What it is asked for lies in `resources` by path.

    `status` is what it answers with.
    """

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.created: list[dict[str, Any]] = []
        self.elsewhere: list[str] = []
        self.resources: dict[str, dict[str, Any]] = {}
        self.status = 200
        self.deltas: list[str] = []
        """Of a response that is streamed."""
        self.written = 10**6
        """How many of them are written by now."""
        self.cut_after: int | None = None
        """The number of the event after which a stream is cut, once."""
        self.streams: list[int | None] = []
        """After which event each stream was asked for."""
        self.lost_answers = False
        """Creates are carried out, and nothing comes back."""
        self.held = asyncio.Event()
        """Creates are answered when it is set."""
        self.held.set()
        self.url = ""
        self._runner: web.AppRunner | None = None

    async def start(self) -> None:
        app = web.Application()
        app.router.add_post("/v1/responses", self._create)
        app.router.add_post("/v2/transcript", self._create)
        app.router.add_post("/v1/responses/{id}/cancel", self._cancel)
        app.router.add_get("/elsewhere", self._redirected)
        app.router.add_get("/{path:.*}", self._get)
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"

    async def close(self) -> None:
        assert self._runner is not None
        await self._runner.cleanup()

    def settings(self, provider: str = "OPENAI") -> dict[str, str]:
        """Of a service that works with it."""
        names = {"SECRET": SECRET, "TOKEN": TOKEN, "URL": self.url}
        return {f"TIDINGS_{provider}_{name}": value for name, value in names.items()}

    def ends(self, path: str, **said: Any) -> None:
        """Let what lies at a path end so."""
        self.resources.setdefault(path, {}).update(said)

    async def _create(self, request: web.Request) -> web.StreamResponse:
        self._prove(request)
        order = await request.json()
        self.created.append(order)
        responses = request.path == "/v1/responses"
        own = f"{'resp' if responses else 't'}_{len(self.created)}"
        made: dict[str, Any] = {"id": own, "status": "queued"}
        if responses:
            made |= {
                "object": "response",
                "metadata": order.get("metadata") or {},
                "model": order["model"],
            }
        self.resources[f"{request.path}/{own}"] = made
        await self.held.wait()
        if order.get("stream"):
            return await self._begun(request, made)
        if self.lost_answers:
            assert request.transport is not None
            request.transport.abort()
        return web.json_response(made)

    async def _cancel(self, request: web.Request) -> web.Response:
        self._prove(request)
        found = self.resources[request.path.removesuffix("/cancel")]
        if found["status"] in ("queued", "in_progress"):
            found["status"] = "cancelled"
        return web.json_response(found)

    async def _begun(self, request: web.Request, made: dict[str, Any]) -> web.StreamResponse:
        """The first event of a response that is streamed; the rest never ends here."""
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        said = {"type": "response.created", "sequence_number": 0, "response": made}
        await response.write(f"event: response.created\ndata: {json.dumps(said)}\n\n".encode())
        with contextlib.suppress(ConnectionError):
            while True:  # an answer that goes on
                await response.write(b": \n\n")
                await asyncio.sleep(0.05)
        return response

    async def _stream(self, request: web.Request) -> web.StreamResponse:
        """Deltas with the numbers from 1, after the one that was named."""
        after = request.query.get("starting_after")
        self.streams.append(None if after is None else int(after))
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        number = int(after or 0)
        kind = "response.output_text.delta"
        while number < len(self.deltas):
            if number == self.cut_after and request.transport is not None:
                self.cut_after = None
                request.transport.abort()
                return response
            if number >= self.written:
                await asyncio.sleep(0.01)
                continue
            said = {"type": kind, "sequence_number": number + 1, "delta": self.deltas[number]}
            await response.write(f"event: {kind}\ndata: {json.dumps(said)}\n\n".encode())
            number += 1
        said = {"type": "response.completed", "sequence_number": number + 1}
        await response.write(f"event: response.completed\ndata: {json.dumps(said)}\n\n".encode())
        return response

    async def _get(self, request: web.Request) -> web.StreamResponse:
        self._prove(request)
        self.asked.append(request.path)
        if self.status == 307:
            raise web.HTTPTemporaryRedirect(f"{self.url}/elsewhere")
        if self.status != 200:
            return web.Response(status=self.status)
        if request.query.get("stream") == "true":
            return await self._stream(request)
        found = self.resources.get(request.path)
        return web.json_response(
            found or {"error": {"message": "not found"}}, status=200 if found else 404
        )

    async def _redirected(self, request: web.Request) -> web.Response:
        self.elsewhere.append(request.headers.get("Authorization", ""))
        return web.Response()

    def _prove(self, request: web.Request) -> None:
        given = (request.headers.get("x-goog-api-key"), request.headers.get("Authorization"))
        assert TOKEN in given or f"Bearer {TOKEN}" in given


async def post(
    client: httpx.AsyncClient, body: dict[str, Any], provider: str = "openai", path: str = ""
) -> None:
    """A webhook, proven as the provider does."""
    raw = json.dumps(body).encode()
    headers = {"x-tidings-secret": SECRET} if provider == "assemblyai" else signed(raw)
    answer = await client.post(f"/api/webhooks/{provider}{path}", content=raw, headers=headers)
    assert answer.status_code == 200, answer.text


def event(provider_id: str, kind: str = "response.completed") -> dict[str, Any]:
    """OpenAI's event, which says no more than this."""
    return {
        "id": f"evt_{provider_id}",
        "object": "event",
        "type": kind,
        "data": {"id": provider_id},
    }
