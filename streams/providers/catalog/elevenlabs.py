"""ElevenLabs: HMAC over time and body in hex.

A conversation's transcript, its audio, or why it never began.

Pure. Source: ElevenLabs' documentation of webhooks and of post-call webhooks. Events about the
workspace, such as a voice that will be removed, go to the same address and are set aside by their
type.
"""

from collections.abc import Mapping

import msgspec
from msgspec import Raw, Struct
from msgspec.structs import replace

from tidings.storage.prediction import ABSENT, Status, Usage
from tidings.streams.providers import payload as bodies
from tidings.streams.providers import usage as usages
from tidings.streams.providers.configuration import Configuration
from tidings.streams.providers.manifest import Manifest, SampleWebhook
from tidings.streams.providers.protocol import Webhook
from tidings.streams.providers.signatures.hmac_signatures import (
    check_hex_hmac,
    hex_hmac,
    open_secrets,
    required,
)
from tidings.streams.providers.signatures.standard_webhooks import check_timestamp, header_bytes
from tidings.streams.rules.event import Event, OtherResource

TOLERANCE = 1800.0
"""Seconds: what ElevenLabs' own clients allow."""

AUDIO = "post_call_audio"
STATUSES = {
    "post_call_transcription": Status.SUCCEEDED,
    AUDIO: Status.SUCCEEDED,
    "call_initiation_failure": Status.FAILED,
    "speech_to_text_transcription": Status.SUCCEEDED,
}


class _Data(Struct, frozen=True, gc=False):
    conversation_id: str | None = None
    request_id: str | None = None
    agent_id: str | None = None
    failure_reason: Raw = ABSENT
    metadata: Raw = ABSENT


class _Event(Struct, frozen=True, gc=False):
    type: str | None = None
    data: Raw = ABSENT


_event = bodies.Reader(_Event)
_data = bodies.Reader(_Data)


class ElevenLabs(Struct, frozen=True):
    """ElevenLabs' webhooks."""

    secrets: tuple[bytes, ...]
    tolerance: float = TOLERANCE
    name: str = "elevenlabs"

    def __repr__(self) -> str:
        """Show no secret."""
        return f"ElevenLabs({len(self.secrets)} secrets)"

    def verify(self, headers: Mapping[str, str], body: bytes, now: float) -> None:
        """By `t=` and `v0=` of `elevenlabs-signature`; deliveries have no id."""
        entries = header_bytes(required(headers, "elevenlabs-signature")).split(b",")
        times = [entry[2:] for entry in entries if entry.startswith(b"t=")]
        timestamp = times[0].decode("latin-1") if len(times) == 1 else ""
        check_timestamp(timestamp, now, self.tolerance)
        signed = b".".join((timestamp.encode("ascii"), body))
        check_hex_hmac(
            self.secrets, signed, [entry[3:] for entry in entries if entry.startswith(b"v0=")]
        )

    def prediction_id(self, body: bytes) -> str | None:
        """`data.conversation_id`.

        Of a conversation's audio, which comes apart, with `.audio` after it.
        """
        found = _event.peek(body)
        data = _data.peek(bytes(found.data)) if found is not None else None
        return _own_id(found, data) if found is not None and data is not None else None

    def translate(self, webhook: Webhook) -> Event:
        """The conversation as it ended; its data is the output."""
        found, left_out = _event.read(webhook.body)
        if found.type is not None and found.type not in STATUSES:
            raise OtherResource(self.name, found.type)
        status = bodies.status(STATUSES, found.type, self.name)
        if bytes(found.data)[:1] == b"{":
            data, below = _data.read(bytes(found.data))
            left_out += tuple(f"data.{name}" for name in below)
        else:
            data = _Data()
        if webhook.prediction_id is None:
            webhook = replace(webhook, prediction_id=_own_id(found, data))
        failed = status is Status.FAILED
        return bodies.event(
            webhook,
            self.name,
            data.conversation_id or data.request_id,
            left_out=left_out,
            status=status,
            model=data.agent_id,
            output=ABSENT if failed else bodies.given(found.data),
            error=(bodies.text(data.failure_reason) or found.type) if failed else None,
            usage=_usage(data.metadata) if webhook.usage else None,
        )

    def sample(self, prediction_id: str, now: int) -> SampleWebhook:
        """Signed with the first secret."""
        said = {
            "type": "post_call_transcription",
            "event_timestamp": now,
            "data": {"conversation_id": prediction_id},
        }
        body = msgspec.json.encode(said)
        signature = hex_hmac(self.secrets[0], b"%d.%b" % (now, body))
        return SampleWebhook(body, {"elevenlabs-signature": f"t={now},v0={signature}"})


def _usage(metadata: Raw) -> Usage | None:
    """How long the call was; its `cost` is in credits, which are no currency."""
    took = usages.members(metadata).get("call_duration_secs", ABSENT)
    return usages.usage(seconds=usages.seconds(took))


def _own_id(found: _Event, data: _Data) -> str | None:
    """Transcript and audio come in either order, each as a whole output.

    One prediction would keep the first alone.
    """
    if found.type == AUDIO and data.conversation_id:
        return f"{data.conversation_id}.audio"
    return data.conversation_id or data.request_id


def open_provider(name: str, configuration: Configuration) -> ElevenLabs | None:
    """ElevenLabs as configured; the key is the secret's text. None without a secret.

    Raises `BadConfiguration`.
    """
    secrets = open_secrets(name, configuration)
    tolerance = configuration.tolerance_or(TOLERANCE, name)
    return ElevenLabs(secrets, tolerance, name) if secrets else None


MANIFEST = Manifest(
    open=open_provider,
    configured_by="`TIDINGS_ELEVENLABS_SECRET`",
    proof="HMAC-SHA256 in hex",
)
