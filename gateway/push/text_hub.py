"""The growing texts of a gateway: follows their pieces, and tells whoever watches.

Pieces come from `predictions.text`, whole records from the changes reader. Of a text that nobody
watches only the last pieces are kept, so that somebody who begins to watch has the rest at once.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Protocol

from msgspec import Struct

from tidings.gateway.push.growing_text import GrowingText, TextHead, text_head
from tidings.gateway.push.hub import Hub
from tidings.gateway.push.text_cursors import TextAudience
from tidings.storage.loggers import get_logger
from tidings.storage.resilience.backoff import Backoff, Failures
from tidings.storage.store import Stored
from tidings.streams.changes.codec import Change
from tidings.streams.changes.text_codec import Piece, parse_piece, refusals_of
from tidings.streams.log.protocol import TEXT, Log, LogError, Position, Record
from tidings.streams.support.histogram import Histogram

WINDOW = 0.04
"""Seconds within which pieces of a text are joined for whoever is told."""

BACK_MS = 5_000
"""How far before the end of the topic a gateway begins: more than a written version stands alone."""

RECENT_BYTES = 8 * 1024 * 1024
"""What is kept of the pieces of texts that nobody watches."""

IDLE = 15.0
"""Seconds after which a text that nobody watches is let go."""

BACKOFF = Backoff((0.05, 0.1, 0.2, 0.5, 1.0))

SLICE = 500
"""Pieces taken between two turns of the event loop."""

_TEXT = b'"textLength":'

logger = get_logger(__name__)


class Records(Protocol):
    """The store behind its cache."""

    def peek(self, prediction_id: str) -> Stored | None:
        """What the cache holds and may show right now; None: it must be read."""

    async def get(self, prediction_id: str) -> Stored | None:
        """An outside read, from the cache if it is fresh."""


class Judgement(Struct, frozen=True):
    """What became of a piece."""

    refusal: str | None
    """Why it is no part of the text; None: it is."""
    epoch: int
    """Of the text by then."""
    length: int
    """The bytes of the text by then."""


class _Waiter:
    __slots__ = ("arrived", "position")

    def __init__(self, position: Position) -> None:
        self.position = position
        self.arrived: asyncio.Future[Judgement] = asyncio.get_running_loop().create_future()


class TextHub:
    """Keeps the growing texts of one gateway.

    Args:
        log: Where the pieces are.
        hub: Knows who watches.
        records: Where the records are read.
        window: Seconds within which pieces are joined; 0: each batch is told at once.
    """

    def __init__(self, log: Log, hub: Hub, records: Records, window: float = WINDOW) -> None:
        self._log = log
        self._hub = hub
        self._records = records
        self._window = window
        self._texts: dict[str, GrowingText] = {}
        self._recent: dict[str, list[Piece]] = {}
        self._recent_bytes = 0
        self._grown: dict[GrowingText, None] = {}
        self._wake = asyncio.Event()
        self._waiting: dict[str, list[_Waiter]] = {}
        self._readers: dict[str, list[asyncio.Event]] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._loading: set[asyncio.Task[None]] = set()
        self._positions: dict[int, int] | None = None  # the next offsets; None: not known yet
        self.caught_up = False  # with the end of the topic
        self.turn = asyncio.Lock()  # held to tell all sessions: no text overtakes a record
        self.audiences = {kind: TextAudience() for kind in ("websocket", "events", "stream")}
        self.pieces = 0  # read so far
        self.to_push = Histogram()
        """From the announcement of the oldest piece of a batch to the end of its fan-out."""
        self._oldest = 0.0

    def __len__(self) -> int:
        return len(self._texts)

    async def start(self) -> None:
        """Follow in the background: it begins a while before the end, so nothing is missed."""
        self._tasks = [
            asyncio.create_task(work(), name=name)
            for name, work in (("text-reader", self._run), ("text-teller", self._tell))
        ]

    async def close(self) -> None:
        """Stop following."""
        tasks, self._tasks = [*self._tasks, *self._loading], []
        for task in tasks:
            task.cancel()
        for task in tasks:
            with contextlib.suppress(asyncio.CancelledError):
                await task

    # Following

    async def _seek(self) -> dict[int, int]:
        since = int(time.time() * 1000) - BACK_MS
        self._positions = await self._log.offsets_at(TEXT, since)
        return self._positions

    async def _run(self) -> None:
        failures = Failures(BACKOFF)
        while True:
            started = time.monotonic()
            try:
                await self._read()
            except Exception as error:
                if isinstance(error, LogError):
                    logger.warning("text.interrupted", error=str(error))
                else:
                    logger.error("text.failed", exc_info=error)
            self.caught_up = False
            if time.monotonic() - started > BACKOFF.longest:
                failures.clear()
            await asyncio.sleep(failures.next_wait())
            with contextlib.suppress(LogError):
                await self._step_over_gaps()

    async def _step_over_gaps(self) -> None:
        """What is gone from the topic stands in a written record by now."""
        if (positions := self._positions) is None:
            return
        for number, (first, end) in (await self._log.bounds(TEXT)).items():
            if not first <= positions.get(number, 0) <= end:
                positions[number] = end

    async def _read(self) -> None:
        positions = self._positions
        if positions is None:
            positions = await self._seek()
        batches = self._log.follow(TEXT, dict(positions))
        try:
            async for batch in batches:
                if not batch:
                    self.caught_up = True
                    continue
                for start in range(0, len(batch), SLICE):
                    self._take(batch[start : start + SLICE])
                    if start:
                        await asyncio.sleep(0)
                for record in batch:
                    positions[record.partition] = record.offset + 1
        finally:
            if (close := getattr(batches, "aclose", None)) is not None:
                await close()

    def _take(self, batch: Sequence[Record]) -> None:
        now = int(time.time() * 1000)
        self._oldest = min(self._oldest or now, batch[0].timestamp)
        for record in batch:
            piece = parse_piece(record)
            if piece is None:
                logger.warning("text.foreign", partition=record.partition, offset=record.offset)
                continue
            self.pieces += 1
            if piece.text:
                self._add(piece, now)
            if self._waiting:
                self._judge(piece)
        if self._grown:
            self._wake.set()

    def _add(self, piece: Piece, now: int) -> None:
        name = piece.prediction_id
        text = self._texts.get(name)
        if text is None:
            self._keep(piece)
            if self._hub.appends:
                self._begin_watched(piece)
        elif text.piece(piece, now):
            text.touched = time.monotonic()
            self._grown[text] = None
            if self._readers:
                self.notify(name)

    def _keep(self, piece: Piece) -> None:
        kept = self._recent.setdefault(piece.prediction_id, [])
        if kept and kept[-1].base < piece.base:
            self._drop(piece.prediction_id)
            kept = self._recent[piece.prediction_id] = []
        kept.append(piece)
        self._recent_bytes += len(piece.text) + 256
        while self._recent_bytes > RECENT_BYTES:
            self._drop(next(iter(self._recent)))

    def _drop(self, name: str) -> None:
        for piece in self._recent.pop(name, ()):
            self._recent_bytes -= len(piece.text) + 256

    def _begin_watched(self, piece: Piece) -> None:
        """Follow a text that somebody watches, from its record and the pieces that have come."""
        probe = GrowingText(piece.prediction_id)
        probe.owner, probe.model, probe.tags = piece.owner, piece.model, piece.tags
        if not self._hub.watches(probe):
            return
        stored = self._records.peek(piece.prediction_id)
        if stored is not None:
            self.begin(piece.prediction_id, stored.encoded)
            return
        task = asyncio.create_task(self._load(piece.prediction_id))
        self._loading.add(task)
        task.add_done_callback(self._loading.discard)

    async def _load(self, name: str) -> None:
        try:
            stored = await self._records.get(name)
        except Exception as error:  # the next whole record begins it
            logger.warning("text.not_loaded", error=str(error))
            return
        if stored is not None and not stored.deleted:
            self.begin(name, stored.encoded)

    # Records

    def get(self, prediction_id: str) -> GrowingText | None:
        """The text, if it is followed."""
        return self._texts.get(prediction_id)

    def begin(self, prediction_id: str, encoded: bytes) -> tuple[int, int] | None:
        """Follow the text of this record; returns how much of it the record has, None: it has ended."""
        head = text_head(encoded)
        if head.ended:
            return None
        length = head.start + len(head.tail)
        if length or prediction_id in self._recent:
            self._written(prediction_id, head)
        return head.epoch, length

    def length_of(self, change: Change) -> tuple[int, int]:
        """The epoch and the length of the text in a record that has been announced."""
        text = self._texts.get(change.prediction_id)
        if text is not None and text.version == change.version:
            return text.epoch, text.base
        if _TEXT not in change.value:
            return 0, 0
        head = text_head(change.value)
        return head.epoch, head.start + len(head.tail)

    def _written(
        self, prediction_id: str, head: TextHead, grown_from: int | None = None
    ) -> GrowingText:
        text = self._texts.get(prediction_id)
        if text is None:
            text = self._texts[prediction_id] = GrowingText(prediction_id)
        taken = text.written(head, grown_from)
        kept = self._recent.get(prediction_id, ())
        if kept:
            now = int(time.time() * 1000)
            for piece in kept:
                text.piece(piece, now)
            self._drop(prediction_id)
        if taken and text.length > text.told[1]:
            self._grown[text] = None
            self._wake.set()
        return text

    def changed(self, changes: Sequence[Change]) -> None:
        """Take the records that have been announced, before anybody else is told of them."""
        for change in changes:
            name = change.prediction_id
            text = self._texts.get(name)
            if text is not None or name in self._readers:
                self._change(change, text)
                continue
            if name in self._recent and self._recent[name][-1].base < change.version:
                self._drop(name)
            if self._hub.appends and _TEXT in change.value and self._hub.watchers(change):
                self._change(change, None)

    def _change(self, change: Change, text: GrowingText | None) -> None:
        name = change.prediction_id
        if change.value:
            head = text_head(change.value)
            if text is not None or (not head.ended and head.text_length is not None):
                text = self._written(name, head, change.grown_from)
        if text is not None and (text.ended or not change.value):
            text.ended = True
            self._grown.pop(text, None)
            if not text.readers:
                self._texts.pop(name, None)
        self.notify(name)

    # Telling

    async def _tell(self) -> None:
        """Tell what has grown, at most once per window."""
        swept = time.monotonic()
        while True:
            await self._wake.wait()
            self._wake.clear()
            try:
                await self._flush()
            except Exception as error:
                logger.error("text.fan_out.failed", exc_info=error)
            if time.monotonic() - swept > IDLE:
                swept = time.monotonic()
                self._sweep()
            if self._window:
                await asyncio.sleep(self._window)

    async def _flush(self) -> None:
        async with self.turn:
            grown = [text for text in self._grown if text.advance()]
            oldest, self._oldest = self._oldest, 0.0
            self._grown.clear()
            if not grown:
                return
            if self._readers:
                for text in grown:
                    self.notify(text.prediction_id)
            if self._hub.appends:
                for _ in self._hub.fan_out_texts(grown):
                    await asyncio.sleep(0)
        if oldest and self.caught_up:
            self.to_push.observe(time.time() - oldest / 1000)

    def _sweep(self) -> None:
        """Let go of what nobody watches any more, once its record says all of it."""
        since = time.monotonic() - IDLE
        for text in list(self._texts.values()):
            if not text.readers and text.touched < since:
                self._let_go(text)

    def _let_go(self, text: GrowingText) -> None:
        """Forget a text, unless a session watches it; then it is known again once it is read."""
        watched = not text.ended and self._hub.appends and self._hub.watches(text)
        if not watched and self._texts.get(text.prediction_id) is text:
            del self._texts[text.prediction_id]
            self._grown.pop(text, None)

    # Requests that read a text, or wait for what becomes of a piece

    @asynccontextmanager
    async def reading(self, prediction_id: str, encoded: bytes) -> AsyncIterator[GrowingText]:
        """Follow the text of this record until the block ends, watched by sessions or not."""
        text = self._written(prediction_id, text_head(encoded))
        text.readers += 1
        try:
            yield text
        finally:
            text.readers -= 1
            text.touched = time.monotonic()
            # What the record does not say yet is kept: whoever wrote it reads it.
            if not text.readers and (text.ended or text.length <= text.base):
                self._let_go(text)

    async def news(self, text: GrowingText, wanted: Callable[[], bool], timeout: float) -> bool:
        """Wait until something is so of a text that is being read; False if it is not in time."""
        news = asyncio.Event()
        waiting = self._readers.setdefault(text.prediction_id, [])
        waiting.append(news)
        try:
            async with asyncio.timeout(timeout):
                while not wanted():
                    news.clear()
                    await news.wait()
        except TimeoutError:
            return False
        finally:
            waiting.remove(news)
            if not waiting:
                del self._readers[text.prediction_id]
        return True

    def notify(self, name: str) -> None:
        """Let those who wait for news of a text look again."""
        for news in self._readers.get(name, ()):
            news.set()

    async def judgement(
        self, prediction_id: str, position: Position, timeout: float
    ) -> Judgement | None:
        """What became of the event at this position; None: that is not known in time."""
        waiter = _Waiter(position)
        self._waiting.setdefault(prediction_id, []).append(waiter)
        try:
            async with asyncio.timeout(timeout):
                return await waiter.arrived
        except TimeoutError:
            return None
        finally:
            waiting = self._waiting[prediction_id]
            waiting.remove(waiter)
            if not waiting:
                del self._waiting[prediction_id]

    def _judge(self, piece: Piece) -> None:
        at = piece.position
        for waiter in self._waiting.get(piece.prediction_id, ()):
            wanted = waiter.position
            if at is None or at.partition != wanted.partition or waiter.arrived.done():
                continue
            if at.offset == wanted.offset or (at.offset > wanted.offset and piece.refusal is None):
                judgement = Judgement(piece.refusal, piece.epoch or 0, piece.after)
                waiter.arrived.set_result(judgement)

    def judge(self, records: Sequence[Record], changes: Sequence[Change]) -> None:
        """Tell those who wait for what became of a piece: a written record has judged it, too."""
        if not self._waiting:
            return
        by_name = {change.prediction_id: change for change in changes}
        for record in records:
            name = (record.key or b"").decode(errors="replace")
            change = by_name.get(name)
            if name not in self._waiting or change is None or change.position is None:
                continue
            refusals = refusals_of(record)
            for waiter in self._waiting[name]:
                wanted, at = waiter.position, change.position
                if at.partition == wanted.partition and at.offset >= wanted.offset:
                    refusal = refusals.get(wanted)
                    epoch, length = self.length_of(change) if change.value else (0, 0)
                    if not waiter.arrived.done():
                        waiter.arrived.set_result(Judgement(refusal, epoch, length))
