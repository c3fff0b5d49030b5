"""A member of a consumer group on Kafka that gets over outages, rebalances and a client that is stuck."""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, TopicPartition
from aiokafka.errors import CommitFailedError, IllegalStateError

from tidings.storage.loggers import get_logger
from tidings.storage.resilience.backoff import Backoff, Failures
from tidings.streams.log.kafka.errors import bounded, stop
from tidings.streams.log.kafka.malformed_records import fetch_around, rewind
from tidings.streams.log.protocol import LogError, LogMisconfigured, LogUnavailable, Record

logger = get_logger(__name__)

SESSION_SECONDS = 6
"""How long the group waits for a member that was killed."""
_REBALANCE_SECONDS = 5
"""How long members may take to let go of their partitions, which they do within 3 s. The group waits as long for a member
that is known to a broker which came back, and has itself come back by another name."""
_LAST_SECONDS = 1.5
"""For writing what is held back before a rebalance."""
_START_SECONDS = 30.0
_COMMIT_SECONDS = 5.0
_WATCH_SECONDS = 1.0
_STUCK_SECONDS = 3.0
"""Silence of a consumer whose partitions have grown meanwhile, after which it is replaced."""
_UNASSIGNED_SECONDS = 20.0
"""Longer than any rebalance takes."""
_REJOIN = Backoff.doubling(0.2, 2.0)
"""Before joining the group again after it could not be joined."""

_GATHER_BYTES = 65_536
"""What a broker waits for at most, for a reader that lets records gather."""

METADATA_SECONDS = 10
"""After so long added partitions are known to every client."""

FETCHING = {
    "enable_auto_commit": False,
    "auto_offset_reset": "earliest",
    "max_partition_fetch_bytes": 1_048_576,
    "fetch_max_bytes": 16_777_216,
    "metadata_max_age_ms": METADATA_SECONDS * 1000,
    "isolation_level": "read_committed",
}
"""How all consumers fetch. A record larger than the sizes comes all the same, alone; they bound the memory. What a
transaction wrote is read once it is committed, and never if it was aborted."""


class _Listener(ConsumerRebalanceListener):  # type: ignore[misc] # the client has no types
    """Tells the member at once what it has lost and got; the client would swallow what this raises."""

    def __init__(self, member: "KafkaConsumer", consumer: AIOKafkaConsumer) -> None:
        self._member = member
        self._consumer = consumer

    async def on_partitions_revoked(self, revoked: Sequence[TopicPartition]) -> None:  # noqa: ARG002 - it is always all
        """Before a rebalance."""
        await self._member.revoked(self._consumer)

    async def on_partitions_assigned(self, assigned: Sequence[TopicPartition]) -> None:
        """After a rebalance."""
        self._member.received(self._consumer, assigned)


