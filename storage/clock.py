"""The wall clock that stores compare expiry with."""

import time
from collections.abc import Callable

Clock = Callable[[], int]
"""The time now, in ms since the epoch."""


def now_ms() -> int:
    """The time now, in ms since the epoch."""
    return time.time_ns() // 1_000_000
