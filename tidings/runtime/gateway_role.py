"""The gateway role: hub, sessions, changes reader and HTTP behind one listening socket."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from importlib.metadata import version
from urllib.parse import urlsplit

from tidings.config.settings import Settings
from tidings.gateway.app import build_app
from tidings.gateway.auth.permissions import Authenticator
from tidings.gateway.auth.quotas import Owners
from tidings.gateway.auth.rate_limits import TrustedProxies
from tidings.gateway.gateway import Check, Gateway, Stamp, Submitter, request_guard
from tidings.gateway.http.server import HttpServer
from tidings.gateway.push.changes_reader import ChangesReader
from tidings.gateway.push.hub import SLICE, Hub, Sink
from tidings.gateway.push.session_registry import Sessions
from tidings.gateway.push.traced import traced
from tidings.gateway.websocket.aiohttp_upgrade import upgrade_route
from tidings.gateway.websocket.listener import FrontServer
from tidings.observability.health import HealthMonitor
from tidings.runtime import limits
from tidings.runtime.resources import Resources
from tidings.storage.wrappers.cache import CachedStore
from tidings.streams.changes.codec import Change
from tidings.streams.rules.event import Archive
from tidings.streams.support.tracing import Tracing

RETURNS = 2_000
"""Sessions a second that another gateway takes without its own clients noticing."""
LONGEST_SPREAD = 5.0
"""Seconds over which clients are asked to come back at most."""

OnChanges = Callable[[Sequence[Change]], None]


def authenticator_of(settings: Settings) -> Authenticator | None:
    """What checks tokens; None: everything is allowed."""
    if not settings.authenticates:
        return None
    # Only then: what checks signatures is a fifth of the rest's size.
    from tidings.gateway.auth.key_set import KeySet, fetch_from
    from tidings.gateway.auth.tokens import ApiKeys, Claims, KeySetTokens, SecretTokens, Tokens

    claims = Claims(audience=settings.jwt_audience, issuer=settings.jwt_issuer)
    found: list[ApiKeys | KeySetTokens | SecretTokens] = []
    if settings.api_keys:
        found.append(ApiKeys(settings.api_keys))
    if settings.jwt_secret:
        found.append(SecretTokens(settings.jwt_secret.encode(), claims))
    if settings.jwks_url:
        found.append(KeySetTokens(KeySet(fetch_from(settings.jwks_url)), claims))
    return Tokens(found)


def bare_gateway(
    settings: Settings, resources: Resources, cache: CachedStore, hub: Hub | None = None
) -> Gateway:
    """What the HTTP side works with, without anything that pushes."""
    hub = hub or Hub()
    return Gateway(
        log=resources.log,
        store=cache,
        hub=hub,
        reader=ChangesReader(resources.log, hub, cache),
        providers=resources.providers,
        authenticator=authenticator_of(settings),
        webhook_key=settings.webhook_key.encode() if settings.webhook_key else None,
        archive=Archive(settings.archive),
        objects=resources.objects,
        strict=resources.policy.strict,
        allowed_origins=frozenset(settings.allowed_origins),
        allowed_hosts=None if settings.anonymous else _own_hosts(settings),
        trusted_proxies=TrustedProxies(settings.trusted_proxies),
        limits=limits.address_limits(settings),
        connections=limits.address_connections(settings),
        streams_per_address=settings.address_streams,
        owners=Owners(limits.owner_limits(settings)),
        max_body=settings.max_body,
        version=version("tidings"),
        image_sources=tuple(f"http://{place}" for place in settings.assets_allow),
    )


def _own_hosts(settings: Settings) -> frozenset[str]:
    """The name that the service has for the outside, which pages on it may use too."""
    named = urlsplit(settings.public_url or "").hostname
    return frozenset({named}) if named else frozenset()


class ObservedHub(Hub):
    """A hub that tells the process itself of every change, before those who watch.

    Args:
        on_changes: Told.
        tracing: Where the spans of sampled changes go.
        on_error: Told of a sink whose `deliver` raised, as with `Hub`.
    """

    def __init__(
        self,
        on_changes: OnChanges,
        tracing: Tracing | None = None,
        *,
        on_error: Callable[[Sink, Exception], None],
    ) -> None:
        super().__init__(on_error=on_error)
        self._on_changes = on_changes
        self._tracing = tracing

    def fan_out(self, changes: Sequence[Change], slice: int = SLICE) -> Iterator[None]:
        """See `Hub.fan_out`."""
        self._on_changes(changes)
        fan_out = super().fan_out(changes, slice)
        return fan_out if self._tracing is None else traced(self._tracing, self, changes, fan_out)


class GatewayRole:
    """Everything between the listening socket and the log.

    Args:
        settings: As checked.
        resources: What is open.
        cache: In front of the store; shared with a processor in the same process.
        on_changes: Told of every change; a reconciler in the same process need not read them again.
        on_gap: Called when changes were missed for good.
        tracing: Where the spans of sampled webhooks and changes go.
    """

    def __init__(
        self,
        settings: Settings,
        resources: Resources,
        cache: CachedStore,
        *,
        on_changes: OnChanges | None = None,
        on_gap: Callable[[], None] | None = None,
        tracing: Tracing | None = None,
    ) -> None:
        hub = (
            Hub(on_error=self._failed)
            if on_changes is None
            else ObservedHub(on_changes, tracing, on_error=self._failed)
        )
        gateway = self._gateway = bare_gateway(settings, resources, cache, hub)
        gateway.tracing = tracing
        self.sessions = Sessions(
            gateway.hub,
            cache,
            gateway.authenticator,
            limits.session_limits(settings),
            owners=gateway.owners,
        )
        self._on_gap = on_gap
        projection = resources.projecting is not None
        self.reader = ChangesReader(
            resources.log,
            gateway.hub,
            cache,
            from_beginning=projection,
            tombstones=projection,
            on_gap=self._on_missed_changes,
        )
        gateway.reader = self.reader
        self._checks: dict[str, Check] = {
            "changes": self._changes_ready,
            "store": self._store_ready(resources, cache),
        }
        if (fallback := resources.fallback) is not None:
            gateway.degraded = lambda: fallback.degraded
        gateway.ready = self._checks
        self._behind: Check | None = None
        self._statistics: dict[str, Callable[[], object]] = {"gateway": self._figures}
        gateway.stats = self._statistics

    @property
    def gateway(self) -> Gateway:
        """What the HTTP side works with."""
        return self._gateway

    def observed_by(self, health: HealthMonitor) -> None:
        """What watches this gateway from outside: its lag counts for readiness, and where it is stuck for liveness."""
        gateway = self._gateway

        def streams() -> int:
            return gateway.event_streams()  # another one by then: the application brings it

        health.observe_gateway(self.sessions, self.reader, gateway.hub, gateway.webhooks, streams)
        gateway.alive = health.alive
        self.add_statistics("lag", health.lags)
        self._behind = health.changes_ready
        self._checks["log"] = health.log_ready

    def add_check(self, part: str, check: Check) -> None:
        """One more part that must be ready."""
        self._checks[part] = check

    def submit_by(self, submitter: Submitter, stamp: Stamp) -> None:
        """What takes charge of new predictions, and what completes their orders."""
        self._gateway.submitter, self._gateway.stamp = submitter, stamp

    def add_statistics(self, name: str, read: Callable[[], object]) -> None:
        """One more group of figures for `/api/stats`."""
        self._statistics[name] = read

    @asynccontextmanager
    async def serving(self, listening: socket.socket) -> AsyncIterator[int]:
        """Serve the socket until the block ends; gives the port."""
        gateway = self._gateway

        def http() -> asyncio.Protocol:
            return server.connection()

        front = FrontServer(self.sessions, http, request_guard(gateway).admit_websocket)
        gateway.websocket = upgrade_route(front.door)
        server = HttpServer(build_app(gateway))

        async def farewell() -> None:
            spread = min(LONGEST_SPREAD, len(self.sessions) / RETURNS)
            await front.close(retry_after_spread=spread, limit=1.5)

        async with AsyncExitStack() as stack:
            stack.push_async_callback(self.reader.close)
            stack.push_async_callback(server.close)
            stack.push_async_callback(farewell)
            await server.start()
            await self.reader.start()
            await self.reader.ready()
            yield await front.serve(listening)

    def _failed(self, sink: Sink, error: Exception) -> None:
        self.sessions.failed(sink, error)

    def _on_missed_changes(self) -> None:
        if self._on_gap is not None:
            self._on_gap()
        self.sessions.spawn(self._resync())

    async def _resync(self) -> None:
        """Let every client come back for what is newest, once there is something newer to be had than it missed."""
        await self.reader.ready()
        self.sessions.resync()
        self._gateway.end_event_streams()

    async def _changes_ready(self) -> str | None:
        if not self.reader.caught_up:
            return "the reader of the changes has not caught up"
        return await self._behind() if self._behind is not None else None

    def _store_ready(self, resources: Resources, cache: CachedStore) -> Check:
        async def check() -> str | None:
            if resources.fallback is not None:
                await resources.fallback.get(
                    "tidings-readiness"
                )  # reads go on while one of the two answers
            else:
                await cache.get_fresh("tidings-readiness")
            return None

        return check

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
