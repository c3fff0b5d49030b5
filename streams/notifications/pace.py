"""How fast an address is told: what it has shown decides. Pure but for its lists of work.

An address that nobody has heard of, or that fails, is tried by one request at a time, and such
addresses share a part of all requests. One that takes what it is sent has several at once, and no
number of dead addresses can take its places.
"""

from collections import deque
from typing import TYPE_CHECKING, Generic, TypeVar

from tidings.storage.resilience.backoff import Backoff
from tidings.streams.notifications.delivery import SwitchedOff

if TYPE_CHECKING:
    import asyncio

PAUSED_AFTER = 5
"""Failures in a row after which an address is left alone for a while. What waits for it would
else be tried one by one, thousands of requests to a server that is down."""
PAUSES = Backoff((1, 2, 5, 10, 30, 60), jitter=0.2)
"""Seconds for which it is, by further failures."""
SURE_AFTER = 3
"""Failures in a row that are evidence against an address, beside the age of a delivery: after a
restart nobody remembers what it took before."""

T = TypeVar("T")


class AddressPace(Generic[T]):
    """An address, and what is ready to be sent to it."""

    __slots__ = (
        "_sent_at",
        "failures",
        "not_before",
        "off",
        "ready",
        "running",
        "timer",
        "waiting",
    )

    def __init__(self) -> None:
        self.ready: deque[T] = deque()
        """What may be tried as soon as there is a place for it."""
        self.running = 0
        self.waiting = 0
        """Deliveries that are not taken yet, ready or not."""
        self.failures = 0
        """In a row."""
        self.not_before = 0.0
        """The time, in seconds since the epoch, before which nothing is tried."""
        self.timer: asyncio.TimerHandle | None = None
        """Runs at that time, where something is ready."""
        self.off: SwitchedOff | None = None
        self._sent_at = 0.0

    @property
    def proven(self) -> bool:
        """Whether it took what it was sent last, or needs no request at all."""
        return self.off is not None or (self._sent_at > 0 and not self.failures)

    def limit(self, at_once: int) -> int:
        """Requests at once."""
        return at_once if self.proven else 1

    @property
    def idle(self) -> bool:
        """Whether there is nothing to remember of it."""
        return not (self.waiting or self.running or self.failures or self.off)

    def succeeded(self, now: float) -> None:
        """It took something."""
        self.failures, self.not_before, self._sent_at = 0, 0.0, now

    def failed(self, now: float, asked: float | None) -> None:
        """It did not; `asked` are the seconds for which it wants quiet, where it says so."""
        self.failures += 1
        pause = PAUSES.wait(self.failures - PAUSED_AFTER + 1)
        if asked is not None:
            pause = max(pause, asked)
        if pause:
            self.not_before = now + pause

    def hopeless_since(self, since: float) -> bool:
        """Whether it has taken nothing since then, as far as this process can tell."""
        return self.failures >= SURE_AFTER and self._sent_at < since

    def switch(self, off: SwitchedOff | None) -> None:
        """Send it nothing any more, or try it again."""
        self.off = off
        self.not_before = 0.0
        if off is None:
            self.failures = 0
