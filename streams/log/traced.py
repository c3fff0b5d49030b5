"""The log as a processor sees it, with a span for each sampled event: from its record to the announcement.

It hangs on what passes through the log, so the processor knows nothing of it, and what is not sampled costs a look at
its headers. The spans of an event:

    process predictions.events          from the fetch, a child of whoever appended the event
    ├── write store                     from the processor's step REDUCED to WRITTEN
    └── send predictions.changes        its `traceparent` goes on in the change
"""

from collections.abc import Callable, Mapping, Sequence
from time import time_ns

from msgspec import structs

from tidings.streams.log.headers import ERROR, OFFSET, PARTITION, TRACE_HEADER
from tidings.streams.log.protocol import (
    CHANGES,
    DEAD_LETTERS,
    Consumer,
    Log,
    LogError,
    NewRecord,
    Position,
    Record,
)
from tidings.streams.support.tracing import PREDICTION, Span, Step, Tracing, sampled

MOST = 10_000
"""Sampled events under way at once; beyond it those that lost partitions have left behind are forgotten."""


class _Event:
    """A sampled event under way."""

    __slots__ = ("fetched_at", "record", "span", "traceparent")

    def __init__(self, record: Record, traceparent: bytes, fetched_at: int) -> None:
        self.record = record
        self.traceparent = traceparent
        self.fetched_at = fetched_at
        self.span: Span | None = None


class TracedLog:
    """A log whose consumer's sampled events are followed. For one processor alone.

    Args:
        log: Where everything goes.
        tracing: Where spans go.
    """

    def __init__(self, log: Log, tracing: Tracing) -> None:
        self._log = log
        self._tracing = tracing
        self._events: dict[tuple[int, int], _Event] = {}
        self._reduced_at = self._written_at = 0
        self.name = log.name
        self.identity = log.identity
        self.follow = log.follow
        self.partitions = log.partitions
        self.bounds = log.bounds
        self.offsets_at = log.offsets_at
        self.committed = log.committed
        self.read_at = log.read_at
        self.obstacle = log.obstacle
        self.close = log.close

    @property
    def under_way(self) -> int:
        """Sampled events that are not done."""
        return len(self._events)

    def reached(self, step: Step) -> None:
        """The processor has ended this step of its commit."""
        if step is Step.REDUCED:
            self._reduced_at = time_ns()
        elif step is Step.WRITTEN:
            self._written_at = time_ns()

    def consume(self, topic: str, group: str, gather: float = 0.0) -> Consumer:
        """See `Log.consume`."""
        return _TracedConsumer(self._log.consume(topic, group, gather), self)

    async def append(self, topic: str, records: Sequence[NewRecord]) -> list[Position]:
        """See `Log.append`."""
        if not self._events:
            return await self._log.append(topic, records)
        if topic == CHANGES:
            return await self._announce(records)
        positions = await self._log.append(topic, records)
        if topic == DEAD_LETTERS:
            self._refused(records)
        return positions

    # ---- what the consumer tells ----

    def fetched(self, batch: Sequence[Record]) -> None:
        """These records are about to be processed."""
        now = time_ns()
        for record in batch:
            for name, value in record.headers:
                if name == TRACE_HEADER:
                    if value and sampled(value):
                        self._events[record.partition, record.offset] = _Event(record, value, now)
                    break
        if len(self._events) > MOST:
            self._events.clear()

    def passed(self, positions: Mapping[int, int]) -> None:
        """Everything below these offsets is done: what is left of it has changed nothing, or went into another's change."""
        for at in [at for at in self._events if at[1] < positions.get(at[0], 0)]:
            self._process(self._events.pop(at)).end()

    # ---- spans ----

    def _process(self, event: _Event) -> Span:
        span = event.span
        if span is None:
            record = event.record
            attributes: dict[str, str | int] = {
                "messaging.system": self.name,
                "messaging.destination.name": record.topic,
                "messaging.destination.partition.id": str(record.partition),
                "tidings.offset": record.offset,
            }
            if record.key:
                attributes[PREDICTION] = record.key.decode("utf-8", "replace")
            span = event.span = self._tracing.begin(
                "process predictions.events",
                "consumer",
                parent=event.traceparent,
                at=event.fetched_at,
                attributes=attributes,
            )
        return span

    async def _announce(self, records: Sequence[NewRecord]) -> list[Position]:
        by_header: dict[bytes, _Event] = {
            event.traceparent: event for event in self._events.values()
        }
        going = list(records)
        sends: list[tuple[_Event, Span]] = []
        for index, record in enumerate(records):
            name, value = record.headers[-1]  # where `announcement` puts it
            if name == TRACE_HEADER and (event := by_header.get(value)) is not None:
                send = self._send(event, record)
                headers = [*record.headers[:-1], (TRACE_HEADER, send.traceparent)]
                going[index] = structs.replace(record, headers=headers)
                sends.append((event, send))
        try:
            positions = await self._log.append(CHANGES, going)
        except LogError as error:
            for _, send in sends:
                send.end(failure=str(error))
            raise
        now = time_ns()
        for event, send in sends:
            send.end(now)
            self._process(event).end(now)
            self._events.pop((event.record.partition, event.record.offset), None)
        return positions

    def _send(self, event: _Event, change: NewRecord) -> Span:
        first = event.span is None
        parent = self._process(event).traceparent
        about = {PREDICTION: (change.key or b"").decode("utf-8", "replace")}
        if first:  # and no second attempt to announce it
            begun, done = self._reduced_at, self._written_at
            write = self._tracing.begin(
                "write store", "client", parent=parent, at=begun, attributes=about
            )
            write.end(max(begun, done))
        about["messaging.destination.name"] = CHANGES
        return self._tracing.begin(
            "send predictions.changes", "producer", parent=parent, attributes=about
        )

    def _refused(self, letters: Sequence[NewRecord]) -> None:
        for letter in letters:
            headers = dict(letter.headers)
            event = self._events.pop((int(headers[PARTITION]), int(headers[OFFSET])), None)
            if event is not None:
                self._process(event).end(failure=headers[ERROR].decode())


class _TracedConsumer:
    """A consumer that tells what it fetches and what is done."""

    def __init__(self, consumer: Consumer, log: TracedLog) -> None:
        self._consumer = consumer
        self._traced = log
        self.assigned = consumer.assigned
        self.generation = consumer.generation
        self.before_revocation = consumer.before_revocation
        self.pause = consumer.pause
        self.resume = consumer.resume
        self.seek = consumer.seek
        self.lag = consumer.lag
        self.positions = consumer.positions
        self.close = consumer.close

    async def fetch(self, limit: int, wait: float) -> Sequence[Record]:
        batch = await self._consumer.fetch(limit, wait)
        if batch:
            self._traced.fetched(batch)
        return batch

    async def commit(self, positions: Mapping[int, int]) -> None:
        await self._consumer.commit(positions)
        self._traced.passed(positions)


def traced(
    log: Log, tracing: Tracing | None, reached: Callable[[Step], None] | None
) -> tuple[Log, Callable[[Step], None] | None]:
    """The log and the look inside as a processor gets them: with spans of sampled events if there is tracing."""
    if tracing is None:
        return log, reached
    followed = TracedLog(log, tracing)

    def both(step: Step) -> None:
        followed.reached(step)
        if reached is not None:
            reached(step)

    return followed, both
