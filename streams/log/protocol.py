"""The protocol of an ordered, partitioned, replayable log, and what travels through it."""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Literal, Protocol

from msgspec import Struct

from tidings.storage.redaction import redact

Headers = Sequence[tuple[str, bytes]]

APPEND_SECONDS = 4.0
"""A log's time to take an append: the answer to a webhook must be out within 5 s, when providers
give up."""


class Place(Protocol):
    """Where something lies within a topic: a `Position`, or a record itself."""

    @property
    def partition(self) -> int:
        """The partition, from 0."""

    @property
    def offset(self) -> int:
        """The position within the partition, from 0, with possible gaps."""


class Record(Place, Protocol):
    """A record as read. Structural, so that a client's own record objects pass through without a copy."""

    @property
    def topic(self) -> str:
        """The topic's name as the application says it, or as the broker does (with its prefix)."""

    @property
    def timestamp(self) -> int:
        """When it was appended, in ms since the epoch."""

    @property
    def key(self) -> bytes | None:
        """What it is partitioned by."""

    @property
    def value(self) -> bytes | None:
        """Its content; None or empty is a deletion on a compacted topic."""

    @property
    def headers(self) -> Headers:
        """Names and values, in order, names possibly repeated."""


class StoredRecord(Struct, frozen=True, gc=False):
    """A `Record` for logs that have no record objects of their own."""

    topic: str
    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Headers = ()


class NewRecord(Struct, frozen=True, gc=False):
    """A record to append."""

    key: bytes | None
    value: bytes | None
    headers: Headers = ()
    partition: int | None = None
    """None: the log chooses by the key."""


class Position(Struct, frozen=True, gc=False, order=True):
    """Where a record lies within a topic."""

    partition: int
    offset: int

    def __str__(self) -> str:
        return f"{self.partition}:{self.offset}"

    @classmethod
    def parse(cls, text: str) -> "Position":
        """The position in `partition:offset`; raises ValueError if the text is not one."""
        partition, _, offset = text.partition(":")
        return cls(int(partition), int(offset))


Since = Literal["beginning", "end"] | Mapping[int, int]
"""Where to start: `beginning` (the first record kept), `end` (only what comes), or per partition the first offset
to read (partitions left out: from the beginning)."""


class LogError(Exception):
    """The log could not do what was asked; `retryable` says whether the same call may succeed later."""

    retryable = False


class LogUnavailable(LogError):
    """The log cannot answer right now. Of an append the outcome is unknown: a repeat is harmless."""

    retryable = True

    def __init__(self, message: str = "") -> None:
        super().__init__(redact(message))  # it repeats what a driver says


class LogMisconfigured(LogError):
    """A topic, a URL or a right is wrong; the settings or the broker need fixing."""

    def __init__(self, message: str = "") -> None:
        super().__init__(redact(message))  # it repeats what a driver says


class TopicMissing(LogMisconfigured):
    """A topic is not there, and was not to be made."""


class RecordTooLarge(LogError):
    """The log will never take this record."""


class Consumer(Protocol):
    """A member of a group: each partition is read by one member at a time, each record at least once."""

    async def fetch(self, limit: int, wait: float) -> Sequence[Record]:
        """At most `limit` records of the assigned partitions, in order within each; waits at most `wait` seconds.

        Must be called often even while paused: it is what keeps the membership. Raises `LogUnavailable`.
        """

    async def commit(self, positions: Mapping[int, int]) -> None:
        """Remember per partition the *next* offset to read. A member that lost its partitions is told nothing."""

    def assigned(self) -> frozenset[int]:
        """The partitions that this member has now. Those it lost must not be written for any more."""

    def generation(self) -> int:
        """Rises at each assignment; records fetched under an older one may belong to another member by now."""

    def before_revocation(self, call: Callable[[], Awaitable[None]]) -> None:
        """Have this called before partitions are taken, if the log says so; it has a second and a half."""

    def pause(self) -> None:
        """Let `fetch` return nothing, across reassignments too, until `resume`."""

    def resume(self) -> None:
        """End `pause`."""

    def seek(self, positions: Mapping[int, int]) -> None:
        """Read these partitions from here on; those not assigned are left out."""

    def positions(self) -> dict[int, int]:
        """Per partition that anything was fetched of since its assignment the next offset to be fetched.

        It may lie beyond the record fetched last: the ends of transactions have offsets too.
        """

    async def lag(self) -> dict[int, int]:
        """Per assigned partition the number of records after the one fetched last; may be a moment old."""

    async def close(self) -> None:
        """Leave the group. Idempotent."""


