"""ElevenLabs: HMAC over time and body in hex; a conversation's transcript, its audio, or why it never began.

Pure. Source: ElevenLabs' documentation of webhooks and of post-call webhooks.
"""

from collections.abc import Mapping

import msgspec
from msgspec import Raw, Struct
from msgspec.structs import replace

from tidings.storage.prediction import ABSENT, Status
from tidings.streams.providers import payload as bodies
from tidings.streams.providers.configuration import Configuration
from tidings.streams.providers.protocol import Webhook
from tidings.streams.providers.signatures.hmac_signatures import (
    check_hex_hmac,
    open_secrets,
    required,
)
from tidings.streams.providers.signatures.standard_webhooks import check_timestamp, header_bytes
from tidings.streams.rules.event import Event

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
    failure_reason: str | None = None


class _Event(Struct, frozen=True, gc=False):
    type: str | None = None
    data: Raw = ABSENT


_event = msgspec.json.Decoder(_Event)
_data = msgspec.json.Decoder(_Data)


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
        parts = header_bytes(required(headers, "elevenlabs-signature")).split(b",")
        times = [part[2:] for part in parts if part.startswith(b"t=")]
        timestamp = times[0].decode("latin-1") if len(times) == 1 else ""
        check_timestamp(timestamp, now, self.tolerance)
        signed = b".".join((timestamp.encode("ascii"), body))
        check_hex_hmac(
            self.secrets, signed, [part[3:] for part in parts if part.startswith(b"v0=")]
        )

    def prediction_id(self, body: bytes) -> str | None:
        """`data.conversation_id`; of a conversation's audio, which comes apart, with `.audio` after it."""
        found = bodies.peek(_event, body)
        data = bodies.peek(_data, bytes(found.data)) if found is not None else None
        return _own_id(found, data) if found is not None and data is not None else None

    def translate(self, webhook: Webhook) -> Event:
        """The conversation as it ended; its data is the output."""
        found = bodies.decode(_event, webhook.body)
        status = bodies.status(STATUSES, found.type, self.name)
        data = bodies.decode(_data, bytes(found.data) or b"{}")
        if webhook.prediction_id is None:
            webhook = replace(webhook, prediction_id=_own_id(found, data))
        return bodies.event(
            webhook,
            self.name,
            data.conversation_id or data.request_id,
            status=status,
            model=data.agent_id,
            output=bodies.given(found.data) if status is Status.SUCCEEDED else ABSENT,
            error=(data.failure_reason or found.type) if status is Status.FAILED else None,
        )


def _own_id(found: _Event, data: _Data) -> str | None:
    """Transcript and audio come in either order, each as a whole output: one prediction would keep the first alone."""
    if found.type == AUDIO and data.conversation_id:
        return f"{data.conversation_id}.audio"
    return data.conversation_id or data.request_id


def open_provider(name: str, configuration: Configuration) -> ElevenLabs | None:
    """ElevenLabs as configured; the key is the secret's text. None without a secret. Raises `BadConfiguration`."""
    secrets = open_secrets(name, configuration)
    tolerance = configuration.tolerance_or(TOLERANCE, name)
    return ElevenLabs(secrets, tolerance, name) if secrets else None
