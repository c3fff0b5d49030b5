"""A log in memory: for tests, and for trying things out. It keeps everything, and only while the process lives."""

import asyncio
import time
import uuid
import zlib
from bisect import bisect_left
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from urllib.parse import SplitResult, parse_qsl

from tidings.streams.log.factory import LogOptions
from tidings.streams.log.notifier import Notifier
from tidings.streams.log.protocol import (
    LogError,
    LogMisconfigured,
    LogUnavailable,
    NewRecord,
    Position,
    Record,
    Since,
    StoredRecord,
)
from tidings.streams.log.size_limits import measure

_BATCH = 1000
"""Records a follower gets at once."""


class _Topic:
    """The partitions of a topic; a record's offset is its index."""

    def __init__(self, name: str, partitions: int) -> None:
        self.name = name
        self.partitions: list[list[StoredRecord]] = [[] for _ in range(partitions)]
        self.notifier = Notifier()
        self._turn = 0

    def append(self, record: NewRecord, now: int) -> Position:
        partition = record.partition
        if partition is None:
            if record.key is None:
                self._turn += 1
                partition = self._turn % len(self.partitions)
            else:
                partition = zlib.crc32(record.key) % len(self.partitions)
        kept = self.partitions[partition]
        position = Position(partition, len(kept))
        kept.append(
            StoredRecord(
                self.name,
                partition,
                position.offset,
                now,
                record.key,
                record.value,
                tuple(record.headers),
            )
        )
        return position


class _Group:
    """What a group has committed, and who its members are."""

    def __init__(self) -> None:
        self.committed: dict[int, int] = {}
        self.members: list[MemoryConsumer] = []

    def rebalance(self, partitions: int) -> None:
        """Reassign the partitions, to everybody at once, as the real thing does."""
        for number, member in enumerate(self.members):
            member.assign(range(number, partitions, len(self.members)), self.committed)


class MemoryConsumer:
    """A member of a group on a `MemoryLog`."""

    def __init__(self, log: "MemoryLog", topic: _Topic, group: _Group) -> None:
        self._log = log
        self._topic = topic
        self._group = group
        self._positions: dict[int, int] = {}
        self._generation = 0
        self._paused = False
        self._closed = False
        group.members.append(self)
        group.rebalance(len(topic.partitions))

    def assign(self, partitions: Sequence[int], committed: Mapping[int, int]) -> None:
        """Take over these partitions from where the group has committed."""
        self._positions = {partition: committed.get(partition, 0) for partition in partitions}
        self._generation += 1
        self._topic.notifier.notify()

    async def fetch(self, limit: int, wait: float) -> Sequence[Record]:
        """See `Consumer.fetch`."""
        deadline = time.monotonic() + wait
        while True:
            if self._closed or self._log.closed:
                raise LogUnavailable("this consumer is closed; join the group again")
            seen = self._topic.notifier.sequence
            records = [] if self._paused else self._take(limit)
            left = deadline - time.monotonic()
            if records or left <= 0:
                return records
            await self._topic.notifier.wait(seen, left)

    def _take(self, limit: int) -> list[StoredRecord]:
        records: list[StoredRecord] = []
        for partition, position in self._positions.items():
            new = self._topic.partitions[partition][position : position + limit - len(records)]
            if new:
                records += new
                self._positions[partition] = new[-1].offset + 1
        return records

    async def commit(self, positions: Mapping[int, int]) -> None:
        """See `Consumer.commit`."""
        for partition, offset in positions.items():
            if partition in self._positions:
                self._group.committed[partition] = offset

    def assigned(self) -> frozenset[int]:
        """See `Consumer.assigned`."""
        return frozenset(self._positions)

    def generation(self) -> int:
        """See `Consumer.generation`."""
        return self._generation

    def before_revocation(self, call: Callable[[], Awaitable[None]]) -> None:
        """See `Consumer.before_revocation`."""

    def pause(self) -> None:
        """See `Consumer.pause`."""
        self._paused = True

    def resume(self) -> None:
        """See `Consumer.resume`."""
        self._paused = False
        self._topic.notifier.notify()

    def seek(self, positions: Mapping[int, int]) -> None:
        """See `Consumer.seek`."""
        self._positions.update(
            {p: offset for p, offset in positions.items() if p in self._positions}
        )
        self._topic.notifier.notify()

    def positions(self) -> dict[int, int]:
        """See `Consumer.positions`."""
        return dict(self._positions)

    async def lag(self) -> dict[int, int]:
        """See `Consumer.lag`."""
        return {
            p: max(0, len(self._topic.partitions[p]) - position)
            for p, position in self._positions.items()
        }

    async def close(self) -> None:
        """See `Consumer.close`."""
        if not self._closed:
            self._closed = True
            self._positions = {}
            self._group.members.remove(self)
            self._group.rebalance(len(self._topic.partitions))
            self._topic.notifier.notify()


