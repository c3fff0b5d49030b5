"""Black Forest Labs: HMAC over the body in hex, with the secret that was given with the request.

Pure. Source: BFL's API documentation, webhooks and the result object. The output's link lives ten
minutes.
"""

from collections.abc import Mapping

import msgspec
from msgspec import Raw, Struct

from tidings.storage.prediction import ABSENT, Status
from tidings.streams.providers import payload as bodies
from tidings.streams.providers.configuration import Configuration
from tidings.streams.providers.manifest import Manifest, SampleWebhook
from tidings.streams.providers.protocol import Webhook
from tidings.streams.providers.signatures.hmac_signatures import (
    check_hex_hmac,
    hex_hmac,
    open_secrets,
    required,
)
from tidings.streams.providers.signatures.standard_webhooks import header_bytes
from tidings.streams.rules.event import Event

STATUSES = {
    "Pending": Status.PROCESSING,
    "Ready": Status.SUCCEEDED,
    "SUCCESS": Status.SUCCEEDED,
    "Error": Status.FAILED,
    "Request Moderated": Status.FAILED,
    "Content Moderated": Status.FAILED,
    "Task not found": Status.FAILED,
}


class _Result(Struct, frozen=True, gc=False):
    sample: Raw = ABSENT
    prompt: Raw = ABSENT


class _Task(Struct, frozen=True, gc=False):
    id: str | None = None
    task_id: str | None = None
    status: str | None = None
    result: _Result | None = None
    error: Raw = ABSENT
    message: Raw = ABSENT
    progress: float | None = None


_task = bodies.Reader(_Task)


class Bfl(Struct, frozen=True):
    """BFL's webhooks."""

    secrets: tuple[bytes, ...]
    name: str = "bfl"

    def __repr__(self) -> str:
        """Show no secret."""
        return f"Bfl({len(self.secrets)} secrets)"

    def verify(self, headers: Mapping[str, str], body: bytes, now: float) -> None:
        """By `sha256=` of the body; neither deliveries nor their times are named."""
        value = header_bytes(required(headers, "x-bfl-signature"))
        check_hex_hmac(
            self.secrets,
            body,
            [value.removeprefix(b"sha256=")] if value.startswith(b"sha256=") else [],
        )

    def prediction_id(self, body: bytes) -> str | None:
        """The task's `id`."""
        found = _task.peek(body)
        return (found.id or found.task_id) if found is not None else None

    def translate(self, webhook: Webhook) -> Event:
        """The task as it stands; its output is `result.sample`."""
        task, left_out = _task.read(webhook.body)
        status = bodies.status(STATUSES, task.status, self.name)
        result = task.result or _Result()
        error = bodies.text(task.error) or bodies.text(task.message) or task.status
        progress = task.progress if task.progress is not None and 0 <= task.progress <= 1 else None
        return bodies.event(
            webhook,
            self.name,
            task.id or task.task_id,
            left_out=left_out,
            status=status,
            prompt=bodies.string(result.prompt),
            output=bodies.given(result.sample),
            error=error if status is Status.FAILED else None,
            progress=progress,
        )

    def sample(self, prediction_id: str, now: int) -> SampleWebhook:
        """Signed with the first secret."""
        body = msgspec.json.encode({"id": prediction_id, "status": "Ready", "result": {}})
        return SampleWebhook(body, {"x-bfl-signature": f"sha256={hex_hmac(self.secrets[0], body)}"})


def open_provider(name: str, configuration: Configuration) -> Bfl | None:
    """BFL as configured; the key is the secret's text. None without a secret.

    Raises `BadConfiguration`.
    """
    secrets = open_secrets(name, configuration)
    return Bfl(secrets, name) if secrets else None


MANIFEST = Manifest(
    open=open_provider, configured_by="`TIDINGS_BFL_SECRET`", proof="HMAC-SHA256 in hex"
)
