"""Reading a log's file as a group."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Protocol

from tidings.streams.log.notifier import Notifier
from tidings.streams.log.protocol import LogError, LogUnavailable, Record, StoredRecord
from tidings.streams.log.sqlite.schema import GroupLock

BATCH = 500
"""Records read in one go; about half a millisecond of the event loop's time."""
FETCH_BYTES = 16_777_216
"""Bytes of values after which a fetch ends early, so that large records do not add up to gigabytes."""


class Topics(Protocol):
    """What a consumer asks of the log's file."""

    def read_on(self, topic: str, position: int, limit: int) -> tuple[Sequence[StoredRecord], bool]:
        """Records from `position` on, and whether there may be more."""

    async def changed(self, notifier: Notifier, seen: int, seconds: float | None) -> None:
        """Wait until somebody, in whatever process, may have appended."""

    async def remember(self, topic: str, group: str, offset: int) -> None:
        """Keep the next offset that a group will read."""

    async def bounds(self, topic: str) -> dict[int, tuple[int, int]]:
        """See `Log.bounds`."""


class SqliteConsumer:
    """The one consumer of a group on a log's file.

    Args:
        topics: The file.
        topic: What it reads.
        group: For whom it commits.
        position: The next offset to read.
        notifier: Told when the topic may have grown.
        lock: Keeps other processes out of the group; released by `close`.
        on_close: Called once.
    """

    def __init__(
        self,
        topics: Topics,
        topic: str,
        group: str,
        *,
        position: int,
        notifier: Notifier,
        lock: GroupLock,
        on_close: Callable[["SqliteConsumer"], None],
    ) -> None:
        self._topics = topics
        self._topic = topic
        self._group = group
        self._position = position
        self._notifier = notifier
        self._lock = lock
        self._on_close = on_close
        self._paused = False
        self._closed = False

    async def fetch(self, limit: int, wait: float) -> Sequence[Record]:
        """See `Consumer.fetch`."""
        deadline = time.monotonic() + wait
        while True:
            if self._closed:
                raise LogUnavailable("this consumer is closed; join the group again")
            seen = self._notifier.sequence
            records = () if self._paused else await self._take(limit)
            left = deadline - time.monotonic()
            if records or left <= 0:
                return records
            await self._topics.changed(self._notifier, seen, left)

    async def _take(self, limit: int) -> Sequence[StoredRecord]:
        """Up to `limit` records, in portions that leave the event loop some air."""
        records: Sequence[StoredRecord] = ()
        size = 0
        while True:
            try:
                portion, more = self._topics.read_on(
                    self._topic, self._position, min(limit - len(records), BATCH)
                )
            except LogError:
                if records:
                    return records  # the position is past them already
                raise
            if portion:
                self._position = portion[-1].offset + 1
                records = [*records, *portion] if records else portion
            size += sum([len(record.value or b"") for record in portion])
            if not more or len(records) >= limit or size >= FETCH_BYTES:
                return records
            position = self._position
            await asyncio.sleep(0)
            if (
                self._position != position or self._closed or self._paused
            ):  # somebody sought meanwhile
                return records

    async def commit(self, positions: Mapping[int, int]) -> None:
        """See `Consumer.commit`. Not flushed to the disk by itself: the order of writes in the file stands."""
        if 0 in positions and not self._closed:
            await self._topics.remember(self._topic, self._group, positions[0])

    def assigned(self) -> frozenset[int]:
        """See `Consumer.assigned`."""
        return frozenset() if self._closed else frozenset((0,))

    def generation(self) -> int:
        """See `Consumer.generation`."""
        return 1

    def before_revocation(self, call: Callable[[], Awaitable[None]]) -> None:
        """See `Consumer.before_revocation`."""

    def pause(self) -> None:
        """See `Consumer.pause`."""
        self._paused = True

    def resume(self) -> None:
        """See `Consumer.resume`."""
        self._paused = False
        self._notifier.notify()

    def seek(self, positions: Mapping[int, int]) -> None:
        """See `Consumer.seek`."""
        self._position = positions.get(0, self._position)
        self._notifier.notify()

    def positions(self) -> dict[int, int]:
        """See `Consumer.positions`."""
        return {0: self._position}

    async def lag(self) -> dict[int, int]:
        """See `Consumer.lag`."""
        (_, end) = (await self._topics.bounds(self._topic))[0]
        return {} if self._closed else {0: max(0, end - self._position)}

    async def close(self) -> None:
        """See `Consumer.close`."""
        if not self._closed:
            self._closed = True
            self._lock.release()
            self._on_close(self)
            self._notifier.notify()