class KafkaConsumer:
    """See `streams.log.Consumer`.

    Args:
        arguments: what every client object is made with.
        topic: with its prefix.
        group: with its prefix.
        ends: the topic's end offsets, asked on another connection than the consumer's own.
        gather: See `Log.consume`.
    """

    def __init__(
        self,
        arguments: dict[str, Any],
        topic: str,
        group: str,
        ends: Callable[[], Awaitable[Mapping[int, int]]],
        gather: float = 0.0,
    ) -> None:
        self._arguments = arguments
        self._topic = topic
        self._group = group
        self._ends = ends
        self._gathering = (
            {"fetch_min_bytes": _GATHER_BYTES, "fetch_max_wait_ms": int(gather * 1000)}
            if gather
            else {}
        )
        self._consumer: AIOKafkaConsumer | None = None
        self._assigned: frozenset[int] = frozenset()
        self._generation = 0
        self._positions: dict[int, int] = {}
        self._paused = False
        self._closed = False
        self._settled = False
        self._failure: LogMisconfigured | None = None
        self._ready = asyncio.Event()
        self._committing = asyncio.Lock()
        self._uncommitted: dict[int, int] = {}
        self._before_revocation: Callable[[], Awaitable[None]] | None = None
        self._empty_fetches = 0
        self._astray = False
        self._moved_at = time.monotonic()
        self._supervisor = asyncio.get_running_loop().create_task(self._supervise())

    async def fetch(self, limit: int, wait: float) -> Sequence[Record]:
        """See `Consumer.fetch`."""
        if self._failure is not None:
            raise self._failure
        if self._closed:
            raise LogUnavailable("this consumer is closed; join the group again")
        if self._consumer is None:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._ready.wait(), wait)
        consumer = self._consumer
        if consumer is None:
            return ()
        if self._astray:
            await self._recover(consumer)
        self._astray = True  # if this fails, what the client had taken by then is lost
        async with bounded(None, f"{self._topic} cannot be read as {self._group}"):
            try:
                # The client's own limit does not count while the group rebalances.
                async with asyncio.timeout(wait + 0.05):
                    fetched = await consumer.getmany(timeout_ms=int(wait * 1000), max_records=limit)
            except TimeoutError:
                self._astray = False
                return ()
            except UnicodeDecodeError:
                fetched = await fetch_around(consumer, self._handed_out(consumer))
        self._astray = False
        if not fetched:
            self._empty_fetches += 1
            await self._pass_markers(consumer)
            return ()
        if self._paused or consumer is not self._consumer:
            self._rewind(consumer, fetched)
            return ()
        self._empty_fetches = 0
        self._moved_at = time.monotonic()
        for partition, records in fetched.items():
            self._positions[partition.partition] = records[-1].offset + 1
        if len(fetched) == 1:
            only: Sequence[Record] = records
            return only
        return [record for records in fetched.values() for record in records]

    async def _pass_markers(self, consumer: AIOKafkaConsumer) -> None:
        """Nothing came: if only ends of transactions follow, the client is past them, and so are we."""
        for partition in self._assigned & self._positions.keys():
            position = await self._position(consumer, partition)
            if position is not None and consumer is self._consumer:
                self._positions[partition] = max(position, self._positions.get(partition, 0))

    def positions(self) -> dict[int, int]:
        """See `Consumer.positions`."""
        return dict(self._positions)

    def _handed_out(self, consumer: AIOKafkaConsumer) -> dict[TopicPartition, int | None]:
        """Up to where records were handed out; None: nothing was since the assignment."""
        return {tp: self._positions.get(tp.partition) for tp in consumer.assignment()}

    async def _recover(self, consumer: AIOKafkaConsumer) -> None:
        """Read again what a fetch that failed had taken already: the client's positions are past it."""
        async with bounded(_COMMIT_SECONDS, f"the position in {self._topic} is not known yet"):
            await rewind(consumer, self._handed_out(consumer))

    def _rewind(
        self, consumer: AIOKafkaConsumer, fetched: Mapping[TopicPartition, Sequence[Record]]
    ) -> None:
        """Give back what came in spite of a pause."""
        for partition, records in fetched.items():
            with contextlib.suppress(IllegalStateError):
                consumer.seek(partition, records[0].offset)

    async def commit(self, positions: Mapping[int, int]) -> None:
        """See `Consumer.commit`. Raises `LogUnavailable` if the coordinator does not answer within 5 s."""
        self._uncommitted.update(positions)
        async with self._committing:
            await self._commit_newest(_COMMIT_SECONDS)

    async def _commit_newest(self, limit: float) -> None:
        """Commit what was asked for so far, of the partitions that are still ours."""
        offsets = {
            TopicPartition(self._topic, p): o
            for p, o in self._uncommitted.items()
            if p in self._assigned
        }
        self._uncommitted = {}
        consumer = self._consumer
        if consumer is None or not offsets:
            return
        async with bounded(limit, f"Kafka did not take offsets of {self._group}"):
            try:
                await consumer.commit(offsets)
            except (CommitFailedError, IllegalStateError) as error:
                # The group went on without us: the new owner reads these records again.
                logger.info("log.commit.lost", group=self._group, error=type(error).__name__)

    async def revoked(self, consumer: AIOKafkaConsumer) -> None:
        """The partitions are about to be taken: commit what is done, then let go."""
        if consumer is not self._consumer and self._consumer is not None:
            return
        if self._before_revocation is not None and self._assigned:
            # Members let go within 3 s (see _REBALANCE_SECONDS); what is not done by then comes again.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LAST_SECONDS):
                    await self._before_revocation()
        try:
            async with bounded(1.5, "committing before the rebalance"), self._committing:
                await self._commit_newest(1.5)
        except LogError:
            logger.info(
                "log.commit.lost", group=self._group, error="no answer before the rebalance"
            )
        self._assigned = frozenset()
        self._settled = False
        self._moved_at = time.monotonic()

    def received(self, consumer: AIOKafkaConsumer, partitions: Sequence[TopicPartition]) -> None:
        """These partitions are ours now."""
        if self._closed:
            return
        self._consumer = self._consumer or consumer
        self._assigned = frozenset([partition.partition for partition in partitions])
        self._generation += 1
        self._settled = True
        self._positions = {}
        self._uncommitted = {}
        self._moved_at = time.monotonic()
        if self._paused and partitions:
            consumer.pause(*partitions)
        logger.info(
            "log.assigned", group=self._group, topic=self._topic, partitions=sorted(self._assigned)
        )

    def assigned(self) -> frozenset[int]:
        """See `Consumer.assigned`."""
        return self._assigned

    def generation(self) -> int:
        """See `Consumer.generation`."""
        return self._generation

    def before_revocation(self, call: Callable[[], Awaitable[None]]) -> None:
        """See `Consumer.before_revocation`."""
        self._before_revocation = call

    def pause(self) -> None:
        """See `Consumer.pause`."""
        if not self._paused:
            self._paused = True
            if self._consumer is not None:
                self._consumer.pause(*self._consumer.assignment())

    def resume(self) -> None:
        """See `Consumer.resume`."""
        if self._paused:
            self._paused = False
            self._moved_at = time.monotonic()
            if self._consumer is not None:
                self._consumer.resume(*self._consumer.paused())

    def seek(self, positions: Mapping[int, int]) -> None:
        """See `Consumer.seek`."""
        for partition, offset in positions.items():
            if self._consumer is not None and partition in self._assigned:
                with contextlib.suppress(IllegalStateError):
                    self._consumer.seek(TopicPartition(self._topic, partition), offset)
                    self._positions[partition] = offset

    async def lag(self) -> dict[int, int]:
        """See `Consumer.lag`."""
        consumer = self._consumer
        if consumer is None:
            return {}
        ends: Mapping[int, int] | None = None
        lag: dict[int, int] = {}
        for partition in self._assigned:
            here = TopicPartition(self._topic, partition)
            if here not in consumer.assignment():
                continue  # lost while another one's position was awaited
            position = self._positions.get(partition)
            end = consumer.last_stable_offset(here)
            if position is None or end is None or end < 0:
                ends = await self._ends() if ends is None else ends
                end = ends.get(partition, 0)
                position = await self._position(consumer, partition)
            if position is not None:
                lag[partition] = max(0, end - position)
        return lag

    async def _position(self, consumer: AIOKafkaConsumer, partition: int) -> int | None:
        """The next offset to be fetched; None if the partition is no longer ours."""
        async with bounded(_COMMIT_SECONDS, f"the position in {self._topic} is not known yet"):
            with contextlib.suppress(IllegalStateError):
                return int(await consumer.position(TopicPartition(self._topic, partition)))
        return None

    async def _supervise(self) -> None:
        """Join the group, and join it again whenever the client is stuck."""
        failures = Failures(_REJOIN)
        while not self._closed:
            consumer = AIOKafkaConsumer(
                **self._arguments,
                **FETCHING,
                **self._gathering,
                group_id=self._group,
                session_timeout_ms=SESSION_SECONDS * 1000,
                heartbeat_interval_ms=1000,
                rebalance_timeout_ms=_REBALANCE_SECONDS * 1000,
                max_poll_interval_ms=600_000,
                request_timeout_ms=20_000,
            )
            try:
                consumer.subscribe([self._topic], listener=_Listener(self, consumer))
                async with bounded(_START_SECONDS, f"group {self._group} cannot be joined"):
                    await consumer.start()
                self._consumer = consumer
                self._moved_at = time.monotonic()
                self._ready.set()
                failures.clear()
                await self._watch(consumer)
                logger.warning("log.consumer.stuck", group=self._group, topic=self._topic)
            except LogMisconfigured as error:
                self._failure = error
                self._ready.set()
                return
            except LogUnavailable as error:
                logger.warning("log.consumer.failed", error=str(error))
                await asyncio.sleep(failures.next_wait())
            finally:
                self._consumer = None
                self._assigned = frozenset()
                self._settled = False
                self._ready.clear()
                await stop(consumer)

    async def _watch(self, consumer: AIOKafkaConsumer) -> None:
        """Return once the consumer is stuck: it gets nothing although there is more, or no partitions at all."""
        behind_since: dict[int, int] | None = None
        while True:
            await asyncio.sleep(_WATCH_SECONDS)
            silent = time.monotonic() - self._moved_at
            if not self._assigned:
                # With fewer partitions than members some have none; one that is in no generation at all is stuck.
                if silent > _UNASSIGNED_SECONDS and not self._settled and await self._reachable():
                    return
                continue
            if self._paused or silent < _STUCK_SECONDS or self._empty_fetches < 2:
                behind_since = None
                continue
            try:
                ends = await self._ends()
                positions = {p: await self._position(consumer, p) for p in self._assigned}
            except LogUnavailable:
                behind_since = None  # nobody can read right now
                continue
            behind = {
                p: at for p, at in positions.items() if at is not None and at < ends.get(p, 0)
            }
            if behind and behind_since == behind:
                return
            behind_since = behind

    async def _reachable(self) -> bool:
        """Whether the brokers answer; while they do not, there is no use in joining again."""
        try:
            await self._ends()
        except LogUnavailable:
            return False
        return True

    async def close(self) -> None:
        """See `Consumer.close`."""
        if not self._closed:
            self._closed = True
            self._supervisor.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._supervisor
