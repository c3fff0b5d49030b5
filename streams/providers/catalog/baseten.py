"""Baseten: HMAC over the body in hex, and the body's own time against replays.

Pure. Source: Baseten's documentation of asynchronous inference ("Securing async inference", webhook payload).
"""

from collections.abc import Mapping
from datetime import datetime

import msgspec
from msgspec import Raw, Struct

from tidings.storage.prediction import ABSENT, Status
from tidings.streams.providers import payload as bodies
from tidings.streams.providers.configuration import Configuration
from tidings.streams.providers.protocol import BadSignature, Webhook
from tidings.streams.providers.signatures.hmac_signatures import (
    check_hex_hmac,
    open_secrets,
    required,
)
from tidings.streams.providers.signatures.standard_webhooks import TOLERANCE, header_bytes
from tidings.streams.rules.event import Event, Poison

COMPLETED = "async_request_completed"


class _Error(Struct, frozen=True, gc=False):
    message: str | None = None
    code: str | None = None


class _Result(Struct, frozen=True, gc=False):
    request_id: str | None = None
    model_id: str | None = None
    type: str | None = None
    time: str | None = None
    data: Raw = ABSENT
    errors: tuple[_Error, ...] | None = None


class _Identity(Struct, frozen=True, gc=False):
    request_id: str | None = None
    time: str | None = None


_result = msgspec.json.Decoder(_Result)
_identity = msgspec.json.Decoder(_Identity)


class Baseten(Struct, frozen=True):
    """Baseten's webhooks."""

    secrets: tuple[bytes, ...]
    tolerance: float = TOLERANCE
    name: str = "baseten"

    def __repr__(self) -> str:
        """Show no secret."""
        return f"Baseten({len(self.secrets)} secrets)"

    def verify(self, headers: Mapping[str, str], body: bytes, now: float) -> str | None:
        """By `v1=` signatures of the body, and the time that it names; the delivery's id is the request's."""
        entries = header_bytes(required(headers, "x-baseten-signature")).split(b",")
        check_hex_hmac(
            self.secrets, body, [entry[3:] for entry in entries if entry.startswith(b"v1=")]
        )
        found = bodies.peek(_identity, body)
        sent = _seconds(found.time) if found is not None else None
        if sent is None or not abs(now - sent) <= self.tolerance:
            raise BadSignature(
                f"the body's time is missing or more than {self.tolerance:g} s from this machine's clock"
            )
        return found.request_id if found is not None else None

    def prediction_id(self, body: bytes) -> str | None:
        """`request_id`."""
        found = bodies.peek(_identity, body)
        return found.request_id if found is not None else None

    def translate(self, webhook: Webhook) -> Event:
        """How the request ended: without errors it succeeded."""
        result = bodies.decode(_result, webhook.body)
        if result.type != COMPLETED:
            raise Poison(
                "unknown-status",
                f"type {result.type!r} says nothing about a prediction of {self.name}",
            )
        errors = [error.message or error.code or "unknown error" for error in result.errors or ()]
        return bodies.event(
            webhook,
            self.name,
            result.request_id,
            request_id=result.request_id,
            status=Status.FAILED if errors else Status.SUCCEEDED,
            model=result.model_id,
            output=bodies.given(result.data),
            error="; ".join(errors) or None,
        )


def _seconds(time: str | None) -> float | None:
    try:
        moment = datetime.fromisoformat(time or "")
    except ValueError:
        return None
    return moment.timestamp() if moment.tzinfo is not None else None


def open_provider(name: str, configuration: Configuration) -> Baseten | None:
    """Baseten as configured; the key is the whole secret's text, `whsec_` included. None without a secret."""
    secrets = open_secrets(name, configuration)
    tolerance = configuration.tolerance_or(TOLERANCE, name)
    return Baseten(secrets, tolerance, name) if secrets else None
