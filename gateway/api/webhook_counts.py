"""What is counted about webhooks. Plain numbers; whoever serves metrics reads them. Pure."""

from tidings.streams.support.histogram import Histogram


class WebhookCounts:
    """Webhooks since the start."""

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
