"""A text that has grown since its record was written, and what is needed to write it."""

import zlib
from collections.abc import Sequence

from msgspec.structs import replace

from tidings.storage.prediction import Prediction
from tidings.storage.store import Stored
from tidings.streams.log.consumer_loop import Claim
from tidings.streams.log.protocol import Place, Record
from tidings.streams.rules.event import Event
from tidings.streams.rules.reducer import Reduction
from tidings.streams.rules.text import text_of


class HeldText:
    """A prediction of which only the text has grown since it was written.

    Args:
        base: What the store has: the write expects its version.
        standing: The same, decoded.
        claim: Keeps the committed offset before the oldest of the events.
        written_at: When it was written last, on the monotonic clock.
    """

    __slots__ = (
        "base",
        "base_length",
        "base_missing",
        "claim",
        "crc",
        "due_at",
        "events",
        "length",
        "reduction",
        "size",
        "written_at",
    )

    def __init__(self, base: Stored, standing: Prediction, claim: Claim, written_at: float) -> None:
        self.base, self.claim, self.written_at = base, claim, written_at
        self.base_missing = standing.text_missing
        text = text_of(standing)
        self.base_length = self.length = text.length
        self.crc = text.crc
        self.events: list[tuple[Event, Record]] = []
        """Since the base, in order: if another processor has written meanwhile they are judged again."""
        self.reduction = Reduction(standing)
        """What they come to."""
        self.size = len(base.encoded)
        """Bytes that it takes, about."""
        self.due_at = 0.0

    @property
    def record(self) -> Prediction:
        """As grown."""
        record = self.reduction.record
        assert isinstance(record, Prediction)
        return record

    def complete(self, reduction: Reduction) -> None:
        """Add to what became of newer events what these have left."""
        mine = self.reduction
        if reduction.position is None:
            reduction.position, reduction.recorded_at = mine.position, mine.recorded_at
        if reduction.traceparent is None:
            reduction.traceparent = mine.traceparent
        if mine.contents:
            reduction.contents = {**mine.contents, **reduction.contents}

    def grow(self, text: bytes) -> None:
        """More of the text was announced."""
        self.crc = zlib.crc32(text, self.crc)
        self.length += len(text)

    def add(self, events: Sequence[tuple[Event, Record]], size: int, reduction: Reduction) -> None:
        """Hold these back too; `complete` was called with what became of them."""
        self.events += events
        self.size += size
        self.reduction = replace(reduction, rejected=(), refusals=(), added=None)


def first_place(events: Sequence[tuple[Event, Record]]) -> Place:
    """Where the oldest of these events lies."""
    return events[0][1]
