"""What only the log on Kafka has: its topics, its settings, and a broker that fails."""

import asyncio
import contextlib
import gc
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import CommitFailedError, OutOfOrderSequenceNumber

from tests.support.broker import Broker, free_port
from tests.support.conditions import eventually
from tidings.streams.log.factory import open_log
from tidings.streams.log.kafka.consumer import KafkaConsumer
from tidings.streams.log.kafka.errors import bounded
from tidings.streams.log.kafka.log import KafkaLog
from tidings.streams.log.protocol import (
    CHANGES,
    DEAD_LETTERS,
    EVENTS,
    TEXT,
    Consumer,
    Log,
    LogError,
    LogMisconfigured,
    LogUnavailable,
    NewRecord,
    Record,
)

pytestmark = pytest.mark.kafka


@pytest.fixture
async def admin(kafka_address: str) -> AsyncIterator[AIOKafkaAdminClient]:
    client = AIOKafkaAdminClient(bootstrap_servers=kafka_address)
    await client.start()
    yield client
    await client.close()


async def settings(admin: AIOKafkaAdminClient, topic: str) -> dict[str, str]:
    """A topic's configuration as the broker tells it."""
    [answer] = await admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, topic)])
    [(_, _, _, _, entries)] = answer.resources
    return {key: value for key, value, *_ in entries}


async def test_topics_are_created(
    kafka_url: str, topic_prefix: str, admin: AIOKafkaAdminClient
) -> None:
    """Missing topics are created with the same number of partitions, retention, compaction and room for a body."""
    log = await open_log(
        kafka_url,
        topic_prefix=topic_prefix,
        partitions=3,
        retention=3600,
        changes_retention=0,
        max_body=2_000_000,
        epoch=4,
    )
    try:
        described = await admin.describe_topics(
            [topic_prefix + name for name in (EVENTS, CHANGES, DEAD_LETTERS, TEXT)]
        )
        assert [len(topic["partitions"]) for topic in described] == [3, 3, 3, 3]
        events = await settings(admin, topic_prefix + EVENTS)
        changes = await settings(admin, topic_prefix + CHANGES)
        letters = await settings(admin, topic_prefix + DEAD_LETTERS)
        assert (events["retention.ms"], events["cleanup.policy"]) == ("3600000", "delete")
        assert (changes["retention.ms"], changes["cleanup.policy"]) == ("-1", "compact,delete")
        assert (letters["retention.ms"], letters["cleanup.policy"]) == ("1209600000", "delete")
        text = await settings(admin, topic_prefix + TEXT)
        assert (text["retention.ms"], text["cleanup.policy"]) == ("600000", "delete")
        assert text["segment.ms"] == "60000"
        assert {
            int(topic["max.message.bytes"]) > 2_000_000 for topic in (events, changes, letters)
        } == {True}
        kind, cluster, topic, epoch = (await log.identity()).split(":")
        assert (kind, topic, epoch) == ("kafka", topic_prefix + EVENTS, "4")
        assert cluster
    finally:
        await log.close()


async def test_the_number_of_partitions_is_that_of_the_events(
    kafka_url: str, topic_prefix: str, admin: AIOKafkaAdminClient
) -> None:
    """Where the events topic exists, its number of partitions holds for the topics created beside it."""
    room = {"max.message.bytes": "20000000"}
    await admin.create_topics([NewTopic(topic_prefix + EVENTS, 5, 1, topic_configs=room)])
    log = await open_log(kafka_url, topic_prefix=topic_prefix, partitions=12)
    try:
        assert await log.partitions(CHANGES) == 5
        assert set(await log.bounds(DEAD_LETTERS)) == set(range(5))
    finally:
        await log.close()


@pytest.mark.parametrize(
    ("topic", "partitions", "room", "named"),
    [(CHANGES, 2, 20_000_000, "has 2 partitions"), (EVENTS, 4, 1_048_588, "max.message.bytes=")],
)
async def test_a_topic_that_does_not_fit(
    kafka_url: str,
    topic_prefix: str,
    admin: AIOKafkaAdminClient,
    topic: str,
    partitions: int,
    room: int,
    named: str,
) -> None:
    """A topic with fewer partitions than the events, or with less room, stops the start with one line, unaltered."""
    if topic != EVENTS:
        await admin.create_topics(
            [NewTopic(topic_prefix + EVENTS, 4, 1, topic_configs={"max.message.bytes": "20000000"})]
        )
    await admin.create_topics(
        [
            NewTopic(
                topic_prefix + topic, partitions, 1, topic_configs={"max.message.bytes": str(room)}
            )
        ]
    )
    with pytest.raises(LogMisconfigured, match=named) as caught:
        await open_log(kafka_url, topic_prefix=topic_prefix)
    assert topic_prefix + topic in str(caught.value)
    assert "\n" not in str(caught.value)
    assert (await settings(admin, topic_prefix + topic))["max.message.bytes"] == str(room)


