"""What others do to topics while they are in use: transactions, and partitions that are added."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewPartitions

from tests.support.conditions import eventually
from tidings.streams.log.consumer_loop import ConsumerLoop
from tidings.streams.log.factory import open_log
from tidings.streams.log.kafka.log import KafkaLog
from tidings.streams.log.protocol import CHANGES, DEAD_LETTERS, EVENTS, NewRecord, Position, Record
from tidings.streams.log.read_until_end import read_until_end

pytestmark = pytest.mark.kafka


@pytest.fixture
async def log(kafka_url: str, topic_prefix: str) -> AsyncIterator[KafkaLog]:
    opened = await open_log(kafka_url, topic_prefix=topic_prefix, partitions=1)
    assert isinstance(opened, KafkaLog)
    yield opened
    await opened.close()


@pytest.fixture
async def producer(kafka_address: str, topic_prefix: str) -> AsyncIterator[AIOKafkaProducer]:
    client = AIOKafkaProducer(
        bootstrap_servers=kafka_address, transactional_id=f"{topic_prefix}orders", acks="all"
    )
    await client.start()
    yield client
    await client.stop()


async def send(producer: AIOKafkaProducer, topic: str, value: bytes, *, commit: bool) -> None:
    """A transaction of one record."""
    await producer.begin_transaction()
    await producer.send_and_wait(topic, value, key=b"p")
    await (producer.commit_transaction() if commit else producer.abort_transaction())


async def until_end(log: KafkaLog, topic: str = EVENTS) -> list[bytes | None]:
    async with asyncio.timeout(20):
        return [record.value async for batch in read_until_end(log, topic) for record in batch]


async def test_aborted_transactions_are_as_if_they_had_never_been(
    log: KafkaLog, producer: AIOKafkaProducer, topic_prefix: str
) -> None:
    """What a transaction wrote is read once it is committed; ends of transactions keep nobody behind."""
    topic = topic_prefix + EVENTS
    await send(producer, topic, b"aborted", commit=False)
    await send(producer, topic, b"committed", commit=True)
    await send(producer, topic, b"aborted too", commit=False)
    assert await until_end(log) == [b"committed"]
    end = (await log.bounds(EVENTS))[0][1]
    assert end == 6  # three records, and the end of each transaction

    loop = ConsumerLoop(log, EVENTS, "group")
    read: list[Record] = []

    async def take() -> bool:
        records = await loop.fetch(10, 0.2)
        loop.reassigned()
        loop.passed(records)
        read.extend(records)
        return loop.done() == {0: end}

    await eventually(take, 20)
    assert [record.value for record in read] == [b"committed"]
    assert await loop.consumer.lag() == {0: 0}
    await loop.close()
    assert await log.committed(EVENTS, "group") == {0: end}


async def test_what_is_not_committed_yet_is_beyond_the_end(
    log: KafkaLog,
    producer: AIOKafkaProducer,
    topic_prefix: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The end is the last stable offset; a transaction that stays open is named, and no longer once it has ended."""
    await log.append(EVENTS, [NewRecord(b"p", b"before")])
    await producer.begin_transaction()
    await producer.send_and_wait(topic_prefix + EVENTS, b"open", key=b"p")
    await log.append(EVENTS, [NewRecord(b"p", b"after")])
    assert (await log.bounds(EVENTS))[0] == (0, 1)
    assert await until_end(log) == [b"before"]

    watch = log._watch
    await watch._look_for_transactions()
    assert log.obstacle() is None  # most end within a minute
    monkeypatch.setattr("tidings.streams.log.kafka.topic_watch.OPEN_SECONDS", 0.0)
    obstacle = log.obstacle()
    assert obstacle is not None
    assert f"partition 0 of {topic_prefix}{EVENTS}" in obstacle
    assert "offset 1" in obstacle

    await producer.commit_transaction()

    async def gone() -> bool:  # the broker writes the marker a moment after its answer
        await watch._look_for_transactions()
        return log.obstacle() is None

    await eventually(gone, 20)
    assert await until_end(log) == [b"before", b"open", b"after"]


async def add_partitions(kafka_address: str, *topics: str, count: int) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka_address)
    await admin.start()
    try:
        await admin.create_partitions({topic: NewPartitions(count) for topic in topics})
        for topic in topics:

            async def grown(topic: str = topic) -> bool:
                [found] = await admin.describe_topics([topic])
                return len(found["partitions"]) == count

            await eventually(grown, 20)
    finally:
        await admin.close()


async def test_partitions_that_are_added_are_read_and_written(
    log: KafkaLog, kafka_address: str, topic_prefix: str
) -> None:
    """Followers, members of groups and appends go on with partitions that were added while they were at work."""
    followed: list[Record] = []

    async def follow() -> None:
        async with contextlib.aclosing(log.follow(EVENTS, "beginning")) as batches:  # type: ignore[type-var]
            async for batch in batches:
                followed.extend(batch)

    following = asyncio.create_task(follow())
    consumer = log.consume(EVENTS, "group")
    consumed: list[Record] = []

    async def consume() -> bool:
        consumed.extend(await consumer.fetch(10, 0.2))
        return {record.value for record in consumed} == {b"0", b"1", b"2"}

    try:
        await log.append(EVENTS, [NewRecord(b"p", b"0")])
        await eventually(lambda: len(followed) == 1, 20)
        await add_partitions(kafka_address, topic_prefix + EVENTS, count=3)
        positions = await log.append(
            EVENTS, [NewRecord(b"p", b"1", (), 1), NewRecord(b"p", b"2", (), 2)]
        )
        assert positions == [Position(1, 0), Position(2, 0)]
        await eventually(lambda: len(followed) == 3, 30)
        await eventually(consume, 40)
        assert await log.partitions(EVENTS) == 3
        assert {number: end for number, (_, end) in (await log.bounds(EVENTS)).items()} == {
            0: 1,
            1: 1,
            2: 1,
        }
        assert sorted(values(await until_end(log))) == [b"0", b"1", b"2"]
    finally:
        following.cancel()
        await asyncio.wait([following])


async def test_changes_go_where_their_topic_has_partitions(
    log: KafkaLog, kafka_address: str, topic_prefix: str
) -> None:
    """Where only the events have got more partitions, a change goes to its event's number modulo those there are."""
    await add_partitions(kafka_address, topic_prefix + EVENTS, count=3)
    for topic in (CHANGES, DEAD_LETTERS):
        assert await log.append(topic, [NewRecord(b"p", b"x", (), 2)]) == [Position(0, 0)]


def values(found: Sequence[bytes | None]) -> list[bytes]:
    return [value or b"" for value in found]


async def test_one_record_is_read_by_its_position(log: KafkaLog) -> None:
    """`read_at` gives the record at an offset, and nothing where there is none."""
    await log.append(EVENTS, [NewRecord(b"p", b"%d" % number) for number in range(3)])
    assert {n: one.value for n, one in (await log.read_at(EVENTS, {0: 1})).items()} == {0: b"1"}
    assert await log.read_at(EVENTS, {0: 3}) == {}
