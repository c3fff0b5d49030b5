"""A batch of log records on its way to becoming writes and announcements: decoded, grouped by prediction, reduced."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from time import perf_counter

from tidings.storage.store import Stored
from tidings.streams.log.headers import PROVIDER_HEADER
from tidings.streams.log.protocol import Record
from tidings.streams.processing.batch_entry import BatchEntry, SetAside
from tidings.streams.processing.decoder import decode_event, name_prediction
from tidings.streams.providers.protocol import Provider
from tidings.streams.rules.event import Event, OtherResource, Poison
from tidings.streams.rules.large_fields import settle, settles
from tidings.streams.rules.reducer import StorePolicy

_NAMES, _NAME = 20, 64
"""Unknown fields of one event that are counted by name, and characters of a name."""

_TOGETHER = (
    "let every producer place keys as Java does (librdkafka: partitioner=murmur2_random); after partitions were added "
    "it is to be expected"
)


class BatchInFlight:
    """Records grouped by prediction, in the order of the log, and how far they have come.

    Args:
        records: As fetched.
        providers: By name; what webhooks are decoded by.
        only: Leave every other prediction out.
    """

    __slots__ = (
        "entries",
        "events",
        "kept",
        "left_out",
        "other_resources",
        "poison",
        "records",
        "seconds",
        "unknown_fields",
        "unusual",
    )

    def __init__(
        self, records: Sequence[Record], providers: Mapping[str, Provider], only: str | None = None
    ) -> None:
        started = perf_counter()
        self.records = records
        self.entries: dict[str, BatchEntry] = {}
        self.unusual: dict[str, BatchEntry] = {}
        """Those that more is to be looked at of (see `BatchEntry.unusual`)."""
        self.events = 0
        """In all entries."""
        self.poison: list[SetAside] = []
        self.kept: set[tuple[int, int]] = set()
        """Positions of the records that are dead letters by now."""
        self.unknown_fields = 0
        self.left_out: Counter[tuple[str, str]] = Counter()
        """By provider and field: what did not fit into an event."""
        self.other_resources: Counter[tuple[str, str]] = Counter()
        """By provider and kind: webhooks about something else than a prediction, which are set aside."""
        for record in records:
            try:
                event = decode_event(record, providers)
            except Poison as poison:
                named = None if record.key else name_prediction(record, providers)
                self.poison.append(SetAside(record, poison.code, str(poison), named))
                continue
            except OtherResource as other:
                self.other_resources[other.provider, other.kind] += 1
                continue
            if only is None or event.prediction_id == only:
                self._add(event, record)
        self.seconds = [perf_counter() - started]
        """Spent in the steps so far, in the order of the statistics' stages."""

    @classmethod
    def of_poison(cls, one: SetAside) -> "BatchInFlight":
        """A batch of a record that is not even decoded."""
        batch = cls((), {})
        batch.records, batch.poison = (one.record,), [one]
        return batch

    def _add(self, event: Event, record: Record) -> None:
        self.events += 1
        entry = self.entries.get(event.prediction_id)
        if entry is None:
            entry = self.entries[event.prediction_id] = BatchEntry.of(event, record)
        else:
            entry.add(event, record)
        if not event.brief:
            self._look_closer(event, record, entry)

    def _look_closer(self, event: Event, record: Record, entry: BatchEntry) -> None:
        if settles(event, len(record.value or b"")) and (contents := settle(event)):
            entry.contents = {**entry.contents, **contents}
        if event.unknown:
            self.unknown_fields += len(event.unknown)
            # A webhook's event says whose it is; of others the source is whatever the sender wrote.
            webhook = any(name == PROVIDER_HEADER for name, _ in record.headers)
            for name in event.unknown[:_NAMES]:
                self.left_out[(event.source or "") if webhook else "", name[:_NAME]] += 1
        for name in event.left_out:
            self.left_out[event.source or "", name] += 1

    def reduce(
        self,
        loaded: Mapping[str, Stored],
        policy: StorePolicy,
        holds: Callable[[BatchEntry], bool] | None = None,
    ) -> None:
        """Judge every prediction's events by what stands; see `BatchEntry.reduce`."""
        get, unusual = loaded.get, self.unusual
        for prediction_id, entry in self.entries.items():
            held = entry.held
            entry.reduce(get(prediction_id) if held is None else held.base, policy, holds)
            if entry.unusual:
                unusual[prediction_id] = entry

    def look_again(self, prediction_id: str) -> None:
        """The prediction's events were judged again, or written one by one: it may be unusual now."""
        entry = self.entries[prediction_id]
        if entry.unusual:
            self.unusual[prediction_id] = entry

    def scattered(self) -> dict[str, object] | None:
        """A prediction whose events lie in several partitions, with what to do; None: there is none."""
        for prediction_id, entry in self.unusual.items():
            reduction = entry.reduction
            if reduction is None or reduction.record is None or not reduction.applied:
                continue
            source = reduction.record.source
            if source is not None and len(source.offsets) > 1:
                partitions = sorted(source.offsets)
                return {"prediction": prediction_id, "partitions": partitions, "remedy": _TOGETHER}
        return None
