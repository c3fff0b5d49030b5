"""A member of a group on Kafka whose partitions go, or whose client fails, in the middle of something."""

import functools
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

import pytest
from aiokafka.errors import KafkaConnectionError

from tests.support.conditions import eventually
from tidings.streams.log.factory import open_log
from tidings.streams.log.kafka.consumer import KafkaConsumer
from tidings.streams.log.kafka.log import KafkaLog
from tidings.streams.log.protocol import EVENTS, LogUnavailable, NewRecord, Record

pytestmark = pytest.mark.kafka

PARTITIONS = 4


@pytest.fixture
async def log(kafka_url: str, topic_prefix: str) -> AsyncIterator[KafkaLog]:
    opened = await open_log(kafka_url, topic_prefix=topic_prefix, partitions=PARTITIONS)
    assert isinstance(opened, KafkaLog)
    yield opened
    await opened.close()


async def joined(log: KafkaLog) -> KafkaConsumer:
    """A member that has all partitions."""
    member = log.consume(EVENTS, "group")
    assert isinstance(member, KafkaConsumer)
    await eventually(lambda: len(member.assigned()) == PARTITIONS, 30)
    return member


async def test_partitions_that_go_while_the_lag_is_measured(
    log: KafkaLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rebalance in the middle of it leaves out what was lost, and what is still ours has its lag."""
    for number in range(PARTITIONS):
        await log.append(EVENTS, [NewRecord(b"k", b"x", (), number)] * (number + 1))
    member = await joined(log)
    ends = member._ends

    async def while_another_joins() -> Mapping[int, int]:
        other = log.consume(EVENTS, "group")
        await eventually(lambda: other.assigned() and member.assigned(), 30)
        return await ends()

    monkeypatch.setattr(member, "_ends", while_another_joins)
    assert await member.lag() == {number: number + 1 for number in member.assigned()}
    assert len(member.assigned()) == PARTITIONS // 2


async def test_what_a_failed_fetch_had_taken_is_read_again(
    log: KafkaLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the client fails after it has taken records, none of them is passed over, and none comes twice."""
    member = await joined(log)
    client = member._consumer
    assert client is not None
    whole = client.getmany
    failures = 0

    async def failing(**arguments: Any) -> Any:
        nonlocal failures
        if await whole(**arguments) and failures < 2:
            failures += 1
            raise KafkaConnectionError("cut off")
        return {}

    found: list[Record] = []

    async def fetched(count: int) -> bool:
        found.extend(await member.fetch(100, 0.2))
        return len(found) == count

    async def refused() -> bool:
        try:
            assert not await member.fetch(100, 0.2)
        except LogUnavailable:
            return failures == 2
        return False

    async def append(value: bytes) -> None:
        await log.append(
            EVENTS, [NewRecord(b"k", value, (), number) for number in range(PARTITIONS)]
        )

    for value in (b"1", b"2"):  # without a position that was handed out, and with one
        failures = 0
        await append(value)
        monkeypatch.setattr(client, "getmany", failing)
        await eventually(refused, 30)
        monkeypatch.setattr(client, "getmany", whole)
        await eventually(functools.partial(fetched, PARTITIONS * int(value)), 30)
    assert in_order(found) == {number: [b"1", b"2"] for number in range(PARTITIONS)}


def in_order(records: Sequence[Record]) -> dict[int, list[bytes | None]]:
    """The values of each partition, as they came."""
    values: dict[int, list[bytes | None]] = {number: [] for number in range(PARTITIONS)}
    for record in records:
        values[record.partition].append(record.value)
    return values
