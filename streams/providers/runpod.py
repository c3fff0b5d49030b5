"""RunPod: nothing is signed, so a token in the webhook's address proves it.

Pure. Source: RunPod's documentation of serverless endpoints (job states, webhooks).
"""

from collections.abc import Mapping

import msgspec
from msgspec import Raw, Struct

from storage.prediction import ABSENT, Status
from streams.event import Event
from streams.providers import body as bodies
from streams.providers.configuration import Configuration
from streams.providers.provider import BadSignature, Webhook
from streams.providers.runpod_api import URL, RunPodApi
from streams.providers.signatures import check_word, open_secrets

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


class _Identity(Struct, frozen=True, gc=False):
    id: str | None = None


_job = msgspec.json.Decoder(_Job)
_identity = msgspec.json.Decoder(_Identity)


class RunPod(Struct, frozen=True):
    """RunPod's webhooks."""

    secrets: tuple[bytes, ...]
    name: str = "runpod"
    api: RunPodApi | None = None
    """For submitting; None without a token."""

    def __repr__(self) -> str:
        """Show no secret."""
        return f"RunPod({len(self.secrets)} secrets)"

    def verify(self, headers: Mapping[str, str], body: bytes, now: float) -> None:  # noqa: ARG002 - by the protocol
        """Refuses: nothing in headers or body proves it; see `verify_address`."""
        raise BadSignature("nothing is signed; give the provider an address with a token")

    def verify_address(self, token: str | None, proven: bool) -> None:
        """By the prediction's own token, or by the configured secret as the address's token."""
        if not proven:
            check_word(self.secrets, token)

    def prediction_id(self, body: bytes) -> str | None:
        """The job's `id`."""
        found = bodies.peek(_identity, body)
        return found.id if found is not None else None

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
    api = RunPodApi(configuration.token, (configuration.url or URL).rstrip("/")) if configuration.token else None
    return RunPod(secrets, name, api) if secrets or api else None