Told = Callable[[Sequence[Position] | LogError], None]
"""Called once with the positions or the error, in the loop of the call and maybe within it; it must not raise."""

Submit = Callable[[str, Sequence[NewRecord], Told], None]
"""As `Log.append`, for a caller that has no task: it is told instead of waiting.

What it raises, a `LogError`, was refused at once: then nothing is appended, and nobody is told.
"""


def submit_of(log: "Log") -> Submit | None:
    """The log's `submit`; None: it has none."""
    found: Submit | None = getattr(log, "submit", None)
    return found


class Log(Protocol):
    """Topics of records. `topic` is the name without prefix: `predictions.events`."""

    name: str
    """The kind of log: `sqlite`, `kafka`, `memory`."""

    async def identity(self) -> str:
        """What tells this log from every other one, for as long as its records are the same."""

    async def append(self, topic: str, records: Sequence[NewRecord]) -> list[Position]:
        """Append, in order per partition; durable when it returns. Concurrent calls share a commit.

        Raises `LogUnavailable` (after `APPEND_SECONDS` at most; the outcome is then unknown) and `RecordTooLarge`.
        """

    def consume(self, topic: str, group: str, gather: float = 0.0) -> Consumer:
        """Join a group; reading starts where the group has committed, or at the beginning.

        Args:
            topic: What is read.
            group: The consumer group.
            gather: Seconds that records may wait for others, so that fewer fetches bring them.
        """

    def follow(
        self, topic: str, since: Since, until: Mapping[int, int] | None = None
    ) -> AsyncIterator[Sequence[Record]]:
        """Read without a group, in batches; an empty batch means: caught up for now.

        Args:
            topic: All of its partitions, or those of `until` alone.
            since: Where to start.
            until: Per partition the first offset that is not read; it ends once all are reached, whether or not the
                last offsets hold records (compaction and transactions leave gaps). None: it never ends by itself.

        Raises `LogUnavailable` if it cannot go on; the caller follows again from where it was.
        """

    async def partitions(self, topic: str) -> int:
        """How many partitions the topic has."""

    async def bounds(self, topic: str) -> dict[int, tuple[int, int]]:
        """Per partition the first offset that is kept, and the offset that the next record will get."""

    async def offsets_at(self, topic: str, timestamp: int) -> dict[int, int]:
        """Per partition the first offset whose record is not older than `timestamp` (ms); the end if none is."""

    async def committed(self, topic: str, group: str) -> dict[int, int]:
        """Per partition the next offset that a group will read; partitions it never committed are left out."""

    async def read_at(self, topic: str, offsets: Mapping[int, int]) -> dict[int, Record]:
        """The records at these offsets, one a partition; if there is none it is left out. Raises `LogUnavailable`."""

    def obstacle(self) -> str | None:
        """What keeps readers from what was appended, for readiness; None: nothing is known."""

    async def close(self) -> None:
        """Finish what is under way and let go. Idempotent."""


EVENTS = "predictions.events"
CHANGES = "predictions.changes"
DEAD_LETTERS = "predictions.dead-letters"
DELIVERIES = "predictions.deliveries"
"""Webhooks to other servers that are to be sent; compacted. Only if some are set up."""
TEXT = "predictions.text"
"""Pieces of growing texts: what they say stands in the records soon after."""
TEXT_SECONDS = 600
"""How long pieces are kept; whoever is further behind takes the records."""
