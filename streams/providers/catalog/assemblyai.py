"""AssemblyAI: a header of our choosing proves a webhook that names a transcript and how it ended.

Pure. Source: AssemblyAI's documentation of webhooks (`webhook_auth_header_name`, `webhook_auth_header_value`).
"""

from collections.abc import Mapping

import msgspec
from msgspec import Raw, Struct

from tidings.storage.prediction import ABSENT, Status
from tidings.streams.providers import payload as bodies
from tidings.streams.providers.catalog.assemblyai_api import URL, AssemblyAIApi
from tidings.streams.providers.configuration import BadConfiguration, Configuration
from tidings.streams.providers.job_api import Notice
from tidings.streams.providers.protocol import Webhook
from tidings.streams.providers.signatures.hmac_signatures import check_word, open_secrets
from tidings.streams.rules.event import Event

HEADER = "x-tidings-secret"
"""Where the secret stands unless `header` in the table of `tidings.toml` names another."""

STATUSES = {
    "queued": Status.STARTING,
    "processing": Status.PROCESSING,
    "completed": Status.SUCCEEDED,
    "error": Status.FAILED,
}


class _Transcript(Struct, frozen=True, gc=False):
    """A webhook (`transcript_id`), or a transcript as fetched (`id`)."""

    transcript_id: str | None = None
    id: str | None = None
    status: str | None = None
    text: Raw = ABSENT
    error: str | None = None
    speech_model: str | None = None


_transcript = msgspec.json.Decoder(_Transcript)


class AssemblyAI(Struct, frozen=True):
    """AssemblyAI's webhooks."""

    secrets: tuple[bytes, ...]
    header: str = HEADER
    name: str = "assemblyai"
    api: AssemblyAIApi | None = None
    """For submitting; None without a token."""

    def __repr__(self) -> str:
        """Show no secret."""
        return f"AssemblyAI({len(self.secrets)} secrets)"

    def verify(self, headers: Mapping[str, str], body: bytes, now: float) -> None:  # noqa: ARG002 - nothing is signed
        """By the secret in the chosen header."""
        check_word(self.secrets, headers.get(self.header))

    def prediction_id(self, body: bytes) -> str | None:
        """`transcript_id`."""
        found = bodies.peek(_transcript, body)
        return (found.transcript_id or found.id) if found is not None else None

    def thin(self, body: bytes) -> Notice | None:
        """The transcript that is to be fetched."""
        found = bodies.peek(_transcript, body)
        status = STATUSES.get(found.status or "") if found is not None else None
        if found is None or not found.transcript_id or status is None:
            return None
        return Notice(found.transcript_id, status=status)

    def translate(self, webhook: Webhook) -> Event:
        """A webhook says that it failed; a success waits for its text, which the fetched transcript brings."""
        found = bodies.decode(_transcript, webhook.body)
        status = bodies.status(STATUSES, found.status, self.name)
        notice = found.transcript_id is not None
        return bodies.event(
            webhook,
            self.name,
            found.transcript_id or found.id,
            status=None if notice and status is Status.SUCCEEDED else status,
            model=found.speech_model,
            output=bodies.given(found.text),
            error=found.error,
            notice=notice,
        )


def open_provider(name: str, configuration: Configuration) -> AssemblyAI | None:
    """AssemblyAI as configured; None without a secret.

    Raises:
        BadConfiguration: An empty secret, or a header's name that is none.
    """
    header = configuration.options.get("header", HEADER)
    if not isinstance(header, str) or not header.isascii() or not header.replace("-", "").isalnum():
        raise BadConfiguration(
            f"`header` in the table [{name}] of tidings.toml is no header's name; say x-my-secret"
        )
    secrets = open_secrets(name, configuration)
    if not secrets:
        return None
    token, url = configuration.token, (configuration.url or URL).rstrip("/")
    # Of several secrets the last counts for what is submitted: the new one, while they rotate.
    api = AssemblyAIApi(token, header.lower(), configuration.secret[-1], url) if token else None
    return AssemblyAI(secrets, header.lower(), name, api)
