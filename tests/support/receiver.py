"""A server that is told of predictions: real HTTP on a real port, with bad days on request."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web
from standardwebhooks.webhooks import Webhook

from tests.support.conditions import eventually

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
OLD_SECRET = "whsec_" + "b2xkIG9sZCBvbGQgb2xkIG9sZCBvbGQgb2xk"


class Receiver:
    """Receives webhooks, verified by the official library."""

    def __init__(self, secret: str = SECRET) -> None:
        self._library = Webhook(secret)
        self.port = 0
        self.taken: list[tuple[str, dict[str, Any]]] = []
        """`webhook-id` and body of each one that was answered with 200, in order."""
        self.seen = 0
        self.answers: list[int] = []
        """Statuses of the next answers; then 200."""
        self.headers: dict[str, str] = {}
        """Of answers that are not 200."""
        self.hold: asyncio.Event | None = None
        """No answer before it is set."""

    @property
    def url(self) -> str:
        """Its address, with a part that must stay secret."""
        return f"http://127.0.0.1:{self.port}/hook/top-secret-path"

    @property
    def allowed(self) -> str:
        """For `TIDINGS_NOTIFY_ALLOW`."""
        return f"127.0.0.1:{self.port}"

    def of(self, prediction_id: str) -> list[str]:
        """The types taken of a prediction, in order."""
        return [
            body["type"] for _, body in self.taken if body["data"]["predictionId"] == prediction_id
        ]

    async def reaches(self, prediction_id: str, *types: str, within: float = 15) -> None:
        """Wait until exactly these have been taken of a prediction."""
        await eventually(lambda: self.of(prediction_id) == list(types), within)

    async def _receive(self, request: web.Request) -> web.Response:
        self.seen += 1
        body = await request.read()
        self._library.verify(body, {name.lower(): value for name, value in request.headers.items()})
        if self.hold is not None:
            await self.hold.wait()
        status = self.answers.pop(0) if self.answers else 200
        if status != 200:
            return web.Response(status=status, headers=self.headers)
        self.taken.append((request.headers["webhook-id"], json.loads(body)))
        return web.Response()

    @asynccontextmanager
    async def serving(self) -> AsyncIterator["Receiver"]:
        """Serve until the block ends."""
        app = web.Application()
        app.router.add_post("/{path:.*}", self._receive)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", self.port)
        await site.start()
        self.port = runner.addresses[0][1]
        try:
            yield self
        finally:
            await runner.cleanup()
