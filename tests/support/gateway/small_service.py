"""A whole service in one event loop, for tests of the HTTP side: real parts in memory behind a real port."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec

from tidings.gateway.app import build_app
from tidings.gateway.gateway import Gateway, request_guard
from tidings.gateway.http.server import HttpServer
from tidings.gateway.push.changes_reader import ChangesReader
from tidings.gateway.push.hub import Hub
from tidings.gateway.push.session_registry import Sessions
from tidings.gateway.websocket.aiohttp_upgrade import upgrade_route
from tidings.gateway.websocket.listener import FrontServer
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
        settings: Of `Gateway`, in place of the real parts.
    """

    def __init__(self, **settings: Any) -> None:
        self.log: Log = settings.pop("log", None) or MemoryLog()
        self.store = CachedStore(MemoryStore())
        self.hub = Hub()
        self.reader = ChangesReader(self.log, self.hub, self.store)
        self.expiry = Expiry()
        parts: dict[str, Any] = {
            "log": self.log,
            "store": self.store,
            "reader": self.reader,
            "hub": self.hub,
        }
        self.gateway = Gateway(**{**parts, **settings})
        self.sessions = Sessions(
            self.hub, self.store, self.gateway.authenticator, owners=self.gateway.owners
        )
        self.port = 0
        self._processor: Processor | None = None
        self._processing: asyncio.Task[None] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def ws_url(self) -> str:
        return f"ws://127.0.0.1:{self.port}/api/ws"

    async def start_processor(self) -> None:
        policy = StorePolicy(await self.log.identity(), strict=self.gateway.strict)
        store = CachedStore(self.store.store)
        self._processor = Processor(
            self.log, store, self.gateway.providers, policy, expiry=self.expiry
        )
        self._processing = asyncio.create_task(self._processor.run())

    async def stop_processor(self) -> None:
        if self._processor is not None and self._processing is not None:
            self._processor.stop()
            await self._processing
            self._processor = self._processing = None

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


@asynccontextmanager
async def small_service(*, processing: bool = True, **settings: Any) -> AsyncIterator[SmallService]:
    """A running service; the settings are those of `Gateway`."""
    service = SmallService(**settings)

    def connection() -> asyncio.Protocol:
        return http.connection()

    front = FrontServer(
        service.sessions, connection, request_guard(service.gateway).admit_websocket
    )
    service.gateway.websocket = upgrade_route(front.door)
    http = HttpServer(build_app(service.gateway))
    await http.start()
    await service.reader.start()
    if processing:
        await service.start_processor()
    service.port = await front.start()
    try:
        yield service
    finally:
        await front.close(0.0, 1.0)
        await http.close()
        await service.stop_processor()
        await service.reader.close()


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
