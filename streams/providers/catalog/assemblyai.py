"""AssemblyAI: a header of our choosing proves a webhook that names a transcript and how it ended.

Pure. The model is the speech model. A transcript under way cannot be stopped. Source: AssemblyAI's
documentation of webhooks (`webhook_auth_header_name`, `webhook_auth_header_value`) and its API
reference, transcripts.
"""

from collections.abc import Mapping

import msgspec
from msgspec import Raw, Struct

from tidings.storage.prediction import ABSENT, Status
from tidings.streams.providers import payload as bodies
from tidings.streams.providers import usage as usages
from tidings.streams.providers.configuration import BadConfiguration, Configuration
from tidings.streams.providers.job_api import (
    Call,
    Order,
    Submitted,
    ThinNotice,
    Unreadable,
    address,
    given_input,
)
from tidings.streams.providers.manifest import Manifest, SampleWebhook
from tidings.streams.providers.protocol import Webhook
from tidings.streams.providers.signatures.hmac_signatures import check_word, open_secrets
from tidings.streams.rules.event import Event, OtherResource

URL = "https://api.assemblyai.com"

HEADER = "x-tidings-secret"
"""Where the secret stands unless `header` in the table of `tidings.toml` names another."""

STATUSES = {
    "queued": Status.STARTING,
    "processing": Status.PROCESSING,
    "completed": Status.SUCCEEDED,
    "error": Status.FAILED,
}

OTHER_STATUSES = frozenset({"redacted_audio_ready"})
"""Of webhooks about a file that belongs to a transcript, and says nothing about the transcript
itself."""


class _Transcript(Struct, frozen=True, gc=False):
    """A webhook (`transcript_id`), or a transcript as fetched (`id`)."""

    transcript_id: str | None = None
    id: str | None = None
    status: str | None = None
    text: Raw = ABSENT
    error: Raw = ABSENT
    speech_model: str | None = None
    audio_duration: Raw = ABSENT


_transcript = bodies.Reader(_Transcript)


class AssemblyAI(Struct, frozen=True):
    """AssemblyAI's webhooks."""

    secrets: tuple[bytes, ...]
    header: str = HEADER
    name: str = "assemblyai"
    api: "AssemblyAIApi | None" = None
    """For submitting; None without a token."""

    def __repr__(self) -> str:
        """Show no secret."""
        return f"AssemblyAI({len(self.secrets)} secrets)"

    def verify(self, headers: Mapping[str, str], body: bytes, now: float) -> None:
        """By the secret in the chosen header."""
        check_word(self.secrets, headers.get(self.header))

    def prediction_id(self, body: bytes) -> str | None:
        """`transcript_id`."""
        found = _transcript.peek(body)
        return (found.transcript_id or found.id) if found is not None else None

    def thin(self, body: bytes) -> ThinNotice | None:
        """The transcript that is to be fetched."""
        found = _transcript.peek(body)
        status = STATUSES.get(found.status or "") if found is not None else None
        if found is None or not found.transcript_id or status is None:
            return None
        return ThinNotice(found.transcript_id, status=status)

    def translate(self, webhook: Webhook) -> Event:
        """A webhook says that it failed.

        A success waits for its text, which the fetched transcript brings.
        """
        found, left_out = _transcript.read(webhook.body)
        if found.status in OTHER_STATUSES:
            raise OtherResource(self.name, found.status)
        status = bodies.status(STATUSES, found.status, self.name)
        notice = found.transcript_id is not None
        return bodies.event(
            webhook,
            self.name,
            found.transcript_id or found.id,
            left_out=left_out,
            status=None if notice and status is Status.SUCCEEDED else status,
            model=found.speech_model,
            output=bodies.given(found.text),
            error=bodies.text(found.error),
            notice=notice,
            usage=usages.usage(seconds=usages.seconds(found.audio_duration))
            if webhook.usage
            else None,
        )

    def sample(self, prediction_id: str, now: int) -> SampleWebhook:
        """With the first secret in its header."""
        body = msgspec.json.encode({"transcript_id": prediction_id, "status": "completed"})
        return SampleWebhook(body, {self.header: self.secrets[0].decode()})


class AssemblyAIApi(Struct, frozen=True):
    """The calls, with the key that they carry."""

    token: str
    header: str
    """In which webhooks prove themselves."""
    secret: str
    """What stands there."""
    url: str = URL
    """Of another region: `https://api.eu.assemblyai.com`."""

    def __repr__(self) -> str:
        """Show no key."""
        return f"AssemblyAIApi({self.url})"

    def create(self, order: Order) -> Call:
        """The payload's members are the call's; `audio_url` must be among them."""
        fields = given_input(order)
        if "speech_models" not in fields and "speech_model" not in fields:
            fields["speech_models"] = Raw(msgspec.json.encode([order.model]))
        if order.webhook is not None:
            ours = {
                "webhook_url": order.webhook,
                "webhook_auth_header_name": self.header,
                "webhook_auth_header_value": self.secret,
            }
            fields |= {name: Raw(msgspec.json.encode(value)) for name, value in ours.items()}
        return Call(
            method="POST",
            url=address(self.url, "v2", "transcript"),
            headers=self._headers() | {"Content-Type": "application/json"},
            body=msgspec.json.encode(fields),
        )

    def created(self, body: bytes) -> Submitted:
        """The answer is the transcript as it stands."""
        found = _transcript.answer(body, "transcript")
        if not found.id:
            raise Unreadable("no transcript: it has no id")
        return Submitted(found.id)

    def get(self, provider_id: str, model: str | None, urls: Raw) -> Call:
        """The transcript, its text included."""
        url = address(self.url, "v2", "transcript", provider_id)
        return Call(method="GET", url=url, headers=self._headers())

    def result(self, provider_id: str, body: bytes, urls: Raw, model: str | None) -> None:
        """Nothing has to be fetched apart."""
        return

    def report(self, provider_id: str, body: bytes, result: bytes | None) -> bytes:
        """The answer itself, if it is the transcript that was asked for."""
        if self.created(body).provider_id != provider_id:
            raise Unreadable(f"another transcript than {provider_id[:64]!r}")
        return body

    def cancel(self, provider_id: str, model: str | None, urls: Raw) -> None:
        """There is no way to."""
        return

    def _headers(self) -> dict[str, str]:
        return {"Authorization": self.token}


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
    token = configuration.token
    # Of several secrets the last counts for what is submitted: the new one, while they rotate.
    api = (
        AssemblyAIApi(token, header.lower(), configuration.secret[-1], configuration.url_or(URL))
        if token
        else None
    )
    return AssemblyAI(secrets, header.lower(), name, api)


MANIFEST = Manifest(
    open=open_provider,
    configured_by="`TIDINGS_ASSEMBLYAI_SECRET`, sent as `x-tidings-secret`, or in the header that `header` in "
    "`[assemblyai]` names; `_TOKEN` to submit and to fetch results",
    proof="the shared secret",
    options=frozenset({"header"}),
)
