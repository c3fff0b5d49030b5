"""RunPod: nothing is signed, so a token in the webhook's address proves it.

Pure. Source: RunPod's documentation of serverless endpoints (job states, webhooks).
"""

import msgspec
from msgspec import Raw, Struct

from tidings.storage.prediction import ABSENT, Status
from tidings.streams.providers import payload as bodies
from tidings.streams.providers.catalog.runpod_api import URL, RunPodApi
from tidings.streams.providers.configuration import Configuration
from tidings.streams.providers.protocol import Webhook
from tidings.streams.providers.signatures.hmac_signatures import ByAddress, open_secrets
from tidings.streams.rules.event import Event

STATUSES = {
    "IN_QUEUE": Status.STARTING,
    "IN_PROGRESS": Status.PROCESSING,
    "RUNNING": Status.PROCESSING,
    "COMPLETED": Status.SUCCEEDED,
    "FAILED": Status.FAILED,
    "TIMED_OUT": Status.FAILED,
    "CANCELLED": Status.CANCELED,
}


class _Job(Struct, frozen=True, gc=False, rename="camel"):
    id: str | None = None
    status: str | None = None
    input: Raw = ABSENT
    output: Raw = ABSENT
    error: Raw = ABSENT
    execution_time: float | None = None


_job = msgspec.json.Decoder(_Job)


class RunPod(ByAddress, Struct, frozen=True):
    """RunPod's webhooks."""

    secrets: tuple[bytes, ...]
    name: str = "runpod"
    api: RunPodApi | None = None
    """For submitting; None without a token."""

    def __repr__(self) -> str:
        """Show no secret."""
        return f"RunPod({len(self.secrets)} secrets)"

    def prediction_id(self, body: bytes) -> str | None:
        """The job's `id`."""
        return bodies.plain_id(body)

    def translate(self, webhook: Webhook) -> Event:
        """The job as it stands."""
        job = bodies.decode(_job, webhook.body)
        status = bodies.status(STATUSES, job.status, self.name)
        error = bodies.text(job.error)
        payload = bodies.given(job.input)
        return bodies.event(
            webhook,
            self.name,
            job.id,
            status=status,
            payload=payload,
            prompt=bodies.prompt(payload),
            output=bodies.given(job.output),
            error="timed out" if error is None and job.status == "TIMED_OUT" else error,
            generation_time=job.execution_time,
        )


def open_provider(name: str, configuration: Configuration) -> RunPod | None:
    """Open RunPod: with a token for its API (addresses then carry each prediction's own), or a secret for addresses.

    Raises:
        BadConfiguration: A secret is empty.
    """
    secrets = open_secrets(name, configuration)
    api = (
        RunPodApi(configuration.token, (configuration.url or URL).rstrip("/"))
        if configuration.token
        else None
    )
    return RunPod(secrets, name, api) if secrets or api else None
