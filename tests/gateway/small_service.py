"""A whole service in one event loop for tests of the HTTP side: a log in memory, the real rules, a real port.

The processor here is a dozen lines: it applies each event by the real rules and publishes the change, and can be
stopped to show what a write answers when its change does not come.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import msgspec

from gateway.app import build_app
from gateway.gateway import Gateway
from gateway.hub import Hub
from gateway.server import HttpServer
from storage.prediction import Prediction, Standing, Tombstone, decode, encode
from storage.store import Capabilities, Page, Query, Stored, Write, hidden, matches
from streams.changes import Change
from streams.event import Poison
from streams.log import CHANGES, EVENTS, Position
from streams.memory_log import MemoryLog
from streams.providers.provider import Provider
from streams.transitions import Applied, decide
from streams.translation import translate


class SmallStore:
    """Records in a dictionary, read as the cached store is."""

    capabilities = Capabilities(durable=False)

    def __init__(self) -> None:
        self.records: dict[str, Stored] = {}
        self.peeks = True
        self.failure: Exception | None = None

    def put(self, record: Standing) -> Stored:
        stored = Write(record, encode(record), 0).stored
        self.records[record.prediction_id] = stored
        return stored

    def peek(self, prediction_id: str) -> Stored | None:
        stored = self.records.get(prediction_id) if self.peeks else None
        return None if stored is None or hidden(stored, 0) else stored

    async def get(self, prediction_id: str) -> Stored | None:
        if self.failure is not None:
            raise self.failure
        stored = self.records.get(prediction_id)
        return None if stored is None or hidden(stored, 0) else stored

    async def get_fresh(self, prediction_id: str) -> Stored | None:
        return await self.get(prediction_id)

    async def list(self, query: Query) -> Page:
        if self.failure is not None:
            raise self.failure
        start = 0 if query.cursor is None else int(query.cursor)
        shown = [decode(stored.encoded) for stored in self.records.values() if not stored.deleted]
        shown = [record for record in shown if matches(query, record)]
        shown.sort(key=lambda record: (-record.created_at, record.prediction_id))
        page = shown[start : start + query.limit]
        following = start + query.limit
        return Page(
            items=[self.records[record.prediction_id] for record in page],
            cursor=str(following) if following < len(shown) else None,
        )


class SmallProcessor:
    """Applies every event by the rules, one by one, and tells the hub."""

    def __init__(self, log: MemoryLog, store: SmallStore, hub: Hub, providers: Mapping[str, Provider]) -> None:
        self._log, self._store, self._hub, self._providers = log, store, hub, providers
        self.applied: asyncio.Condition = asyncio.Condition()
        self.at: dict[str, Position] = {}
        self.stopped = False
        self.dead: list[Poison] = []

    async def run(self) -> None:
        async for batch in self._log.follow(EVENTS, "beginning"):
            while self.stopped:
                await asyncio.sleep(0.01)
            for record in batch:
                position = Position(record.partition, record.offset)
                try:
                    event = translate(record, self._providers)
                except Poison as poison:
                    self.dead.append(poison)
                    continue
                there = self._store.records.get(event.prediction_id)
                current = None if there is None else there.standing()
                decision = decide(current, event, position, log="memory")
                if isinstance(decision, Applied):
                    self.publish(decision.record, position)
                async with self.applied:
                    self.at[event.prediction_id] = position
                    self.applied.notify_all()

    def publish(self, record: Standing, position: Position | None = None) -> None:
        stored = self._store.put(record)
        deleted = isinstance(record, Tombstone)
        status = None if isinstance(record, Tombstone) else record.status
        self._hub.publish(
            [
                Change(
                    record.prediction_id,
                    record.version,
                    b"" if deleted else stored.encoded,
                    status,
                    record.owner,
                    record.model,
                    record.tags,
                    position,
                )
            ]
        )

    async def wait_for(self, prediction_id: str, position: Position, timeout: float) -> object | None:
        try:
            async with asyncio.timeout(timeout), self.applied:
                await self.applied.wait_for(lambda: (at := self.at.get(prediction_id)) is not None and at >= position)
        except TimeoutError:
            return None
        return self.at[prediction_id]


class SmallService:
    """Everything that a test may want to look at, and the address to talk to."""

    def __init__(self, **settings: Any) -> None:
        self.log = MemoryLog()
        self.store = SmallStore()
        self.hub = Hub()
        providers: Mapping[str, Provider] = settings.get("providers", {})
        self.processor = SmallProcessor(self.log, self.store, self.hub, providers)
        parts: dict[str, Any] = {"log": self.log, "store": self.store, "reader": self.processor, "hub": self.hub}
        self.gateway = Gateway(**{**parts, **settings})
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def appended(self) -> list[Any]:
        """The records of the events topic."""
        async for batch in self.log.follow(EVENTS, "beginning"):
            return list(batch)
        raise AssertionError(CHANGES)


@asynccontextmanager
async def small_service(**settings: Any) -> AsyncIterator[SmallService]:
    """A running service; the settings are those of `Gateway`."""
    service = SmallService(**settings)
    http = HttpServer(build_app(service.gateway))
    await http.start()
    server = await asyncio.get_running_loop().create_server(http.connection, "127.0.0.1", 0)
    service.port = server.sockets[0].getsockname()[1]
    processing = asyncio.create_task(service.processor.run())
    try:
        yield service
    finally:
        processing.cancel()
        server.close()
        await http.close()


def prediction(prediction_id: str = "p1", **fields: Any) -> Prediction:
    """A record as it may stand."""
    now = time.time_ns() // 1_000_000
    wire = {"predictionId": prediction_id, "status": "processing", "version": 2, "createdAt": now, "updatedAt": now}
    return decode(msgspec.json.encode({**wire, **fields}))
