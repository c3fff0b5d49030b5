"""What is counted of usage, for metrics."""

from typing import Any

from tests.support.storage.samples import prediction
from tidings.storage.prediction import Status, Usage, encode
from tidings.storage.store import Stored
from tidings.streams.processing.statistics import MOST_NAMES, UsageCounts


def stored(**fields: Any) -> Stored:
    return Stored(1, Status.SUCCEEDED, encode(prediction("p1", **fields)))


def test_what_a_record_gains_is_counted_once() -> None:
    """A second report adds what is more in it, and a repeat adds nothing."""
    counts = UsageCounts()
    first, second = (
        Usage(seconds=2, cost="0.5", currency="USD"),
        Usage(seconds=3, images=1, cost="2", currency="USD"),
    )
    named: dict[str, Any] = {"provider": "fal", "model": "m"}
    counts.add(None, prediction("p1", usage=first, **named))
    counts.add(stored(usage=first), prediction("p1", usage=second, **named))
    counts.add(stored(usage=second), prediction("p1", usage=second, **named))
    assert counts.used == {("fal", "m", "seconds"): 3, ("fal", "m", "images"): 1}
    assert counts.costs == {("fal", "m", "USD"): 2}


def test_names_are_bounded() -> None:
    """Whoever reports chooses names: beyond so many they count together, and the sum stays whole."""
    counts = UsageCounts()
    for number in range(MOST_NAMES + 50):
        counts.add(None, prediction("p1", model=f"m{number}", usage=Usage(images=1)))
    assert len(counts.used) == MOST_NAMES + 1
    assert counts.used["other", "other", "images"] == 50
    assert counts.used.total() == MOST_NAMES + 50
