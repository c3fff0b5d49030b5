"""How long things take, counted in ranges. Plain numbers; whoever serves metrics reads them.

Pure.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Sequence

LATENCIES = (
    0.0005,
    0.001,
    0.002,
    0.005,
    0.01,
    0.02,
    0.05,
    0.1,
    0.25,
    0.5,
    1.0,
    2.5,
    5.0,
    10.0,
    60.0,
)
"""Upper bounds in seconds, from a write to a local file to a consumer that is far behind."""


class Histogram:
    """Counts of observations by range.

    Args:
        bounds: The upper bounds of the ranges, in seconds, rising; what is above all of them is
            counted too.
    """

    __slots__ = ("_bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float] = LATENCIES) -> None:
        self._bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        """Observations in each range, the one above all bounds last."""
        self.total = 0.0
        """The sum of what was observed, in seconds."""

    def observe(self, seconds: float) -> None:
        """Count one observation; one below nothing (two clocks that differ) counts as nothing."""
        seconds = max(seconds, 0.0)
        self.counts[bisect_left(self._bounds, seconds)] += 1
        self.total += seconds

    def observe_all(self, seconds: Sequence[float]) -> None:
        """Count many observations: sorted, they take a look for each range, not for each of them."""
        ordered, counts, before = sorted(seconds), self.counts, 0
        for index, bound in enumerate(self._bounds):
            upto = bisect_right(ordered, bound, before)
            counts[index] += upto - before
            before = upto
        counts[-1] += len(ordered) - before
        self.total += max(sum(ordered), 0.0)

    def cumulative(self) -> list[tuple[float, int]]:
        """Per upper bound (the last one infinite) how many observations are not above it."""
        found: list[tuple[float, int]] = []
        so_far = 0
        for bound, count in zip((*self._bounds, float("inf")), self.counts, strict=True):
            so_far += count
            found.append((bound, so_far))
        return found
