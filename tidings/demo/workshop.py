"""What the stand-in's APIs share: predictions to start, show and report on."""

from typing import Protocol

from msgspec import Raw

from tidings.demo.deliveries import Delivery
from tidings.demo.jobs import Job


class Workshop(Protocol):
    """What runs the predictions."""

    @property
    def url(self) -> str:
        """Where the stand-in listens."""

    @property
    def token(self) -> str:
        """What callers must show."""

    @property
    def secret(self) -> str:
        """What webhooks are signed with: `whsec_...`."""

    @property
    def jobs(self) -> dict[str, Job]:
        """All predictions by id, oldest first."""

    def begin(self, job_model: str, payload: Raw, deadline: float | None = None) -> Job:
        """Start a prediction."""

    def send(self, delivery: Delivery) -> None:
        """Send a webhook."""

    def gone(self, job: Job) -> bool:
        """Whether the outputs of this prediction have been deleted."""
