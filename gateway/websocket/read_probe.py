"""Whether a client reads what it is sent.

Pure. The buffers of sockets on both sides hold minutes of a growing text, so a full transport does
not tell that a reader has stopped. It would get each piece of those minutes one by one. So behind
every so many writes of pieces goes a ping, and its pong says that everything before it was read.
While the pong is overdue pieces are kept back, and what they come to is sent at once when it is
there.
"""

EVERY = 25
"""Writes of pieces between two pings: a second at 40 ms a piece. One in 25 costs a pong."""
PATIENCE = 0.5
"""Seconds within which a pong comes from nearly every reader, one far away on a phone included."""


class ReadProbe:
    """What is known of one client.

    A client that has never answered a ping is believed to read: it may answer none at all.
    """

    __slots__ = ("_answers", "left", "overdue_at")

    def __init__(self) -> None:
        self._answers = False
        self.left = 1
        """Writes until the next ping; whoever writes counts them, since that is the busiest path."""
        self.overdue_at: float | None = None
        """When the pong that is awaited is overdue; None: none is awaited."""

    def asks(self, now: float) -> bool:
        """Whether a ping is to go out behind this write, asked when none are left.

        Args:
            now: Monotonic seconds.
        """
        self.left = EVERY
        if self.overdue_at is not None:
            return False
        if self._answers:
            self.overdue_at = now + PATIENCE
        return True

    def answered(self) -> None:
        """A pong has come."""
        self._answers = True
        self.overdue_at = None
