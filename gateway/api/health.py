"""Whether the service is alive and ready, its metrics, and its figures. The first three are on every role's port."""

import asyncio

import msgspec
from aiohttp import web
from prometheus_client import exposition

from tidings.gateway.auth.request_guard import RequestGuard
from tidings.gateway.gateway import Gateway
from tidings.gateway.http.problems import Handler, Problem

CHECK_TIME = 2.0
"""Seconds that a readiness check may take; a part that says nothing for longer is not ready."""

_NOT_CACHED = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}


def health_handler(gateway: Gateway) -> Handler:
    """`GET /healthz`: 200 as long as requests are answered at all, and no part needs a restart to go on."""
    body = msgspec.json.encode({"status": "ok", "version": gateway.version})

    async def health(request: web.Request) -> web.StreamResponse:  # noqa: ARG001 - a handler's signature
        if (stuck := gateway.alive()) is not None:
            raise Problem(503, "stuck", "Stuck", f"{stuck}. Restart this process.")
        return web.Response(body=body, headers=_NOT_CACHED, content_type="application/json")

    return health


def ready_handler(gateway: Gateway) -> Handler:
    """`GET /readyz`: 200 when every part is ready, else 503 with those that are not and why."""

    async def ready(request: web.Request) -> web.StreamResponse:  # noqa: ARG001 - a handler's signature
        obstacles = await not_ready(gateway)
        if obstacles:
            listed = "; ".join(f"{part}: {reason}" for part, reason in obstacles.items())
            raise Problem(
                503,
                "not-ready",
                "Not ready",
                f"{listed}. Send requests elsewhere until this answers 200.",
                headers={"Retry-After": "1"},
                extra={"notReady": obstacles},
            )
        body = msgspec.json.encode({"status": "ready", "parts": list(gateway.ready)})
        return web.Response(body=body, headers=_NOT_CACHED, content_type="application/json")

    return ready


async def not_ready(gateway: Gateway) -> dict[str, str]:
    """Per part that is not ready, what is in the way."""
    results = await asyncio.gather(*(_ask(gateway, part) for part in gateway.ready))
    return {
        part: reason
        for part, reason in zip(gateway.ready, results, strict=True)
        if reason is not None
    }


async def _ask(gateway: Gateway, part: str) -> str | None:
    try:
        async with asyncio.timeout(CHECK_TIME):
            return await gateway.ready[part]()
    except TimeoutError:
        return f"no answer within {CHECK_TIME:.0f} s"
    except Exception as error:  # a check that fails is an answer too
        return f"{type(error).__name__}: {error}"[:300]


def metrics_handler(gateway: Gateway, guard: RequestGuard) -> Handler:
    """`GET /metrics`: Prometheus' text, for this machine and for admins."""

    async def metrics(request: web.Request) -> web.StreamResponse:
        if guard.from_loopback(request):
            guard.check(request)
        else:
            await guard.require_admin(request)
        encode, content_type = exposition.choose_encoder(request.headers.get("Accept", ""))
        headers = {**_NOT_CACHED, "Content-Type": content_type}
        return web.Response(body=encode(gateway.registry), headers=headers)

    return metrics


def submits(gateway: Gateway) -> list[str]:
    """The providers that predictions can be started at."""
    submitter = gateway.submitter
    return (
        []
        if submitter is None
        else [name for name in gateway.providers if submitter.refusal(name) is None]
    )


def stats_handler(gateway: Gateway, guard: RequestGuard) -> Handler:
    """`GET /api/stats`: the figures that the page's operator part shows."""

    async def stats(request: web.Request) -> web.StreamResponse:
        await guard.require_admin(request)
        figures = {name: read() for name, read in gateway.stats.items()}
        about = {"version": gateway.version, "submits": submits(gateway)}
        body = msgspec.json.encode({"success": True, "data": {**about, **figures}})
        return web.Response(body=body, headers=_NOT_CACHED, content_type="application/json")

    return stats
