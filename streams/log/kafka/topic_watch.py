"""What changes about topics while they are in use: partitions are added, and transactions stay open."""

import asyncio
import contextlib
import time
from collections.abc import Mapping
from typing import Any

from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient

from tidings.storage.loggers import get_logger
from tidings.streams.log.kafka.errors import STOP_SECONDS, bounded
from tidings.streams.log.kafka.offsets import KafkaOffsets
from tidings.streams.log.protocol import LogError, LogUnavailable

EVERY_SECONDS = 10.0
"""Between two looks: the age of what is known about the topics, as of the clients' own metadata."""
OPEN_SECONDS = 60.0
"""A transaction that has been open for longer is named: nothing behind its first record is read until it ends. Kafka
itself aborts one after `transaction.timeout.ms`, a minute unless its producer asks for more."""
_ASK_SECONDS = 9.0

logger = get_logger(__name__)


class TopicWatch:
    """Keeps the numbers of partitions, and what holds readers up.

    Args:
        arguments: What every client object is made with.
        counts: Per topic, with its prefix, how many partitions were found when the log was opened.
        held: The topics in which open transactions are looked for.
    """

    def __init__(
        self, arguments: dict[str, Any], counts: Mapping[str, int], held: list[str]
    ) -> None:
        self._arguments = arguments
        self._held = held
        self.counts = dict(counts)
        """Per topic; never fewer than were found before, so that a topic being deleted does not shrink what is read."""
        self._stable = KafkaOffsets(arguments)
        self._highest = KafkaOffsets(arguments, committed_only=False)
        self._since: dict[TopicPartition, tuple[int, float]] = {}
        """Where readers are held up, and since when (monotonic)."""
        self._admin: AIOKafkaAdminClient | None = None
        self._asking = asyncio.Lock()
        self._looked_at = float("-inf")

    async def run(self) -> None:
        """Look again and again until canceled."""
        while True:
            await asyncio.sleep(EVERY_SECONDS)
            with contextlib.suppress(LogError):  # an outage: those who read and write say so
                await self.refresh()
                await self._look_for_transactions()

    async def refresh(self, younger_than: float = 0.0) -> None:
        """Ask how many partitions there are, unless the answer is younger than so many seconds. Raises `LogError`."""
        async with self._asking:
            if time.monotonic() - self._looked_at < younger_than:
                return
            try:
                async with bounded(
                    _ASK_SECONDS, "Kafka does not say how many partitions there are"
                ):
                    if self._admin is None:
                        self._admin = AIOKafkaAdminClient(
                            **self._arguments, request_timeout_ms=int(_ASK_SECONDS * 1000)
                        )
                        await self._admin.start()
                    found = await self._admin.describe_topics(list(self.counts))
            except BaseException:
                await self._disconnect()
                raise
            self._looked_at = time.monotonic()
        for topic in found:
            name, count = topic["topic"], len(topic["partitions"])
            if topic["error_code"] == 0 and count > self.counts[name]:
                logger.info("log.partitions.added", topic=name, partitions=count)
                self.counts[name] = count

    async def _look_for_transactions(self) -> None:
        partitions = [
            TopicPartition(topic, number)
            for topic in self._held
            for number in range(self.counts[topic])
        ]
        highest = await self._highest.ends_by_partition(partitions)
        stable = await self._stable.ends_by_partition(partitions)
        now = time.monotonic()
        since = {}
        for partition, end in stable.items():
            if end < highest[partition]:
                before = self._since.get(partition)
                same = before is not None and before[0] == end
                since[partition] = before if same and before is not None else (end, now)
        self._since = since

    @property
    def obstacle(self) -> str | None:
        """What keeps readers from reading on; None: nothing."""
        now = time.monotonic()
        for partition, (offset, since) in self._since.items():
            if now - since >= OPEN_SECONDS:
                return (
                    f"a transaction has been open for {now - since:.0f} s in partition {partition.partition} of "
                    f"{partition.topic}; nothing from offset {offset} on is read until its producer ends it, or "
                    "kafka-transactions.sh aborts it (find-hanging, abort)"
                )
        return None

    async def _disconnect(self) -> None:
        admin, self._admin = self._admin, None
        if admin is not None:
            with contextlib.suppress(LogUnavailable):
                async with bounded(STOP_SECONDS, "disconnecting"):
                    await admin.close()

    async def close(self) -> None:
        """Disconnect."""
        await self._disconnect()
        await self._stable.close()
        await self._highest.close()
