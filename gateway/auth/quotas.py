"""What one owner's sessions use together: connections, subscriptions and messages.

Pure: the clock is an argument. An owner is the subject of a token; without one (open mode, API keys) nobody counts.
"""

from msgspec import Struct


class OwnerLimits(Struct, frozen=True, kw_only=True):
    """What the sessions of one owner may use together."""

    connections: int = 1_000
    subscriptions: int = 100_000
    messages_per_second: int = 2_000
    """Frames (and 4 KiB pieces of messages); what is more waits unread."""


class Owner:
    """One owner's use."""

    __slots__ = ("_at", "_spent", "connections", "subject", "subscriptions")

    def __init__(self, subject: str) -> None:
        self.subject = subject
        self.connections = 0
        self.subscriptions = 0
        self._spent = 0.0
        self._at = 0.0

    def spend(self, cost: float, rate: int, now: float) -> bool:
        """Count messages; whether the owner has sent more than a second's worth beyond its rate.

        Args:
            cost: Of what came; 0 only asks.
            rate: Messages a second.
            now: Seconds of any clock that only goes forward.
        """
        self._spent = max(0.0, self._spent - (now - self._at) * rate) + cost
        self._at = now
        return self._spent > rate


class Owners:
    """The owners that have a session.

    Args:
        limits: Of each.
    """

    def __init__(self, limits: OwnerLimits | None = None) -> None:
        self.limits = limits or OwnerLimits()
        self._owners: dict[str, Owner] = {}

    def __len__(self) -> int:
        return len(self._owners)

    def enter(self, subject: str, subscriptions: int = 0) -> Owner | None:
        """One more session of this owner; None where that is one too many. Each that enters has to `leave`.

        Args:
            subject: The owner.
            subscriptions: What the session brings with it.
        """
        owner = self._owners.get(subject)
        if owner is None:
            owner = self._owners[subject] = Owner(subject)
        elif owner.connections >= self.limits.connections:
            return None
        owner.connections += 1
        owner.subscriptions += subscriptions
        return owner

    def leave(self, owner: Owner, subscriptions: int) -> None:
        """A session is gone, and its subscriptions with it."""
        owner.connections -= 1
        owner.subscriptions -= subscriptions
        if not owner.connections:
            del self._owners[owner.subject]
