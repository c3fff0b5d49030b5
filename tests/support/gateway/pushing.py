"""A gateway's push side on a real port: a log and a store in memory, the real reader, hub, sessions and listener."""

import asyncio
import json
import zlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web
from websockets.asyncio.client import ClientConnection, connect

from tests.support.gateway.doors import Front, websocket_handler
from tidings.gateway.auth.permissions import Authenticator, Permissions, TokenRefused
from tidings.gateway.auth.quotas import OwnerLimits, OwnerQuotas, SessionLimits
from tidings.gateway.auth.request_guard import RequestGuard
from tidings.gateway.http.held_bytes import HeldBytes
from tidings.gateway.http.server import HttpServer
from tidings.gateway.push.changes_reader import ChangesReader
from tidings.gateway.push.hub import Hub, Subscriber
from tidings.gateway.push.session_registry import SessionRegistry
from tidings.gateway.push.text_hub import TextHub
from tidings.gateway.websocket.listener import Admit, Listener, admit_all
from tidings.storage.clock import SYSTEM_CLOCK, Clock
from tidings.storage.memory import MemoryStore
from tidings.storage.prediction import Prediction, Status, Tombstone, encode
from tidings.storage.store import Write
from tidings.storage.wrappers.cache import CachedStore
from tidings.streams.changes.codec import announcement
from tidings.streams.changes.text_codec import piece
from tidings.streams.log.memory import MemoryLog
from tidings.streams.log.protocol import CHANGES, TEXT, Position


class Tokens:
    """An authenticator whose tokens are given."""

    def __init__(self, tokens: dict[str, Permissions]) -> None:
        self.tokens = tokens

    def at_once(self, token: str) -> None:
        """Never: so that tests go the long way."""

    async def authenticate(self, token: str) -> Permissions:
        await asyncio.sleep(0)
        if token not in self.tokens:
            raise TokenRefused("no such token")
        return self.tokens[token]


