"""Appending to Kafka: concurrent appends share requests, every append is bounded, a dead producer is replaced."""

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Callable, Coroutine, Iterable, Sequence
from functools import partial
from typing import Any

from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.errors import (
    KafkaConnectionError,
    KafkaError,
    MessageSizeTooLargeError,
    RecordListTooLargeError,
    TopicAuthorizationFailedError,
    UnknownTopicOrPartitionError,
)
from msgspec import Struct

from tidings.storage.loggers import get_logger
from tidings.storage.resilience.futures import settle
from tidings.streams.log.kafka.consumer import METADATA_SECONDS
from tidings.streams.log.kafka.errors import STOP_SECONDS, bounded, stop
from tidings.streams.log.protocol import (
    APPEND_SECONDS,
    LogError,
    LogMisconfigured,
    LogUnavailable,
    NewRecord,
    RecordTooLarge,
)

logger = get_logger(__name__)

_REQUEST_SECONDS = 3.5
"""The broker's time for one request; below `APPEND_SECONDS`, so that a second one has a chance."""
_BATCH_BYTES = 1_000_000
"""Of one partition's batch; a record may be larger and then travels alone. Below every broker's default limit."""
_ROUND_BYTES = 16_777_216
"""What one round sends at most (brokers refuse requests beyond 100 MB)."""


class _Job(Struct, eq=False):
    """The records of one append for one partition."""

    partition: TopicPartition
    records: Sequence[NewRecord]
    size: int
    told: Callable[[list[int] | LogError], None] | None
    """Called once, with each record's offset or the error; None: it was."""
    offsets: list[int]
    """Those known already, if the records lie in several batches."""
    until: float
    """When it is given up, on the loop's clock."""

    def tell(self, result: list[int] | LogError) -> None:
        """Tell the caller, unless it was told before."""
        if (told := self.told) is not None:
            self.told = None
            told(result)


class _Part(Struct, eq=False):
    """Which records of a batch belong to a job."""

    job: _Job
    index: int
    count: int


class _Batch(Struct, eq=False):
    """A batch on its way."""

    sent: asyncio.Future[Any]
    parts: list[_Part]

    async def settle(self) -> None:
        """Wait for the broker's word and tell the jobs that are complete with it."""
        first = (await self.sent).offset
        for part in self.parts:
            job = part.job
            job.offsets.extend(range(first + part.index, first + part.index + part.count))
            if len(job.offsets) == len(job.records):
                job.tell(job.offsets)


class _LeaderQueue:
    """What waits for one leader: a round is sent while the next one gathers."""

    __slots__ = ("busy", "jobs")

    def __init__(self) -> None:
        self.jobs: list[_Job] = []
        self.busy = False


