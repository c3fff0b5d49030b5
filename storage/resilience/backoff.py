"""How long to wait before something that failed is tried again."""

import random
from collections.abc import Sequence

JITTER = 0.5
"""The share of a wait that is drawn at random, if a schedule does not say otherwise."""


class Backoff:
    """A schedule of waits in seconds.

    One for each failure in a row, the last one for all further failures.

    A schedule has no state, so one constant serves many callers; whoever retries counts its
    failures in `Failures` or by itself. Waits are shortened at random ("jitter"): processes that a
    fault cut off together would otherwise come back together, and overload what has just recovered.

    Args:
        steps: The longest wait after the first failure, the second and so on; at least one.
        jitter: The share of each wait that is drawn at random; 0: waits are exactly the steps, 1:
            "full jitter".

    Raises:
        ValueError: No steps, a negative one, or a share outside 0 to 1.
    """

    __slots__ = ("_jitter", "steps")

    def __init__(self, steps: Sequence[float], *, jitter: float = JITTER) -> None:
        if not steps or min(steps) < 0 or not 0 <= jitter <= 1:
            raise ValueError(f"no schedule: steps {steps!r}, jitter {jitter}")
        self.steps = tuple(steps)
        self._jitter = jitter

    @classmethod
    def doubling(cls, first: float, longest: float, *, jitter: float = JITTER) -> "Backoff":
        """A schedule that doubles from `first` to `longest` seconds."""
        if not 0 < first <= longest:
            raise ValueError(f"no schedule: from {first} s to {longest} s")
        steps = [first]
        while steps[-1] < longest:
            steps.append(min(longest, steps[-1] * 2))
        return cls(steps, jitter=jitter)

    @property
    def longest(self) -> float:
        """The wait that no failure exceeds, in seconds."""
        return max(self.steps)

    def bound(self, failures: int) -> float:
        """The longest wait after so many failures in a row, in seconds; 0 after none."""
        return self.steps[min(failures, len(self.steps)) - 1] if failures > 0 else 0.0

    def wait(self, failures: int) -> float:
        """A wait after so many failures in a row, in seconds, drawn between its jittered least and its bound."""
        return self.bound(failures) * random.uniform(1 - self._jitter, 1)  # noqa: S311 - spreads load


class Failures:
    """Counts failures in a row and says how long to wait after each.

    Args:
        backoff: The schedule.
    """

    __slots__ = ("_backoff", "count")

    def __init__(self, backoff: Backoff) -> None:
        self._backoff = backoff
        self.count = 0
        """Failures since the last success."""

    def next_wait(self) -> float:
        """Count one more failure; return the seconds to wait before the next try."""
        self.count += 1
        return self._backoff.wait(self.count)

    def clear(self) -> None:
        """It worked: the next failure is a first one again."""
        self.count = 0
