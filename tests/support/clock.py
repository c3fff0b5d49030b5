"""A clock that stands still until a test moves it."""


class ManualClock:
    """A `tidings.storage.clock.Clock` set by hand.

    Args:
        ms: The wall clock, in ms since the epoch.
        monotonic: Seconds.
    """

    def __init__(self, ms: int = 0, monotonic: float = 0.0) -> None:
        self.now_ms = ms
        self.seconds = monotonic

    def ms(self) -> int:
        """The wall clock, in ms since the epoch."""
        return self.now_ms

    def monotonic(self) -> float:
        """Seconds that only go forward."""
        return self.seconds

    def advance(self, seconds: float) -> None:
        """Let both clocks move on."""
        self.now_ms += round(seconds * 1000)
        self.seconds += seconds
