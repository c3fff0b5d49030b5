"""Holds the processor back if nearly all of a minute's records are poison. Pure.

Then the topic or a release is wrong, not the records, and going on would move everything to the dead letters. From time to
time a few records are let through: if they are none, it closes by itself, so nobody has to restart anything.
"""

from collections import deque
from collections.abc import Mapping

WELL_FORMED = frozenset(
    {
        "contradiction",
        "owner",
        "provider-id",
        "strict",
        "record-too-large",
        "refused",
        "crash",
        "text-mismatch",
        "text-gap",
        "text-late",
        "text-too-long",
    }
)
"""Codes of dead letters that are no poison: providers race with themselves, a store or a process takes no more, and one
sender of such records must not stop everybody's."""

WINDOW = 60.0
"""Seconds looked back on."""
SHARE = 0.95
"""Of the records in the window, for the guard to hold back."""
FEWEST = 100
"""Records in the window; fewer say nothing."""
PROBE = 20
"""Records let through to see whether the flood is over."""
RETRY, RETRY_MOST = 15.0, 300.0
"""Seconds before the first probe, doubled with each that finds poison."""


def poison(dead_letters: Mapping[str, int]) -> int:
    """How many of the dead letters (by code) count as poison."""
    return sum(count for code, count in dead_letters.items() if code not in WELL_FORMED)


class PoisonGuard:
    """Judges the counters of a processor, told again and again. Times are monotonic seconds."""

    def __init__(self, window: float = WINDOW, share: float = SHARE, fewest: int = FEWEST) -> None:
        self._window = window
        self._share = share
        self._fewest = fewest
        self._seen: deque[tuple[float, int, int]] = deque([(float("-inf"), 0, 0)])
        self._wait = RETRY
        self._probe_at = 0.0
        self._probing = False
        self._tried: tuple[int, int] | None = None
        """The counters as the last probe began; None: there was none yet."""
        self.reason: str | None = None
        """Why it holds back; None: it does not."""

    @property
    def holding(self) -> bool:
        """Whether nothing may be taken at the moment."""
        return self.reason is not None and not self._probing

    @property
    def most(self) -> int | None:
        """How many records may be taken at once; None: as many as there are."""
        return PROBE if self._probing else None

    def note(self, now: float, records: int, poisoned: int) -> bool:
        """Take the counters as they are now; returns whether nothing may be taken.

        Args:
            now: When.
            records: Processed since the start.
            poisoned: Of these the ones that were poison.
        """
        if self.reason is not None:
            self._probe(now, records, poisoned)
            return self.holding
        seen = self._seen
        seen.append((now, records, poisoned))
        while len(seen) > 1 and seen[1][0] <= now - self._window:
            seen.popleft()
        read, bad = records - seen[0][1], poisoned - seen[0][2]
        if read >= self._fewest and bad >= self._share * read:
            self._wait, self._probe_at = RETRY, now + RETRY
            self.reason = (
                f"{bad} of the last minute's {read} records were poison; look at tidings dead-letters list, fix what "
                "sends them, then redrive; a few records are tried from time to time (--no-breaker goes on in spite "
                "of it)"
            )
        return self.holding

    def caught_up(self, now: float) -> None:
        """There is nothing left to read: if a probe was under way, the flood is over.

        Else a service that is told not ready, and so is sent nothing, would wait for a good record forever.
        """
        if self._probing and self._tried is not None:
            self._close(now, *self._tried)

    def _close(self, now: float, records: int, poisoned: int) -> None:
        self.reason = self._tried = None
        self._probing = False
        self._seen = deque([(now, records, poisoned)])

    def _probe(self, now: float, records: int, poisoned: int) -> None:
        tried = self._tried
        # What a probe let through may be counted after it has ended: one good record is enough whenever it shows.
        if tried is not None and records - poisoned > tried[0] - tried[1]:
            self._close(now, records, poisoned)
        elif not self._probing:
            if now >= self._probe_at:
                self._probing, self._tried = True, (records, poisoned)
        elif tried is not None and records - tried[0] >= PROBE:
            self._probing = False
            self._wait = min(self._wait * 2, RETRY_MOST)
            self._probe_at = now + self._wait
