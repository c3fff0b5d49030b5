"""Token buckets: how often something may happen in the long run, and how often at once.

Pure: times are arguments, seconds of any clock that only goes forward.
"""


class TokenBucket:
    """Holds at most `burst` tokens and gains `rate` of them a second; begins full.

    In any window of w seconds at most `burst + rate * w` tokens are taken by `take`.

    Args:
        rate: Tokens a second, above 0.
        burst: The most that it holds.
        now: When it begins.
    """

    __slots__ = ("_at", "burst", "rate", "tokens")

    def __init__(self, rate: float, burst: float, now: float) -> None:
        self.rate = rate
        self.burst = burst
        self.tokens = burst
        """What it held at the last look; below 0: a debt that time pays off."""
        self._at = now

    @classmethod
    def within(cls, limit: float, window: float, now: float) -> "TokenBucket":
        """A bucket that lets at most `limit` (6 or more) tokens through in any `window` seconds.

        A sixth of them at once.
        """
        burst = max(1.0, limit / 6)
        return cls(max(limit - burst, 1.0) / window, burst, now)

    def take(self, now: float, tokens: float = 1.0) -> float:
        """Take tokens if they are there, and nothing if they are not.

        Returns:
            0 if they were taken; else the seconds after which they will be there.
        """
        self._refill(now)
        if self.tokens < tokens:
            return (tokens - self.tokens) / self.rate
        self.tokens -= tokens
        return 0.0

    def reserve(self, now: float, tokens: float = 1.0) -> float:
        """Take tokens whether they are there or not: who comes later stands behind.

        Returns:
            The seconds to wait until they would have been there; 0 if they were.
        """
        self._refill(now)
        self.tokens -= tokens
        return max(0.0, -self.tokens / self.rate)

    def give_back(self, tokens: float = 1.0) -> None:
        """Return reserved tokens that were not used."""
        self.tokens = min(self.burst, self.tokens + tokens)

    def _refill(self, now: float) -> None:
        self.tokens = min(self.burst, self.tokens + (now - self._at) * self.rate)
        self._at = now
