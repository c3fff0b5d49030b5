"""The HTTP application: its routes, and what is answered elsewhere."""

from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from aiohttp import web

from tidings.gateway.api.assets import asset_handler, blob_handler
from tidings.gateway.api.create import CreateDefaults, Submitter, create_handler
from tidings.gateway.api.dead_letters import DeadLetters
from tidings.gateway.api.health import Health
from tidings.gateway.api.mutations import EventWriter, Mutations
from tidings.gateway.api.outbound_webhooks import Deliveries
from tidings.gateway.api.predictions import PUBLIC_URL, Records, read_handler
from tidings.gateway.api.raw_reports import raw_reports_handler
from tidings.gateway.api.sse import EventStreams
from tidings.gateway.api.static_files import DOCS, document_handler, page_handler
from tidings.gateway.api.webhook_counts import WebhookCounts
from tidings.gateway.api.webhooks import Webhooks
from tidings.gateway.asgi.fast_lane import FAST_LANE, FastLane
from tidings.gateway.auth.cursor_seal import CursorSeal
from tidings.gateway.auth.request_guard import RequestGuard
from tidings.gateway.http.held_bytes import HeldBytes
from tidings.gateway.http.problems import Handler, Problem, answering
from tidings.gateway.http.server import TAKER
from tidings.gateway.lifecycle.answers import answer_handler
from tidings.gateway.lifecycle.groups import Groups, delete_handler, members_handler
from tidings.gateway.lifecycle.retries import newest_attempt, retry_handler
from tidings.gateway.lists.listing import list_handler
from tidings.gateway.lists.usage import usage_handler
from tidings.gateway.openapi import asyncapi, openapi
from tidings.gateway.push.changes_reader import ChangesReader
from tidings.gateway.push.hub import Hub
from tidings.gateway.push.text_hub import TextHub
from tidings.gateway.routes import HEALTH_ROUTES, ROUTES, Endpoints, Route
from tidings.gateway.text.reads import TextReads
from tidings.gateway.text.writes import TextWrites
from tidings.storage.object_storage import ObjectStorage
from tidings.storage.wrappers.cache import CachedStore
from tidings.streams.lifecycle.follow_ups import FollowUps
from tidings.streams.log.protocol import Log
from tidings.streams.notifications.address import AddressBook
from tidings.streams.providers.protocol import Provider
from tidings.streams.rules.event import Archive
from tidings.streams.support.tracing import Tracing

EXPOSED = (
    "ETag, Location, Retry-After, Tidings-Degraded, Stream-Next-Offset, Stream-Up-To-Date, "
    "Stream-Closed, Stream-Cursor, Producer-Epoch, Producer-Seq, Producer-Expected-Seq, "
    "Producer-Received-Seq, Tidings-Next-Cursor, Tidings-Public-Url"
)
METHODS = "GET, HEAD, POST, PUT, PATCH, DELETE"
REQUEST_HEADERS = (
    "Authorization, Content-Type, If-None-Match, Idempotency-Key, Last-Event-ID, Prefer, "
    "Stream-Closed, Stream-Seq, Producer-Id, Producer-Epoch, Producer-Seq"
)

WEBHOOKS_WITH_SLASHES = (
    "/{a:/*}api/{b:/*}webhooks/{c:/*}{provider}{d:/*}",
    "/{a:/*}api/{b:/*}webhooks/{c:/*}{provider}/{d:/*}{id}{e:/*}",
)
"""Addresses that were put together with a slash too many: within, or at the end."""
Served = TypeVar("Served")


@dataclass(frozen=True, kw_only=True, slots=True)
class Parts:
    """What handlers are made of; what one means is said at the handlers that use it."""

    log: Log
    store: CachedStore
    reader: ChangesReader
    health: Health
    event_streams: EventStreams
    websocket: Handler
    texts: TextHub | None = None
    """None: nothing here tells of them."""
    providers: Mapping[str, Provider]
    held: HeldBytes
    webhook_counts: WebhookCounts | None = None
    webhook_key: bytes | None = None
    submitter: Submitter | None = None
    create_defaults: CreateDefaults | None = None
    follow_ups: FollowUps | None = None
    addresses: AddressBook | None = None
    archive: Archive = Archive.AFTER
    objects: ObjectStorage | None = None
    strict: bool = False
    degraded: Callable[[], bool] = bool
    max_body: int = 10 * 1024 * 1024
    record_max: int = 512 * 1024
    image_sources: tuple[str, ...] = ()
    public_url: str | None = None
    ttl: int = 0
    tracing: Tracing | None = None


def connect(guard: RequestGuard, parts: Parts) -> Endpoints:
    """Give each handler the few parts that it uses."""
    log, store, reader, held = parts.log, parts.store, parts.reader, parts.held
    health, objects, public_url = parts.health, parts.objects, parts.public_url
    texts = TextHub(log, Hub(), store) if parts.texts is None else parts.texts
    records = Records(store, parts.degraded)
    writer = EventWriter(log, reader, parts.archive, parts.tracing)
    max_body, record_max = parts.max_body, parts.record_max
    mutations = Mutations(
        guard, records, writer, held, max_body=max_body, record_max=record_max, strict=parts.strict
    )
    lists = list_handler(guard, store, CursorSeal(parts.webhook_key), held)
    return Endpoints(
        read=read_handler(
            guard, records, reader, held, partial(newest_attempt, records), public_url
        ),
        raw_reports=raw_reports_handler(guard, records, log, held),
        list=members_handler(guard, records, parts.follow_ups, lists),
        usage=usage_handler(guard, store, parts.ttl),
        create=_creation(guard, parts, writer),
        mutations=mutations,
        text_reads=TextReads(guard, records, texts, parts.event_streams, objects),
        text_writes=TextWrites(guard, records, writer, texts, mutations, held, public_url),
        delete=delete_handler(mutations, records, parts.follow_ups),
        retry=retry_handler(
            guard,
            records,
            writer,
            reader,
            held,
            max_body=max_body,
            key=parts.webhook_key or b"",
            submitter=parts.submitter,
        ),
        answer=answer_handler(
            guard, records, writer, reader, held, max_body=max_body, record_max=record_max
        ),
        event_streams=parts.event_streams,
        blob=blob_handler(guard, records, objects),
        asset=asset_handler(guard, objects),
        webhooks=_reception(guard, parts),
        dead_letters=DeadLetters(guard, log, held, max_body),
        deliveries=Deliveries(guard, log, configured=parts.addresses is not None),
        health=health,
        page=page_handler(guard, parts.image_sources),
        docs=page_handler(guard, index=DOCS),
        openapi=document_handler(guard, partial(openapi, health.version)),
        asyncapi=document_handler(guard, partial(asyncapi, health.version)),
        websocket=parts.websocket,
    )


