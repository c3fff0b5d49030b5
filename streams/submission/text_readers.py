"""Reads answers at their providers while they are written, and appends them piece by piece.

One reader a prediction, whose order has `stream`. A piece names its place in bytes, so what a
crash, a cut or a second reader repeats is cut by the rules. If a provider numbers its events, the
number of a piece's last event and the piece's end stand in `textSeq` together: after a crash the
stream goes on from there. Otherwise it is read from its beginning. How a prediction ends is the
webhook's to say; nothing here says it.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence

import structlog
from msgspec import Struct

from tidings.storage.errors import StorageError
from tidings.storage.loggers import get_logger
from tidings.storage.prediction import Prediction, Status, decode
from tidings.storage.resilience.backoff import Backoff
from tidings.streams.changes.codec import Change
from tidings.streams.log.protocol import LogError
from tidings.streams.providers.job_api import job_api_of
from tidings.streams.providers.protocol import Provider
from tidings.streams.providers.text_stream import StreamingApi
from tidings.streams.rules.text import TEXT_MAX
from tidings.streams.submission.event_publisher import EventPublisher
from tidings.streams.submission.http import CallFailed, OpenStream
from tidings.streams.submission.submitter import Load
from tidings.streams.submission.throttle import ProviderThrottle
from tidings.streams.support.event_stream import EventStreamReader

WINDOW = 0.02
"""Seconds for which pieces are joined before they are appended."""
BACKOFF = Backoff.doubling(0.2, 10.0)
"""Before a stream is opened again."""
TRIES = 8
"""How often that is done without a byte of news; the webhook that tells the end brings the text then."""
PAUSE = 1.0
"""Seconds between two looks at whose the predictions are."""

_ASKED = b'"stream":true'
_sequence = re.compile(r"([0-9]{12})\.([0-9]{12})")

logger = get_logger(__name__)


class _Known(Struct, gc=False):
    """An unfinished prediction whose answer is to be read."""

    partitions: tuple[int, ...]
    task: asyncio.Task[None] | None = None
    over: bool = False
    """Its stream has ended, or it has none."""


class TextReaders:
    """Reads the streams of predictions that ask for it.

    Args:
        load: Reads records past any cache.
        providers: Those that are configured.
        throttles: A provider that is to be left alone is not connected to.
        open_stream: Connects to a provider.
        publisher: Where the pieces go.
        mine: Whether this instance acts on a partition.
    """

    def __init__(
        self,
        load: Load,
        providers: Mapping[str, Provider],
        throttles: Mapping[str, ProviderThrottle],
        open_stream: OpenStream,
        publisher: EventPublisher,
        *,
        mine: Callable[[Collection[int]], bool] = lambda _partitions: True,
    ) -> None:
        self._load, self._providers, self._throttles = load, providers, throttles
        self._open, self._publisher, self._mine = open_stream, publisher, mine
        self._known: dict[str, _Known] = {}
        self._wake = asyncio.Event()
        self.appended = 0
        """Pieces so far."""
        self.appended_bytes = 0
        """Their bytes."""
        self._answers: set[_Answer] = set()

    def __len__(self) -> int:
        return sum(known.task is not None for known in self._known.values())

    def notice(self, changes: Sequence[Change]) -> None:
        """Take note of changes; hardly any is decoded."""
        for change in changes:
            if change.status == Status.PROCESSING.value and change.value:
                if _ASKED in change.value and change.prediction_id not in self._known:
                    self.remember(decode(change.value))
            elif (known := self._known.pop(change.prediction_id, None)) is not None and known.task:
                known.task.cancel()

    def remember(self, record: Prediction) -> None:
        """Read the answer of a prediction, if it asks for that and its provider has it."""
        if (
            not record.stream
            or record.status is not Status.PROCESSING
            or record.pending is not None
            or record.provider_id is None
            or record.prediction_id in self._known
        ):
            return
        offsets = record.source.offsets if record.source is not None else {}
        self._known[record.prediction_id] = _Known(tuple(map(int, offsets)))
        self._wake.set()

    async def run(self) -> None:
        """Work until cancelled."""
        try:
            while True:
                self._wake.clear()
                self._look()
                try:
                    async with asyncio.timeout(PAUSE):
                        await self._wake.wait()
                except TimeoutError:
                    continue
        finally:
            tasks = [known.task for known in self._known.values() if known.task is not None]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _look(self) -> None:
        """Begin what is ours, and leave what has become another instance's."""
        for prediction_id, known in self._known.items():
            ours = not known.partitions or self._mine(known.partitions)
            if known.task is None and ours and not known.over:
                known.task = asyncio.create_task(
                    self._keep(prediction_id, known), name=f"text-{prediction_id}"
                )
            elif known.task is not None and not ours:
                known.task.cancel()
                known.task = None

    async def _keep(self, prediction_id: str, known: _Known) -> None:
        structlog.contextvars.bind_contextvars(prediction=prediction_id)  # of this task alone
        try:
            stored = (await self._load([prediction_id])).get(prediction_id)
            record = stored.standing() if stored is not None else None
            if isinstance(record, Prediction):
                await self._read(record)
            known.over = True
        except (StorageError, LogError) as error:
            logger.warning("text_stream.interrupted", error=str(error))
        except Exception as error:  # the webhook brings the text
            known.over = True
            logger.error("text_stream.defect", exc_info=error)
        finally:
            if known.task is asyncio.current_task():
                known.task = None

    async def _read(self, record: Prediction) -> None:
        provider = record.provider or ""
        found, throttle = self._providers.get(provider), self._throttles.get(provider)
        api = job_api_of(found) if found is not None else None
        if not isinstance(api, StreamingApi) or throttle is None:
            return
        answer = _Answer(record, self._publisher, self._told)
        self._answers.add(answer)
        try:
            await self._follow(answer, api, throttle, record)
        finally:
            self._answers.discard(answer)

    async def _follow(
        self, answer: "_Answer", api: StreamingApi, throttle: ProviderThrottle, record: Prediction
    ) -> None:
        provider = record.provider or ""
        tries = 0
        while tries < TRIES:
            await throttle.opened()
            call = api.stream(record.provider_id or "", record.provider_urls, answer.after)
            if call is None:
                logger.info("text_stream.none", provider=provider)
                return
            before = answer.end
            try:
                async with self._open(call) as opened:
                    if 200 <= opened.status < 300:
                        if await answer.take(api, opened.pieces):
                            return
                    elif opened.status < 500 and opened.status != 429:
                        logger.warning("text_stream.refused", status=opened.status)
                        return
            except CallFailed as error:
                logger.info("text_stream.cut", provider=provider, error=str(error))
            except ValueError as error:
                logger.warning("text_stream.unreadable", provider=provider, error=str(error))
                return
            tries = 1 if answer.end > before else tries + 1
            await asyncio.sleep(BACKOFF.wait(tries))
        logger.warning("text_stream.given_up", provider=provider, tries=tries)

    def _told(self, size: int) -> None:
        self.appended += 1
        self.appended_bytes += size

    @property
    def open(self) -> int:
        """Answers that are read at the moment."""
        return len(self._answers)

    @property
    def waiting(self) -> int:
        """Bytes that were read, and are not in the log yet."""
        return sum([answer.waiting for answer in self._answers])


