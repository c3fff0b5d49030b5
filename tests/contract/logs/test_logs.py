"""The contract of a log, the same for memory, SQLite and Kafka."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.support.conditions import eventually
from tidings.streams.log.factory import open_log
from tidings.streams.log.protocol import (
    CHANGES,
    DEAD_LETTERS,
    EVENTS,
    Consumer,
    Log,
    LogError,
    LogMisconfigured,
    NewRecord,
    Position,
    Record,
    RecordTooLarge,
    Since,
)
from tidings.streams.log.read_until_end import read_until_end

Open = Callable[..., Awaitable[Log]]

KAFKA = pytest.param("kafka", marks=pytest.mark.kafka)
EVERY = ("memory", "sqlite", KAFKA)
LASTING = ("sqlite", KAFKA)
"""Those that outlive the process."""
MANY_PARTITIONS = ("memory", KAFKA)


@pytest.fixture
async def open_it(
    request: pytest.FixtureRequest, tmp_path: Path, topic_prefix: str
) -> AsyncIterator[Open]:
    """Opens the log of the test (again and again the same one); with four partitions where the kind has several."""
    kind: str = request.param
    if kind == "kafka":
        url = request.getfixturevalue("kafka_url")
    else:
        url = {"memory": "memory://?partitions=4", "sqlite": f"sqlite:///{tmp_path}/log.db"}[kind]
    opened: list[Log] = []

    async def open_again(**options: Any) -> Log:
        log = await open_log(url, topic_prefix=topic_prefix, partitions=4, **options)
        opened.append(log)
        return log

    yield open_again
    for log in opened:
        await log.close()


@pytest.fixture
async def log(open_it: Open) -> Log:
    return await open_it()


def every(kinds: Sequence[Any] = EVERY) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("open_it", kinds, indirect=True)


def record(number: int, *, value: bytes | None = None, partition: int = 0) -> NewRecord:
    return NewRecord(b"key", b"value %d" % number if value is None else value, (), partition)


async def take(consumer: Consumer, count: int, within: float = 30.0) -> list[Record]:
    """Fetch until `count` records have come."""
    records: list[Record] = []
    end = time.monotonic() + within
    while len(records) < count:
        assert time.monotonic() < end, f"{len(records)} of {count} records came"
        records += await consumer.fetch(500, 0.5)
    return records


async def follow(log: Log, topic: str, since: Since, count: int) -> list[Record]:
    """Follow until `count` records have come."""
    records: list[Record] = []
    async with asyncio.timeout(30), contextlib.aclosing(log.follow(topic, since)) as batches:  # type: ignore[type-var]
        async for batch in batches:
            records += batch
            if len(records) >= count:
                break
    return records


def content(records: Sequence[Record]) -> list[bytes | None]:
    return [one.value for one in records]


@every()
async def test_order_within_a_partition(log: Log) -> None:
    """Records come out of a partition in the order in which they went in, at rising offsets."""
    for start in range(0, 60, 20):
        await log.append(EVENTS, [record(number) for number in range(start, start + 20)])
    records = await take(log.consume(EVENTS, "group"), 60)
    assert content(records) == [b"value %d" % number for number in range(60)]
    assert [one.offset for one in records] == list(range(60))


@every()
async def test_positions_are_those_of_the_records(log: Log) -> None:
    """An append returns where its records lie, in the order given, over all partitions."""
    given = [NewRecord(b"key %d" % number, b"%d" % number) for number in range(50)]
    positions = await log.append(EVENTS, given)
    records = await take(log.consume(EVENTS, "group"), 50)
    assert {Position(one.partition, one.offset): one.value for one in records} == dict(
        zip(positions, [one.value for one in given], strict=True)
    )


@every()
async def test_one_key_one_partition(log: Log) -> None:
    """Records of one key lie in one partition, whichever append they came with."""
    where: dict[bytes, set[int]] = {}
    for _ in range(3):
        keys = [b"key %d" % number for number in range(20)]
        for key, position in zip(
            keys, await log.append(EVENTS, [NewRecord(key, b"x") for key in keys]), strict=True
        ):
            where.setdefault(key, set()).add(position.partition)
    assert all(len(partitions) == 1 for partitions in where.values())


@every()
async def test_concurrent_appends(log: Log) -> None:
    """Of 200 appends at once each gets a position of its own, and nothing is lost."""
    appended = await asyncio.gather(
        *[log.append(EVENTS, [record(number)]) for number in range(200)]
    )
    positions = {position: b"value %d" % number for number, [position] in enumerate(appended)}
    assert len(positions) == 200
    records = await take(log.consume(EVENTS, "group"), 200)
    assert {Position(one.partition, one.offset): one.value for one in records} == positions


@every()
async def test_a_record_comes_out_as_it_went_in(log: Log) -> None:
    """Odd keys, empty and missing values, repeated and empty headers survive; the timestamp is that of the append."""
    before = time.time_ns() // 1_000_000
    given = [
        NewRecord(
            bytes(range(256)), b"\x00\xff", [("t", b"a"), ("t", b"b"), ("", b""), ("ü", b"\xff")], 0
        ),
        NewRecord(b"", b"", (), 0),
        NewRecord(b"gone", None, [("v", b"7")], 0),
        NewRecord(None, b"no key", (), 0),
    ]
    await log.append(CHANGES if log.name != "kafka" else EVENTS, given)
    records = await take(log.consume(CHANGES if log.name != "kafka" else EVENTS, "group"), 4)
    assert [(one.key, one.value, tuple(one.headers)) for one in records] == [
        (one.key, one.value, tuple(one.headers)) for one in given
    ]
    assert all(before <= one.timestamp <= time.time_ns() // 1_000_000 for one in records)
    assert all(one.topic.endswith(EVENTS) or one.topic.endswith(CHANGES) for one in records)


@every()
async def test_large_records(open_it: Open) -> None:
    """A value of the permitted size passes, twice in one append; a larger one is refused for good."""
    log = await open_it(max_body=3_000_000)
    large = bytes(3_000_000)
    headers = [("tidings-provider", b"standard")]
    await log.append(
        EVENTS, [NewRecord(b"a", large, headers, 0), NewRecord(b"b", large, headers, 0)]
    )
    with pytest.raises(RecordTooLarge, match="TIDINGS_MAX_BODY"):
        await log.append(EVENTS, [record(1, value=bytes(3_100_000))])
    await log.append(EVENTS, [record(2)])
    records = await take(log.consume(EVENTS, "group"), 3)
    assert content(records) == [large, large, b"value 2"]


@every()
async def test_a_partition_that_does_not_exist(log: Log) -> None:
    """Appending to a partition that the topic does not have is refused with its number."""
    with pytest.raises(LogError, match="partition"):
        await log.append(EVENTS, [record(1, partition=77)])


@every()
async def test_topics_are_apart(log: Log) -> None:
    """What is appended to one topic is not in another."""
    await log.append(EVENTS, [record(1)])
    await log.append(DEAD_LETTERS, [record(2)])
    assert content(await take(log.consume(DEAD_LETTERS, "group"), 1)) == [b"value 2"]


@every(LASTING)
async def test_durability(open_it: Open) -> None:
    """Records, committed offsets and the log's identity are there when the log is opened again."""
    log = await open_it()
    identity = await log.identity()
    await log.append(EVENTS, [record(number) for number in range(10)])
    consumer = log.consume(EVENTS, "group")
    await take(consumer, 10)
    await consumer.commit({0: 4})
    await log.close()
    log = await open_it()
    assert await log.identity() == identity
    assert await log.committed(EVENTS, "group") == {0: 4}
    assert content(await take(log.consume(EVENTS, "group"), 6)) == [
        b"value %d" % number for number in range(4, 10)
    ]


