"""Two processors on a real broker that is killed, frozen and cut off under load: nothing lost, nothing twice."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import msgspec
import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from tests.support.broker import Broker
from tests.support.command import tidings
from tests.support.conditions import eventually, lasting
from tests.support.tidings_process import TidingsProcess, serving
from tidings.storage.memory import MemoryStore
from tidings.storage.prediction import Prediction, Status
from tidings.storage.wrappers.cache import CachedStore
from tidings.streams.changes.codec import parse
from tidings.streams.log.factory import open_log
from tidings.streams.log.protocol import (
    CHANGES,
    DEAD_LETTERS,
    EVENTS,
    Log,
    LogUnavailable,
    NewRecord,
    Position,
)
from tidings.streams.processing.processor import Processor
from tidings.streams.rules.reducer import StorePolicy

pytestmark = pytest.mark.kafka

LOGS = 4
"""Reports of a prediction that each make its log longer; then it succeeds: versions 1 to 5."""

BACK = 8.0
"""Seconds after the broker's return within which changes must flow again."""


class Traffic:
    """Appends events of one prediction after another, again where the outcome is unknown, and watches the changes."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._stopping = False
        self.finished: list[str] = []
        self.versions: dict[str, int] = {}
        self.statuses: dict[str, str | None] = {}
        self.last_change = time.monotonic()

    async def send(self, name: str) -> None:
        number = 0
        while not self._stopping:
            prediction_id = f"{name}{number}"
            for length in range(1, LOGS + 1):
                await self._append(prediction_id, {"status": "processing", "logs": "x" * length})
            await self._append(prediction_id, {"status": "succeeded", "output": [number]})
            self.finished.append(prediction_id)
            number += 1

    async def _append(self, prediction_id: str, fields: dict[str, object]) -> Position:
        record = NewRecord(prediction_id.encode(), msgspec.json.encode(fields))
        while True:
            try:
                [position] = await self._log.append(EVENTS, [record])
            except LogUnavailable:
                await asyncio.sleep(0.05)
            else:
                return position

    async def watch(self) -> None:
        since: dict[int, int] | str = "beginning"
        while True:
            try:
                async for batch in self._log.follow(CHANGES, since):  # type: ignore[arg-type]
                    for record in batch:
                        if isinstance(since, str):
                            since = {}
                        since[record.partition] = record.offset + 1
                        change = parse(record)
                        assert change is not None
                        self.last_change = time.monotonic()
                        known = self.versions.get(change.prediction_id, 0)
                        if change.version > known:
                            self.versions[change.prediction_id] = change.version
                            self.statuses[change.prediction_id] = change.status
            except LogUnavailable:
                await asyncio.sleep(0.05)

    def stop(self) -> None:
        self._stopping = True


@asynccontextmanager
async def processing(log: Log, store: MemoryStore) -> AsyncIterator[Processor]:
    """A processor with a cache of its own."""
    processor = Processor(log, CachedStore(store), {}, StorePolicy(await log.identity()))
    task = asyncio.create_task(processor.run())
    try:
        yield processor
    finally:
        processor.stop()
        await asyncio.wait_for(task, 30)


async def through(broker: Broker, harm: Callable[[Traffic], Awaitable[None]]) -> None:
    """Two processors under load while the broker is harmed; then everything must be there exactly once."""
    log = await open_log(f"kafka://{broker.bootstrap}", partitions=4)
    store = MemoryStore()
    traffic = Traffic(log)
    watching = asyncio.create_task(traffic.watch())
    try:
        async with processing(log, store), processing(log, store), asyncio.TaskGroup() as group:
            for name in ("a", "b", "c"):
                group.create_task(traffic.send(name))
            await eventually(lambda: len(traffic.finished) > 5, 60)
            await harm(traffic)
            traffic.stop()
        async with processing(log, store):
            await settled(log)
        assert traffic.finished
        for prediction_id, stored in (await store.load(traffic.finished)).items():
            standing = stored.standing()
            assert isinstance(standing, Prediction)
            assert (standing.status, standing.version, standing.logs_length) == (
                Status.SUCCEEDED,
                LOGS + 1,
                LOGS,
            ), prediction_id
        await eventually(
            lambda: all(traffic.statuses.get(i) == "succeeded" for i in traffic.finished), 20
        )
    finally:
        traffic.stop()
        watching.cancel()
        await log.close()


async def settled(log: Log) -> None:
    """Wait until every event is committed."""
    ends = {p: end for p, (_, end) in (await log.bounds(EVENTS)).items() if end}

    async def committed() -> bool:
        done = await log.committed(EVENTS, "tidings-processor")
        return all(done.get(partition, 0) >= end for partition, end in ends.items())

    await eventually(committed, 30)


async def flows_again(traffic: Traffic) -> None:
    """Changes come within the time allowed after the broker's return."""
    returned = time.monotonic()
    await eventually(lambda: traffic.last_change > returned, BACK)


