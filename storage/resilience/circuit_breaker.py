"""A circuit breaker: whom to leave alone after failures, and for how long.

Pure: times are arguments, seconds of any clock that only goes forward.
"""

import math
from collections import deque

from tidings.storage.resilience.backoff import Backoff


class CircuitBreaker:
    """Closed while calls succeed; opened by failures; a call that succeeds closes it again.

    Open, it lets one call through after each rest, as a trial. The rest follows a schedule, so that
    what stays away is asked less and less often. A success forgets all failures: they count in a
    row.

    Args:
        failures: How many in a row open it.
        window: Seconds within which they come; older ones do not count.
        rest: How long it stays open: its first step after it opened, the next ones after trials
            that failed.
    """

    __slots__ = ("_failed_at", "_failures", "_opened", "_rest", "_window", "open_until")

    def __init__(self, failures: int, rest: Backoff, *, window: float = math.inf) -> None:
        self._failures = failures
        self._rest = rest
        self._window = window
        self._failed_at: deque[float] = deque(maxlen=failures)
        self._opened = 0
        self.open_until = -math.inf
        """When the next trial may be made, if it is open."""

    @property
    def open(self) -> bool:
        """Whether calls are kept away, or one at a time may try."""
        return self._opened > 0

    def allows(self, now: float) -> bool:
        """Whether a call may be made now; while it is open, one for each rest."""
        if not self._opened:
            return True
        if now < self.open_until:
            return False
        # This call tries. The others wait for what comes of it, or for another rest if it is never
        # told.
        self.open_until = now + self._rest.wait(self._opened)
        return True

    def succeeded(self) -> None:
        """A call was answered: the circuit is closed."""
        self._opened = 0
        self._failed_at.clear()

    def failed(self, now: float) -> bool:
        """A call was not answered; returns whether the circuit is open now."""
        self._failed_at.append(now)
        enough = len(self._failed_at) == self._failures and now - self._failed_at[0] <= self._window
        if self._opened or enough:
            self._opened += 1
            self.open_until = now + self._rest.wait(self._opened)
        return self.open