@every()
async def test_two_logs_have_two_identities(log: Log, tmp_path: Path) -> None:
    """Another log has another identity, which names its kind."""
    other = await open_log(f"sqlite:///{tmp_path}/other.db")
    try:
        assert await other.identity() != await log.identity()
        assert (await log.identity()).startswith(f"{log.name}:")
    finally:
        await other.close()


@every()
async def test_what_was_not_committed_comes_again(log: Log) -> None:
    """A group resumes behind what it committed; what it had read beyond that comes again."""
    await log.append(EVENTS, [record(number) for number in range(10)])
    first = log.consume(EVENTS, "group")
    await take(first, 10)
    await first.commit({0: 7})
    await first.close()
    second = log.consume(EVENTS, "group")
    assert content(await take(second, 3)) == [b"value 7", b"value 8", b"value 9"]


@every()
async def test_groups_are_apart(log: Log) -> None:
    """Each group gets every record, and its own committed offsets."""
    await log.append(EVENTS, [record(number) for number in range(5)])
    one, two = log.consume(EVENTS, "one"), log.consume(EVENTS, "two")
    await take(one, 5)
    await one.commit({0: 5})
    assert len(await take(two, 5)) == 5
    assert await log.committed(EVENTS, "one") == {0: 5}
    assert await log.committed(EVENTS, "two") == {}


