"""Whether the log still is the one that a store was built from.

A topic may be deleted and made again, or lose its end when a replica that was behind becomes its leader. Positions then
say nothing any more: a new event at an old offset would be taken for a duplicate and vanish. Two signs tell:

- The topic ends below what the store has seen of it.
- Another record lies at an offset than the one that was applied from there: the new topic has grown past it. So of
  the last record applied in each partition its offset, time and hash are kept (a *witness*), in the store too.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from functools import partial
from hashlib import sha256

import msgspec
from msgspec import Struct

from tidings.storage.errors import StorageError
from tidings.storage.loggers import get_logger
from tidings.storage.notes import notes_of
from tidings.storage.store import PredictionStore
from tidings.streams.log.protocol import EVENTS, Log, LogError, Record

EVERY_SECONDS = 3.0
"""Between two looks while a service runs."""
_NOTE = "witnesses"

logger = get_logger(__name__)


class LogReplaced(LogError):
    """The topic is not the one that was read before; nothing of it may be applied to this store."""


class Witness(Struct, frozen=True, gc=False):
    """What tells a record from another one at the same position."""

    offset: int
    timestamp: int
    digest: str


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(dict[int, Witness]).decode


def witness(record: Record) -> Witness:
    """Of a record as read."""
    content = (record.key, record.value, [(name, value) for name, value in record.headers or ()])
    digest = sha256(msgspec.msgpack.encode(content)).hexdigest()
    return Witness(record.offset, record.timestamp, digest)


async def check_continuity(log: Log, topic: str, witnesses: Mapping[int, Witness]) -> None:
    """Compare what lies in a topic with what was read from there before.

    A record that retention or compaction has removed says nothing.

    Raises:
        LogReplaced: Something else lies there, or the topic ends below.
        LogUnavailable: The log does not answer.
    """
    bounds = await log.bounds(topic)
    there: dict[int, int] = {}
    for partition, one in witnesses.items():
        if partition not in bounds:
            continue  # added a moment ago: another process knows of it, and this one's client does not yet
        first, end = bounds[partition]
        if one.offset >= end:
            raise LogReplaced(_ends_below(topic, partition, end, one.offset))
        if one.offset >= first:
            there[partition] = one.offset
    if not there:
        return
    for partition, record in (await log.read_at(topic, there)).items():
        if witness(record) != witnesses[partition]:
            raise LogReplaced(
                f"at offset {record.offset} of partition {partition} of {topic} lies another record than the one that "
                f"was applied from there: the topic was recreated and has grown since; {_REMEDY}"
            )


_REMEDY = "raise TIDINGS_LOG_EPOCH and rebuild into an empty store with tidings replay --into URL, then start with that store"


def _ends_below(topic: str, partition: int, end: int, seen: int) -> str:
    return (
        f"partition {partition} of {topic} ends at {end}, but the store has seen offset {seen} of it: the topic was "
        f"recreated or has lost its end; {_REMEDY}"
    )


async def check_source(log: Log, store: PredictionStore) -> None:
    """Refuse a log whose events are not those that the store was built from.

    Raises:
        LogReplaced: With what to do about it.
        LogError, StorageError: One of them does not answer.
    """
    await _check_source(log, store, await store.positions(), {}, {}, starting=True)


async def _check_source(
    log: Log,
    store: PredictionStore,
    seen: Mapping[int, int],
    found: Mapping[int, Witness],
    since: Mapping[int, Witness],
    *,
    starting: bool = False,
) -> None:
    # What the store has seen was read before the ends are: other processors go on meanwhile, and what they apply after
    # the ends were read is no sign of anything.
    witnesses = {**since, **_later(await _kept(store), found)}
    bounds = await log.bounds(EVENTS)
    for partition, offset in seen.items():
        if partition not in bounds and not starting:
            continue  # as in `check_continuity`; a client that has just connected knows them all
        end = bounds.get(partition, (0, 0))[1]
        if offset >= end:
            raise LogReplaced(_ends_below(EVENTS, partition, end, offset))
    await check_continuity(log, EVENTS, witnesses)


async def _kept(store: PredictionStore) -> dict[int, Witness]:
    notes = notes_of(store)
    text = (await notes.notes()).get(_NOTE) if notes is not None else None
    return _decode(text) if text else {}


def _later(one: Mapping[int, Witness], other: Mapping[int, Witness]) -> dict[int, Witness]:
    """Of each partition the witness that lies behind: retention takes it last."""
    both = dict(one)
    for partition, found in other.items():
        if partition not in both or both[partition].offset < found.offset:
            both[partition] = found
    return both


class Witnesses:
    """What one reader has read last of each partition, for looks whether it still lies there.

    What was read since the last look may already come from the new topic. So it is no witness of
    the old one until a look has found what was read before it in its place.
    """

    def __init__(self) -> None:
        self.found: dict[int, Witness] = {}
        """As the last look found them."""
        self._last: dict[int, Record] = {}
        """Read since; most records are followed by another before the next look, so they are hashed then."""

    def read(self, records: Iterable[Record]) -> None:
        """These were read, and what is to be done about them is done."""
        for record in records:
            self._last[record.partition] = record

    def since(self) -> dict[int, Witness]:
        """Of what was read since the last look."""
        return {partition: witness(record) for partition, record in self._last.items()}

    async def look(
        self, check: Callable[[Mapping[int, Witness], Mapping[int, Witness]], Awaitable[None]]
    ) -> None:
        """Let these be checked, given those found before and those since; raises what the check does."""
        since = self.since()
        looked_at = self._last.copy()
        await check(self.found, since)
        self.found |= since
        for partition, record in looked_at.items():
            if self._last.get(partition) is record:
                del self._last[partition]

    def clear(self) -> None:
        """Forget them: the reader starts over."""
        self.found.clear()
        self._last.clear()


class SourceWatch:
    """Looks again and again whether the log is still the one that the store was built from.

    Args:
        log: Of the service.
        store: Of the service.
    """

    def __init__(self, log: Log, store: PredictionStore) -> None:
        self._log = log
        self._store = store
        self._witnesses = Witnesses()
        self._noted: dict[int, Witness] = {}
        self.failure: str | None = None
        """What has happened to the log, once it has; only a person can fix it."""

    def applied(self, records: Sequence[Record]) -> None:
        """These were applied to the store, and are done."""
        self._witnesses.read(records)

    async def check(self) -> None:
        """Look now. Raises as `check_source` does."""
        try:
            # A projection at the edge counts every request, and knows nothing that the log does not: it is asked at the
            # start alone.
            asked = self._store.capabilities.compare_and_set
            seen = await self._store.positions() if asked else {}
            await self._witnesses.look(partial(_check_source, self._log, self._store, seen))
        except LogReplaced as error:
            if self.failure is None:
                self.failure = str(error)
                logger.error("log.replaced", error=str(error))
            raise

    async def run(self) -> None:
        """Look until it is found to be another log. Outages are waited out."""
        while True:
            await asyncio.sleep(EVERY_SECONDS)
            try:
                await self.check()
                await self.keep()
            except LogReplaced:
                return
            except (LogError, StorageError) as error:
                logger.debug("log.continuity.unknown", error=str(error))

    async def keep(self) -> None:
        """Write down what was applied last, for other processes and the next start. Raises `StorageError`."""
        since, found = self._witnesses.since(), dict(self._witnesses.found)
        mine = {**since, **found}
        if mine == self._noted or (notes := notes_of(self._store)) is None:
            return
        # Other processors have other partitions.
        kept = {**since, **_later(await _kept(self._store), found)}
        await notes.note(_NOTE, _encode(kept).decode())
        self._noted = mine
