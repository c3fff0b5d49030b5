"""Server-Sent Events: the streams of one prediction, and of several, over plain HTTP."""

import asyncio
import random
import socket
from collections import Counter
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing, contextmanager

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter
from msgspec import structs

from tidings.gateway.api.predictions import may_watch
from tidings.gateway.api.sse_request import (
    MAX_BODY,
    Watched,
    last_event_id,
    posted,
    text_asked,
    watched,
)
from tidings.gateway.auth.quotas import OwnerQuotas, OwnerUsage
from tidings.gateway.auth.rate_limits import address_group, is_loopback
from tidings.gateway.auth.request_guard import RequestGuard
from tidings.gateway.http.held_bytes import HeldBytes
from tidings.gateway.http.problems import Problem, not_found
from tidings.gateway.http.request_body import read_json
from tidings.gateway.http.server import NoticesLoss
from tidings.gateway.push.event_stream import PING, EventStream, event
from tidings.gateway.push.hub import Hub
from tidings.gateway.push.pages import FIRST, PageReader
from tidings.gateway.push.protocol import synced_message
from tidings.gateway.push.text_cursors import TextCursors, Texts
from tidings.storage.clock import SYSTEM_CLOCK, Clock
from tidings.storage.errors import StorageError
from tidings.storage.loggers import get_logger
from tidings.storage.prediction import TERMINAL, valid_id
from tidings.storage.store import Stored
from tidings.storage.wrappers.cache import CachedStore
from tidings.streams.changes.codec import Change

PING_EVERY = 15.0
"""Seconds between comments, which keep proxies from closing a stream that is silent."""
UNANSWERED = 45_000
"""Milliseconds that bytes may stay unacknowledged by the client's machine before it counts as gone.

Without it a phone that lost its network keeps its stream until TCP gives up, a quarter of an hour
later (RFC 5482).
"""
TAKE_BYTES = 65_536
MAX_STREAMS = 20_000
COME_BACK = 3_000
"""Milliseconds over which clients are told to spread their return."""

logger = get_logger(__name__)

_HEADERS = {
    "Content-Type": "text/event-stream",
    "Cache-Control": "no-cache, no-transform",
    "X-Accel-Buffering": "no",
    "X-Content-Type-Options": "nosniff",
}


