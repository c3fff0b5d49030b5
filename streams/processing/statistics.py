"""What the processor counts and times. Plain numbers; whoever serves metrics reads them."""

from collections import Counter
from time import monotonic, time

from tidings.streams.processing.batch import BatchInFlight
from tidings.streams.processing.usage_counts import UsageCounts
from tidings.streams.support.histogram import Histogram

MOST_NAMES = 200
"""Kinds and fields counted by name; those met after that count as `other`."""

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
