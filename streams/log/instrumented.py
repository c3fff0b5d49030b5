"""A log whose appends are counted and timed, itself a log. Reading goes through untouched."""

from collections.abc import Sequence
from time import perf_counter

from tidings.streams.log.protocol import (
    CHANGES,
    DEAD_LETTERS,
    DELIVERIES,
    EVENTS,
    TEXT,
    Log,
    LogError,
    NewRecord,
    Position,
    Told,
    submit_of,
)
from tidings.streams.support.histogram import Histogram


class Appends:
    """What was appended to one topic."""

    __slots__ = ("calls", "failed", "records", "seconds")

    def __init__(self) -> None:
        self.calls = 0
        self.records = 0
        """Taken by the log."""
        self.failed = 0
        """Calls that the log did not take, or of which it has not said so in time."""
        self.seconds = Histogram()
        """Per call that went well."""


class ObservedLog:
    """Counts and times the appends of a log.

    Args:
        log: Whose appends; closed by `close`.
    """

    def __init__(self, log: Log) -> None:
        self.log = log
        self.name = log.name
        topics = (EVENTS, CHANGES, DEAD_LETTERS, TEXT, DELIVERIES)
        self.appends = {topic: Appends() for topic in topics}
        """By topic."""
        self.identity = log.identity
        self.follow = log.follow
        self.consume = log.consume
        self.partitions = log.partitions
        self.bounds = log.bounds
        self.offsets_at = log.offsets_at
        self.committed = log.committed
        self.read_at = log.read_at
        self.obstacle = log.obstacle
        self.close = log.close
        self._submit = submit_of(log)
        self.submit = None if self._submit is None else self._observed_submit

    async def append(self, topic: str, records: Sequence[NewRecord]) -> list[Position]:
        """See `Log.append`."""
        appends = self.appends[topic]
        appends.calls += 1
        started = perf_counter()
        try:
            positions = await self.log.append(topic, records)
        except LogError:
            appends.failed += 1
            raise
        appends.records += len(records)
        appends.seconds.observe(perf_counter() - started)
        return positions

    def _observed_submit(self, topic: str, records: Sequence[NewRecord], told: Told) -> None:
        """See `Submit`."""
        assert self._submit is not None
        appends = self.appends[topic]
        started = perf_counter()

        def observed(result: Sequence[Position] | LogError) -> None:
            if isinstance(result, LogError):
                appends.failed += 1
            else:
                appends.records += len(records)
                appends.seconds.observe(perf_counter() - started)
            told(result)

        appends.calls += 1
        self._submit(topic, records, observed)