class _Answer:
    """An answer as far as it was read.

    Args:
        record: As it stands when reading begins.
        publisher: Where the pieces go.
        told: Called with the bytes of each piece that is in the log.
    """

    def __init__(
        self, record: Prediction, publisher: EventPublisher, told: Callable[[int], None]
    ) -> None:
        self._id, self._publisher, self._told = record.prediction_id, publisher, told
        self.after: int | None = None
        """The number of the last event in `end`."""
        self.end = record.text_length or 0
        """Bytes of the text that are appended; what is read again up to here is left out."""
        self._at = 0
        """Bytes that were read."""
        match = _sequence.fullmatch(record.text_seq or "")
        if match is not None:
            self.after, self.end = int(match[1]), int(match[2])
        self._waiting: list[str] = []
        self.waiting = 0
        """Bytes that were read, and are not in the log yet."""
        self._number: int | None = self.after
        self._news = asyncio.Event()

    async def take(self, api: StreamingApi, pieces: AsyncIterator[bytes]) -> bool:
        """Append what comes; whether it is the end of it. Raises `CallFailed` if it is cut."""
        self._at = 0 if self.after is None else self.end
        self._number = self.after
        self._waiting.clear()
        self.waiting = 0
        reading = asyncio.create_task(self._read_on(api, pieces))
        reading.add_done_callback(lambda _: self._news.set())
        try:
            while not reading.done():
                await self._news.wait()
                if not reading.done():
                    await asyncio.sleep(WINDOW)
                self._news.clear()
                await self._append()
            await self._append()  # what was read before a cut counts
            return await reading
        finally:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)

    async def _read_on(self, api: StreamingApi, pieces: AsyncIterator[bytes]) -> bool:
        reader = EventStreamReader()
        read = self._at
        async for piece in pieces:
            for event in reader.feed(piece):
                found = api.piece(event)
                if found.number is not None:
                    self._number = found.number
                if found.text:
                    self._waiting.append(found.text)
                    size = len(found.text.encode())
                    read += size
                    self.waiting += size
                    self._news.set()
                if found.over or read > TEXT_MAX:
                    return True
        return False

    async def _append(self) -> None:
        """Append what waits, as one piece."""
        text, number = "".join(self._waiting), self._number
        self._waiting.clear()
        if not text:
            return
        data, offset = text.encode(), self._at
        self._at = end = offset + len(data)
        if end <= self.end:
            return
        sequence = None if number is None else f"{number:012d}.{end:012d}"
        await self._publisher.publish_event(
            self._id, type="append", text=text, offset=offset, textSeq=sequence
        )
        self.after, self.end = number, end
        self._told(len(data))
        self.waiting = max(0, self.waiting - len(data))
