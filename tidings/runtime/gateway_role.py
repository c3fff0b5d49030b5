"""The gateway role: hub, sessions, changes reader and HTTP behind one listening socket."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from importlib.metadata import version
from urllib.parse import urlsplit

from aiohttp import web

from tidings.config.settings import Settings
from tidings.gateway.api.create import CreateDefaults, Submitter
from tidings.gateway.api.health import Health
from tidings.gateway.api.sse import EventStreams
from tidings.gateway.api.webhook_counts import WebhookCounts
from tidings.gateway.app import Parts, build_app, build_health_app, connect
from tidings.gateway.asgi.application import AsgiGateway, not_upgraded
from tidings.gateway.auth.permissions import Authenticator, NoTokens
from tidings.gateway.auth.quotas import OwnerQuotas
from tidings.gateway.auth.rate_limits import TrustedProxies
from tidings.gateway.auth.request_guard import RequestGuard, Rights
from tidings.gateway.http.held_bytes import HeldBytes
from tidings.gateway.http.problems import Handler
from tidings.gateway.http.server import HttpServer
from tidings.gateway.push.changes_reader import ChangesReader, OnChanges
from tidings.gateway.push.expiry import Expiries
from tidings.gateway.push.hub import Hub, Subscriber
from tidings.gateway.push.session_registry import SessionRegistry
from tidings.gateway.push.text_hub import TextHub
from tidings.gateway.websocket.aiohttp_upgrade import upgrade_route
from tidings.gateway.websocket.listener import Listener
from tidings.observability.gateway_metrics import GatewayParts
from tidings.observability.health import HealthMonitor
from tidings.runtime import limits
from tidings.runtime.authentication import authenticator_of
from tidings.runtime.notifier_role import address_book_of
from tidings.runtime.resources import Resources
from tidings.storage.errors import StorageError
from tidings.storage.wrappers.cache import CachedStore
from tidings.streams.changes.recovery import recovered
from tidings.streams.lifecycle.follow_ups import FollowUps
from tidings.streams.log.protocol import LogError
from tidings.streams.processing.processor import GROUP
from tidings.streams.rules.event import Archive
from tidings.streams.support.tracing import Tracing

RETURNS = 2_000
"""Sessions a second that another gateway takes without its own clients noticing."""
LONGEST_SPREAD = 5.0
"""Seconds over which clients are asked to come back at most."""


def request_guard(
    settings: Settings, authenticator: Authenticator | None, rights: Rights | None = None
) -> RequestGuard:
    """What checks requests before a route serves them."""
    return RequestGuard(
        authenticator=authenticator,
        allowed_origins=frozenset(settings.allowed_origins),
        allowed_hosts=None if settings.anonymous else _own_hosts(settings),
        trusted_proxies=TrustedProxies(settings.trusted_proxies),
        limits=limits.address_limits(settings),
        connections=limits.address_connections(settings),
        rights=rights,
    )


def _outside(settings: Settings) -> str | None:
    """How the service is reached from outside, where that is said whole; port 0 means any."""
    url = settings.public_url
    return None if url is None or urlsplit(url).port == 0 else url.rstrip("/")


def _own_hosts(settings: Settings) -> frozenset[str]:
    """The name that the service has for the outside, which pages on it may use too."""
    named = urlsplit(settings.public_url or "").hostname
    return frozenset({named}) if named else frozenset()


class GatewayRole:
    """Everything between the listening socket and the log.

    Args:
        settings: As checked.
        resources: What is open.
        cache: In front of the store; shared with a processor in the same process.
        health_monitor: Watches it from outside: its lag counts for readiness, and if it is stuck
            for liveness.
        on_changes: Told of every change; a reconciler in the same process need not read them again.
        on_gap: Called when changes were missed for good.
        tracing: Where the spans of sampled webhooks and changes go.
        rights: What a host application gives its callers, if it serves this gateway.
    """

    def __init__(
        self,
        settings: Settings,
        resources: Resources,
        cache: CachedStore,
        health_monitor: HealthMonitor,
        *,
        on_changes: OnChanges | None = None,
        on_gap: Callable[[], None] | None = None,
        tracing: Tracing | None = None,
        rights: Rights | None = None,
    ) -> None:
        self._settings = settings
        self._resources = resources
        self._cache = cache
        self._tracing = tracing
        self._on_gap = on_gap
        self._close: Callable[[], Awaitable[None]] | None = None
        self._submitter: Submitter | None = None
        self._create_defaults: CreateDefaults | None = None
        self._follow_ups: FollowUps | None = None
        self._addresses = address_book_of(settings)
        hub = self.hub = Hub(on_error=self._failed)
        owners = OwnerQuotas(limits.owner_limits(settings))
        self.held = HeldBytes(limits.held_limits(settings))
        authenticator = authenticator_of(settings)
        self._guard = request_guard(settings, authenticator, rights)
        self.webhook_counts = WebhookCounts()
        self.texts = TextHub(resources.log, hub, cache, settings.text_window)
        self.event_streams = EventStreams(
            self._guard,
            cache,
            hub,
            self.held,
            owners=owners,
            per_address=settings.address_streams,
            texts=self.texts,
        )
        self.sessions = SessionRegistry(
            hub,
            cache,
            NoTokens() if authenticator is None and rights is not None else authenticator,
            limits.session_limits(settings),
            owners=owners,
            held=self.held,
            texts=self.texts,
            public_url=_outside(settings),
        )
        projection = resources.projecting is not None
        self.expiries = Expiries(hub, cache.load)
        self.reader = ChangesReader(
            resources.log,
            hub,
            cache,
            texts=self.texts,
            from_beginning=projection,
            tombstones=projection,
            on_changes=on_changes,
            on_gap=self._on_missed_changes,
            expiries=self.expiries,
            tracing=tracing,
        )
        self._health_monitor = health_monitor
        self._observed_by(health_monitor)
        self.health = self._health()

    def _observed_by(self, health_monitor: HealthMonitor) -> None:
        health_monitor.observe_gateway(
            GatewayParts(
                sessions=self.sessions,
                reader=self.reader,
                hub=self.hub,
                webhooks=self.webhook_counts,
                event_streams=self.event_streams.__len__,
                texts=self.texts,
                held=self.held,
            )
        )

    def _health(self) -> Health:
        """What `/healthz`, `/readyz`, the metrics and the statistics say."""
        health_monitor = self._health_monitor
        health = Health(
            self._guard,
            version=version("tidings"),
            alive=health_monitor.alive,
            registry=health_monitor.registry,
        )
        health.add_check("changes", self._changes_ready)
        health.add_check("store", self._store_ready)
        health.add_check("log", health_monitor.log_ready)
        health.add_statistics("submits", self._submits)
        health.add_statistics("notifies", lambda: self._addresses is not None)
        health.add_statistics("gateway", self._figures)
        health.add_statistics("lag", health_monitor.lags)
        return health

    def submit_by(
        self, submitter: Submitter, defaults: CreateDefaults, follow_ups: FollowUps
    ) -> None:
        """What takes charge of new predictions, completes their orders, and knows groups' members."""
        self._submitter, self._create_defaults = submitter, defaults
        self._follow_ups = follow_ups

    @asynccontextmanager
    async def serving(self, listening: socket.socket) -> AsyncIterator[int]:
        """Serve the socket until the block ends; gives the port."""

        def http() -> asyncio.Protocol:
            return server.connection()

        listener = Listener(self.sessions, http, self._guard.admit_websocket)
        server = HttpServer(self._app(upgrade_route(listener.acceptor)))
        async with self._open(listener, server):
            yield await listener.serve(listening)

    @asynccontextmanager
    async def mounted(self, prefix: str) -> AsyncIterator[AsgiGateway]:
        """What serves the scopes of a host's server until the block ends; nothing is listened on."""
        server = HttpServer(self._app(not_upgraded))
        listener = Listener(self.sessions, server.connection, self._guard.admit_websocket)
        async with self._open(listener, server):
            self.sessions.start()
            yield AsgiGateway(server, listener.acceptor, self._guard, prefix)

    @asynccontextmanager
    async def _open(self, listener: Listener, server: HttpServer) -> AsyncIterator[None]:
        async def farewell() -> None:
            spread = min(LONGEST_SPREAD, len(self.sessions) / RETURNS)
            await listener.close(retry_after_spread=spread, limit=1.5)

        self._close = farewell
        async with AsyncExitStack() as stack:
            stack.push_async_callback(self.texts.close)
            expiring = asyncio.create_task(self.expiries.run(), name="expiries")
            stack.callback(expiring.cancel)
            stack.push_async_callback(self.reader.close)
            stack.push_async_callback(server.close)
            # What is appended is answered as such now, while there is time to answer.
            stack.callback(self.reader.stop_waiting)
            stack.push_async_callback(farewell)
            await server.start()
            await self.texts.start()
            await self.reader.start()
            await self.reader.ready()
            await self._store_recovered()
            yield

    async def _store_recovered(self) -> None:
        """Open only once a store that does not wait for the disk has what was announced of it."""
        resources = self._resources
        if self._settings.store.startswith("sqlite:"):
            # What does not answer now is no reason not to open: readiness says what is down.
            with contextlib.suppress(StorageError, LogError):
                await recovered(resources.log, resources.store, GROUP)

    async def farewell(self) -> None:
        """Send every client away that waits for news, ahead of the end."""
        self.event_streams.end()
        self.reader.stop_waiting()
        if self._close is not None:
            await self._close()

    def health_app(self) -> web.Application:
        """Health and metrics alone, for a port of this process's own."""
        return build_health_app(self.health, self._guard)

    def _app(self, websocket: Handler) -> web.Application:
        settings, resources = self._settings, self._resources
        fallback = resources.fallback
        endpoints = connect(
            self._guard,
            Parts(
                log=resources.log,
                store=self._cache,
                reader=self.reader,
                health=self.health,
                event_streams=self.event_streams,
                websocket=websocket,
                texts=self.texts,
                providers=resources.providers,
                held=self.held,
                webhook_counts=self.webhook_counts,
                webhook_key=settings.webhook_key.encode() if settings.webhook_key else None,
                submitter=self._submitter,
                create_defaults=self._create_defaults,
                follow_ups=self._follow_ups,
                addresses=self._addresses,
                archive=Archive(settings.archive),
                objects=resources.objects,
                strict=resources.policy.strict,
                degraded=bool if fallback is None else lambda: fallback.degraded,
                max_body=settings.max_body,
                record_max=resources.policy.record_max,
                image_sources=tuple(f"http://{place}" for place in settings.assets_allow),
                public_url=_outside(settings),
                ttl=int(settings.ttl),
                tracing=self._tracing,
            ),
        )
        return build_app(
            endpoints,
            self._guard,
            frozenset(settings.allowed_origins),
            public_url=_outside(settings),
        )

    def _failed(self, subscriber: Subscriber, error: Exception) -> None:
        self.sessions.failed(subscriber, error)

    def _on_missed_changes(self) -> None:
        if self._on_gap is not None:
            self._on_gap()
        self.sessions.spawn(self._resync())

    async def _resync(self) -> None:
        """Let every client come back for the newest state, once the missed changes can be had."""
        await self.reader.ready()
        self.sessions.resync()
        self.event_streams.end()

    async def _changes_ready(self) -> str | None:
        if not self.reader.caught_up:
            return "the reader of the changes has not caught up"
        return await self._health_monitor.changes_ready()

    async def _store_ready(self) -> str | None:
        fallback = self._resources.fallback
        if fallback is not None:  # reads go on while one of the two answers
            await fallback.get("tidings-readiness")
        else:
            await self._cache.get_fresh("tidings-readiness")
        return None

    def _submits(self) -> list[str]:
        """The providers that predictions can be started at."""
        submitter = self._submitter
        if submitter is None:
            return []
        return [name for name in self._resources.providers if submitter.refusal(name) is None]

    def _figures(self) -> dict[str, object]:
        sessions = self.sessions
        return {
            "sessions": len(sessions),
            "opened": sessions.opened,
            "conflated": sessions.conflated,
            "closed": {str(code): count for code, count in sessions.closed.items()},
            "changes": self.reader.changes,
            "caughtUp": self.reader.caught_up,
        }