@every()
async def test_fetch_is_bounded(log: Log) -> None:
    """A fetch returns no more than asked for, and comes back empty after its wait."""
    await log.append(EVENTS, [record(number) for number in range(25)])
    consumer = log.consume(EVENTS, "group")
    sizes: list[int] = []
    while sum(sizes) < 25:
        sizes.append(len(await consumer.fetch(10, 0.5)))
    assert max(sizes) == 10
    start = time.monotonic()
    assert not await consumer.fetch(10, 0.2)
    assert time.monotonic() - start >= 0.19


@every()
async def test_a_waiting_fetch_wakes_up(log: Log) -> None:
    """A fetch that waits returns as soon as something is appended, long before its wait is over."""
    consumer = log.consume(EVENTS, "group")
    await eventually(lambda: fetched_nothing(consumer))
    waiting = asyncio.create_task(consumer.fetch(10, 60))
    await asyncio.sleep(0)
    await log.append(EVENTS, [record(1)])
    async with asyncio.timeout(20):
        assert content(await waiting) == [b"value 1"]


async def fetched_nothing(consumer: Consumer) -> bool:
    """Whether the consumer has its partitions and they hold nothing new."""
    return not await consumer.fetch(1, 0.01) and bool(consumer.assigned())


@every()
async def test_pause(log: Log) -> None:
    """A paused consumer gets nothing, keeps its partitions, and loses nothing."""
    await log.append(EVENTS, [record(number) for number in range(20)])
    consumer = log.consume(EVENTS, "group")
    first: list[Record] = []
    while not first:
        first += await consumer.fetch(5, 0.5)
    consumer.pause()
    await log.append(EVENTS, [record(number) for number in range(20, 30)])
    for _ in range(5):
        assert not await consumer.fetch(100, 0.1)
    assert 0 in consumer.assigned()
    consumer.resume()
    rest = await take(consumer, 30 - len(first))
    assert content(first + rest) == [b"value %d" % number for number in range(30)]


@every()
async def test_seek(log: Log) -> None:
    """After a seek the records from there on come again; a partition of others is left out."""
    await log.append(EVENTS, [record(number) for number in range(10)])
    consumer = log.consume(EVENTS, "group")
    await take(consumer, 10)
    consumer.seek({0: 6, 55: 1})
    assert content(await take(consumer, 4)) == [b"value 6", b"value 7", b"value 8", b"value 9"]


@every()
async def test_assignment_and_lag(log: Log) -> None:
    """A lone member has all partitions and a generation, and its lag is what it has not fetched."""
    await log.append(EVENTS, [record(number) for number in range(10)])
    consumer = log.consume(EVENTS, "group")
    first: list[Record] = []
    while not first:
        first += await consumer.fetch(3, 0.5)
    assert consumer.assigned() == frozenset(range(await log.partitions(EVENTS)))
    assert consumer.generation() >= 1
    assert (await consumer.lag())[0] == 10 - len(first)
    await take(consumer, 10 - len(first))
    assert set((await consumer.lag()).values()) == {0}


