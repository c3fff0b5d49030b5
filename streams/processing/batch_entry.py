"""A prediction's part of a batch: its events, what becomes of them, and the write and announcement of that."""

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence

import msgspec
from msgspec import Struct

from tidings.storage.clock import SYSTEM_CLOCK
from tidings.storage.loggers import get_logger
from tidings.storage.prediction import Prediction, Standing, encode
from tidings.storage.store import Stored, Write
from tidings.streams.changes.codec import announcement
from tidings.streams.log.log_fields import fields_of
from tidings.streams.log.protocol import NewRecord, Position, Record
from tidings.streams.processing.dead_letters import dead_letter
from tidings.streams.processing.held_text import HeldText
from tidings.streams.rules.event import Event, EventType
from tidings.streams.rules.large_fields import note, path
from tidings.streams.rules.reducer import NO_CONTENTS, Expiry, Reduction, StorePolicy, reduce

_REPAIR, _APPEND = EventType.REPAIR, EventType.APPEND

_PLENTY, _MARGIN = 4, 4096
"""An event makes a record larger by at most this many times its own bytes, and by the margin (ids,
times, the audit trail). The bytes are the body itself, the fields taken from it, and what is taken
out of those once more: prompt, image URL."""
_PIECE_MARGIN = 256
"""A piece leaves no trace but its text, its writer's number and its position."""

_NO_RECORD = "what the store has of it is no record: remove its row, and repair"

logger = get_logger(__name__)


class SetAside(Struct, frozen=True, gc=False):
    """A record that is to become a dead letter, and why."""

    record: Record
    code: str
    reason: str
    prediction_id: str | None = None
    """The prediction that it is about, if the record's key does not say."""

    def letter(self) -> NewRecord:
        """The record for the dead-letter topic; a line in the log says so."""
        about = fields_of(self.record)
        if self.prediction_id is not None:
            about["prediction"] = self.prediction_id
        logger.warning(
            "processor.dead_letter",
            code=self.code,
            reason=self.reason[:200],
            partition=self.record.partition,
            offset=self.record.offset,
            **about,
        )
        return dead_letter(self.record, self.code, self.reason, self.prediction_id)


def _standing(stored: Stored) -> Standing | None:
    """The record or tombstone; None if somebody has put something else there: nothing can be judged by that."""
    try:
        return stored.standing()
    except msgspec.DecodeError:
        return None


