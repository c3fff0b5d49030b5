"""An endpoint that takes webhooks, for tests of those who send them."""

import json
from collections.abc import Callable
from typing import Any, Self

from aiohttp import web


class Receiver:
    """Keeps every webhook that comes: its headers (names in lower case) and its body."""

    def __init__(self, status: Callable[[dict[str, Any]], int] = lambda _: 200) -> None:
        self.came: list[tuple[dict[str, str], bytes]] = []
        self._status = status
        self._runner: web.AppRunner | None = None
        self.url = ""

    @property
    def bodies(self) -> list[dict[str, Any]]:
        return [json.loads(body) for _, body in self.came]

    def ended(self, count: int = 1) -> bool:
        """Whether `count` predictions are known to have ended."""
        return len({body["id"] for body in self.bodies if "completed_at" in body}) >= count

    async def _take(self, request: web.Request) -> web.Response:
        body = await request.read()
        self.came.append(({name.lower(): value for name, value in request.headers.items()}, body))
        return web.Response(status=self._status(json.loads(body)))

    async def __aenter__(self) -> Self:
        app = web.Application(client_max_size=100_000_000)
        app.router.add_post("/hook", self._take)
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}/hook"
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._runner is not None
        await self._runner.cleanup()
