"""Webhooks of Acme, a provider of your own: https://acme.example signs them with HMAC."""

from msgspec import Raw, Struct

from tidings.storage.prediction import ABSENT, Status
from tidings.streams.providers import payload as body
from tidings.streams.providers.signatures.hmac_signatures import (
    check_hex_hmac,
    open_secrets,
    required,
)

STATUSES = {
    "waiting": Status.STARTING,
    "busy": Status.PROCESSING,
    "done": Status.SUCCEEDED,
    "broken": Status.FAILED,
}


class Job(Struct):
    """What Acme sends of a job."""

    id: str | None = None
    state: str | None = None
    result: Raw = ABSENT
    reason: str | None = None


JOB = body.Reader(Job)


class Acme(Struct, frozen=True):
    """How its webhooks are proven and understood."""

    secrets: tuple[bytes, ...]
    name: str = "acme"

    def verify(self, headers, raw, now):  # noqa: ARG002 - Acme signs no time
        """Raise `BadSignature` unless Acme has sent these bytes."""
        check_hex_hmac(
            self.secrets, raw, [required(headers, "x-acme-signature").encode("utf-8", "replace")]
        )

    def prediction_id(self, raw):
        """The prediction that a body is about."""
        job = JOB.peek(raw)
        return job.id if job else None

    def translate(self, webhook):
        """The event in a webhook."""
        job, left_out = JOB.read(webhook.body)
        status = body.status(STATUSES, job.state, self.name)
        return body.event(
            webhook,
            self.name,
            job.id,
            left_out=left_out,
            status=status,
            output=body.given(job.result),
            error=job.reason,
        )


def open_acme(name, configuration):
    """The provider, if a secret is set for it."""
    secrets = open_secrets(name, configuration)
    return Acme(secrets, name) if secrets else None
