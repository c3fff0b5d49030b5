"""Reading all partitions of a Kafka topic without a group, and asking where they begin and end."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from typing import Any

import structlog
from aiokafka import AIOKafkaConsumer, TopicPartition

from tidings.streams.log.kafka.consumer import FETCHING
from tidings.streams.log.kafka.errors import bounded, stop
from tidings.streams.log.kafka.malformed_records import fetch_around
from tidings.streams.log.protocol import LogUnavailable, Record, Since

_log = structlog.get_logger("tidings.log.kafka")

_BATCH = 1000
_ASK_SECONDS = 5.0
_IDLE_SECONDS = 1.0
"""Silence after which the end offsets are asked on another connection: is there really nothing, do brokers live?"""
_STUCK_LOOKS = 3
"""So many looks in a row that find the topic ahead of a reader that gets nothing: it is replaced."""


class KafkaOffsets:
    """Asks a cluster for offsets, on a connection of its own that is made anew where it fails."""

    def __init__(self, arguments: dict[str, Any]) -> None:
        self._arguments = arguments
        self._client: AIOKafkaConsumer | None = None
        self._lock = asyncio.Lock()

    async def beginnings(self, partitions: Iterable[TopicPartition]) -> dict[int, int]:
        """The first offsets that are kept."""
        return _by_number(await self._ask("beginning_offsets", list(partitions)))

    async def ends(self, partitions: Iterable[TopicPartition]) -> dict[int, int]:
        """The offsets that the next records will get."""
        return _by_number(await self._ask("end_offsets", list(partitions)))

    async def at(
        self, partitions: Iterable[TopicPartition], timestamp: int
    ) -> dict[int, int | None]:
        """The first offsets not older than `timestamp` (ms); None where there is none."""
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
                            **self._arguments, request_timeout_ms=int(_ASK_SECONDS * 1000)
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


class Follower:
    """One reader of all partitions; `read` is what `Log.follow` returns."""

    def __init__(
        self, arguments: dict[str, Any], offsets: KafkaOffsets, partitions: Sequence[TopicPartition]
    ) -> None:
        self._arguments = arguments
        self._offsets = offsets
        self._partitions = partitions
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
            _log.warning("log.follower.stuck", topic=self._partitions[0].topic)

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
                reader.assign(list(self._partitions))
                for partition in self._partitions:
                    reader.seek(partition, self._positions[partition.partition])
        except BaseException:
            await stop(reader)
            raise
        return reader

    async def _read_until_stuck(self, reader: AIOKafkaConsumer) -> AsyncIterator[Sequence[Record]]:
        looks = 0
        while True:
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
                    partition.partition: reader.highwater(partition)
                    for partition in self._partitions
                }
                if any(end is None for end in ends.values()):
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
        """Where the client is; beyond the last record where what followed was compacted away."""
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


def _by_number(offsets: Mapping[TopicPartition, int]) -> dict[int, int]:
    return {partition.partition: offset for partition, offset in offsets.items()}
