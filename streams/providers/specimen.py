"""A webhook as a provider would send it, signed with the secret that is configured: for trying a service's whole way.

Pure. It says that a prediction succeeded, and names no file.
"""

import hmac
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

import msgspec
from msgspec import Struct

from tidings.storage.prediction import Status
from tidings.streams.providers.catalog.assemblyai import AssemblyAI
from tidings.streams.providers.catalog.baseten import Baseten
from tidings.streams.providers.catalog.bfl import Bfl
from tidings.streams.providers.catalog.elevenlabs import ElevenLabs
from tidings.streams.providers.catalog.fal import Fal
from tidings.streams.providers.catalog.gemini import Gemini
from tidings.streams.providers.catalog.generic import Generic, Path
from tidings.streams.providers.catalog.luma import Luma
from tidings.streams.providers.catalog.openai import OpenAI
from tidings.streams.providers.catalog.replicate import Replicate
from tidings.streams.providers.catalog.runpod import RunPod
from tidings.streams.providers.catalog.standard import Standard
from tidings.streams.providers.protocol import Provider
from tidings.streams.providers.signatures.hmac_signatures import ProvenByAddress
from tidings.streams.providers.signatures.standard_webhooks import (
    StandardWebhooks,
    header_bytes,
    sign,
)


class Unsigned(ValueError):
    """No webhook of this provider can be signed here; the message says why."""


class Specimen(Struct, frozen=True):
    """What is to be sent."""

    body: bytes
    headers: Mapping[str, str]
    token: str | None = None
    """In the address, where that is the proof; empty: the token of the prediction's own address."""


Said = dict[str, Any]

_BODIES: Mapping[type, Callable[[str, int], Said]] = {
    Standard: lambda own, _: {"predictionId": own, "status": "succeeded"},
    Replicate: lambda own, _: {"id": own, "status": "succeeded", "output": None, "error": None},
    OpenAI: lambda own, now: {
        "id": f"evt_{own}",
        "object": "event",
        "created_at": now,
        "type": "response.completed",
        "data": {"id": own},
    },
    Gemini: lambda own, _: {"type": "interaction.completed", "version": "v1", "data": {"id": own}},
    RunPod: lambda own, _: {"id": own, "status": "COMPLETED"},
    Baseten: lambda own, now: {
        "request_id": own,
        "type": "async_request_completed",
        "time": datetime.fromtimestamp(now, UTC).isoformat(),
        "data": {},
        "errors": [],
    },
    ElevenLabs: lambda own, now: {
        "type": "post_call_transcription",
        "event_timestamp": now,
        "data": {"conversation_id": own},
    },
    Bfl: lambda own, _: {"id": own, "status": "Ready", "result": {}},
    AssemblyAI: lambda own, _: {"transcript_id": own, "status": "completed"},
    Luma: lambda own, _: {"id": own, "state": "completed"},
}


def specimen(provider: Provider, prediction_id: str, now: int) -> Specimen:
    """A webhook of this provider about this prediction.

    Args:
        provider: As configured.
        prediction_id: Stands where the provider's own id does.
        now: Seconds since the epoch, for what is signed with a time.

    Raises:
        Unsigned: The provider proves its webhooks with what only it has, or comes from a third party.
    """
    if isinstance(provider, Generic):
        body = msgspec.json.encode(_described(provider, prediction_id))
    elif (said := _BODIES.get(type(provider))) is not None:
        body = msgspec.json.encode(said(prediction_id, now))
    elif isinstance(provider, Fal):
        raise Unsigned("fal signs with a private key of its own")
    else:
        raise Unsigned(f"how {provider.name} signs is known to its own code alone")
    if isinstance(provider, ProvenByAddress):
        secrets: tuple[bytes, ...] = getattr(provider, "secrets", ())
        return Specimen(body, {}, secrets[0].decode() if secrets else "")
    return Specimen(body, _proof(provider, body, now))


def _proof(provider: Provider, body: bytes, now: int) -> dict[str, str]:
    keys = getattr(provider, "keys", None)
    if isinstance(keys, StandardWebhooks) and keys.secrets:
        identity = f"msg_{hmac.digest(keys.secrets[0], body, 'sha256').hex()[:24]}"
        signature = sign(
            keys.secrets[0], b".".join((identity.encode(), str(now).encode(), body))
        ).decode()
        return {
            "webhook-id": identity,
            "webhook-timestamp": str(now),
            "webhook-signature": f"v1,{signature}",
        }
    secrets: tuple[bytes, ...] = getattr(provider, "secrets", ())
    if not secrets:
        raise Unsigned(f"{provider.name} is configured by public keys, and signs with private ones")
    digest = hmac.digest(secrets[0], body, "sha256").hex()
    match provider:
        case Baseten():
            return {"x-baseten-signature": f"v1={digest}"}
        case ElevenLabs():
            timed = hmac.digest(secrets[0], b".".join((str(now).encode(), body)), "sha256").hex()
            return {"elevenlabs-signature": f"t={now},v0={timed}"}
        case Bfl():
            return {"x-bfl-signature": f"sha256={digest}"}
        case AssemblyAI():
            return {provider.header: secrets[0].decode()}
    assert isinstance(provider, Generic)
    return {provider.header: f"sha256={digest}"}


def _described(provider: Generic, prediction_id: str) -> Any:
    """A body with an id and a success where the settings say that they stand."""
    said: Any = {}
    word = next(
        (word for word, status in provider.statuses.items() if status is Status.SUCCEEDED),
        "succeeded",
    )
    for field, value in (("id", prediction_id), ("status", word)):
        if (path := provider.fields.get(field)) is not None:
            said = _with(said, path, value)
    return said


def _with(said: Any, path: Path, value: Any) -> Any:
    """The same with a value at this path; what is missing on the way there is made."""
    if not path:
        return value
    step, rest = path[0], path[1:]
    if isinstance(step, int):
        items = list(said) if isinstance(said, list) else []
        items += [None] * (step + 1 - len(items))
        items[step] = _with(items[step], rest, value)
        return items
    members = dict(said) if isinstance(said, dict) else {}
    members[step] = _with(members.get(step), rest, value)
    return members


def spoken(headers: Mapping[str, str]) -> dict[bytes, bytes]:
    """The headers as bytes on the wire: a shared secret may have letters beyond ASCII."""
    return {name.encode(): header_bytes(value) for name, value in headers.items()}
