"""What is counted about webhooks. Plain numbers; whoever serves metrics reads them. Pure."""

from streams.histogram import Histogram


class WebhookCounts:
    """Webhooks since the start."""

    __slots__ = ("answers", "seconds")

    def __init__(self) -> None:
        self.answers: dict[tuple[str, int], int] = {}
        """By provider (none of the configured ones: an empty name) and status of the answer."""
        self.seconds = Histogram()
        """From a webhook's last byte to its record being durable."""

    def answered(self, provider: str, status: int) -> None:
        """Count an answer."""
        key = (provider, status)
        self.answers[key] = self.answers.get(key, 0) + 1
