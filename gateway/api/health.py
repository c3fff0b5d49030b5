"""Whether the service is alive and ready, its metrics, and its figures.

The first three are on every role's port.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping

import msgspec
from aiohttp import web
from prometheus_client import REGISTRY, CollectorRegistry, exposition

from tidings.gateway.auth.request_guard import RequestGuard
from tidings.gateway.http.problems import Problem
from tidings.storage.clock import SYSTEM_CLOCK
from tidings.storage.redaction import error_text

CHECK_TIME = 2.0
"""Seconds that a readiness check may take; a part that says nothing for longer is not ready."""

PARTS_KEPT = 5.0
"""Seconds for which the figures repeat how the parts are."""

Check = Callable[[], Awaitable[str | None]]
"""Whether a part is ready: None, or what is in the way."""

_NOT_CACHED = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}


def _alive() -> None:
    """Nothing is known to be in the way."""


class Health:
    """The health of one process, and the handlers that tell of it.

    Args:
        guard: Who may come in.
        version: Of the service.
        alive: What only a restart fixes; None: nothing.
        registry: The metrics.
    """

    def __init__(
        self,
        guard: RequestGuard,
        *,
        version: str = "0",
        alive: Callable[[], str | None] = _alive,
        registry: CollectorRegistry = REGISTRY,
    ) -> None:
        self._guard = guard
        self.version = version
        self._alive = alive
        self._registry = registry
        self._checks: dict[str, Check] = {}
        self._statistics: dict[str, Callable[[], object]] = {}
        self._seen: tuple[float, dict[str, str | None]] | None = None

    def add_check(self, part: str, check: Check) -> None:
        """One more part that must be ready."""
        self._checks[part] = check

    def add_statistics(self, name: str, read: Callable[[], object]) -> None:
        """One more member of the figures; its values are anything that encodes as JSON."""
        self._statistics[name] = read

    async def not_ready(self) -> dict[str, str]:
        """Per part that is not ready, what is in the way."""
        results = await asyncio.gather(*map(_ask, self._checks.values()))
        return {
            part: reason
            for part, reason in zip(self._checks, results, strict=True)
            if reason is not None
        }

    async def healthz(self, request: web.Request) -> web.StreamResponse:  # noqa: ARG002 - a handler's signature
        """`GET /healthz`: 200 while requests are answered at all and no part needs a restart."""
        if (stuck := self._alive()) is not None:
            raise Problem(503, "stuck", "Stuck", f"{stuck}. Restart this process.")
        return _answer({"status": "ok", "version": self.version})

    async def readyz(self, request: web.Request) -> web.StreamResponse:
        """`GET /readyz`: 200 when every part is ready, else 503.

        Which part is not, and why, is for this machine and for admins.
        """
        self._guard.check_host(request)
        obstacles = await self.not_ready()
        if not await self._may_see_parts(request):
            if obstacles:
                raise _not_ready(
                    "Send requests elsewhere until this answers 200; an admin's token tells more."
                )
            return _answer({"status": "ready"})
        if obstacles:
            listed = "; ".join(f"{part}: {reason}" for part, reason in obstacles.items())
            raise _not_ready(
                f"{listed}. Send requests elsewhere until this answers 200.",
                {"notReady": obstacles},
            )
        return _answer({"status": "ready", "parts": list(self._checks)})

    async def _may_see_parts(self, request: web.Request) -> bool:
        if self._guard.from_loopback(request):
            return True
        try:
            return (await self._guard.authenticate(request)).is_admin
        except Problem:
            return False

    async def metrics(self, request: web.Request) -> web.StreamResponse:
        """`GET /metrics`: Prometheus' text, for this machine and for admins."""
        if self._guard.from_loopback(request):
            self._guard.check(request)
        else:
            await self._guard.require_admin(request)
        encode, content_type = exposition.choose_encoder(request.headers.get("Accept", ""))
        headers = {**_NOT_CACHED, "Content-Type": content_type}
        return web.Response(body=encode(self._registry), headers=headers)

    async def stats(self, request: web.Request) -> web.StreamResponse:
        """`GET /api/stats`: the figures that the page's operator part shows."""
        await self._guard.require_admin(request)
        parts = await self._parts()
        figures = {name: read() for name, read in self._statistics.items()}
        return _answer(
            {"success": True, "data": {"version": self.version, "parts": parts, **figures}}
        )

    async def _parts(self) -> dict[str, str | None]:
        """Per part what is in the way; asked for at most every so often, however many look."""
        now = SYSTEM_CLOCK.monotonic()
        if self._seen is None or now - self._seen[0] > PARTS_KEPT:
            obstacles = await self.not_ready()
            self._seen = now, {part: obstacles.get(part) for part in self._checks}
        return self._seen[1]


def _not_ready(detail: str, extra: Mapping[str, object] | None = None) -> Problem:
    headers = {"Retry-After": "1"}
    return Problem(503, "not-ready", "Not ready", detail, headers=headers, extra=extra)


async def _ask(check: Check) -> str | None:
    try:
        async with asyncio.timeout(CHECK_TIME):
            return await check()
    except TimeoutError:
        return f"no answer within {CHECK_TIME:.0f} s"
    except Exception as error:  # a check that fails is an answer too
        return f"{type(error).__name__}: {error_text(error)}"[:300]


def _answer(content: object) -> web.Response:
    return web.Response(
        body=msgspec.json.encode(content), headers=_NOT_CACHED, content_type="application/json"
    )