async def test_a_broker_that_is_killed_and_comes_back(own_broker: Broker) -> None:
    """SIGKILL under load, back on the same data: it flows within eight seconds, and everything is there once."""

    async def harm(traffic: Traffic) -> None:
        await asyncio.to_thread(own_broker.kill)
        await asyncio.to_thread(own_broker.start)
        await flows_again(traffic)

    await through(own_broker, harm)


async def test_a_broker_that_freezes(own_broker: Broker) -> None:
    """A broker that stands still for some seconds with its connections open stops nothing for good."""

    async def harm(traffic: Traffic) -> None:
        own_broker.freeze()
        await lasting(7)  # longer than appends and sessions last: what is under way fails
        own_broker.thaw()
        await flows_again(traffic)

    await through(own_broker, harm)


@pytest.mark.long
async def test_a_broker_that_freezes_for_long(own_broker: Broker) -> None:
    """The same for twenty seconds."""

    async def harm(traffic: Traffic) -> None:
        own_broker.freeze()
        await lasting(20)
        own_broker.thaw()
        await flows_again(traffic)

    await through(own_broker, harm)


@pytest.mark.long
async def test_a_broker_that_is_gone_for_longer_than_requests_last(own_broker: Broker) -> None:
    """Twelve seconds without a leader: the producer that dies of it is replaced, and no restart of ours is needed."""

    async def harm(traffic: Traffic) -> None:
        await asyncio.to_thread(own_broker.kill)
        await lasting(12)
        await asyncio.to_thread(own_broker.start)
        await flows_again(traffic)

    await through(own_broker, harm)


TOPICS = (EVENTS, CHANGES, DEAD_LETTERS)


async def recreate_topics(broker: Broker) -> None:
    """Delete the topics and make them anew, empty."""
    admin = AIOKafkaAdminClient(bootstrap_servers=broker.bootstrap)
    await admin.start()
    room = {"max.message.bytes": "20000000"}

    async def made() -> bool:
        new = [NewTopic(name, 1, 1, topic_configs=room) for name in TOPICS]
        answer = await admin.create_topics(new)
        return all(code in {0, 36} for _, code, *_ in answer.topic_errors)  # 36: it is there

    try:
        await admin.delete_topics(list(TOPICS))
        await eventually(made, 30)
    finally:
        await admin.close()


async def append_all(broker: Broker, *records: tuple[bytes, bytes]) -> None:
    """Send events as another service does."""
    async with AIOKafkaProducer(bootstrap_servers=broker.bootstrap, acks="all") as producer:
        for key, value in records:
            await producer.send_and_wait(EVENTS, value, key=key)


async def status_of(http: aiohttp.ClientSession, url: str, prediction_id: str) -> str | None:
    async with http.get(f"{url}/api/predictions/{prediction_id}") as answer:
        return (await answer.json())["data"]["status"] if answer.status == 200 else None


@pytest.mark.parametrize("grown", [False, True], ids=["shorter", "grown past"])
async def test_topics_that_are_recreated(own_broker: Broker, tmp_path: Path, grown: bool) -> None:
    """A recreated topic is noticed at work and at the next start: nothing is called a duplicate; it says what to do, and that helps."""
    settings = {"TIDINGS_LOG": f"kafka://{own_broker.bootstrap}", "TIDINGS_PARTITIONS": "1"}
    processing_, succeeded = b'{"status":"processing"}', b'{"status":"succeeded"}'
    async with aiohttp.ClientSession() as http:
        async with serving(tmp_path, settings) as service:
            await append_all(own_broker, *[(b"p%d" % n, processing_) for n in range(5)])

            async def applied() -> bool:
                return await status_of(http, service.url, "p4") == "processing"

            await eventually(applied, 20)
            await lasting(4)  # until what was applied last is written down
            await recreate_topics(own_broker)
            more = [(b"q%d" % n, processing_) for n in range(8 if grown else 1)]
            await append_all(own_broker, (b"p1", succeeded), *more)

            async def noticed() -> bool:
                async with http.get(f"{service.url}/readyz") as answer:
                    return answer.status == 503 and "TIDINGS_LOG_EPOCH" in await answer.text()

            await eventually(noticed, 30)
            async with http.get(f"{service.url}/metrics") as answer:
                duplicates = [
                    line
                    for line in (await answer.text()).splitlines()
                    if line.startswith("tidings_processor_events_total") and "duplicate" in line
                ]
            assert all(line.endswith(" 0.0") for line in duplicates), duplicates
        refused = TidingsProcess(tmp_path, settings)
        await refused.launch()
        assert await refused.ended() == 1
        assert "recreated" in refused.output

        raised = {**settings, "TIDINGS_LOG_EPOCH": "1", "TIDINGS_STORE": "sqlite:///data/new.db"}
        filled = await tidings(tmp_path, "replay", settings=raised)
        assert filled.code == 0, filled.err
        async with serving(tmp_path, raised) as service:
            assert await status_of(http, service.url, "p1") == "succeeded"