class MemoryLog:
    """A `Log` in memory.

    Args:
        partitions: of each topic.
        max_body: the greatest value in bytes; a little more is allowed for key and headers.
    """

    name = "memory"

    def __init__(self, *, partitions: int = 1, max_body: int = 10_485_760) -> None:
        self.closed = False
        self._identity = f"memory:{uuid.uuid4()}"
        self._partitions = partitions
        self._max_body = max_body
        self._topics: dict[str, _Topic] = {}
        self._groups: dict[tuple[str, str], _Group] = {}

    def _topic(self, name: str) -> _Topic:
        topic = self._topics.get(name)
        if topic is None:
            topic = self._topics[name] = _Topic(name, self._partitions)
        return topic

    async def identity(self) -> str:
        """See `Log.identity`."""
        return self._identity

    async def append(self, topic: str, records: Sequence[NewRecord]) -> list[Position]:
        """See `Log.append`."""
        if self.closed:
            raise LogUnavailable("the log is closed; open it again")
        to = self._topic(topic)
        measure(records, self._max_body)
        for record in records:
            if record.partition is not None and not 0 <= record.partition < self._partitions:
                raise LogError(
                    f"{topic} has no partition {record.partition}; it has {self._partitions}"
                )
        now = time.time_ns() // 1_000_000
        positions = [to.append(record, now) for record in records]
        to.notifier.notify()
        await asyncio.sleep(0)
        return positions

    def consume(self, topic: str, group: str, gather: float = 0.0) -> MemoryConsumer:  # noqa: ARG002 - it costs nothing to be woken
        """See `Log.consume`."""
        members = self._groups.setdefault((topic, group), _Group())
        return MemoryConsumer(self, self._topic(topic), members)

    async def follow(
        self, topic: str, since: Since, until: Mapping[int, int] | None = None
    ) -> AsyncIterator[Sequence[Record]]:
        """See `Log.follow`."""
        source = self._topic(topic)
        if since == "end":
            positions = [len(partition) for partition in source.partitions]
        else:
            given: Mapping[int, int] = {} if since == "beginning" else since
            positions = [given.get(number, 0) for number in range(self._partitions)]
        ends: Sequence[int | None] = [
            None if until is None else until.get(number, 0) for number in range(self._partitions)
        ]
        while any(end is None or at < end for at, end in zip(positions, ends, strict=True)):
            seen = source.notifier.sequence
            batch: list[StoredRecord] = []
            for number, partition in enumerate(source.partitions):
                at, end = positions[number], ends[number]
                last = at + _BATCH - len(batch)
                new = partition[at : last if end is None else min(last, end)]
                positions[number] += len(new)
                batch += new
            yield batch
            if self.closed:
                raise LogUnavailable("the log is closed; open it again")
            if not batch:
                await source.notifier.wait(seen)

    async def partitions(self, topic: str) -> int:
        """See `Log.partitions`."""
        return len(self._topic(topic).partitions)

    async def bounds(self, topic: str) -> dict[int, tuple[int, int]]:
        """See `Log.bounds`."""
        return {number: (0, len(kept)) for number, kept in enumerate(self._topic(topic).partitions)}

    async def offsets_at(self, topic: str, timestamp: int) -> dict[int, int]:
        """See `Log.offsets_at`."""
        return {
            number: bisect_left(kept, timestamp, key=lambda record: record.timestamp)
            for number, kept in enumerate(self._topic(topic).partitions)
        }

    async def committed(self, topic: str, group: str) -> dict[int, int]:
        """See `Log.committed`."""
        known = self._groups.get((topic, group))
        return dict(known.committed) if known else {}

    async def read_at(self, topic: str, offsets: Mapping[int, int]) -> dict[int, Record]:
        """See `Log.read_at`."""
        kept = self._topic(topic).partitions
        return {n: kept[n][at] for n, at in offsets.items() if 0 <= at < len(kept[n])}

    def obstacle(self) -> str | None:
        """See `Log.obstacle`."""
        return None

    async def close(self) -> None:
        """See `Log.close`."""
        self.closed = True
        for topic in self._topics.values():
            topic.notifier.notify()


async def open_memory(url: SplitResult, options: LogOptions) -> MemoryLog:
    """Open `memory://` or `memory://?partitions=4`."""
    query = dict(parse_qsl(url.query))
    partitions = query.pop("partitions", "1")
    if (
        url.netloc
        or url.path.strip("/")
        or query
        or not partitions.isdigit()
        or int(partitions) < 1
    ):
        raise LogMisconfigured(
            f"log URL {url.geturl()!r}: write memory:// or memory://?partitions=4"
        )
    return MemoryLog(partitions=int(partitions), max_body=options.max_body)
