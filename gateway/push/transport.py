"""Where a session writes: its transport, or nowhere once it is closed."""

from typing import Protocol


class Output(Protocol):
    """The transport of a session."""

    def write(self, data: bytes, /) -> None:
        """Send whole frames; dropped if the connection is going away."""

    def write_pieces(self, data: bytes, /) -> bool:
        """As `write`, of pieces of texts; False, and nothing is sent, unless it `takes_pieces`."""

    @property
    def takes_pieces(self) -> bool:
        """Whether more of them would be read: False once it is known that the client has stopped.

        The session's `catch_up` is called when it goes on.
        """

    def close(self, code: int, reason: str = "") -> None:
        """Close the connection with this code; the session hears `closed` at once."""

    def cork(self) -> bool:
        """Collect what is written until `uncork`; False if that is done already."""

    def uncork(self) -> None:
        """Write what was collected, at once."""

    def hold(self) -> None:
        """Read nothing more for now; each hold is undone by one `release`."""

    def release(self) -> None:
        """Undo one `hold`."""


class ClosedOutput:
    """The output of a session that has ended."""

    __slots__ = ()

    takes_pieces = False

    def write(self, data: bytes) -> None:
        """Nobody is there."""

    def write_pieces(self, data: bytes) -> bool:  # noqa: ARG002 - as of any output
        """Nobody reads."""
        return False

    def close(self, code: int, reason: str = "") -> None:
        """It is closed."""

    def cork(self) -> bool:
        """Nothing is collected."""
        return False

    def uncork(self) -> None:
        """Nothing was collected."""

    def hold(self) -> None:
        """Nothing is read."""

    release = uncork


CLOSED = ClosedOutput()
"""One for all: it holds nothing."""
