"""The one type of clock that is passed in wherever time matters, so that tests can set it."""

import time
from typing import Protocol


class Clock(Protocol):
    """Tells the time in two ways, which must not be mixed."""

    def ms(self) -> int:
        """The wall clock, in ms since the epoch: what records carry. It may be set back."""

    def monotonic(self) -> float:
        """Seconds since some moment, only ever going forward.

        For durations, deadlines and rates.
        """


class SystemClock:
    """The clock of this machine."""

    __slots__ = ()

    def ms(self) -> int:
        """The wall clock, in ms since the epoch."""
        return time.time_ns() // 1_000_000

    monotonic = staticmethod(time.monotonic)
    """Seconds that only go forward."""


SYSTEM_CLOCK = SystemClock()
