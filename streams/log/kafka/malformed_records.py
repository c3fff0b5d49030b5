"""Reading on behind a record that the Kafka client cannot decode.

A header's name is a string to Kafka, but brokers do not look at it: a producer may write bytes that are not UTF-8. The
client then fails in the middle of a fetch, drops what it had taken of other partitions, and fails again forever.
"""

import asyncio
import contextlib
import time
from collections.abc import Mapping, Sequence

from aiokafka import AIOKafkaConsumer, TopicPartition

from tidings.storage.loggers import get_logger
from tidings.streams.log.headers import UNREADABLE_HEADER
from tidings.streams.log.protocol import Record, StoredRecord

logger = get_logger(__name__)

_RECORDS = 500
"""Read one by one per partition, in the search for the record."""
_QUIET_SECONDS = 2.0
"""A partition that gives nothing for so long has nothing more."""


async def fetch_around(
    consumer: AIOKafkaConsumer, positions: Mapping[TopicPartition, int | None]
) -> dict[TopicPartition, Sequence[Record]]:
    """Read again what a failed fetch has lost, record by record, with a stand-in for each that cannot be decoded.

    Args:
        consumer: Has just raised `UnicodeDecodeError`.
        positions: Per partition the next offset that was not handed out yet; None: from where the group has committed.

    Raises:
        KafkaError: As the client does.
    """
    await rewind(consumer, positions)
    found: dict[TopicPartition, Sequence[Record]] = {}
    for partition in positions:
        records = await _read(consumer, partition)
        if records:
            found[partition] = records
    return found


async def rewind(
    consumer: AIOKafkaConsumer, positions: Mapping[TopicPartition, int | None]
) -> None:
    """Take a client back to these positions; None: to where the group has committed. Raises `KafkaError`."""
    for partition, position in positions.items():
        await _seek(consumer, partition, position)


async def _seek(
    consumer: AIOKafkaConsumer, partition: TopicPartition, position: int | None
) -> None:
    if position is None:
        position = await consumer.committed(partition)
    if position is None:
        await consumer.seek_to_beginning(partition)
    else:
        consumer.seek(partition, position)


async def _read(consumer: AIOKafkaConsumer, partition: TopicPartition) -> list[Record]:
    records: list[Record] = []
    with contextlib.suppress(TimeoutError):
        while len(records) < _RECORDS:
            try:
                async with asyncio.timeout(_QUIET_SECONDS):
                    records.append(await consumer.getone(partition))
            except UnicodeDecodeError as error:
                offset = int(await consumer.position(partition))
                logger.warning(
                    "log.record.unreadable",
                    partition=partition.partition,
                    offset=offset,
                    error=str(error),
                )
                records.append(_stand_in(partition, offset, error))
                consumer.seek(partition, offset + 1)
            if await consumer.position(partition) >= (consumer.highwater(partition) or 0):
                break
    return records


def _stand_in(partition: TopicPartition, offset: int, error: UnicodeDecodeError) -> Record:
    reason = f"the name of a header is not UTF-8: {error.object[:40]!r}"
    return StoredRecord(
        partition.topic,
        partition.partition,
        offset,
        time.time_ns() // 1_000_000,
        None,
        None,
        ((UNREADABLE_HEADER, reason.encode()),),
    )
