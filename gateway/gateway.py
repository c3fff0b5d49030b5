"""What the HTTP side of a gateway is made of: its collaborators, handed in, and the limits in force."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from aiohttp import web
from msgspec import Raw
from prometheus_client import REGISTRY, CollectorRegistry

from tidings.gateway.api.webhook_counts import WebhookCounts
from tidings.gateway.auth.permissions import Authenticator
from tidings.gateway.auth.quotas import Owners
from tidings.gateway.auth.rate_limits import AddressConnections, AddressLimits, TrustedProxies
from tidings.gateway.auth.request_guard import RequestGuard
from tidings.gateway.push.hub import Hub
from tidings.storage.object_storage import ObjectStorage
from tidings.storage.prediction import Prediction
from tidings.storage.store import Capabilities, Page, Query, Stored
from tidings.streams.changes.codec import Change
from tidings.streams.log.protocol import Log, Position
from tidings.streams.providers.protocol import Provider
from tidings.streams.rules.event import Archive
from tidings.streams.support.tracing import Tracing

WRITE_WAIT = 5.0
"""Seconds that a write waits for the change it caused, and for the log to take it."""


class StatusStore(Protocol):
    """The store behind its cache, as the gateway reads it."""

    @property
    def capabilities(self) -> Capabilities:
        """What it lists by."""

    def peek(self, prediction_id: str) -> Stored | None:
        """What the cache holds and may show right now; None: ask `get`."""

    async def get(self, prediction_id: str) -> Stored | None:
        """An outside read, from the cache where it is fresh."""

    async def get_fresh(self, prediction_id: str) -> Stored | None:
        """An outside read that passes the cache by."""

    async def load_fresh(self, prediction_ids: Sequence[str]) -> dict[str, Stored]:
        """What stands in the store now, deleted and expired ones included."""

    async def list(self, query: Query) -> Page:
        """A page of what `get` would show."""


class Waiter(Protocol):
    """The reader of the changes topic, as far as writes need it."""

    async def wait_for(
        self, prediction_id: str, position: Position, timeout: float
    ) -> Change | None:
        """Wait for a change of this prediction at or past the position; None where it has not come in time."""

    async def wait_for_version(
        self, prediction_id: str, beyond: int, timeout: float
    ) -> Change | None:
        """Wait for a change with a version above `beyond`; None where it has not come in time."""


class Submitter(Protocol):
    """What hands predictions to providers."""

    def refusal(self, provider: str) -> str | None:
        """Why nothing can be submitted to this provider, with the remedy; None: it can."""

    async def submit(self, record: Prediction) -> None:
        """Take charge of a prediction that has just been written down; returns without waiting for the provider."""


Stamp = Callable[[Mapping[str, Raw]], Awaitable[dict[str, Raw]]]
"""What a new prediction gets that its order, given by members as JSON, does not say."""

Check = Callable[[], Awaitable[str | None]]
"""Whether a part is ready: None, or what is in the way."""


def _never() -> bool:
    return False


def _alive() -> None:
    """Nothing is known to be in the way."""


def _none_open() -> None:
    """There is no event stream to end."""


@dataclass(kw_only=True)
class Gateway:
    """The parts that the HTTP routes work with."""

    log: Log
    store: StatusStore
    reader: Waiter
    hub: Hub
    providers: Mapping[str, Provider] = field(default_factory=dict)
    authenticator: Authenticator | None = None
    """None: everything is allowed, with `Host` and `Origin` checked."""
    submitter: Submitter | None = None
    stamp: Stamp | None = None
    webhooks: WebhookCounts = field(default_factory=WebhookCounts)
    webhook_key: bytes | None = None
    """Key of the tokens in webhook URLs; None: no URL names a prediction."""
    archive: Archive = Archive.AFTER
    objects: ObjectStorage | None = None
    """Where files and large fields lie; None: nowhere."""
    strict: bool = False
    allowed_origins: frozenset[str] = frozenset()
    """Origins of browsers, as they send them (`https://app.example`), beside the gateway's own."""
    allowed_hosts: frozenset[str] | None = frozenset()
    """Hosts (without port) by which it may be reached in open mode, beside the loopback ones; None: any."""
    trusted_proxies: TrustedProxies = field(default_factory=TrustedProxies)
    limits: AddressLimits = field(default_factory=AddressLimits)
    connections: AddressConnections = field(default_factory=AddressConnections)
    streams_per_address: int = 200
    """Event streams of one address at once; the loopback range has no such limit."""
    owners: Owners = field(default_factory=Owners)
    """What the sessions and event streams of one owner use together."""
    max_body: int = 10 * 1024 * 1024
    version: str = "0"
    image_sources: tuple[str, ...] = ()
    """More sources of pictures for the page's Content-Security-Policy."""
    alive: Callable[[], str | None] = _alive
    """What only a restart mends; None: nothing."""
    ready: Mapping[str, Check] = field(default_factory=dict)
    stats: Mapping[str, Callable[[], object]] = field(default_factory=dict)
    """Named figures for `/api/stats`; the values are anything that encodes as JSON."""
    registry: CollectorRegistry = REGISTRY
    tracing: Tracing | None = None
    """Where the spans of sampled webhooks go; None: nothing is traced here."""
    degraded: Callable[[], bool] = _never
    """Whether the last read that the cache could not answer came from the fallback store: what it says of a 404."""
    event_streams: Callable[[], int] = int
    """How many event streams are open."""
    end_event_streams: Callable[[], None] = _none_open
    """Ends them all, with a time to come back."""
    websocket: Callable[[web.Request], Awaitable[web.StreamResponse]] | None = None
    """Serves `/api/ws` on connections that the HTTP server has already."""


def request_guard(gateway: Gateway) -> RequestGuard:
    """What checks this gateway's requests. Several share its limits."""
    return RequestGuard(
        authenticator=gateway.authenticator,
        allowed_origins=gateway.allowed_origins,
        allowed_hosts=gateway.allowed_hosts,
        trusted_proxies=gateway.trusted_proxies,
        limits=gateway.limits,
        connections=gateway.connections,
    )