def _creation(guard: RequestGuard, parts: Parts, writer: EventWriter) -> Handler:
    return create_handler(
        guard,
        parts.store,
        writer,
        parts.held,
        max_body=parts.max_body,
        strict=parts.strict,
        record_max=parts.record_max,
        key=parts.webhook_key or b"",
        submitter=parts.submitter,
        defaults=parts.create_defaults,
        groups=Groups(parts.store, parts.submitter, parts.create_defaults),
        addresses=parts.addresses,
    )


def _reception(guard: RequestGuard, parts: Parts) -> Webhooks:
    return Webhooks(
        guard,
        parts.log,
        parts.providers,
        parts.held,
        webhook_key=parts.webhook_key,
        max_body=parts.max_body,
        archive=parts.archive,
        tracing=parts.tracing,
        counts=parts.webhook_counts,
    )


def build_app(
    endpoints: Endpoints,
    guard: RequestGuard,
    allowed_origins: frozenset[str] = frozenset(),
    public_url: str | None = None,
) -> web.Application:
    """The whole application.

    Args:
        endpoints: What serves the routes.
        guard: Who may come in.
        allowed_origins: Whose pages may read answers, beside the gateway's own.
        public_url: How the service is reached from outside; None: as each caller reaches it.

    Returns:
        An application for `gateway.http.server.HttpServer` (or any aiohttp runner without an access
        log, and with `auto_decompress=False`: webhooks are verified on their raw bytes).
    """
    app = web.Application()
    _add(app, ROUTES, endpoints)
    app.on_shutdown.append(endpoints.event_streams.close)
    _add(app, HEALTH_ROUTES, endpoints.health)
    for path in WEBHOOKS_WITH_SLASHES:
        app.router.add_post(path, answering(endpoints.webhooks.receive))
    app.router.add_route(
        "*", "/{path:(?s:.*)}", answering(_nowhere(app, guard, endpoints.webhooks))
    )
    app[TAKER] = endpoints.webhooks.take
    app[FAST_LANE] = FastLane(app, endpoints.read, endpoints.webhooks.receive)
    if public_url is not None:
        app.on_response_prepare.append(_addressed(public_url))
    if allowed_origins:
        app.on_response_prepare.append(_share(guard.allows_origin))
    app.on_response_prepare.append(_anonymous)
    return app


def build_health_app(health: Health, guard: RequestGuard) -> web.Application:
    """The application of a role that serves no clients: health, readiness and metrics."""
    app = web.Application()
    _add(app, HEALTH_ROUTES, health)
    app.on_response_prepare.append(_anonymous)
    app.router.add_route("*", "/{path:(?s:.*)}", answering(_nowhere(app, guard)))
    return app


def _add(app: web.Application, routes: Iterable[Route[Served]], served: Served) -> None:
    for route in routes:
        handler = answering(route.handler(served))
        path = route.path.replace("{path}", "{path:(?s:.+)}")
        if route.method == "GET":
            app.router.add_get(path, handler)  # and HEAD
        else:
            app.router.add_route(route.method, path, handler)


def _no_route() -> Problem:
    return Problem(
        404,
        "no-route",
        "Not found",
        "Nothing is served at this address; /openapi.json lists what is.",
    )


def _nowhere(
    app: web.Application, guard: RequestGuard, webhooks: Webhooks | None = None
) -> Handler:
    async def nowhere(request: web.Request) -> web.StreamResponse:
        allowed = await _methods(app, request)
        if not allowed and request.method == "POST" and webhooks is not None:
            # A sender does not read answers: what is misaddressed shows in our log and metrics.
            webhooks.refuse(request, "", _no_route())
        guard.check(request)
        if not allowed:
            raise _no_route()
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


async def _anonymous(request: web.Request, response: web.StreamResponse) -> None:  # noqa: ARG001
    """Tell nobody which server and version this is; aiohttp would."""
    response.headers.popall("Server", None)


def _addressed(
    public_url: str,
) -> Callable[[web.Request, web.StreamResponse], Awaitable[None]]:
    async def addressed(request: web.Request, response: web.StreamResponse) -> None:  # noqa: ARG001
        """Say how the service is reached from outside: what an answer names of ours lies there."""
        headers = response.headers
        headers[PUBLIC_URL] = public_url
        location = headers.get("Location", "")
        if location.startswith("/"):
            headers["Location"] = public_url + location

    return addressed


def _share(
    allows: Callable[[str], bool],
) -> Callable[[web.Request, web.StreamResponse], Awaitable[None]]:
    async def share(request: web.Request, response: web.StreamResponse) -> None:
        origin = request.headers.get("Origin")
        if origin is None or not allows(origin):
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
