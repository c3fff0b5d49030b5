"""The subscriptions of a session, counted for its owner: what all of an owner's sessions may use.

Pure.
"""

from tidings.gateway.auth.quotas import OwnerQuotas, OwnerUsage, SessionLimits
from tidings.gateway.push.hub import Hub
from tidings.gateway.push.protocol import Subscribe
from tidings.gateway.push.subscriptions import SubscriptionState


class CountedSubscriptions(SubscriptionState):
    """Subscriptions within the limits of a session and of its owner.

    Args:
        hub: Where its keys are subscribed.
        quotas: Of all owners.
    """

    __slots__ = ("_claims_counted", "_quotas", "_usage")

    def __init__(self, hub: Hub, quotas: OwnerQuotas) -> None:
        super().__init__(hub)
        self._quotas = quotas
        self._usage: OwnerUsage | None = None
        self._claims_counted = 0
        """How many claims the owner's usage counts for this session."""

    def count_for(self, subject: str | None) -> bool:
        """Count as a session of this owner from now on; False if that is one too many."""
        former = self._usage
        if former is not None and former.subject == subject:
            return True
        self.count_for_nobody()
        if subject is not None:
            self._usage = self._quotas.enter(subject, self.count, self._claims_counted)
        return subject is None or self._usage is not None

    def count_for_nobody(self) -> None:
        """Count no more: the session has ended, or belongs to somebody else."""
        former, self._usage = self._usage, None
        if former is not None:
            self._quotas.leave(former, self.count, self._claims_counted)

    def overspends(self, cost: int, now: float) -> bool:
        """Count what the client sent; returns whether all of its owner's sessions send too much.

        Args:
            cost: Of the messages.
            now: Seconds of the loop's clock.
        """
        usage = self._usage
        if usage is None:
            return False
        return usage.spend(cost, self._quotas.limits.messages_per_second, now)

    def count_subscriptions(self, more: int) -> None:
        """Count so many more (or fewer) keys, and the claims as they stand."""
        usage, claims = self._usage, self.claims
        if usage is not None:
            usage.subscriptions += more
            usage.claims += claims - self._claims_counted
        self._claims_counted = claims

    def excess(self, message: Subscribe, keys: int, limits: SessionLimits) -> str | None:
        """Why there are too many subscriptions with this one; None: there are not."""
        limit = limits.subscriptions
        if self.count + keys > limit or self.claims + len(message.known) > 2 * limit:
            return f"more than {limit} subscriptions; watch an owner or a tag instead"
        most, usage = self._quotas.limits.subscriptions, self._usage
        if usage is not None and (
            usage.subscriptions + keys > most or usage.claims + len(message.known) > 2 * most
        ):
            return f"more than {most} subscriptions of this owner; watch the owner instead"
        return None
