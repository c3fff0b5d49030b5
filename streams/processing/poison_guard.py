"""Stops processing where nearly all of a minute's records are poison. Pure.

Then the topic or a release is wrong, not the records, and going on would move everything to the dead letters.
"""

from collections import deque
from collections.abc import Mapping

CONTRADICTIONS = frozenset({"contradiction", "owner", "provider-id", "strict"})
"""Codes of dead letters that contradict what stands. Providers race with themselves: these do not count as poison."""

WINDOW = 60.0
"""Seconds looked back on."""
SHARE = 0.95
"""Of the records in the window, for the breaker to open."""
FEWEST = 100
"""Records in the window; fewer say nothing."""


def poison(dead_letters: Mapping[str, int]) -> int:
    """How many of the dead letters (by code) count as poison."""
    return sum(count for code, count in dead_letters.items() if code not in CONTRADICTIONS)


class PoisonGuard:
    """Judges the counters of a processor, told again and again. Times are monotonic seconds."""

    def __init__(self, window: float = WINDOW, share: float = SHARE, fewest: int = FEWEST) -> None:
        self._window = window
        self._share = share
        self._fewest = fewest
        self._seen: deque[tuple[float, int, int]] = deque([(float("-inf"), 0, 0)])
        self.reason: str | None = None
        """Why it is open; None: it is closed."""

    def note(self, now: float, records: int, poisoned: int) -> bool:
        """Take the counters as they are now; returns whether the breaker is open.

        Args:
            now: When.
            records: Processed since the start.
            poisoned: Of these the ones that were poison.
        """
        seen = self._seen
        seen.append((now, records, poisoned))
        while len(seen) > 1 and seen[1][0] <= now - self._window:
            seen.popleft()
        read, bad = records - seen[0][1], poisoned - seen[0][2]
        if self.reason is None and read >= self._fewest and bad >= self._share * read:
            self.reason = (
                f"{bad} of the last minute's {read} records were poison; look at tidings dead-letters list, mend what "
                "sends them, restart, then redrive (--no-breaker goes on in spite of it)"
            )
        return self.reason is not None