class KafkaAppender:
    """Appends through one idempotent producer at a time.

    The producer is replaced whenever a batch of it fails. Its sequence numbers then have a gap that
    it would never get past (`OutOfOrderSequenceNumber`), and what is stuck in it must not go out
    late.

    Args:
        arguments: what every client object is made with.
        max_request: bytes of the greatest record with its framing.
    """

    def __init__(self, arguments: dict[str, Any], max_request: int) -> None:
        self._arguments = arguments
        self._max_request = max_request
        self._producer: AIOKafkaProducer | None = None
        self._starting = asyncio.Lock()
        self._queues: dict[int, _LeaderQueue] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._waiting: deque[_Job] = deque()
        """Those that may not have been told yet, in their order."""
        self._timer: asyncio.TimerHandle | None = None
        self._failing = False
        self._closed = False

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def start(self) -> None:
        """Connect; raises `LogUnavailable` if no broker answers."""
        async with bounded(APPEND_SECONDS * 2, "the producer cannot start"):
            await self._current()

    async def append(
        self, topic: str, parts: dict[int, list[NewRecord]], size: int
    ) -> dict[int, list[int]]:
        """Append per partition these records, `size` bytes in all; per partition their offsets.

        Raises `LogUnavailable` after `APPEND_SECONDS` at most, with the outcome unknown.
        """
        if self._closed:
            raise LogUnavailable("the log is closed; open it again")
        loop = asyncio.get_running_loop()
        share = size // len(parts)
        waiting: dict[int, asyncio.Future[list[int]]] = {}
        for number, records in parts.items():
            waiting[number] = done = loop.create_future()
            self.submit(TopicPartition(topic, number), records, share, partial(settle, done))
        try:
            return {number: await done for number, done in waiting.items()}
        finally:
            for done in waiting.values():  # if the first failed, it speaks for all
                if not done.done():
                    done.cancel()
                _seen(done)

    def submit(
        self,
        partition: TopicPartition,
        records: Sequence[NewRecord],
        size: int,
        told: Callable[[list[int] | LogError], None],
    ) -> None:
        """As `append`, of one partition; `told` is called once with the offsets or the error."""
        if self._closed:
            raise LogUnavailable("the log is closed; open it again")
        loop = asyncio.get_running_loop()
        until = loop.time() + APPEND_SECONDS
        job = _Job(partition, records, size, told, [], until)
        waiting = self._waiting
        while waiting and waiting[0].told is None:
            waiting.popleft()
        waiting.append(job)
        if self._timer is None:  # one for all: one for each took a tenth of an append
            self._timer = loop.call_at(until, self._give_up)
        self._enqueue(job)

    def _give_up(self) -> None:
        """Fail those who have waited for too long, and look again when the next one has."""
        self._timer = None
        loop = asyncio.get_running_loop()
        now, waiting = loop.time(), self._waiting
        while waiting and (waiting[0].told is None or waiting[0].until <= now):
            waiting.popleft().tell(
                LogUnavailable(f"Kafka did not acknowledge an append within {APPEND_SECONDS:.1f} s")
            )
        if waiting:
            self._timer = loop.call_at(waiting[0].until, self._give_up)

    def _enqueue(self, job: _Job) -> None:
        queue = self._queues.setdefault(self._leader(job.partition), _LeaderQueue())
        queue.jobs.append(job)
        if not queue.busy:
            # The task starts after this turn of the loop: callers that run in the same turn share its round.
            queue.busy = True
            self._spawn(self._send_rounds(queue))

    def _leader(self, partition: TopicPartition) -> int:
        leader = (
            self._producer.client.cluster.leader_for_partition(partition)
            if self._producer
            else None
        )
        return -1 if leader is None else int(leader)

    async def _send_rounds(self, queue: _LeaderQueue) -> None:
        """Send what waits in a queue, round by round, until nothing does."""
        try:
            while queue.jobs:
                size = 0
                count = 0
                for job in queue.jobs:
                    size += job.size
                    if count and size > _ROUND_BYTES:
                        break
                    count += 1
                jobs, queue.jobs = queue.jobs[:count], queue.jobs[count:]
                jobs = [job for job in jobs if job.told is not None]
                if jobs:
                    await self._send_round(jobs)
        finally:
            queue.busy = False

    async def _send_round(self, jobs: list[_Job]) -> None:
        producer: AIOKafkaProducer | None = None
        singly: list[_Job] = []
        try:
            async with bounded(APPEND_SECONDS, "Kafka did not take an append"):
                producer = self._producer or await self._current()
                for batch in await _hand_over(producer, jobs):
                    try:
                        await batch.settle()
                    except KafkaError as error:
                        self._replace(producer, error)
                        failure, sharing = _failure(error), [part.job for part in batch.parts]
                        if isinstance(failure, RecordTooLarge) and len(sharing) > 1:
                            singly += sharing
                        else:
                            _fail(sharing, failure)
        except LogError as error:
            self._replace(producer, error)
            _fail(jobs, error)
        # One of them, or all together, are more than the topic takes at once: only the one that is
        # too large by itself may fail. What was taken before is taken twice, which the rules allow.
        for job in singly:
            if job.told is not None:
                job.offsets.clear()
                await self._send_round([job])

    async def _current(self) -> AIOKafkaProducer:
        """The producer in use, made if there is none."""
        async with self._starting:
            if self._producer is None:
                if self._closed:
                    raise LogUnavailable("the log is closed; open it again")
                producer = AIOKafkaProducer(
                    **self._arguments,
                    acks="all",
                    enable_idempotence=True,
                    max_batch_size=_BATCH_BYTES,
                    max_request_size=self._max_request,
                    request_timeout_ms=int(_REQUEST_SECONDS * 1000),
                    metadata_max_age_ms=METADATA_SECONDS * 1000,
                )
                try:
                    await producer.start()
                except BaseException:
                    self._spawn(abandon(producer))
                    raise
                self._producer = producer
                if self._failing:
                    self._failing = False
                    logger.info("log.producer.replaced")
            return self._producer

    def _replace(self, producer: AIOKafkaProducer | None, error: BaseException) -> None:
        """Let the next round make a new producer."""
        if not self._failing:
            self._failing = True
            logger.warning("log.producer.failed", error=str(error) or type(error).__name__)
        if producer is not None and self._producer is producer:
            self._producer = None
            self._spawn(abandon(producer))

    async def close(self) -> None:
        """Wait for what is under way (each bounded) and disconnect. Idempotent."""
        if self._closed:
            return
        while any(queue.busy for queue in self._queues.values()):
            await asyncio.wait(self._tasks)
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        if self._producer is not None:
            self._spawn(abandon(self._producer))
            self._producer = None
        if self._tasks:
            await asyncio.wait(self._tasks)


