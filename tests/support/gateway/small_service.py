"""A whole service in one event loop, for tests of the HTTP side: real parts in memory behind a real port."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
from aiohttp import web

from tests.support.gateway.doors import Front, websocket_handler
from tidings.gateway.api.health import Health
from tidings.gateway.api.sse import EventStreams
from tidings.gateway.api.webhook_counts import WebhookCounts
from tidings.gateway.app import Parts, build_app, connect
from tidings.gateway.auth.quotas import OwnerQuotas
from tidings.gateway.auth.rate_limits import AddressConnections
from tidings.gateway.auth.request_guard import RequestGuard
from tidings.gateway.http.held_bytes import HeldBytes
from tidings.gateway.http.problems import Handler
from tidings.gateway.http.server import HttpServer
from tidings.gateway.push.changes_reader import ChangesReader
from tidings.gateway.push.hub import Hub
from tidings.gateway.push.session_registry import SessionRegistry
from tidings.gateway.push.text_hub import TextHub
from tidings.gateway.websocket.listener import Listener
from tidings.storage.memory import MemoryStore
from tidings.storage.prediction import Prediction, Standing, decode, encode
from tidings.storage.store import Write
from tidings.storage.wrappers.cache import CachedStore
from tidings.streams.changes.codec import announcement
from tidings.streams.log.memory import MemoryLog
from tidings.streams.log.protocol import CHANGES, EVENTS, Log, Position, Record
from tidings.streams.processing.processor import Processor
from tidings.streams.rules.reducer import Expiry, StorePolicy


class SmallService:
    """Everything that a test may want to look at, and the address to talk to.

    Args:
        log: In place of one in memory.
        settings: Of the request guard, of `Health`, of the event streams, and of `connect`, in place
            of the defaults; `ready` and `stats` are what health is told.
    """

    def __init__(self, log: Log | None = None, **settings: Any) -> None:
        self.log: Log = log or MemoryLog()
        self.store = CachedStore(settings.pop("records", None) or MemoryStore())
        self.hub = Hub()
        self.expiry = Expiry()
        self.texts = TextHub(self.log, self.hub, self.store, settings.pop("window", 0.0))
        self.reader: ChangesReader = settings.pop("reader", None) or ChangesReader(
            self.log, self.hub, self.store, texts=self.texts
        )
        self.connections: AddressConnections = settings.pop("connections", AddressConnections())
        self.owners: OwnerQuotas = settings.pop("owners", OwnerQuotas())
        self.held: HeldBytes = settings.pop("held", None) or HeldBytes()
        self.webhook_counts = WebhookCounts()
        self.strict: bool = settings.get("strict", False)
        self.providers: dict[str, Any] = settings.setdefault("providers", {})
        authenticator = settings.pop("authenticator", None)
        self.allowed_origins: frozenset[str] = settings.pop("allowed_origins", frozenset())
        self.guard = RequestGuard(
            authenticator=authenticator,
            allowed_origins=self.allowed_origins,
            connections=self.connections,
            **_taken(settings, "allowed_hosts", "trusted_proxies", "limits"),
        )
        checks, statistics = settings.pop("ready", {}), settings.pop("stats", {})
        self.health = Health(self.guard, **_taken(settings, "version", "registry", "alive"))
        for part, check in checks.items():
            self.health.add_check(part, check)
        for name, read in statistics.items():
            self.health.add_statistics(name, read)
        self.event_streams = EventStreams(
            self.guard,
            self.store,
            self.hub,
            self.held,
            owners=self.owners,
            texts=self.texts,
            **_taken(settings, "per_address"),
        )
        self.sessions = SessionRegistry(
            self.hub, self.store, authenticator, owners=self.owners, texts=self.texts
        )
        self.port = 0
        self._settings = settings
        self._processor: Processor | None = None
        self._processing: asyncio.Task[None] | None = None

    def app(self, websocket: Handler) -> web.Application:
        """The application; `websocket` serves `/api/ws`."""
        endpoints = connect(
            self.guard,
            Parts(
                log=self.log,
                store=self.store,
                reader=self.reader,
                health=self.health,
                event_streams=self.event_streams,
                websocket=websocket,
                texts=self.texts,
                held=self.held,
                webhook_counts=self.webhook_counts,
                **self._settings,
            ),
        )
        return build_app(endpoints, self.guard, self.allowed_origins)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def ws_url(self) -> str:
        return f"ws://127.0.0.1:{self.port}/api/ws"

    async def start_processor(self) -> None:
        policy = StorePolicy(await self.log.identity(), strict=self.strict)
        store = CachedStore(self.store.store)
        self._processor = Processor(self.log, store, self.providers, policy, expiry=self.expiry)
        self._processing = asyncio.create_task(self._processor.run())

    async def stop_processor(self) -> None:
        if self._processor is not None and self._processing is not None:
            self._processor.stop()
            await self._processing
            self._processor = self._processing = None

    async def end_processor(self) -> None:
        """End it at once, at the test's end: its last round would take half a second."""
        if self._processing is not None:
            self._processing.cancel()
            await asyncio.wait([self._processing])

    async def put(self, record: Standing, expires_at: int | None = None) -> None:
        """Let the record stand in the store, and announce it."""
        there = (await self.store.store.load([record.prediction_id])).get(record.prediction_id)
        write = Write(record, encode(record), 0 if there is None else there.version, expires_at)
        assert await self.store.write([write]) == [None]
        position = Position(0, -1)
        await self.log.append(
            CHANGES, [announcement(record, write.encoded, position=position, expires_at=expires_at)]
        )

    async def records(self, topic: str = EVENTS) -> list[Record]:
        """What the topic holds."""
        async for batch in self.log.follow(topic, "beginning"):
            return list(batch)
        raise AssertionError(topic)


def _taken(settings: dict[str, Any], *names: str) -> dict[str, Any]:
    """Those of the settings, which are then left out of the rest."""
    return {name: settings.pop(name) for name in names if name in settings}


@asynccontextmanager
async def small_service(*, processing: bool = True, **settings: Any) -> AsyncIterator[SmallService]:
    """A running service; the settings are those of `SmallService`."""
    service = SmallService(**settings)

    def connection() -> asyncio.Protocol:
        return http.connection()

    listener = Listener(service.sessions, connection, service.guard.admit_websocket)
    http = HttpServer(service.app(websocket_handler(listener)))
    front = Front(listener, http, service.guard)
    await http.start()
    await service.texts.start()
    await service.reader.start()
    if processing:
        await service.start_processor()
    service.port = await front.start()
    try:
        yield service
    finally:
        await listener.close(0.0, 1.0)
        service.event_streams.end()
        service.reader.stop_waiting()
        await front.end()
        await http.close()
        await service.end_processor()
        await service.reader.close()
        await service.texts.close()


def prediction(prediction_id: str = "p1", **fields: Any) -> Prediction:
    """A record as it may stand."""
    now = time.time_ns() // 1_000_000
    wire = {
        "predictionId": prediction_id,
        "status": "processing",
        "version": 2,
        "createdAt": now,
        "updatedAt": now,
    }
    return decode(msgspec.json.encode({**wire, **fields}))