async def test_missing_topics_that_must_not_be_created(kafka_url: str, topic_prefix: str) -> None:
    """With `create=False` a missing topic is named, and stays missing."""
    for _ in range(2):
        with pytest.raises(LogMisconfigured, match=f"{topic_prefix}{EVENTS} does not exist"):
            await open_log(kafka_url, topic_prefix=topic_prefix, create=False)


async def test_a_command_reads_a_log_without_texts(
    kafka_url: str, topic_prefix: str, admin: AIOKafkaAdminClient
) -> None:
    """A log of a version that had no topic of texts is opened by commands, which make none."""
    room = {"max.message.bytes": "20000000"}
    names = [topic_prefix + name for name in (EVENTS, CHANGES, DEAD_LETTERS)]
    await admin.create_topics([NewTopic(name, 2, 1, topic_configs=room) for name in names])
    log = await open_log(kafka_url, topic_prefix=topic_prefix, create=False)
    try:
        assert await log.bounds(TEXT) == {}
    finally:
        await log.close()


async def test_no_broker() -> None:
    """An address where nobody listens is named within 10 s."""
    port = free_port()
    async with asyncio.timeout(10):
        with pytest.raises(LogUnavailable, match=f"127.0.0.1:{port} does not answer"):
            await open_log(f"kafka://127.0.0.1:{port}")


async def test_keys_are_partitioned_as_java_does(kafka_url: str, topic_prefix: str) -> None:
    """Keyed records go where Kafka's own clients put them: murmur2 of the key (values as Java computes them)."""
    # Utils.murmur2 of Kafka's own tests: "21" -> -973932308, "foobar" -> -790332482, "a-little-bit-long-string" ->
    # -985981536; the partition is (hash & 0x7fffffff) % partitions.
    hashes = {b"21": -973932308, b"foobar": -790332482, b"a-little-bit-long-string": -985981536}
    log = await open_log(kafka_url, topic_prefix=topic_prefix, partitions=7)
    try:
        positions = await log.append(EVENTS, [NewRecord(key, b"x") for key in hashes])
        assert [position.partition for position in positions] == [
            (h & 0x7FFFFFFF) % 7 for h in hashes.values()
        ]
    finally:
        await log.close()


@pytest.mark.parametrize("codec", [None, "gzip", "snappy", "lz4", "zstd"])
async def test_what_others_produce_is_read(
    kafka_url: str, kafka_address: str, topic_prefix: str, codec: str | None
) -> None:
    """Another service's records are read however it compresses them, with headers that have no value."""
    log = await open_log(kafka_url, topic_prefix=topic_prefix, partitions=1)
    producer = AIOKafkaProducer(bootstrap_servers=kafka_address, compression_type=codec)
    await producer.start()
    for _ in range(20):
        await producer.send_and_wait(
            topic_prefix + EVENTS, b'{"status":"processing"}' * 20, b"k", headers=[("x", None)]
        )
    await producer.stop()
    consumer = log.consume(EVENTS, "g")
    records: list[Record] = []

    async def all_read() -> bool:
        records.extend(await consumer.fetch(100, 0.1))
        return len(records) == 20

    await eventually(all_read, 30)
    assert all((record.value or b"").startswith(b'{"status":"processing"}') for record in records)
    assert [dict(record.headers)["x"] for record in records] == [None] * 20
    await log.close()


async def test_concurrent_appends_share_requests(kafka_url: str, topic_prefix: str) -> None:
    """64 appends at once are sent in a few rounds, not one by one."""
    log = await open_log(kafka_url, topic_prefix=topic_prefix, partitions=4)
    assert isinstance(log, KafkaLog)
    rounds = counted(log._appender, "_send_round")
    try:
        await asyncio.gather(
            *[log.append(EVENTS, [NewRecord(b"%d" % number, b"x")]) for number in range(64)]
        )
        assert len(rounds) <= 8
    finally:
        await log.close()


