"""Reading a text: what there is of it, and what comes (Durable Streams 1.0, 5.5 to 5.8)."""

import random
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

from aiohttp import web

from tidings.gateway.api.predictions import Records, may_read
from tidings.gateway.api.sse import EventStreams
from tidings.gateway.auth.permissions import Permissions
from tidings.gateway.auth.request_guard import RequestGuard
from tidings.gateway.http.problems import Problem, bad_request, not_found, unavailable
from tidings.gateway.http.server import NoticesLoss
from tidings.gateway.push.growing_text import GrowingText
from tidings.gateway.push.text_hub import TextHub
from tidings.gateway.text import protocol
from tidings.gateway.text.protocol import Offset
from tidings.storage.errors import StorageError
from tidings.storage.loggers import get_logger
from tidings.storage.object_storage import ObjectStorage
from tidings.streams.rules import large_fields

LONG_POLL = 4.0
"""Seconds that a long poll waits: within the 5 s that the conformance suite gives a case."""
SSE_SECONDS = 60.0
"""Seconds after which an event stream ends, for the client to come back (5.8)."""
BEHIND = 5.0
"""Seconds that a reader waits who knows more of a text than this gateway."""
JITTER = 180
"""Intervals of a cursor: up to an hour (10.1)."""

HEADERS = {
    "Cache-Control": "private, no-store",
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Resource-Policy": "same-origin",
}
_SSE = {**HEADERS, "Cache-Control": "private, no-cache, no-store", "X-Accel-Buffering": "no"}

logger = get_logger(__name__)


class _Reader:
    """One who reads a text as it grows."""

    __slots__ = ("at", "gone", "text")

    def __init__(self, text: GrowingText, at: int) -> None:
        self.text = text
        self.at = at
        """How many bytes it has been sent, those before its beginning counted."""
        self.gone = False
        """Whether its connection is lost."""

    def behind(self) -> int:
        """Bytes that it is still to be sent."""
        return max(0, self.text.length - self.at)


