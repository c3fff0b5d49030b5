"""Reading a log's file as a group."""

import asyncio
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from tidings.streams.log.protocol import LogError, LogUnavailable, Record, StoredRecord
from tidings.streams.log.sqlite.schema import GroupLock

if TYPE_CHECKING:
    from tidings.streams.log.sqlite.log import SqliteLog

BATCH = 500
"""Records read in one go; about half a millisecond of the event loop's time."""
FETCH_BYTES = 16_777_216
"""Bytes of values after which a fetch ends early, so that large records do not add up to gigabytes."""


class SqliteConsumer:
    """The one consumer of a group on a `SqliteLog`."""

    def __init__(
        self, log: "SqliteLog", topic: str, group: str, position: int, lock: GroupLock
    ) -> None:
        self._log = log
        self._topic = topic
        self._group = group
        self._position = position
        self._lock = lock
        self._paused = False
        self._closed = False

    async def fetch(self, limit: int, wait: float) -> Sequence[Record]:
        """See `Consumer.fetch`."""
        deadline = time.monotonic() + wait
        bell = self._log.bell(self._topic)
        while True:
            if self._closed:
                raise LogUnavailable("this consumer is closed; join the group again")
            seen = bell.rung
            records = [] if self._paused else await self._take(limit)
            left = deadline - time.monotonic()
            if records or left <= 0:
                return records
            await self._log.changed(bell, seen, left)

    async def _take(self, limit: int) -> list[StoredRecord]:
        """Up to `limit` records, in portions that leave the event loop some air."""
        records: list[StoredRecord] = []
        size = 0
        while True:
            try:
                portion, more = self._log.read(
                    self._topic, self._position, min(limit - len(records), BATCH)
                )
            except LogError:
                if records:
                    return records  # the position is past them already
                raise
            if portion:
                self._position = portion[-1].offset + 1
                records = records + portion if records else portion
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
            await self._log.remember(self._topic, self._group, positions[0])

    def assigned(self) -> frozenset[int]:
        """See `Consumer.assigned`."""
        return frozenset() if self._closed else frozenset((0,))

    def generation(self) -> int:
        """See `Consumer.generation`."""
        return 1

    def pause(self) -> None:
        """See `Consumer.pause`."""
        self._paused = True

    def resume(self) -> None:
        """See `Consumer.resume`."""
        self._paused = False
        self._log.bell(self._topic).ring()

    def seek(self, positions: Mapping[int, int]) -> None:
        """See `Consumer.seek`."""
        self._position = positions.get(0, self._position)
        self._log.bell(self._topic).ring()

    async def lag(self) -> dict[int, int]:
        """See `Consumer.lag`."""
        (_, end) = (await self._log.bounds(self._topic))[0]
        return {} if self._closed else {0: max(0, end - self._position)}

    async def close(self) -> None:
        """See `Consumer.close`."""
        if not self._closed:
            self._closed = True
            self._lock.release()
            self._log.left(self)
            self._log.bell(self._topic).ring()
