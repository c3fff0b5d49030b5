"""Records that the Kafka client cannot decode."""

import asyncio
import contextlib
import time
from collections.abc import Sequence
from typing import Any

import pytest
from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.errors import KafkaConnectionError
from aiokafka.record.default_records import _DefaultRecordBatchBuilderPy

from tests.support.conditions import eventually
from tests.support.streams.pipeline import pipeline, read
from tidings.storage.memory import MemoryStore
from tidings.streams.log.factory import open_log
from tidings.streams.log.kafka.consumer import KafkaConsumer
from tidings.streams.log.protocol import EVENTS, LogUnavailable, NewRecord, Record

pytestmark = pytest.mark.kafka


class NotText(str):
    """A header's name that is encoded as bytes which are no UTF-8."""

    __slots__ = ()

    def encode(self, encoding: str = "utf-8", errors: str = "strict") -> bytes:
        """Two bytes that no UTF-8 has."""
        return b"\xff\xfe"


async def produce(kafka_address: str, topic: str, value: bytes, partition: int) -> int:
    """Append a record with such a header, as a producer in another language may; its offset."""
    producer = AIOKafkaProducer(bootstrap_servers=kafka_address)
    await producer.start()
    try:
        batch = producer.create_batch()
        builder = _DefaultRecordBatchBuilderPy(2, 0, 0, -1, -1, 0, 16384)
        builder.append(0, time.time_ns() // 1_000_000, b"p1", value, [(NotText("x"), b"1")])
        batch._builder, batch._relative_offset = builder, 1
        sent = await producer.send_batch(batch, topic, partition=partition)
        return int((await sent).offset)
    finally:
        await producer.stop()


async def test_a_header_that_is_no_text_stops_nobody(
    kafka_address: str, kafka_url: str, topic_prefix: str
) -> None:
    """The record goes to the dead letters with its place and the reason; what lies around it is applied once."""
    log = await open_log(kafka_url, topic_prefix=topic_prefix, partitions=2)
    try:
        for number in range(20):
            await log.append(
                EVENTS, [NewRecord(b"a%d" % number, b'{"status":"processing"}', (), number % 2)]
            )
        offset = await produce(kafka_address, f"{topic_prefix}{EVENTS}", b'{"status":"failed"}', 1)
        assert await log.read_at(EVENTS, {0: 0, 1: offset}) == await log.read_at(EVENTS, {0: 0})
        for number in range(20):
            await log.append(
                EVENTS, [NewRecord(b"a%d" % number, b'{"status":"succeeded"}', (), number % 2)]
            )
        async with pipeline(log, MemoryStore()) as running:
            await running.settled(30)
            for number in range(20):
                assert (await running.prediction(f"a{number}")).version == 2
            [letter] = await running.letters()
        headers = dict(letter.headers)
        assert headers["tidings-error"] == b"encoding"
        assert b"not UTF-8" in headers["tidings-error-message"]
        assert (headers["tidings-partition"], headers["tidings-offset"]) == (b"1", b"%d" % offset)
    finally:
        await log.close()


async def test_an_outage_while_it_is_read_around(
    kafka_address: str, kafka_url: str, topic_prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the client fails in the middle of it, what had been read by then comes with the next fetch, once."""
    log = await open_log(kafka_url, topic_prefix=topic_prefix, partitions=1)
    try:
        await log.append(EVENTS, [NewRecord(b"p", b"1"), NewRecord(b"p", b"2")])
        await produce(kafka_address, f"{topic_prefix}{EVENTS}", b"odd", 0)
        await log.append(EVENTS, [NewRecord(b"p", b"3")])
        member = log.consume(EVENTS, "group")
        assert isinstance(member, KafkaConsumer)
        client = await eventually(lambda: member._consumer, 30)
        assert client is not None
        whole = client.getone
        calls = 0

        async def failing(partition: TopicPartition) -> Any:
            nonlocal calls
            calls += 1
            if calls == 4:  # behind the one that cannot be decoded
                raise KafkaConnectionError("cut off")
            return await whole(partition)

        monkeypatch.setattr(client, "getone", failing)
        found: list[Record] = []

        async def all_read() -> bool:
            with contextlib.suppress(LogUnavailable):
                found.extend(await member.fetch(100, 0.2))
            return len(found) >= 4

        await eventually(all_read, 40)
        assert calls > 4
        assert [(record.offset, record.value) for record in found] == [
            (0, b"1"),
            (1, b"2"),
            (2, None),
            (3, b"3"),
        ]
    finally:
        await log.close()


async def test_who_follows_reads_on_too(
    kafka_address: str, kafka_url: str, topic_prefix: str
) -> None:
    """A follower gets every other record once and in order, and a stand-in without key and value."""
    log = await open_log(kafka_url, topic_prefix=topic_prefix, partitions=1)
    try:
        await log.append(EVENTS, [NewRecord(b"p", b"1"), NewRecord(b"p", b"2")])
        await produce(kafka_address, f"{topic_prefix}{EVENTS}", b"odd", 0)
        await log.append(EVENTS, [NewRecord(b"p", b"3")])
        found: Sequence[Record] = ()

        async def all_read() -> bool:
            nonlocal found
            found = await asyncio.wait_for(read(log, EVENTS), 20)
            return len(found) == 4

        await eventually(all_read, 40)
        assert [(record.offset, record.value) for record in found] == [
            (0, b"1"),
            (1, b"2"),
            (2, None),
            (3, b"3"),
        ]
    finally:
        await log.close()