class TextReads:
    """The handlers that read.

    Args:
        guard: Who may come in.
        records: What stands.
        texts: That grow.
        event_streams: Counts what is open.
        objects: Where the parts of large texts lie.
    """

    def __init__(
        self,
        guard: RequestGuard,
        records: Records,
        texts: TextHub,
        event_streams: EventStreams,
        objects: ObjectStorage | None,
    ) -> None:
        self._guard = guard
        self._records = records
        self._texts = texts
        self._event_streams = event_streams
        self._objects = objects
        self._audience = texts.audiences["stream"]

    @asynccontextmanager
    async def reading(
        self, permissions: Permissions, prediction_id: str
    ) -> AsyncIterator[GrowingText]:
        """The text as it grows; a problem (404) if there is none that the caller may see."""
        stored = await self._records.find(prediction_id)
        if not may_read(permissions, prediction_id, stored):
            raise not_found()
        async with self._texts.reading(prediction_id, stored.encoded) as text:
            yield text

    async def read(self, request: web.Request) -> web.StreamResponse:
        """`GET` and `HEAD`."""
        permissions = await self._guard.authenticate(request, request.query.get("access_token"))
        prediction_id = request.match_info["id"]
        live = request.query.get("live")
        if live not in {None, "long-poll", "sse"}:
            raise bad_request("Bad parameter", f"live is {live[:20]!r}; write long-poll or sse.")
        wanted = _wanted(request, needed=live is not None)
        async with self.reading(permissions, prediction_id) as text:
            if request.method == "HEAD":
                headers = self._headers(text, Offset(text.epoch, text.length), up_to_date=False)
                return web.Response(headers=headers, content_type=None)
            start = await self._place(text, wanted)
            if live is None:
                return await self._catch_up(request, text, start)
            with (
                self._event_streams.admitted(request, permissions.subject),
                self._joined(request, _Reader(text, start.bytes)) as reader,
            ):
                if live == "sse":
                    return await self._stream(request, permissions, reader, start)
                return await self._long_poll(request, permissions, reader, start)

    @contextmanager
    def _joined(self, request: web.Request, reader: _Reader) -> Iterator[_Reader]:
        """Count a reader until the block ends, and wake it when its connection is lost."""

        def lost() -> None:
            reader.gone = True
            self._texts.notify(reader.text.prediction_id)

        connection = request.protocol
        if isinstance(connection, NoticesLoss):
            connection.when_lost(lost)  # else it would be noticed at the next write
        self._audience.join(reader, reader.behind)
        try:
            yield reader
        finally:
            self._audience.leave(reader)
            if isinstance(connection, NoticesLoss):
                connection.when_lost(None)

    async def _place(self, text: GrowingText, wanted: Offset | str) -> Offset:
        """If to begin; waits if the client knows more than this gateway."""
        if wanted == "-1":
            return Offset(text.epoch, 0)
        if not isinstance(wanted, Offset):
            return Offset(text.epoch, text.length)

        def here() -> bool:
            return text.epoch > wanted.epoch or (
                text.epoch == wanted.epoch and (text.length >= wanted.bytes or text.ended)
            )

        if not here():
            await self._texts.news(text, here, BEHIND)
        if wanted.epoch < text.epoch:
            raise Problem(
                410,
                "replaced",
                "Text replaced",
                "The text that this offset belongs to was replaced by another one; read that from "
                "its beginning, with offset=-1.",
            )
        return wanted

    async def content(self, text: GrowingText, start: int) -> bytes:
        """The bytes from an offset to the end; what lies before the record's tail is fetched."""
        if start >= text.start:
            return text.read(start)
        found, at = [], 0
        parts, rest = text.parts, text.read(text.start)
        for part in parts:
            if at + part.bytes > start:
                path = large_fields.path(text.prediction_id, part.hash)
                content = None if self._objects is None else await self._objects.get(path)
                if content is None:
                    raise unavailable("Text", "A part of the text cannot be had")
                found.append(content[max(0, start - at) :])
            at += part.bytes
        return b"".join([*found, rest])

    async def _catch_up(
        self, request: web.Request, text: GrowingText, start: Offset
    ) -> web.StreamResponse:
        data = await self.content(text, start.bytes)
        end = Offset(start.epoch, start.bytes + len(data))
        headers = self._headers(text, end, up_to_date=True)
        tag = protocol.etag(text.prediction_id, start, end, closed=text.ended)
        headers["ETag"] = tag
        if tag in request.headers.get("If-None-Match", ""):
            return web.Response(status=304, headers=headers)
        return web.Response(body=data, headers=headers)

    async def _long_poll(
        self, request: web.Request, permissions: Permissions, reader: _Reader, start: Offset
    ) -> web.StreamResponse:
        text = reader.text

        def news() -> bool:
            moved = text.length > start.bytes or text.epoch != start.epoch
            return moved or text.ended or reader.gone

        if not news():
            await self._texts.news(text, news, _time_left(permissions, LONG_POLL))
        if text.epoch != start.epoch:
            start = await self._place(text, start)
        data = await self.content(text, start.bytes)
        end = Offset(start.epoch, start.bytes + len(data))
        headers = self._headers(text, end, up_to_date=True)
        headers[protocol.CURSOR] = str(_cursor(request))
        if not data:
            return web.Response(status=204, headers=headers)
        self._audience.sent(len(data))
        headers["ETag"] = protocol.etag(text.prediction_id, start, end, closed=text.ended)
        return web.Response(body=data, headers=headers)

    async def _stream(
        self, request: web.Request, permissions: Permissions, reader: _Reader, start: Offset
    ) -> web.StreamResponse:
        headers = {**_SSE, "Content-Type": "text/event-stream"}
        response = web.StreamResponse(headers=headers)
        await response.prepare(request)
        until = time.monotonic() + _time_left(permissions, SSE_SECONDS)
        try:
            await self._send(request, response, reader, start, until)
            await response.write_eof()
        except ConnectionError:
            request.protocol.force_close()
        except (StorageError, Problem) as error:
            # The answer has begun: its end tells the client to come back.
            logger.warning("text.stream_failed", error=str(error))
            request.protocol.force_close()
        return response

    async def _send(
        self,
        request: web.Request,
        response: web.StreamResponse,
        reader: _Reader,
        start: Offset,
        until: float,
    ) -> None:
        text, at, first = reader.text, start, True
        while True:
            ended = text.ended
            data = await self.content(text, at.bytes) if text.length > at.bytes else b""
            at = Offset(at.epoch, at.bytes + len(data))
            if data or first or ended:
                closed = ended and text.length <= at.bytes
                piece = protocol.data_event(data.decode()) if data else b""
                control = protocol.control_event(
                    at, _cursor(request), up_to_date=text.length <= at.bytes, closed=closed
                )
                await response.write(piece + control)
                reader.at, first = at.bytes, False
                if data:
                    self._audience.sent(len(piece))
                if closed:
                    return

            def news(at: Offset = at) -> bool:
                moved = text.length > at.bytes or text.epoch != at.epoch
                return moved or text.ended or reader.gone

            left = until - time.monotonic()
            if left <= 0:
                return
            await self._texts.news(text, news, left)
            if reader.gone:
                raise ConnectionResetError
            if text.epoch != at.epoch:
                return  # it was replaced: whoever comes back with the offset is told so

    def _headers(self, text: GrowingText, end: Offset, *, up_to_date: bool) -> dict[str, str]:
        headers = {
            **HEADERS,
            "Content-Type": text.content_type,
            protocol.NEXT_OFFSET: str(end),
        }
        if up_to_date and text.length <= end.bytes:
            headers[protocol.UP_TO_DATE] = "true"
        if text.ended and text.length <= end.bytes:
            headers[protocol.CLOSED] = "true"
        return headers


def _wanted(request: web.Request, *, needed: bool) -> Offset | str:
    """What the query asks for: a place, `-1` for the beginning, `now` for the end."""
    given = request.query.getall("offset", [])
    if len(given) > 1:
        raise bad_request("Bad offset", "Name one offset.")
    if not given:
        if needed:
            raise bad_request(
                "Offset missing", "A live read needs an offset; begin with offset=-1."
            )
        return "-1"
    if given[0] in {"-1", "now"}:
        return given[0]
    offset = protocol.parse_offset(given[0])
    if offset is None:
        raise bad_request(
            "Bad offset",
            f"{given[0][:40]!r} is no offset; take one from {protocol.NEXT_OFFSET}, -1 or now.",
        )
    return offset


def _cursor(request: web.Request) -> int:
    jitter = random.randint(1, JITTER)  # noqa: S311 - spreads requests, guards nothing
    return protocol.cursor(time.time(), request.query.get("cursor"), jitter)


def _time_left(permissions: Permissions, most: float) -> float:
    """What comes after the token's end is not for this caller."""
    if permissions.expires_at is None:
        return most
    return max(0.0, min(most, permissions.expires_at - time.time()))