async def test_a_batch_too_large_for_the_topic_is_sent_again_one_by_one(
    kafka_url: str, topic_prefix: str, admin: AIOKafkaAdminClient
) -> None:
    """Records that together are more than the topic takes at once are taken all the same."""
    log = await open_log(kafka_url, topic_prefix=topic_prefix, partitions=1)
    try:
        limit = {"max.message.bytes": "20000"}
        topic = ConfigResource(ConfigResourceType.TOPIC, topic_prefix + EVENTS, limit)
        await admin.alter_configs([topic])
        value = b"x" * 1000
        await asyncio.gather(*[log.append(EVENTS, [NewRecord(b"k", value)]) for _ in range(64)])
    finally:
        await log.close()


def counted(target: Any, method: str) -> list[object]:
    """Let each call of a method leave a mark."""
    calls: list[object] = []
    original: Callable[..., Any] = getattr(target, method)

    def call(*arguments: object) -> Any:
        calls.append(arguments)
        return original(*arguments)

    setattr(target, method, call)
    return calls


@pytest.mark.parametrize("how", ["sequence", "sender"])
async def test_a_dead_producer_is_replaced(kafka_url: str, topic_prefix: str, how: str) -> None:
    """After a hole in the sequence numbers, or the death of the client's sender, the next append passes."""
    log = await open_log(kafka_url, topic_prefix=topic_prefix, partitions=1)
    assert isinstance(log, KafkaLog)
    try:
        await log.append(EVENTS, [NewRecord(b"k", b"1")])
        producer = log._appender._producer
        assert producer is not None
        if how == "sequence":
            # As after a batch that failed for want of a leader: the broker has never seen the numbers in between.
            for partition in log._partitions(EVENTS):
                producer._txn_manager.increment_sequence_number(partition, 100)
        else:
            producer._message_accumulator.fail_all(OutOfOrderSequenceNumber())
        with contextlib.suppress(LogUnavailable):
            await log.append(EVENTS, [NewRecord(b"k", b"2")])
        await log.append(EVENTS, [NewRecord(b"k", b"3")])
        assert log._appender._producer is not producer
    finally:
        await log.close()


class Traffic:
    """Appends numbered records without end, and reads them as a group and as a follower; keeps what each has seen."""

    def __init__(self, log: Log) -> None:
        self.log = log
        self.acknowledged: set[bytes] = set()
        self.consumed: set[bytes] = set()
        self.followed: set[bytes] = set()
        self.refused = 0
        self.longest = 0.0
        self._number = 0
        self._stop = asyncio.Event()
        self.consumer: Consumer = log.consume(EVENTS, "group")
        self._tasks = [
            *(asyncio.create_task(self._append()) for _ in range(4)),
            asyncio.create_task(self._consume()),
            asyncio.create_task(self._follow()),
        ]

    async def _append(self) -> None:
        while not self._stop.is_set():
            self._number += 1
            value = b"%d" % self._number
            start = time.monotonic()
            try:
                await self.log.append(EVENTS, [NewRecord(value, value)])
                self.acknowledged.add(value)
            except LogUnavailable:
                self.refused += 1
                await asyncio.sleep(0.1)
            self.longest = max(self.longest, time.monotonic() - start)
            await asyncio.sleep(0.01)

    async def _consume(self) -> None:
        while not self._stop.is_set():
            try:
                records = await self.consumer.fetch(500, 0.2)
                self.consumed.update(record.value or b"" for record in records)
                if records:
                    await self.consumer.commit(
                        {record.partition: record.offset + 1 for record in records}
                    )
            except LogUnavailable:
                await asyncio.sleep(0.1)

    async def _follow(self) -> None:
        positions: dict[int, int] = {}
        while not self._stop.is_set():
            with contextlib.suppress(LogUnavailable):
                async for batch in self.log.follow(EVENTS, positions):
                    for record in batch:
                        self.followed.add(record.value or b"")
                        positions[record.partition] = record.offset + 1
                    if self._stop.is_set():
                        return
            await asyncio.sleep(0.1)

    async def flowing(self, within: float) -> float:
        """Wait until something appended after now was acknowledged, consumed and followed; the seconds it took."""
        start = time.monotonic()
        before = self._number

        def through() -> bool:
            return any(
                int(value) > before for value in self.acknowledged & self.consumed & self.followed
            )

        await eventually(through, within)
        return time.monotonic() - start

    async def settle(self) -> None:
        """Wait until both readers have everything that was acknowledged, and stop."""
        await eventually(lambda: self.acknowledged <= self.consumed, within=30)
        await eventually(lambda: self.acknowledged <= self.followed, within=30)
        self._stop.set()
        with contextlib.suppress(LogError):  # the follower ends with the next record
            await self.log.append(EVENTS, [NewRecord(b"last", b"0")])
        async with asyncio.timeout(20):
            await asyncio.gather(*self._tasks)


