"""Whether a client reads what it is sent.

Pure. The buffers of sockets on both sides hold minutes of a growing text, so a full transport does
not tell that a reader has stopped. It would get each piece of those minutes one by one. So now and
then a ping goes out behind a piece, and its pong says that everything before it was read. While the
pong is overdue pieces are kept back, and what they come to is sent at once when it is there.
"""

EVERY = 1.0
"""Seconds between two pings behind pieces: at 40 ms a piece one in 25 costs a pong."""
PATIENCE = 0.5
"""Seconds within which a pong comes from nearly every reader, one far away on a phone included."""


class ReadProbe:
    """What is known of one client.

    A client that has never answered a ping is believed to read: it may answer none at all.
    """

    __slots__ = ("_answers", "_asked_at", "_overdue_at")

    def __init__(self) -> None:
        self._answers = False
        self._asked_at = 0.0
        self._overdue_at: float | None = None
        """When the pong that is awaited is overdue; None: none is awaited."""

    def asks(self, now: float) -> bool:
        """Whether a ping is to go out behind what is written now.

        Args:
            now: Monotonic seconds.
        """
        if self._overdue_at is not None or now - self._asked_at < EVERY:
            return False
        self._asked_at = now
        if self._answers:
            self._overdue_at = now + PATIENCE
        return True

    def reads(self, now: float) -> bool:
        """Whether it has read what it was sent, as far as that can be known by now."""
        return self._overdue_at is None or now < self._overdue_at

    def answered(self) -> None:
        """A pong has come."""
        self._answers = True
        self._overdue_at = None
