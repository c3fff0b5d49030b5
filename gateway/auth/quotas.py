"""Limits of one session, and what one owner's sessions use together.

Pure: the clock is an argument. An owner is the subject of a token; without one (open mode, API
keys) nothing is counted.
"""

from msgspec import Struct

from tidings.storage.resilience.rate_limit import TokenBucket


class SessionLimits(Struct, frozen=True, kw_only=True):
    """What one session may use, and how long it may stay silent. Times are in seconds."""

    heartbeat: float = 25.0
    """Between two pings. A connection that said nothing between two pings is closed with 4001."""
    authentication: float = 10.0
    progress: float = 30.0
    """A connection to which nothing at all got through for this long is closed with 4000."""
    closing: float = 5.0
    """For the client to answer a close before the connection is cut."""
    head: float = 10.0
    """For a connection's first request head to arrive whole."""
    message_bytes: int = 256 * 1024
    subscriptions: int = 10_000
    snapshots: int = 8
    """Snapshots under way at once; more wait unread."""
    pending_records: int = 1_000
    pending_bytes: int = 4 * 1024 * 1024
    frames_per_second: int = 200
    """Frames (and 4 KiB pieces of messages) of one client; what is more waits unread."""

    @property
    def heartbeat_ms(self) -> int:
        """The heartbeat as the welcome says it."""
        return round(self.heartbeat * 1000)


class OwnerLimits(Struct, frozen=True, kw_only=True):
    """What the sessions of one owner may use together."""

    connections: int = 1_000
    subscriptions: int = 100_000
    messages_per_second: int = 2_000
    """Frames (and 4 KiB pieces of messages); what is more waits unread."""


class OwnerUsage:
    """One owner's use."""

    __slots__ = ("_messages", "claims", "connections", "subject", "subscriptions")

    def __init__(self, subject: str) -> None:
        self.subject = subject
        self.connections = 0
        self.subscriptions = 0
        self.claims = 0
        """Versions that the sessions were said to know, beside those of their subscriptions."""
        self._messages: TokenBucket | None = None

    def spend(self, cost: float, rate: int, now: float) -> bool:
        """Count messages; whether the owner has sent more than a second's worth beyond its rate.

        Args:
            cost: Of what came; 0 only asks.
            rate: Messages a second.
            now: Seconds of any clock that only goes forward.
        """
        if self._messages is None:
            self._messages = TokenBucket(rate, rate, now)
        return self._messages.reserve(now, cost) > 0


class OwnerQuotas:
    """The owners that have a session.

    Args:
        limits: Of each.
    """

    def __init__(self, limits: OwnerLimits | None = None) -> None:
        self.limits = limits or OwnerLimits()
        self._owners: dict[str, OwnerUsage] = {}

    def __len__(self) -> int:
        return len(self._owners)

    def enter(self, subject: str, subscriptions: int = 0, claims: int = 0) -> OwnerUsage | None:
        """Count one more session of this owner, until `leave`; None if that is one too many.

        Args:
            subject: The owner.
            subscriptions: What the session brings with it.
            claims: How many predictions it brings claims of.
        """
        owner = self._owners.get(subject)
        if owner is None:
            owner = self._owners[subject] = OwnerUsage(subject)
        elif owner.connections >= self.limits.connections:
            return None
        owner.connections += 1
        owner.subscriptions += subscriptions
        owner.claims += claims
        return owner

    def leave(self, owner: OwnerUsage, subscriptions: int, claims: int = 0) -> None:
        """A session is gone, and its subscriptions and claims with it."""
        owner.claims -= claims
        owner.connections -= 1
        owner.subscriptions -= subscriptions
        if not owner.connections:
            del self._owners[owner.subject]
