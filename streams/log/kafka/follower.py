"""Reading all partitions of a Kafka topic without a group, those too that are added meanwhile."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition

from tidings.storage.loggers import get_logger
from tidings.streams.log.kafka.consumer import FETCHING
from tidings.streams.log.kafka.errors import bounded, stop
from tidings.streams.log.kafka.malformed_records import fetch_around
from tidings.streams.log.kafka.offsets import KafkaOffsets
from tidings.streams.log.protocol import LogUnavailable, Record, Since

logger = get_logger(__name__)

_BATCH = 1000
_ASK_SECONDS = 5.0
_IDLE_SECONDS = 1.0
"""Silence after which the end offsets are asked on another connection: is there really nothing, do brokers live?"""
_STUCK_LOOKS = 3
"""So many looks in a row that find the topic ahead of a reader that gets nothing: it is replaced."""


class Follower:
    """One reader of all partitions; `read` is what `Log.follow` returns.

    Args:
        arguments: What every client object is made with.
        offsets: Asks where the topic begins and ends.
        partitions: What is to be read, asked again and again: partitions may be added.
    """

    def __init__(
        self,
        arguments: dict[str, Any],
        offsets: KafkaOffsets,
        partitions: Callable[[], Sequence[TopicPartition]],
    ) -> None:
        self._arguments = arguments
        self._offsets = offsets
        self._wanted = partitions
        self._partitions = partitions()
        self._positions: dict[int, int] = {}
        self._caught_up = False

    async def read(
        self, since: Since, until: Mapping[int, int] | None = None
    ) -> AsyncIterator[Sequence[Record]]:
        """See `Log.follow`; `until` names the partitions that are read."""
        if since == "end":
            self._positions = await self._offsets.ends(self._partitions)
        else:
            first = await self._offsets.beginnings(self._partitions)
            given = {} if since == "beginning" else since
            self._positions = {
                number: max(offset, given.get(number, 0)) for number, offset in first.items()
            }
        while not self._reached(until):
            reader = await self._connect()
            try:
                async for batch in self._read_until_stuck(reader):
                    if until is not None:
                        self._take_positions(await self._own_positions(reader))
                    yield batch if until is None else _below(batch, until)
                    if self._reached(until):
                        return
            finally:
                await stop(reader)
            logger.warning("log.follower.stuck", topic=self._partitions[0].topic)

    def _reached(self, until: Mapping[int, int] | None) -> bool:
        return until is not None and all(
            self._positions[partition.partition] >= until[partition.partition]
            for partition in self._partitions
        )

    async def _connect(self) -> AIOKafkaConsumer:
        """A client that reads on from where we are."""
        reader = AIOKafkaConsumer(**self._arguments, **FETCHING, group_id=None)
        try:
            async with bounded(_ASK_SECONDS, "Kafka cannot be read right now"):
                await reader.start()
                self._assign(reader)
        except BaseException:
            await stop(reader)
            raise
        return reader

    def _assign(self, reader: AIOKafkaConsumer) -> None:
        reader.assign(list(self._partitions))
        for partition in self._partitions:
            reader.seek(partition, self._positions[partition.partition])

    async def _take_added(self, reader: AIOKafkaConsumer) -> None:
        """Read partitions that were added meanwhile too, from their beginning."""
        added = [one for one in self._wanted() if one not in self._partitions]
        if added:
            self._positions |= await self._offsets.beginnings(added)
            self._partitions = [*self._partitions, *added]
            self._caught_up = False
            self._assign(reader)

    async def _read_until_stuck(self, reader: AIOKafkaConsumer) -> AsyncIterator[Sequence[Record]]:
        looks = 0
        while True:
            await self._take_added(reader)
            fetched = await self._fetch(reader)
            if fetched:
                looks = 0
                self._caught_up = False
                for partition, records in fetched.items():
                    self._positions[partition.partition] = records[-1].offset + 1
                yield (
                    records
                    if len(fetched) == 1
                    else [record for part in fetched.values() for record in part]
                )
                ends = {
                    partition.partition: reader.last_stable_offset(partition)
                    for partition in self._partitions
                }
                if any(end is None or end < 0 for end in ends.values()):
                    continue
            else:
                ends = await self._offsets.ends(self._partitions)
                self._take_positions(await self._own_positions(reader))
            if all(self._positions[number] >= end for number, end in ends.items()):
                looks = 0
                if not self._caught_up:
                    self._caught_up = True
                    yield ()
            elif not fetched:
                looks += 1
                if looks >= _STUCK_LOOKS:
                    return

    async def _fetch(self, reader: AIOKafkaConsumer) -> Mapping[TopicPartition, Sequence[Any]]:
        wait = _IDLE_SECONDS if self._caught_up else 0.1
        async with bounded(None, "Kafka cannot be read right now"):
            try:
                async with asyncio.timeout(wait + 1):
                    fetched: Mapping[TopicPartition, Sequence[Any]] = await reader.getmany(
                        timeout_ms=int(wait * 1000), max_records=_BATCH
                    )
                    return fetched
            except TimeoutError:
                return {}
            except UnicodeDecodeError:
                return await fetch_around(
                    reader, {p: self._positions[p.partition] for p in self._partitions}
                )

    async def _own_positions(self, reader: AIOKafkaConsumer) -> dict[int, int]:
        """Where the client is: beyond the last record if what followed was compacted away, or ends a transaction."""
        positions: dict[int, int] = {}
        with contextlib.suppress(LogUnavailable):
            async with bounded(1, "no position"):
                for partition in self._partitions:
                    positions[partition.partition] = await reader.position(partition)
        return positions

    def _take_positions(self, positions: Mapping[int, int]) -> None:
        for number, position in positions.items():
            self._positions[number] = max(self._positions[number], position)


def _below(batch: Sequence[Record], until: Mapping[int, int]) -> Sequence[Record]:
    return [record for record in batch if record.offset < until[record.partition]]


async def read_at(
    arguments: dict[str, Any], at: Mapping[TopicPartition, int], offsets: KafkaOffsets
) -> dict[int, Record]:
    """See `Log.read_at`."""
    # Past the end nothing comes, and below the beginning the client would read something else.
    first, ends = await offsets.beginnings(at), await offsets.ends(at)
    open_ = {p: o for p, o in at.items() if first[p.partition] <= o < ends[p.partition]}
    found: dict[int, Record] = {}
    if not open_:
        return found
    fetching = {
        **FETCHING,
        "max_partition_fetch_bytes": 1,
    }  # the batch that holds it comes all the same
    reader = AIOKafkaConsumer(**arguments, **fetching, group_id=None)
    try:
        async with bounded(_ASK_SECONDS, "Kafka cannot be read right now"):
            await reader.start()
            for (
                partition,
                offset,
            ) in open_.items():  # one by one: each ends with its own first record
                reader.assign([partition])
                reader.seek(partition, offset)
                while await reader.position(partition) <= offset:
                    try:
                        fetched = await reader.getmany(partition, timeout_ms=500, max_records=1)
                    except UnicodeDecodeError:
                        break  # whoever reads the topic meets a stand-in for it
                    for record in fetched.get(partition, ()):
                        if record.offset == offset:
                            found[partition.partition] = record
    finally:
        await stop(reader)
    return found
