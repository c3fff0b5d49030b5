"""The HTTP application: which route is served by what."""

from collections.abc import Awaitable, Callable

from aiohttp import web

from tidings.gateway.api.assets import asset_handler, blob_handler
from tidings.gateway.api.create import create_handler
from tidings.gateway.api.dead_letters import DeadLetters
from tidings.gateway.api.health import health_handler, metrics_handler, ready_handler, stats_handler
from tidings.gateway.api.listing import list_handler
from tidings.gateway.api.mutations import Writes
from tidings.gateway.api.predictions import read_handler
from tidings.gateway.api.sse import EventStreams
from tidings.gateway.api.static_files import page_handler
from tidings.gateway.api.webhooks import webhook_handler
from tidings.gateway.auth.request_guard import RequestGuard
from tidings.gateway.gateway import Gateway, request_guard
from tidings.gateway.http.problems import Handler, Problem, answering
from tidings.gateway.openapi import specification_handlers

EXPOSED = "ETag, Location, Retry-After, Tidings-Degraded"
METHODS = "GET, HEAD, POST, PATCH, DELETE"
REQUEST_HEADERS = (
    "Authorization, Content-Type, If-None-Match, Idempotency-Key, Last-Event-ID, Prefer"
)


def build_app(gateway: Gateway) -> web.Application:
    """The whole application.

    Args:
        gateway: The parts that it works with.

    Returns:
        An application for `gateway.server.HttpServer` (or any aiohttp runner without an access log, and with
        `auto_decompress=False`: webhooks are proven on their raw bytes).
    """
    app = web.Application()
    guard = request_guard(gateway)
    writes = Writes(gateway, guard)
    streams = EventStreams(gateway, guard)
    gateway.event_streams = streams.__len__
    gateway.end_event_streams = streams.end
    webhook = webhook_handler(gateway)
    # The routes with the most traffic come first among those of equal depth.
    _add(app, "GET", "/api/predictions/{id}", read_handler(gateway, guard))
    _add(app, "PATCH", "/api/predictions/{id}", writes.patch)
    _add(app, "DELETE", "/api/predictions/{id}", writes.delete)
    _add(app, "POST", "/api/predictions/{id}/cancel", writes.cancel)
    _add(app, "GET", "/api/predictions/{id}/events", streams.one)
    _add(app, "GET", "/api/predictions/{id}/blobs/{hash}", blob_handler(gateway, guard))
    _add(app, "GET", "/assets/{path:.+}", asset_handler(gateway, guard))
    _add(app, "GET", "/api/events", streams.many)
    app.on_shutdown.append(streams.close)
    _add(app, "GET", "/api/predictions", list_handler(gateway, guard))
    _add(app, "POST", "/api/predictions", create_handler(gateway, guard, writes))
    _add(app, "POST", "/api/webhooks/{provider}", webhook)
    _add(app, "POST", "/api/webhooks/{provider}/{id}", webhook)
    dead_letters = DeadLetters(gateway, guard)
    _add(app, "GET", "/api/dead-letters", dead_letters.list)
    _add(app, "POST", "/api/dead-letters/redrive", dead_letters.redrive)
    _add(app, "GET", "/api/stats", stats_handler(gateway, guard))
    for path, specification in specification_handlers(gateway, guard).items():
        _add(app, "GET", path, specification)
    page = page_handler(gateway, guard)
    _add(app, "GET", "/", page)
    _add(app, "GET", "/static/{path:.+}", page)
    if gateway.websocket is not None:
        _add(app, "GET", "/api/ws", gateway.websocket)
    _add_health(app, gateway, guard)
    _finish(app, gateway, guard)
    return app


def build_health_app(gateway: Gateway) -> web.Application:
    """The application of a role that serves no clients: health, readiness and metrics."""
    app = web.Application()
    guard = request_guard(gateway)
    _add_health(app, gateway, guard)
    _finish(app, gateway, guard)
    return app


def _add(app: web.Application, method: str, path: str, handler: Handler) -> None:
    if method == "GET":
        app.router.add_get(path, answering(handler))
    else:
        app.router.add_route(method, path, answering(handler))


def _add_health(app: web.Application, gateway: Gateway, guard: RequestGuard) -> None:
    _add(app, "GET", "/healthz", health_handler(gateway))
    _add(app, "GET", "/readyz", ready_handler(gateway))
    _add(app, "GET", "/metrics", metrics_handler(gateway, guard))


def _finish(app: web.Application, gateway: Gateway, guard: RequestGuard) -> None:
    """Routes for what no route matches, and the headers by which browsers let other origins' pages read answers."""
    _add(app, "*", "/{path:.*}", _nowhere(app, guard))
    if gateway.allowed_origins:
        app.on_response_prepare.append(_share(gateway.allowed_origins))


def _nowhere(app: web.Application, guard: RequestGuard) -> Handler:
    async def nowhere(request: web.Request) -> web.StreamResponse:
        guard.check(request)
        allowed = await _methods(app, request)
        if not allowed:
            raise Problem(
                404,
                "no-route",
                "Not found",
                "Nothing is served at this address; /openapi.json lists what is.",
            )
        headers = {"Allow": ", ".join(sorted(allowed | {"OPTIONS"}))}
        if request.method == "OPTIONS":
            return web.Response(status=204, headers=headers)
        raise Problem(
            405,
            "method-not-allowed",
            "Method not allowed",
            f"{request.method[:20]} is not for this address; use {', '.join(sorted(allowed))}.",
            headers=headers,
        )

    return nowhere


async def _methods(app: web.Application, request: web.Request) -> set[str]:
    methods: set[str] = set()
    for resource in app.router.resources():
        _, allowed = await resource.resolve(request)
        methods |= allowed
    return methods - {"*"}


def _share(origins: frozenset[str]) -> Callable[[web.Request, web.StreamResponse], Awaitable[None]]:
    async def share(request: web.Request, response: web.StreamResponse) -> None:
        origin = request.headers.get("Origin")
        if origin is None or origin not in origins:
            return
        headers = response.headers
        headers["Access-Control-Allow-Origin"] = origin
        headers["Access-Control-Expose-Headers"] = EXPOSED
        headers.add("Vary", "Origin")
        if request.method == "OPTIONS":
            headers["Access-Control-Allow-Methods"] = METHODS
            headers["Access-Control-Allow-Headers"] = REQUEST_HEADERS
            headers["Access-Control-Max-Age"] = "7200"

    return share
