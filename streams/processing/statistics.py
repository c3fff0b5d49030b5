"""What the processor counts and times. Plain numbers; whoever serves metrics reads them."""

from collections import Counter
from time import monotonic, time

from tidings.storage.prediction import Prediction, Standing, Usage
from tidings.storage.store import Stored
from tidings.streams.processing.batch import BatchInFlight
from tidings.streams.rules.usage import NUMBERS
from tidings.streams.support.histogram import Histogram

MOST_NAMES = 200
"""Kinds and fields, and providers with a model and a unit, counted by name; those met after that count as `other`."""

_OTHER = "other"

STAGES = ("translate", "load", "fold", "write", "announce")


class Statistics:
    """Counts since the start, and seconds spent by stage."""

    def __init__(self) -> None:
        self.records = 0
        self.batches = 0
        self.applied = 0
        self.stale = 0
        self.behind = 0
        self.duplicates = 0
        self.conflicts = 0
        self.pauses = 0
        self.unknown_fields = 0
        self.left_out: Counter[tuple[str, str]] = Counter()
        """By provider and field: what did not fit into an event."""
        self.other_resources: Counter[tuple[str, str]] = Counter()
        """By provider and kind: webhooks about something else than a prediction."""
        self.usage = UsageCounts()
        self.dead_letters: dict[str, int] = {}
        """By code."""
        self.stages = {stage: Histogram() for stage in STAGES}
        """How long each stage of a batch took."""
        self.to_change = Histogram()
        """From an event's append to the announcement of what it changed; of several at once the last event's."""
        self.last_alive = monotonic()
        """When the loop last went round (monotonic seconds), for a watch from outside it."""

    @property
    def seconds(self) -> dict[str, float]:
        """Spent in each stage so far."""
        return {stage: spent.total for stage, spent in self.stages.items()}

    def alive(self) -> None:
        """The loop went round."""
        self.last_alive = monotonic()

    def batch(self, batch: BatchInFlight) -> None:
        """A batch is done."""
        self.records += len(batch.records)
        self.batches += 1
        self.unknown_fields += batch.unknown_fields
        if batch.left_out:
            _add_named(self.left_out, batch.left_out)
        if batch.other_resources:
            _add_named(self.other_resources, batch.other_resources)
        self.applied += batch.events
        for entry in batch.unusual.values():
            reduction = entry.reduction
            self.applied -= len(entry.events)
            if reduction is not None:
                self.applied += reduction.applied
                self.stale += reduction.stale
                self.behind += reduction.behind
                self.duplicates += reduction.duplicates
                if reduction.applied:
                    self.usage.add(entry.before, reduction.record)
        now = time()
        self.to_change.observe_all(
            [
                now - reduction.recorded_at / 1000
                for entry in batch.entries.values()
                if (reduction := entry.reduction) is not None and reduction.applied
            ]
        )
        for stage, spent in zip(STAGES, batch.seconds, strict=True):
            self.stages[stage].observe(spent)
        self.last_alive = monotonic()

    def snapshot(self) -> dict[str, object]:
        """The figures as plain values, named as on the wire."""
        return {
            "records": self.records,
            "batches": self.batches,
            "applied": self.applied,
            "stale": self.stale,
            "behind": self.behind,
            "duplicates": self.duplicates,
            "conflicts": self.conflicts,
            "pauses": self.pauses,
            "unknownFields": self.unknown_fields,
            "leftOut": _nested(self.left_out),
            "otherResources": _nested(self.other_resources),
            "deadLetters": dict(self.dead_letters),
            "seconds": {stage: round(spent, 6) for stage, spent in self.seconds.items()},
        }


def _add_named(total: Counter[tuple[str, str]], found: Counter[tuple[str, str]]) -> None:
    """Add counts by name; senders choose names, so there is an end to how many are kept."""
    for (provider, name), count in found.items():
        known = (provider, name) in total or len(total) < MOST_NAMES
        total[(provider, name) if known else ("other", "other")] += count


def _nested(counts: Counter[tuple[str, str]]) -> dict[str, dict[str, int]]:
    found: dict[str, dict[str, int]] = {}
    for (provider, name), count in counts.items():
        found.setdefault(provider, {})[name] = count
    return found


class UsageCounts:
    """What predictions have used since the process started, by provider and model: what records gain; reports that come again add nothing."""

    def __init__(self) -> None:
        self.used: Counter[tuple[str, str, str]] = Counter()
        """By provider, model and unit: tokens, seconds, images."""
        self.costs: Counter[tuple[str, str, str]] = Counter()
        """By provider, model and currency, rounded as metrics are."""

    def add(self, before: Stored | None, record: Standing | None) -> None:
        """Count what the record says more than what stood before it."""
        if not isinstance(record, Prediction) or record.usage is None:
            return
        old = _usage(before)
        if old == record.usage:
            return
        names = (record.provider or "", record.model or "")
        for unit in NUMBERS:
            grown = (getattr(record.usage, unit) or 0) - (getattr(old, unit) or 0)
            if grown > 0:
                _add(self.used, (*names, unit), grown)
        if record.usage.cost is not None and record.usage.currency is not None:
            paid = float(old.cost or 0) if old.currency == record.usage.currency else 0.0
            _add(self.costs, (*names, record.usage.currency), float(record.usage.cost) - paid)


def _usage(before: Stored | None) -> Usage:
    if before is None or b'"usage":' not in before.encoded:
        return Usage()
    standing = before.standing()
    return (standing.usage if isinstance(standing, Prediction) else None) or Usage()


def _add(total: Counter[tuple[str, str, str]], key: tuple[str, str, str], number: float) -> None:
    """Senders choose the names of models, so there is an end to how many are kept."""
    if key not in total and len(total) >= MOST_NAMES:
        key = (_OTHER, _OTHER, key[2] if any(one[2] == key[2] for one in total) else _OTHER)
    total[key] += number  # type: ignore[assignment]