RECOVERY_SECONDS = 8.0
"""From the broker's return to records flowing from end to end again."""


@pytest.mark.parametrize(
    "how", ["kill", "restart", "freeze", pytest.param("freeze long", marks=pytest.mark.long)]
)
async def test_a_failing_broker(
    own_broker: Broker, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Appends are refused within 5 s while the broker is away; on its return all flows again and nothing is lost.

    Of the producers that were given up nothing stays behind.
    """
    log = await open_log(f"kafka://{own_broker.bootstrap}", partitions=4)
    traffic = Traffic(log)
    try:
        await traffic.flowing(within=30)
        if how == "kill":
            own_broker.kill()
            await eventually(lambda: traffic.refused > 4, within=30)
            own_broker.launch()
            await asyncio.to_thread(own_broker.wait)
        elif how == "restart":
            await asyncio.to_thread(own_broker.restart)
        else:
            own_broker.freeze()
            await asyncio.sleep(7 if how == "freeze" else 20)  # the fault itself lasts this long
            assert traffic.refused >= 4
            own_broker.thaw()
        took = await traffic.flowing(within=60)
        await traffic.settle()
        assert traffic.longest < 6.5
        assert took < RECOVERY_SECONDS, f"flowing {took:.1f} s after the broker's return"
    finally:
        own_broker.thaw()
        await log.close()
    gc.collect()
    complaints = [record.getMessage() for record in caplog.records if record.name == "asyncio"]
    assert not [complaint for complaint in complaints if "producer" in complaint]
    assert not [
        task for task in asyncio.all_tasks() if "aiokafka/producer" in repr(task.get_coro())
    ]


async def test_a_stuck_consumer_is_replaced(kafka_url: str, topic_prefix: str) -> None:
    """A consumer and a follower whose client stopped fetching without a word are replaced, and miss nothing."""
    log = await open_log(kafka_url, topic_prefix=topic_prefix, partitions=2)
    traffic = Traffic(log)
    try:
        await traffic.flowing(within=30)
        for task in asyncio.all_tasks():
            if "Fetcher._fetch_requests_routine" in repr(task.get_coro()):
                task.cancel()
        await traffic.flowing(within=40)
        await traffic.settle()
        assert traffic.consumer.generation() > 1
    finally:
        await log.close()


async def test_committing_what_was_lost(
    kafka_url: str, topic_prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A commit that the group refuses, or for partitions of others, raises nothing; one without an answer does."""
    log = await open_log(kafka_url, topic_prefix=topic_prefix, partitions=1)
    try:
        consumer = log.consume(EVENTS, "group")
        assert isinstance(consumer, KafkaConsumer)
        await eventually(consumer.assigned)
        await consumer.commit({17: 1})

        async def refused(*_: object) -> None:
            raise CommitFailedError

        async def silent(*_: object) -> None:
            await asyncio.Event().wait()

        monkeypatch.setattr(consumer._consumer, "commit", refused)
        await consumer.commit({0: 1})
        monkeypatch.setattr(consumer._consumer, "commit", silent)
        monkeypatch.setattr("tidings.streams.log.kafka.consumer._COMMIT_SECONDS", 0.1)
        with pytest.raises(LogUnavailable, match="did not take offsets"):
            await consumer.commit({0: 1})
        monkeypatch.undo()
        assert await log.committed(EVENTS, "group") == {}
    finally:
        await log.close()


async def test_a_cancellation_that_nobody_asked_for() -> None:
    """A future that the client cancelled is an outage; a real cancellation goes through."""
    future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    future.cancel()
    with pytest.raises(LogUnavailable, match="reading: the connection broke"):
        async with bounded(5, "reading"):
            await future

    async def wait() -> None:
        async with bounded(5, "reading"):
            await asyncio.Event().wait()

    task = asyncio.create_task(wait())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    with pytest.raises(LogUnavailable, match="no answer in time"):
        async with bounded(0.01, "reading"):
            await asyncio.Event().wait()
