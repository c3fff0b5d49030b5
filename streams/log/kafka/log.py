"""The log on Apache Kafka."""

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any
from urllib.parse import SplitResult

import structlog
from aiokafka import TopicPartition
from aiokafka.partitioner import DefaultPartitioner

from tidings.streams.log.factory import LogOptions
from tidings.streams.log.kafka.consumer import KafkaConsumer
from tidings.streams.log.kafka.follower import Follower, KafkaOffsets
from tidings.streams.log.kafka.producer import KafkaAppender
from tidings.streams.log.kafka.settings import parse_address
from tidings.streams.log.kafka.topics import Cluster, prepare
from tidings.streams.log.protocol import EVENTS, LogError, NewRecord, Position, Record, Since
from tidings.streams.log.size_limits import HEADROOM, measure

_log = structlog.get_logger("tidings.log.kafka")


class KafkaLog:
    """A `Log` on Kafka; made by `open_kafka`."""

    name = "kafka"

    def __init__(self, arguments: dict[str, Any], options: LogOptions, cluster: Cluster) -> None:
        self._arguments = arguments
        self._options = options
        self._cluster = cluster
        self._numbers = list(range(cluster.partitions))
        self._partitioner = DefaultPartitioner()
        self._appender = KafkaAppender(arguments, options.max_body + HEADROOM)
        self._offsets = KafkaOffsets(arguments)
        self._consumers: list[KafkaConsumer] = []
        self._closed = False

    def _topic(self, name: str) -> str:
        return self._options.topic_prefix + name

    def _partitions(self, topic: str) -> list[TopicPartition]:
        return [TopicPartition(self._topic(topic), number) for number in self._numbers]

    async def start(self) -> None:
        """Connect the producer; raises `LogUnavailable`."""
        await self._appender.start()

    async def identity(self) -> str:
        """See `Log.identity`."""
        return f"kafka:{self._cluster.cluster_id}:{self._topic(EVENTS)}:{self._options.epoch}"

    async def append(self, topic: str, records: Sequence[NewRecord]) -> list[Position]:
        """See `Log.append`. Keyed records without a partition go where Java's default partitioner puts them."""
        if not records:
            return []
        size = measure(records, self._options.max_body)
        parts: dict[int, list[NewRecord]] = {}
        numbers: list[int] = []
        for record in records:
            number: int
            if record.partition is None:
                number = self._partitioner(record.key, self._numbers, self._numbers)
            elif 0 <= record.partition < len(self._numbers):
                number = record.partition
            else:
                raise LogError(
                    f"{topic} has no partition {record.partition}; it has {len(self._numbers)}"
                )
            parts.setdefault(number, []).append(record)
            numbers.append(number)
        offsets = await self._appender.append(self._topic(topic), parts, size)
        if len(parts) == 1:
            return [Position(number, offset) for offset in offsets[number]]
        each = {number: iter(found) for number, found in offsets.items()}
        return [Position(number, next(each[number])) for number in numbers]

    def consume(self, topic: str, group: str) -> KafkaConsumer:
        """See `Log.consume`."""
        partitions = self._partitions(topic)

        async def ends() -> dict[int, int]:
            return await self._offsets.ends(partitions)

        consumer = KafkaConsumer(
            self._arguments, self._topic(topic), self._options.topic_prefix + group, ends
        )
        self._consumers.append(consumer)
        return consumer

    def follow(
        self, topic: str, since: Since, until: Mapping[int, int] | None = None
    ) -> AsyncIterator[Sequence[Record]]:
        """See `Log.follow`."""
        partitions = self._partitions(topic)
        if until is not None:
            partitions = [one for one in partitions if one.partition in until]
        return Follower(self._arguments, self._offsets, partitions).read(since, until)

    async def partitions(self, topic: str) -> int:  # noqa: ARG002 - the same for each
        """See `Log.partitions`."""
        return len(self._numbers)

    async def bounds(self, topic: str) -> dict[int, tuple[int, int]]:
        """See `Log.bounds`."""
        partitions = self._partitions(topic)
        first = await self._offsets.beginnings(partitions)
        ends = await self._offsets.ends(partitions)
        return {number: (first[number], ends[number]) for number in self._numbers}

    async def offsets_at(self, topic: str, timestamp: int) -> dict[int, int]:
        """See `Log.offsets_at`."""
        partitions = self._partitions(topic)
        found = await self._offsets.at(partitions, timestamp)
        ends = await self._offsets.ends(partitions)
        return {
            number: ends[number] if (at := found.get(number)) is None else at
            for number in self._numbers
        }

    async def committed(self, topic: str, group: str) -> dict[int, int]:
        """See `Log.committed`."""
        return await self._offsets.committed(
            self._options.topic_prefix + group, self._partitions(topic)
        )

    async def close(self) -> None:
        """See `Log.close`."""
        if self._closed:
            return
        self._closed = True
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
    _log.info("log.opened", brokers=",".join(address.bootstrap), partitions=cluster.partitions)
    return log