class EventStreams:
    """The handlers of the event streams, and the streams that are open.

    Args:
        guard: Who may come in.
        store: Their snapshots, behind the cache.
        hub: Their changes.
        held: The budget for what waits to be sent.
        owners: What the sessions and event streams of one owner use together.
        per_address: Streams of one address at once; the loopback range has no such limit.
        texts: That grow; None: everybody is sent whole records.
        clock: Tells the time.
    """

    def __init__(
        self,
        guard: RequestGuard,
        store: CachedStore,
        hub: Hub,
        held: HeldBytes,
        *,
        owners: OwnerQuotas | None = None,
        per_address: int = 200,
        texts: Texts | None = None,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._guard = guard
        self._store = store
        self._hub = hub
        self._held = held
        self._pages = PageReader(store)
        self._owners = OwnerQuotas() if owners is None else owners
        self._per_address = per_address
        self._texts = texts
        self._clock = clock
        self._open: set[EventStream] = set()
        self._count = 0
        """Streams that are counted, those of texts among them."""
        self._addresses: Counter[str] = Counter()

    def __len__(self) -> int:
        """How many streams are open."""
        return self._count

    async def close(self, app: web.Application) -> None:  # noqa: ARG002 - a signal's signature
        """End every stream at the application's end."""
        self.end()

    def end(self) -> None:
        """End every stream, with a time to come back."""
        for stream in self._open:
            stream.queue.put_reply(b"retry: %d\n\n" % random.randint(COME_BACK // 3, COME_BACK))  # noqa: S311 - no secret
            stream.end()

    async def one(self, request: web.Request) -> web.StreamResponse:
        """`GET /api/predictions/{id}/events`."""
        permissions = await self._guard.authenticate(request, request.query.get("access_token"))
        prediction_id = request.match_info["id"]
        if not valid_id(prediction_id):
            raise not_found()
        known, told_deleted = last_event_id(request)
        texts = self._cursors(text_asked(request))
        stream = EventStream(
            permissions, prediction_id, self._held.account(permissions.subject), texts
        )
        if known:
            stream.knows(prediction_id, known)
        stored = await self._store.get(prediction_id)
        if stored is not None and not may_watch(permissions, prediction_id, stored):
            stored = None
        if stored is None:
            ended = told_deleted
        else:
            ended = stored.status in TERMINAL and stored.version <= known
        if ended:
            # The end is known there: this keeps an EventSource from connecting again and again.
            return web.Response(status=204, headers={"Cache-Control": "no-cache"})
        return await self._serve(
            request, stream, [Watched([prediction_id], ["prediction:" + prediction_id])]
        )

    async def many(self, request: web.Request) -> web.StreamResponse:
        """`GET /api/events?predictions=a,b&owner=o` (also `tag`, `model`, `all=true`, `limit`)."""
        permissions = await self._guard.authenticate(request, request.query.get("access_token"))
        wanted = [watched(request, permissions)]
        texts = self._cursors(text_asked(request))
        stream = EventStream(permissions, None, self._held.account(permissions.subject), texts)
        return await self._serve(request, stream, wanted)

    async def posted(self, request: web.Request) -> web.StreamResponse:
        """`POST /api/events` with a list of the WebSocket's `subscribe` messages.

        A browser has six connections to a host. A page that cannot use the WebSocket gets
        everything that it watches on one of them, and an address is too short to name it all.
        """
        permissions = await self._guard.authenticate(request)
        account = self._held.account(permissions.subject)
        with account:
            wanted = posted(await read_json(request, MAX_BODY, account), permissions)
        texts = self._cursors(any(one.appends for one in wanted))
        stream = EventStream(permissions, None, account, texts)
        for one in wanted:
            for prediction_id, version in one.known.items():
                stream.knows(prediction_id, version)
        return await self._serve(request, stream, wanted)

    def _cursors(self, asked: bool) -> TextCursors | None:
        return TextCursors(self._texts, "events") if asked and self._texts is not None else None

    async def _serve(
        self, request: web.Request, stream: EventStream, wanted: Sequence[Watched]
    ) -> web.StreamResponse:
        keys = list(dict.fromkeys(key for one in wanted for key in one.keys))
        with self.admitted(request, stream.permissions.subject, len(keys)):
            return await self._admitted(request, stream, wanted, keys)

    @contextmanager
    def admitted(self, request: web.Request, subject: str | None, keys: int = 1) -> Iterator[None]:
        """Count a stream until the block ends; a problem if it is one too many."""
        address = address_group(self._guard.client_address(request))
        owner = self._admit(address, subject, keys)
        self._addresses[address] += 1
        self._count += 1
        try:
            yield
        finally:
            if owner is not None:
                self._owners.leave(owner, keys)
            self._count -= 1
            self._addresses[address] -= 1
            if not self._addresses[address]:
                del self._addresses[address]

    async def _admitted(
        self,
        request: web.Request,
        stream: EventStream,
        wanted: Sequence[Watched],
        keys: list[str],
    ) -> web.StreamResponse:
        connection = request.protocol
        if isinstance(connection, NoticesLoss):
            connection.when_lost(
                stream.end
            )  # else a client that is gone would be noticed at the next write
        _notice_silence(request)
        response = web.StreamResponse(headers=_HEADERS)
        self._open.add(stream)
        stream.watch(self._hub, keys)
        try:
            writing = _Writing(await response.prepare(request))
            if request.method != "HEAD":
                await self._run(stream, writing, wanted)
            await response.write_eof()
        except ConnectionError:
            request.protocol.force_close()  # the client is gone, or takes nothing
        except StorageError as error:
            # The answer has begun: its end, and not another one, tells the client to come back.
            logger.warning("sse.store_failed", error=str(error))
            request.protocol.force_close()
        finally:
            stream.leave(self._hub)
            if isinstance(connection, NoticesLoss):
                connection.when_lost(None)
            self._open.discard(stream)
        return response

    def _admit(self, address: str, subject: str | None, keys: int) -> OwnerUsage | None:
        """Count a stream of the subject with so many keys; a problem if it is one too many."""
        if self._count >= MAX_STREAMS:
            raise Problem(
                503,
                "too-many-streams",
                "Too many streams",
                "Come back in a while.",
                headers={"Retry-After": "5"},
            )
        most = self._per_address
        if self._addresses[address] >= most and not is_loopback(address):
            raise _too_many(
                f"One address may have {most} streams; watch several predictions on one."
            )
        if subject is None:
            return None
        owners = self._owners
        owner = owners.enter(subject, keys)
        if owner is None:
            raise _too_many("This owner has too many connections; close some.")
        if owner.subscriptions > owners.limits.subscriptions:
            owners.leave(owner, keys)
            raise _too_many("This owner has too many subscriptions; watch the owner instead.")
        return owner

    async def _run(
        self, stream: EventStream, writing: "_Writing", wanted: Sequence[Watched]
    ) -> None:
        for one in wanted:
            if one.error:
                await writing.write(event(b"error", one.error))
                continue
            more = False
            async with aclosing(self._snapshots(stream, one)) as events:
                async for data in events:
                    if self._expired(stream):
                        return
                    if data is None:
                        more = True
                    else:
                        await writing.write(data)
            await writing.write(event(b"synced", synced_message(one.ref, more)))
        stream.settle()
        while True:
            stream.wake.clear()
            while data := stream.queue.take(TAKE_BYTES):
                if self._expired(stream):
                    return
                await writing.write(data)
            if stream.queue:
                await self._read_again(stream)
                continue
            grown, whole = stream.text_events()
            await writing.write(grown)
            for name in whole:
                stored = await self._store.get(name)
                if stored is not None and may_watch(stream.permissions, name, stored):
                    await writing.write(stream.again(name, stored))
            if grown or whole:
                continue
            if stream.finished or not await self._woken(stream, writing):
                return

    def _expired(self, stream: EventStream) -> bool:
        """Whether the token has expired: a slow client would get more and more after that."""
        expires_at = stream.permissions.expires_at
        return expires_at is not None and expires_at <= self._clock.ms() / 1000

    async def _woken(self, stream: EventStream, writing: "_Writing") -> bool:
        """Wait for news, with comments in between; False when the token has expired."""
        expires_at = stream.permissions.expires_at
        while not stream.wake.is_set():
            wait = (
                PING_EVERY
                if expires_at is None
                else min(PING_EVERY, expires_at - self._clock.ms() / 1000)
            )
            if wait <= 0:
                return False
            try:
                async with asyncio.timeout(wait):
                    await stream.wake.wait()
            except TimeoutError:
                await writing.write(PING)
        return True

    async def _snapshots(
        self, stream: EventStream, wanted: Watched
    ) -> AsyncGenerator[bytes | None]:
        """The snapshot's events; None once if the limit left some out."""
        store = self._store
        if not wanted.snapshot:
            return
        for prediction_id in wanted.named or wanted.known:
            stored = await store.get(prediction_id)
            if stored is not None and stored.version < stream.known(prediction_id):
                stored = await store.get_fresh(
                    prediction_id
                )  # the cache is behind what the client knows
            if stored is None or not may_watch(stream.permissions, prediction_id, stored):
                was_visible = await self._was_visible(stream, prediction_id)
                yield stream.gone(prediction_id, was_visible=was_visible)
            else:
                yield stream.snapshot(prediction_id, stored)
        if wanted.query is None:
            return
        async with aclosing(self._listed(stream, wanted)) as listed:
            async for stored in listed:
                if stored is None:
                    yield None
                    return
                prediction_id = stored.standing().prediction_id
                if may_watch(stream.permissions, prediction_id, stored):
                    yield stream.snapshot(prediction_id, stored)

    async def _was_visible(self, stream: EventStream, prediction_id: str) -> bool:
        """Whether the client might see what is gone, as far as that is known of it."""
        permissions = stream.permissions
        if permissions.may_watch(prediction_id, None, None, ()):
            return True
        left = (await self._store.load_fresh((prediction_id,))).get(prediction_id)
        return left is not None and may_watch(permissions, prediction_id, left)

    async def _listed(self, stream: EventStream, wanted: Watched) -> AsyncGenerator[Stored | None]:
        """Records up to the limit; None at last if there are more, or the store cannot list."""
        query, left = wanted.query, wanted.limit
        assert query is not None
        capabilities = self._store.capabilities
        filters = [name for name in ("owner", "tag", "model") if getattr(query, name) is not None]
        if not capabilities.lists or not capabilities.filters.issuperset(filters):
            yield None
            return
        first = structs.replace(query, limit=min(FIRST, left + 1))
        async with aclosing(self._pages.pages(first, stream.account)) as pages:
            async for items in pages:
                for stored in items:
                    if not left:
                        yield None
                        return
                    left -= 1
                    yield stored

    async def _read_again(self, stream: EventStream) -> None:
        """Bytes for what waits as ids and versions alone."""
        for prediction_id, version in stream.queue.missing(100).items():
            stored = await self._store.get(prediction_id)
            if stored is not None and stored.version < version:
                stored = await self._store.get_fresh(prediction_id)
            if stored is None:
                stream.queue.restore(Change(prediction_id, version, b""))
            else:
                stream.queue.restore(
                    Change(prediction_id, max(version, stored.version), stored.encoded)
                )


def _notice_silence(request: web.Request) -> None:
    """Let the kernel end the connection of a machine that acknowledges nothing any more."""
    option = getattr(socket, "TCP_USER_TIMEOUT", None)
    plain = None if request.transport is None else request.transport.get_extra_info("socket")
    if (
        option is not None
        and plain is not None
        and plain.family != getattr(socket, "AF_UNIX", None)
    ):
        plain.setsockopt(socket.IPPROTO_TCP, option, UNANSWERED)


def _too_many(detail: str) -> Problem:
    return Problem(
        429, "too-many-streams", "Too many streams", detail, headers={"Retry-After": "5"}
    )


class _Writing:
    """Writes that wait until the transport takes more; who takes nothing, the server cuts."""

    def __init__(self, writer: AbstractStreamWriter | None) -> None:
        self._writer = writer

    async def write(self, data: bytes) -> None:
        """Write; raises ConnectionError if the client is gone."""
        if data and self._writer is not None:
            await self._writer.write(data)
            await self._writer.drain()
