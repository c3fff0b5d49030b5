"""A batch of log records on its way to becoming writes: translated, grouped by prediction, reduced. Pure."""

from collections.abc import Callable, Mapping, Sequence

from tidings.storage.prediction import Standing, encode
from tidings.storage.store import Stored, Write
from tidings.streams.log.protocol import Record
from tidings.streams.processing.decoder import decode_event
from tidings.streams.providers.protocol import Provider
from tidings.streams.rules.event import Event, Poison
from tidings.streams.rules.large_fields import FIELD_MAX, note, path, settle
from tidings.streams.rules.reducer import Expiry, Reduction, StorePolicy, reduce

_PLENTY, _MARGIN = 4, 4096
"""An event makes a record larger by at most this many times its own bytes (the body itself, the fields taken from it,
and what is taken out of those once more: prompt, image URL), and by the margin (ids, times, the audit trail)."""

Letter = tuple[Record, str, str]
"""A record for the dead letters: code and reason."""


class Entry:
    """A prediction's part of a batch."""

    __slots__ = (
        "before",
        "contents",
        "encoded",
        "events",
        "expires_at",
        "letters",
        "reduction",
        "size",
    )

    def __init__(self) -> None:
        self.events: list[tuple[Event, Record]] = []
        """Each with the record that it came in, which is its position too."""
        self.size = 0
        """Bytes of the records' values and headers."""
        self.before: Stored | None = None
        self.reduction: Reduction | None = None
        self.letters: Sequence[Letter] = ()
        """Made anew where the events are judged again."""
        self.encoded = b""
        self.expires_at: int | None = None
        self.contents: dict[str, bytes] = {}
        """What the events' large fields say, by hash."""

    def add(self, event: Event, record: Record) -> None:
        """Append an event of this prediction."""
        self.events.append((event, record))
        self.size += len(record.value or b"")
        if record.headers:  # ids and sources may stand there
            self.size += sum([len(value or b"") for _, value in record.headers])

    @property
    def changed(self) -> bool:
        """Whether there is something to write and to announce."""
        return self.reduction is not None and self.reduction.applied > 0

    def reduce(self, before: Stored | None, policy: StorePolicy) -> None:
        """Judge the events by what stands."""
        self.before = before
        largest = _PLENTY * self.size + _MARGIN * len(self.events)
        current: Standing | None = None
        if before is not None:
            largest += len(before.encoded)
            current = before.standing()
        reduction = reduce(
            current, self.events, policy, None if largest <= policy.record_max else _fitting(policy)
        )
        self.reduction = reduction
        if reduction.applied:
            assert reduction.record is not None
            self.encoded = encode(reduction.record)
        if reduction.rejected or self.letters:
            self.letters = [
                (self.events[index][1], r.code, r.reason) for index, r in reduction.rejected
            ]

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

    def write(self, expiry: Expiry) -> Write:
        """The compare-and-set that makes the reduced record stand."""
        reduction, before = self.reduction, self.before
        assert reduction is not None
        assert reduction.record is not None
        self.expires_at, purge_at = expiry.of(reduction, before)
        return Write(
            reduction.record,
            self.encoded,
            before.version if before is not None else 0,
            self.expires_at,
            purge_at,
        )


def _fitting(policy: StorePolicy) -> Callable[[Standing], bool]:
    def fits(record: Standing) -> bool:
        return len(encode(record)) <= policy.record_max

    return fits


class Batch:
    """Records grouped by prediction, in the order of the log.

    Args:
        records: As fetched.
        providers: By name; what webhooks are translated by.
        only: Leave every other prediction out.
    """

    __slots__ = ("entries", "poison", "unknown_fields")

    def __init__(
        self, records: Sequence[Record], providers: Mapping[str, Provider], only: str | None = None
    ) -> None:
        entries: dict[str, Entry] = {}
        self.entries = entries
        self.poison: list[Letter] = []
        self.unknown_fields = 0
        for record in records:
            try:
                event = decode_event(record, providers)
            except Poison as poison:
                self.poison.append((record, poison.code, str(poison)))
                continue
            prediction_id = event.prediction_id
            if only is not None and prediction_id != only:
                continue
            entry = entries.get(prediction_id)
            if entry is None:
                entry = entries[prediction_id] = Entry()
            entry.add(event, record)
            if len(record.value or b"") > FIELD_MAX and (contents := settle(event)):
                entry.contents |= contents
            self.unknown_fields += event.unknown

    def reduce(self, loaded: Mapping[str, Stored], policy: StorePolicy) -> None:
        """Judge every prediction's events by what stands."""
        for prediction_id, entry in self.entries.items():
            entry.reduce(loaded.get(prediction_id), policy)