@every()
async def test_bounds_and_offsets_at(log: Log) -> None:
    """The bounds are the first offset and the next one; a time finds the first record not older than it."""
    assert (await log.bounds(EVENTS))[0] == (0, 0)
    await log.append(EVENTS, [record(1)])
    [one] = await follow(log, EVENTS, "beginning", 1)
    await eventually(lambda: time.time_ns() // 1_000_000 > one.timestamp + 1)
    between = one.timestamp + 1
    await log.append(EVENTS, [record(2), record(3)])
    assert (await log.bounds(EVENTS))[0] == (0, 3)
    assert (await log.offsets_at(EVENTS, 0))[0] == 0
    assert (await log.offsets_at(EVENTS, between))[0] == 1
    assert (await log.offsets_at(EVENTS, between + 3_600_000))[0] == 3


@every()
async def test_follow_from_the_beginning(log: Log) -> None:
    """A follower gets every record of all partitions, then an empty batch, then what comes, then an empty batch."""
    await log.append(
        EVENTS, [NewRecord(b"key %d" % number, b"%d" % number) for number in range(40)]
    )
    seen: list[Record] = []
    empty = 0
    async with asyncio.timeout(30):
        async for batch in log.follow(EVENTS, "beginning"):
            seen += batch
            if not batch:
                empty += 1
                if empty == 1:
                    assert len(seen) == 40
                    await log.append(EVENTS, [record(1000)])
                elif len(seen) == 41:
                    break
    assert sorted(content(seen)[:40], key=lambda value: int(value or b"0")) == [
        b"%d" % number for number in range(40)
    ]
    assert seen[-1].value == b"value 1000"


@every()
async def test_follow_from_a_position(log: Log) -> None:
    """A follower that names offsets starts there, and at the beginning of partitions it does not name."""
    await log.append(EVENTS, [record(number) for number in range(10)])
    assert content(await follow(log, EVENTS, {0: 8}, 2)) == [b"value 8", b"value 9"]
    assert len(await follow(log, EVENTS, {}, 10)) == 10


@every()
async def test_follow_from_the_end(log: Log) -> None:
    """A follower from the end gets only what is appended after it said that it is caught up."""
    await log.append(EVENTS, [record(1)])
    seen: list[Record] = []
    async with asyncio.timeout(30):
        async for batch in log.follow(EVENTS, "end"):
            seen += batch
            if not batch and not seen:
                await log.append(EVENTS, [record(2)])
            if seen:
                break
    assert content(seen) == [b"value 2"]


@every()
async def test_two_followers(log: Log) -> None:
    """Two followers each get everything, beside a group that consumes."""
    followers = [asyncio.create_task(follow(log, EVENTS, "beginning", 100)) for _ in range(2)]
    consumer = log.consume(EVENTS, "group")
    for number in range(0, 100, 10):
        await log.append(EVENTS, [record(number + offset) for offset in range(10)])
    wanted = [b"value %d" % number for number in range(100)]
    assert content(await take(consumer, 100)) == wanted
    for follower in followers:
        assert content(await follower) == wanted


@every()
async def test_closing_is_idempotent(log: Log) -> None:
    """A consumer and a log may be closed twice; afterwards they refuse with an error of the log."""
    consumer = log.consume(EVENTS, "group")
    await consumer.close()
    await consumer.close()
    with pytest.raises(LogError):
        await consumer.fetch(1, 0.1)
    await log.close()
    await log.close()
    with pytest.raises(LogError):
        await log.append(EVENTS, [record(1)])


@every(MANY_PARTITIONS)
async def test_two_members_share_the_partitions(log: Log) -> None:
    """Two members of a group get every record between them while one joins and leaves; nothing is lost."""
    seen: set[tuple[int, int]] = set()
    stop = asyncio.Event()

    async def work(consumer: Consumer) -> None:
        while not stop.is_set():
            records = await consumer.fetch(50, 0.05)
            if records:
                seen.update((one.partition, one.offset) for one in records)
                await consumer.commit({one.partition: one.offset + 1 for one in records})

    wanted: set[tuple[int, int]] = set()

    async def produce(count: int) -> None:
        for number in range(count):
            positions = await log.append(
                EVENTS, [NewRecord(b"%d" % key, b"x") for key in range(number, number + 8)]
            )
            wanted.update((position.partition, position.offset) for position in positions)

    first = log.consume(EVENTS, "group")
    work_first = asyncio.create_task(work(first))
    await eventually(lambda: len(first.assigned()) == 4, within=30)
    await produce(20)
    second = log.consume(EVENTS, "group")
    work_second = asyncio.create_task(work(second))
    await eventually(lambda: len(first.assigned()) == len(second.assigned()) == 2, within=30)
    assert first.assigned().isdisjoint(second.assigned())
    await produce(20)
    work_second.cancel()
    await second.close()
    await produce(20)
    await eventually(lambda: len(first.assigned()) == 4, within=30)
    await eventually(lambda: seen == wanted, within=30)
    stop.set()
    await work_first


@every(MANY_PARTITIONS)
async def test_a_pause_survives_a_reassignment(log: Log) -> None:
    """A paused member that gets more partitions stays paused on all of them."""
    await log.append(EVENTS, [NewRecord(b"key %d" % number, b"x") for number in range(40)])
    first, second = log.consume(EVENTS, "group"), log.consume(EVENTS, "group")
    both = (first, second)

    async def dealt() -> bool:
        for member in both:
            assert not await member.fetch(100, 0.05)
        return all(len(member.assigned()) == 2 for member in both)

    for member in both:
        member.pause()
    await eventually(dealt, within=30)
    await second.close()

    async def alone() -> bool:
        assert not await first.fetch(100, 0.05)
        return len(first.assigned()) == 4

    await eventually(alone, within=30)
    assert not await first.fetch(100, 0.3)
    first.resume()
    assert len(await take(first, 40)) == 40


@pytest.mark.parametrize(
    ("url", "named"),
    [
        ("mysql://host/log", "mysql"),
        ("log.db", "log.db"),
        ("sqlite://", "no file"),
        ("sqlite://host/log.db", "host"),
        ("sqlite:///log.db?mode=ro", "mode=ro"),
        ("memory://host", "memory://host"),
        ("memory://?partitions=none", "none"),
        ("kafka://", "must name brokers"),
        ("kafka://host", "'host'"),
        ("kafka://host:port", "'host:port'"),
        ("kafka://host:9092/topic", "topic"),
        ("kafka://user:secret@host:9092", "sasl_plain_username"),
        ("kafka://host:9092?linger=5", "'linger'"),
        ("kafka://host:9092?security_protocol=TLS", "'TLS'"),
        ("kafka://host:9092?security_protocol=SASL_SSL", "needs sasl_plain_username"),
        ("kafka://host:9092?sasl_plain_password=secret", "needs security_protocol"),
        ("kafka://host:9092?ssl_cafile=ca.pem", "needs security_protocol"),
        ("kafka://host:9092?security_protocol=SSL&ssl_cafile=/nowhere/ca.pem", "ssl_cafile"),
        (
            "kafka://host:9092?security_protocol=SASL_SSL&sasl_mechanism=X&sasl_plain_username=u&sasl_plain_password=secret",
            "'X'",
        ),
    ],
)
async def test_a_wrong_url(url: str, named: str) -> None:
    """A wrong URL is refused with one line that names what is wrong, and never a secret."""
    with pytest.raises(LogMisconfigured) as caught:
        await open_log(url)
    text = str(caught.value)
    assert named in text
    assert "secret" not in text
    assert "\n" not in text


@pytest.mark.parametrize("option", ["partitions", "retention", "max_body"])
async def test_a_wrong_option(option: str) -> None:
    """A number that makes no sense is refused."""
    options: dict[str, Any] = {option: 0}
    with pytest.raises(LogMisconfigured, match="above 0"):
        await open_log("memory://", **options)


@every()
async def test_reading_up_to_the_end(log: Log) -> None:
    """Reading a topic up to its end gives what is there, from and to where it is told, and ends by itself."""
    assert await until_end(log) == []
    await log.append(EVENTS, [record(number) for number in range(600)])
    assert await until_end(log) == [b"value %d" % number for number in range(600)]
    await log.append(EVENTS, [record(600)])
    some = await until_end(log, start={0: 590}, end={0: 600})
    assert some == [b"value %d" % number for number in range(590, 600)]
    assert await until_end(log, start={0: 601}) == []
    assert await until_end(log, end={0: 2}) == [b"value 0", b"value 1"]


@every()
async def test_reading_up_to_the_end_while_more_comes(log: Log) -> None:
    """What is appended meanwhile is left out, and does not keep the reading from ending."""
    await log.append(EVENTS, [record(number) for number in range(100)])
    found = 0
    async for batch in read_until_end(log, EVENTS):
        found += len(batch)
        await log.append(EVENTS, [record(number) for number in range(50)])
    assert found == 100


async def until_end(log: Log, **span: Mapping[int, int]) -> list[bytes | None]:
    async with asyncio.timeout(30):
        return [one.value async for batch in read_until_end(log, EVENTS, **span) for one in batch]