async def _hand_over(producer: AIOKafkaProducer, jobs: list[_Job]) -> list[_Batch]:
    """Put the jobs' records into batches, in order per partition, and give these to the producer."""
    gathered: dict[TopicPartition, list[_Job]] = {}
    for job in jobs:
        gathered.setdefault(job.partition, []).append(job)
    batches: list[_Batch] = []
    now = time.time_ns() // 1_000_000

    async def send(builder: Any, partition: TopicPartition, parts: list[_Part]) -> None:
        builder.close()
        sent = await producer.send_batch(builder, partition.topic, partition=partition.partition)
        sent.add_done_callback(_seen)
        batches.append(_Batch(sent, parts))

    await _know(producer, gathered)
    for partition, members in gathered.items():
        builder = producer.create_batch()
        parts: list[_Part] = []
        for job in members:
            part = _Part(job, builder.record_count(), 0)
            parts.append(part)
            for record in job.records:
                if not _put(builder, record, now):
                    await send(builder, partition, parts)
                    builder = producer.create_batch()
                    part = _Part(job, 0, 0)
                    parts = [part]
                    _put(builder, record, now)
                part.count += 1
        await send(builder, partition, parts)
    return batches


async def _know(producer: AIOKafkaProducer, partitions: Iterable[TopicPartition]) -> None:
    """Let the producer look again for partitions that it does not know: they were added a moment ago."""

    def unknown() -> list[TopicPartition]:
        known = producer.client.cluster.partitions_for_topic
        return [
            one for one in partitions if one.partition not in (known(one.topic) or {one.partition})
        ]

    if unknown():
        await producer.client.force_metadata_update()
        if missing := unknown():
            raise LogUnavailable(f"the leader of {missing[0]} is not known yet")


def _put(builder: Any, record: NewRecord, now: int) -> bool:
    """Add a record to a batch; False if it has no room. The first one always has."""
    return (
        builder.append(
            timestamp=now, key=record.key, value=record.value, headers=record.headers or []
        )
        is not None
    )


def _seen(future: asyncio.Future[Any]) -> None:
    """Take note of a failure that nobody waits for any more."""
    if not future.cancelled():
        future.exception()


def _fail(jobs: list[_Job], failure: LogError) -> None:
    for job in jobs:
        job.tell(type(failure)(*failure.args))


def _failure(error: KafkaError) -> LogError:
    """What the failure of a batch means to those who appended."""
    if isinstance(error, (MessageSizeTooLargeError, RecordListTooLargeError)):
        return RecordTooLarge("the topic takes no record this large; raise its max.message.bytes")
    if isinstance(error, TopicAuthorizationFailedError):
        return LogMisconfigured(f"no right to write to the topic ({error}); grant it")
    if isinstance(error, UnknownTopicOrPartitionError):
        return LogMisconfigured(f"the topic is gone ({error}); start again to create it")
    return LogUnavailable(f"Kafka did not take an append: {str(error) or type(error).__name__}")


async def abandon(producer: AIOKafkaProducer) -> None:
    """Disconnect a producer without waiting for what it has not delivered; its own `stop` would, forever.

    Nothing of it may stay behind: a task that is forgotten while it waits is complained of when it is collected.
    """
    sender: asyncio.Task[None] | None = producer._sender.sender_task  # noqa: SLF001 - it has no door for this
    if sender is not None:
        sender.cancel()
    with contextlib.suppress(LogError):
        async with bounded(STOP_SECONDS, "disconnecting"):
            await producer.client.close()
    if sender is not None and not sender.done():
        # It waits for requests that may wait forever; cancelled once more, it cancels the one that it waits for.
        await asyncio.wait([sender], timeout=1)
        sender.cancel()
        await asyncio.wait([sender], timeout=1)
    # What was not delivered would be waited for. Each batch takes itself out of those on the way when it ends, those
    # that were to be sent again too.
    on_the_way = producer._message_accumulator._pending_batches  # noqa: SLF001 - as before
    on_the_way.update(*producer._message_accumulator._batches.values())  # noqa: SLF001 - as before
    for batch in tuple(on_the_way):
        if not batch.future.done():
            batch.future.set_exception(KafkaConnectionError("the producer was given up"))
            _seen(batch.future)
    await stop(producer)