class BatchEntry(Struct, eq=False, gc=False):
    """A prediction's part of a batch.

    It is made whole, and what stays as it was made is not set: setting an attribute takes as long as making a quarter
    of the entry.
    """

    events: list[tuple[Event, Record]] = []
    """Each with the record that it came in, which is its position too."""
    size: int = 0
    """Bytes of the records' values and headers."""
    repaired: bool = False
    """Whether a repair is among them."""
    before: Stored | None = None
    reduction: Reduction | None = None
    changed: bool = False
    """Whether there is something to write and to announce."""
    unusual: bool = False
    """Whether more is to be looked at than what is written: events that were not applied, a text, usage. Of the others
    every event was applied."""
    set_aside: Sequence[SetAside] = ()
    """Made again if the events are judged again."""
    encoded: bytes = b""
    expires_at: int | None = None
    contents: Mapping[str, bytes] = NO_CONTENTS
    """What the events' large fields say, and parts of the text, by hash."""
    held: HeldText | None = None
    """What batches before this one have held back."""
    resumed: bool = False
    """Whether the events were judged by what is held back."""
    holding: bool = False
    """Whether what has become of the events is not written yet."""
    due_at: float = 0.0
    """When it is to be written, on the monotonic clock."""
    length_before: int = 0
    """Bytes of the text before the events."""
    grown_from: int | None = None
    """The version that stands, if nothing but the text has changed since."""

    @classmethod
    def of(cls, event: Event, record: Record) -> "BatchEntry":
        """With the first event of this prediction."""
        return cls([(event, record)], _size(record), not event.brief and event.type is _REPAIR)

    def add(self, event: Event, record: Record) -> None:
        """Append a further one."""
        self.events.append((event, record))
        self.size += _size(record)
        if event.type is _REPAIR:
            self.repaired = True

    @property
    def all_events(self) -> list[tuple[Event, Record]]:
        """Those that were held back, and those of this batch."""
        return self.events if self.held is None else [*self.held.events, *self.events]

    def reduce(
        self,
        before: Stored | None,
        policy: StorePolicy,
        holds: Callable[["BatchEntry"], bool] | None = None,
    ) -> None:
        """Judge the events by what stands, or by what is held back on top of it.

        Args:
            before: What stands.
            policy: Of the log and the store.
            holds: Whether what becomes of them is not written yet; None: everything is.
        """
        if self.reduction is not None:
            self._forget()
        self.before = before
        events, size, held = self.events, self.size, self.held
        current: Standing | None = None
        if held is not None:
            self.resumed = before is not None and before.version == held.base.version
            current = held.record if self.resumed else None
            events = self.events if self.resumed else self.all_events  # another one was faster
            size += held.size
        largest = _PLENTY * size + (_MARGIN if len(events) == 1 else _margin(events))
        if before is not None:
            largest += len(before.encoded)
            if current is None and (current := _standing(before)) is None:
                self.refuse()
                self.set_aside = [SetAside(at, "refused", _NO_RECORD) for _, at in self.all_events]
                return
        reduction = reduce(
            current, events, policy, None if largest <= policy.record_max else _fitting(policy)
        )
        self.reduction = reduction
        record = reduction.record
        if (
            held is None
            and reduction.applied == len(events)
            and not reduction.rejected
            and type(record) is Prediction
            and record.text_length is None
            and record.usage is None
            and (record.source is None or len(record.source.offsets) == 1)
        ):
            self.changed = True
            self.encoded = encode(record)
        else:
            self.unusual = True
            self._look_closer(current, events, reduction, holds)

    def refuse(self) -> None:
        """The store will never take what has become of the events."""
        self.reduction, self.changed, self.unusual = None, False, True

    def _forget(self) -> None:
        """What was judged before: another processor has written meanwhile."""
        self.changed = self.unusual = self.holding = self.resumed = False
        self.length_before, self.grown_from, self.set_aside = 0, None, ()

    def _look_closer(
        self,
        current: Standing | None,
        events: Sequence[tuple[Event, Record]],
        reduction: Reduction,
        holds: Callable[["BatchEntry"], bool] | None,
    ) -> None:
        if self.held is not None and self.resumed:
            self.held.complete(reduction)
        if isinstance(current, Prediction) and (
            self.resumed or reduction.grown or current.text_length
        ):
            self._note_growth(current)
        if self.resumed or reduction.applied:
            if holds is not None and holds(self):
                self.holding = True
            else:
                assert reduction.record is not None
                self.changed = True
                self.encoded = encode(reduction.record)
                if reduction.contents:
                    self.contents = {**self.contents, **reduction.contents}
        self.set_aside = [
            SetAside(events[index][1], r.code, r.reason) for index, r in reduction.rejected
        ]

    def _note_growth(self, current: Prediction) -> None:
        """Note how long the text was, and whether nothing else changes against the version that stands."""
        reduction, before, held = self.reduction, self.before, self.held
        assert reduction is not None
        assert before is not None
        self.length_before = current.text_length or 0
        missing = held.base_missing if held is not None and self.resumed else current.text_missing
        record = reduction.record
        if (
            (reduction.only_growth or (self.resumed and not reduction.applied))
            and isinstance(record, Prediction)
            and record.text_missing == missing
        ):
            self.grown_from = before.version

    @property
    def doubtful(self) -> bool:
        """Whether something is lost for good if what stands is not what the events were judged by."""
        reduction = self.reduction
        return (
            reduction is not None
            and self.before is not None
            and bool(reduction.rejected or reduction.dropped)
        )

    def contents_to_put(self) -> dict[str, bytes]:
        """The contents that the reduced record refers to, and the one before it did not, by path."""
        if not self.contents or not self.changed:
            return {}
        assert self.reduction is not None
        assert self.reduction.record is not None
        prediction_id = self.reduction.record.prediction_id
        known = self.before.encoded if self.before is not None else b""
        found = {
            path(prediction_id, name): content
            for name, content in self.contents.items()
            if name.encode() in self.encoded and name.encode() not in known
        }
        return {note(prediction_id): prediction_id.encode(), **found} if found else found

    def write(self, expiry: Expiry, now: int | None = None) -> Write:
        """The compare-and-set that makes the reduced record stand; `now` in ms if it is known."""
        reduction, before = self.reduction, self.before
        assert reduction is not None
        assert reduction.record is not None
        version, expires_at = (0, None) if before is None else (before.version, before.expires_at)
        expires_at, purge_at = expiry.of(
            reduction, expires_at, SYSTEM_CLOCK.ms() if now is None else now
        )
        self.expires_at = expires_at
        return Write(reduction.record, self.encoded, version, expires_at, purge_at)

    def announcement(self) -> NewRecord | None:
        """The change to announce; None if nothing was applied."""
        reduction = self.reduction
        if not self.changed or reduction is None or reduction.position is None:
            return None
        record = reduction.record
        assert record is not None
        return announcement(
            record,
            self.encoded,
            position=reduction.position,
            expires_at=self.expires_at,
            traceparent=reduction.traceparent,
            grown_from=self.grown_from,
            refusals=reduction.refusals,
            quiet=self._quiet(record) if self.repaired else 0,
        )

    def repeated_announcement(self, stored: Stored) -> NewRecord:
        """The change of what stands, if its events came again: a crash may have swallowed the first one."""
        record = stored.standing()
        last = self.all_events[-1][1]
        offsets = record.source.offsets if record.source is not None else {}
        position = Position(last.partition, offsets.get(str(last.partition), last.offset))
        return announcement(
            record,
            stored.encoded,
            position=position,
            expires_at=stored.expires_at,
            quiet=self._quiet(record),
        )

    def _quiet(self, record: Standing) -> int:
        """How many transitions a repair brought: other servers are not told of what is old news."""
        last = None
        for event, at in self.events:
            if event.type is _REPAIR:
                last = None if event.notify else at
        if last is None or not isinstance(record, Prediction):
            return 0
        return sum(
            step.position is None
            or (where := Position.parse(step.position)).partition != last.partition
            or where.offset <= last.offset
            for step in record.transitions
        )

    @property
    def repeated(self) -> bool:
        """Whether events came again, and nothing is announced for this prediction."""
        reduction = self.reduction
        return reduction is not None and reduction.duplicates > 0 and not reduction.applied

    async def event_by_event(
        self,
        policy: StorePolicy,
        expiry: Expiry,
        attempt: Callable[["BatchEntry"], Awaitable[None]],
    ) -> "list[BatchEntry]":
        """Judge the events one by one, each by what became of those before it; returns an entry of each.

        What a store refuses as a whole may hold a single event that it will never take.

        Args:
            policy: Of the log and the store.
            expiry: When records are hidden and purged.
            attempt: Writes an entry of one event if it changes something; takes its `reduction` away if the
                store refuses that too.
        """
        singles = []
        before = self.before
        for event, record in self.all_events:
            single = BatchEntry.of(event, record)
            single.contents = self.contents
            single.reduce(before, policy)
            await attempt(single)
            if single.changed:
                before = single.write(expiry).stored
            singles.append(single)
        return singles


def set_aside(entries: "Iterable[BatchEntry]") -> list[SetAside]:
    """What of these predictions' events is to become dead letters."""
    return [one for entry in entries if entry.set_aside for one in entry.set_aside]


def _size(record: Record) -> int:
    size = len(record.value or b"")
    if record.headers:  # ids and sources may stand there
        size += sum([len(value or b"") for _, value in record.headers])
    return size


def _margin(events: Sequence[tuple[Event, Record]]) -> int:
    """Bytes by which events make a record larger, beside what they say."""
    return sum([_PIECE_MARGIN if event.type is _APPEND else _MARGIN for event, _ in events])


def _fitting(policy: StorePolicy) -> Callable[[Standing], bool]:
    def fits(record: Standing) -> bool:
        return len(encode(record)) <= policy.record_max

    return fits
