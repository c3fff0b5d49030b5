"""What becomes of webhooks, counted; and a line in the log about those that are refused."""

from collections.abc import Mapping

from tidings.gateway.http.problems import Problem
from tidings.storage.clock import SYSTEM_CLOCK, Clock
from tidings.storage.loggers import get_logger
from tidings.storage.prediction import valid_id
from tidings.streams.log.headers import TRACE_HEADER
from tidings.streams.log.log_fields import fields
from tidings.streams.support.histogram import Histogram

REFUSAL_EVERY = 1.0
"""Seconds between two lines about one provider's refusals; the next says how many were left out."""

logger = get_logger(__name__)


class WebhookCounts:
    """Webhooks since the start; plain numbers that metrics read."""

    __slots__ = ("answers", "refusals", "seconds")

    def __init__(self) -> None:
        self.answers: dict[tuple[str, int], int] = {}
        """By provider (none of the configured ones: an empty name) and status of the answer."""
        self.refusals: dict[tuple[str, str], int] = {}
        """By provider and the problem's code."""
        self.seconds = Histogram()
        """From a webhook's last byte to its record being durable."""

    def refused(self, provider: str, status: int, code: str) -> None:
        """Count an answer that is a refusal."""
        self.answered(provider, status)
        key = (provider, code)
        self.refusals[key] = self.refusals.get(key, 0) + 1

    def answered(self, provider: str, status: int) -> None:
        """Count an answer."""
        key = (provider, status)
        self.answers[key] = self.answers.get(key, 0) + 1


class RefusalLog:
    """Logs refused webhooks: enough to find the cause, and bounded under a flood from strangers.

    Args:
        clock: Tells the time.
    """

    def __init__(self, clock: Clock = SYSTEM_CLOCK) -> None:
        self._clock = clock
        self._last: dict[str, float] = {}
        self._left_out: dict[str, int] = {}

    def note(self, named: str, headers: Mapping[str, str], provider: str, refused: Problem) -> None:
        """A webhook was refused.

        Args:
            named: The prediction that its address names, or nothing.
            headers: Of it; its body and its proof are not repeated.
            provider: The configured one, or an empty name.
            refused: What it is answered.
        """
        now = self._clock.monotonic()
        if now - self._last.get(provider, -REFUSAL_EVERY) < REFUSAL_EVERY:
            self._left_out[provider] = self._left_out.get(provider, 0) + 1
            return
        self._last[provider] = now
        about = fields(named if valid_id(named) else None, headers.get(TRACE_HEADER))
        left_out = self._left_out.pop(provider, 0)
        more = {"left_out": left_out} if left_out else {}
        logger.warning(
            "webhook.refused",
            provider=provider or "unknown",
            status=refused.status,
            code=refused.code,
            **about,
            **more,
        )
