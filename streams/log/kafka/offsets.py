"""Asking a Kafka cluster for offsets."""

import asyncio
from collections.abc import Iterable, Mapping
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition

from tidings.streams.log.kafka.consumer import FETCHING
from tidings.streams.log.kafka.errors import bounded, stop

_ASK_SECONDS = 5.0


class KafkaOffsets:
    """Asks a cluster for offsets, on a connection of its own that is made again if it fails.

    Args:
        arguments: What every client object is made with.
        committed_only: Whether what open transactions wrote lies beyond the end.
    """

    def __init__(self, arguments: dict[str, Any], *, committed_only: bool = True) -> None:
        self._arguments = arguments
        self._isolation = "read_committed" if committed_only else "read_uncommitted"
        self._client: AIOKafkaConsumer | None = None
        self._lock = asyncio.Lock()

    async def beginnings(self, partitions: Iterable[TopicPartition]) -> dict[int, int]:
        """The first offsets that are kept."""
        return _by_number(await self._ask("beginning_offsets", list(partitions)))

    async def ends(self, partitions: Iterable[TopicPartition]) -> dict[int, int]:
        """Up to where may be read: the offsets that the next records will get, or that the first open transaction has."""
        return _by_number(await self.ends_by_partition(partitions))

    async def ends_by_partition(
        self, partitions: Iterable[TopicPartition]
    ) -> dict[TopicPartition, int]:
        """As `ends`, of partitions of several topics."""
        return await self._ask("end_offsets", list(partitions))

    async def at(
        self, partitions: Iterable[TopicPartition], timestamp: int
    ) -> dict[int, int | None]:
        """The first offsets not older than `timestamp` (ms); None if there is none."""
        found = await self._ask("offsets_for_times", dict.fromkeys(partitions, timestamp))
        return {
            partition.partition: offset and offset.offset for partition, offset in found.items()
        }

    async def committed(self, group: str, partitions: Iterable[TopicPartition]) -> dict[int, int]:
        """What a group has committed, without joining it."""
        reader = AIOKafkaConsumer(**self._arguments, **FETCHING, group_id=group)
        result: dict[int, int] = {}
        try:
            async with bounded(_ASK_SECONDS * 2, f"Kafka does not say what {group} committed"):
                await reader.start()
                for partition in partitions:
                    reader.assign([partition])
                    offset = await reader.committed(partition)
                    if offset is not None:
                        result[partition.partition] = int(offset)
        finally:
            await stop(reader)
        return result

    async def _ask(self, question: str, argument: Any) -> dict[TopicPartition, Any]:
        async with self._lock:
            try:
                async with bounded(_ASK_SECONDS, "Kafka does not answer"):
                    if self._client is None:
                        self._client = AIOKafkaConsumer(
                            **self._arguments,
                            isolation_level=self._isolation,
                            request_timeout_ms=int(_ASK_SECONDS * 1000),
                        )
                        await self._client.start()
                    answer: dict[TopicPartition, Any] = await getattr(self._client, question)(
                        argument
                    )
                    return answer
            except BaseException:
                await self.close()
                raise

    async def close(self) -> None:
        """Disconnect."""
        client, self._client = self._client, None
        if client is not None:
            await stop(client)


def _by_number(offsets: Mapping[TopicPartition, int]) -> dict[int, int]:
    return {partition.partition: offset for partition, offset in offsets.items()}