class Push:
    """The parts, and what tests do to them."""

    def __init__(
        self,
        authenticator: Authenticator | None = None,
        limits: SessionLimits | None = None,
        admit: Admit = admit_all,
        clock: Clock = SYSTEM_CLOCK,
        owners: OwnerLimits | None = None,
        window: float = 0.0,
    ) -> None:
        self.log = MemoryLog()
        self.memory = MemoryStore()
        self.store = CachedStore(self.memory)
        self.hub = Hub(on_error=self._failed)
        self.owners = OwnerQuotas(owners)
        self.held = HeldBytes()
        self.texts = TextHub(self.log, self.hub, self.store, window)
        self.sessions = SessionRegistry(
            self.hub, self.store, authenticator, limits, clock, self.owners, self.held, self.texts
        )
        self.reader = ChangesReader(self.log, self.hub, self.store, texts=self.texts)
        app = web.Application()
        self.http = HttpServer(app)
        self.listener = Listener(self.sessions, self.http.connection, admit)
        app.router.add_get("/api/ws", websocket_handler(self.listener))
        self.front = Front(self.listener, self.http, RequestGuard(allowed_hosts=None))
        app.router.add_get("/hello", self._hello)
        self.port = 0
        self.offset = 0

    def _failed(self, sink: Subscriber, error: Exception) -> None:
        self.sessions.failed(sink, error)

    async def _hello(self, request: web.Request) -> web.Response:
        return web.Response(text="hello")

    async def start(self) -> None:
        await self.http.start()
        await self.texts.start()
        await self.reader.start()
        await self.reader.ready()
        self.port = await self.front.start()

    async def close(self) -> None:
        await self.listener.close(0.0, 1.0)
        await self.front.end()
        await self.http.close()
        await self.reader.close()
        await self.texts.close()
        await self.store.close()

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self.port}/api/ws"

    def client(self, **options: Any) -> connect:
        """A client of the `websockets` library."""
        return connect(
            self.url,
            **{"subprotocols": ["tidings.v1"], "compression": None, "proxy": None, **options},
        )

    async def stand(self, prediction_id: str = "p1", version: int = 1, **fields: Any) -> Prediction:
        """Put a record at this version into the store, and tell nobody."""
        values: dict[str, Any] = {
            "status": Status.PROCESSING,
            "created_at": 1,
            "updated_at": version,
            **fields,
        }
        record = Prediction(prediction_id=prediction_id, version=version, **values)
        there = (await self.memory.load([prediction_id])).get(prediction_id)
        expected = 0 if there is None else there.version
        assert (await self.store.write([Write(record, encode(record), expected)])) == [None]
        return record

    async def announce(
        self, *records: Prediction | Tombstone, grown_from: int | None = None
    ) -> None:
        """Append the changes in one batch."""
        new = []
        for record in records:
            at = Position(0, self.offset)
            new.append(announcement(record, encode(record), position=at, grown_from=grown_from))
            self.offset += 1
        await self.log.append(CHANGES, new)

    async def change(
        self, prediction_id: str = "p1", version: int = 1, **fields: Any
    ) -> Prediction:
        """Write a record and announce it."""
        record = await self.stand(prediction_id, version, **fields)
        await self.announce(record)
        return record

    async def grow(self, record: Prediction, whole: str, before: int) -> None:
        """Announce a piece: the text is this by now, and was so many bytes long before."""
        data = whole.encode()
        said = piece(
            record,
            record.version,
            data[before:],
            before=before,
            crc=zlib.crc32(data[:before]),
            position=Position(0, self.offset),
        )
        self.offset += 1
        await self.log.append(TEXT, [said])

    async def write_text(
        self, record: Prediction, whole: str, *, alone: bool = True, **fields: Any
    ) -> Prediction:
        """Write and announce a record whose text is this by now."""
        version = record.version + 1
        written = await self.stand(
            record.prediction_id,
            version,
            text=whole,
            text_length=len(whole.encode()),
            owner=record.owner,
            **fields,
        )
        await self.announce(written, grown_from=record.version if alone else None)
        return written

    async def delete(self, prediction_id: str, version: int, owner: str | None = None) -> None:
        """Delete a record and announce it."""
        gone = Tombstone(
            prediction_id=prediction_id,
            deleted=True,
            version=version,
            updated_at=version,
            owner=owner,
        )
        assert (await self.store.write([Write(gone, encode(gone), version - 1)])) == [None]
        await self.announce(gone)


@asynccontextmanager
async def pushing(**settings: Any) -> AsyncIterator[Push]:
    """A running gateway; the settings are those of `Push`."""
    push = Push(**settings)
    await push.start()
    try:
        yield push
    finally:
        await push.close()


async def say(client: ClientConnection, **message: Any) -> None:
    """Send a message."""
    await client.send(json.dumps(message))


async def hear(client: ClientConnection, within: float = 10.0) -> dict[str, Any]:
    """The next message."""
    async with asyncio.timeout(within):
        message: dict[str, Any] = json.loads(await client.recv())
    return message


async def hear_until(client: ClientConnection, kind: str) -> list[dict[str, Any]]:
    """All messages up to the first of this type."""
    heard = [await hear(client)]
    while heard[-1]["type"] != kind:
        heard.append(await hear(client))
    return heard


async def subscribe(client: ClientConnection, **message: Any) -> list[dict[str, Any]]:
    """Subscribe, and return what came up to `synced`; the welcome is taken before where it is due."""
    await say(client, type="subscribe", **message)
    return [one for one in await hear_until(client, "synced") if one["type"] != "welcome"]


async def nothing_more(client: ClientConnection) -> list[dict[str, Any]]:
    """What had been sent before now: a ping's answer comes behind it."""
    await say(client, type="ping", ref="fence")
    return (await hear_until(client, "pong"))[:-1]
