"""The log on Apache Kafka."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any
from urllib.parse import SplitResult

from aiokafka import TopicPartition
from aiokafka.partitioner import DefaultPartitioner

from tidings.storage.loggers import get_logger
from tidings.streams.log.factory import LogOptions
from tidings.streams.log.kafka.consumer import KafkaConsumer
from tidings.streams.log.kafka.follower import Follower, read_at
from tidings.streams.log.kafka.offsets import KafkaOffsets
from tidings.streams.log.kafka.producer import KafkaAppender
from tidings.streams.log.kafka.settings import parse_address
from tidings.streams.log.kafka.topic_watch import TopicWatch
from tidings.streams.log.kafka.topics import Cluster, prepare
from tidings.streams.log.protocol import EVENTS, LogError, NewRecord, Position, Record, Since, Told
from tidings.streams.log.size_limits import HEADROOM, measure

logger = get_logger(__name__)


class KafkaLog:
    """A `Log` on Kafka; made by `open_kafka`."""

    name = "kafka"

    def __init__(self, arguments: dict[str, Any], options: LogOptions, cluster: Cluster) -> None:
        self._arguments = arguments
        self._options = options
        self._cluster = cluster
        self._watch = TopicWatch(
            arguments,
            {self._topic(name): count for name, count in cluster.partitions.items()},
            [self._topic(EVENTS)],
        )
        self._watching: asyncio.Task[None] | None = None
        self._partitioner = DefaultPartitioner()
        self._appender = KafkaAppender(arguments, options.max_body + HEADROOM)
        self._offsets = KafkaOffsets(arguments)
        self._consumers: list[KafkaConsumer] = []
        self._closed = False

    def _topic(self, name: str) -> str:
        return self._options.topic_prefix + name

    def _numbers(self, topic: str) -> range:
        return range(self._watch.counts.get(self._topic(topic), 0))

    def _partitions(self, topic: str) -> list[TopicPartition]:
        return [TopicPartition(self._topic(topic), number) for number in self._numbers(topic)]

    async def start(self) -> None:
        """Connect the producer; raises `LogUnavailable`."""
        await self._appender.start()
        self._watching = asyncio.create_task(self._watch.run(), name="topic-watch")

    async def identity(self) -> str:
        """See `Log.identity`."""
        return f"kafka:{self._cluster.cluster_id}:{self._topic(EVENTS)}:{self._options.epoch}"

    async def append(self, topic: str, records: Sequence[NewRecord]) -> list[Position]:
        """See `Log.append`. Keyed records without a partition go where Java's default partitioner puts them.

        A change or dead letter goes to the partition of its event; if the events have got more partitions, it goes
        to the number modulo those of its own topic.
        """
        if not records:
            return []
        size = measure(records, self._options.max_body)
        if max(record.partition or 0 for record in records) >= len(self._numbers(topic)):
            await self._watch.refresh(younger_than=1.0)
        count = len(self._numbers(topic))
        known = list(range(count))
        parts: dict[int, list[NewRecord]] = {}
        numbers: list[int] = []
        for record in records:
            number: int
            if record.partition is None:
                number = self._partitioner(record.key, known, known)
            elif record.partition >= 0 and (record.partition < count or topic != EVENTS):
                number = record.partition % count
            else:
                raise LogError(f"{topic} has no partition {record.partition}; it has {count}")
            parts.setdefault(number, []).append(record)
            numbers.append(number)
        offsets = await self._appender.append(self._topic(topic), parts, size)
        if len(parts) == 1:
            return [Position(number, offset) for offset in offsets[number]]
        each = {number: iter(found) for number, found in offsets.items()}
        return [Position(number, next(each[number])) for number in numbers]

    def submit(self, topic: str, records: Sequence[NewRecord], told: Told) -> None:
        """See `Submit`; of one record, whose key says where it goes."""
        if len(records) != 1 or records[0].partition is not None:
            raise LogError("this takes one record without a partition; append() takes the others")
        size = measure(records, self._options.max_body)
        known = list(self._numbers(topic))
        number: int = self._partitioner(records[0].key, known, known)

        def appended(result: list[int] | LogError) -> None:
            told(result if isinstance(result, LogError) else [Position(number, result[0])])

        partition = TopicPartition(self._topic(topic), number)
        self._appender.submit(partition, records, size, appended)

    def consume(self, topic: str, group: str, gather: float = 0.0) -> KafkaConsumer:
        """See `Log.consume`."""

        async def ends() -> dict[int, int]:
            return await self._offsets.ends(self._partitions(topic))

        consumer = KafkaConsumer(
            self._arguments, self._topic(topic), self._options.topic_prefix + group, ends, gather
        )
        self._consumers.append(consumer)
        return consumer

    def follow(
        self, topic: str, since: Since, until: Mapping[int, int] | None = None
    ) -> AsyncIterator[Sequence[Record]]:
        """See `Log.follow`."""

        def wanted() -> list[TopicPartition]:
            return [
                one for one in self._partitions(topic) if until is None or one.partition in until
            ]

        return Follower(self._arguments, self._offsets, wanted).read(since, until)

    async def partitions(self, topic: str) -> int:
        """See `Log.partitions`."""
        return len(self._numbers(topic))

    async def bounds(self, topic: str) -> dict[int, tuple[int, int]]:
        """See `Log.bounds`."""
        partitions = self._partitions(topic)
        first = await self._offsets.beginnings(partitions)
        ends = await self._offsets.ends(partitions)
        return {number: (first[number], ends[number]) for number in ends}

    async def offsets_at(self, topic: str, timestamp: int) -> dict[int, int]:
        """See `Log.offsets_at`."""
        partitions = self._partitions(topic)
        found = await self._offsets.at(partitions, timestamp)
        ends = await self._offsets.ends(partitions)
        return {
            number: end if (at := found.get(number)) is None else at for number, end in ends.items()
        }

    async def committed(self, topic: str, group: str) -> dict[int, int]:
        """See `Log.committed`."""
        return await self._offsets.committed(
            self._options.topic_prefix + group, self._partitions(topic)
        )

    async def read_at(self, topic: str, offsets: Mapping[int, int]) -> dict[int, Record]:
        """See `Log.read_at`."""
        at = {TopicPartition(self._topic(topic), number): o for number, o in offsets.items()}
        return await read_at(self._arguments, at, self._offsets)

    def obstacle(self) -> str | None:
        """See `Log.obstacle`: a transaction that somebody left open."""
        return self._watch.obstacle

    async def close(self) -> None:
        """See `Log.close`."""
        if self._closed:
            return
        self._closed = True
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.wait([self._watching])
        await self._watch.close()
        for consumer in self._consumers:
            await consumer.close()
        await self._appender.close()
        await self._offsets.close()


async def open_kafka(url: SplitResult, options: LogOptions) -> KafkaLog:
    """Open `kafka://host:9092,host2:9092?security_protocol=...`: create or check the topics, and connect."""
    address = parse_address(url)
    cluster = await prepare(address.arguments, options)
    log = KafkaLog(address.arguments, options, cluster)
    try:
        await log.start()
    except BaseException:
        await log.close()
        raise
    logger.info(
        "log.opened", brokers=",".join(address.bootstrap), partitions=cluster.partitions[EVENTS]
    )
    return log
