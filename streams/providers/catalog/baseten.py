"""Baseten: HMAC over the body in hex, and the body's own time against replays.

Pure. Source: Baseten's documentation of asynchronous inference ("Securing async inference", webhook
payload).
"""

from collections.abc import Mapping
from datetime import UTC, datetime

import msgspec
from msgspec import Raw, Struct

from tidings.storage.prediction import ABSENT, Status
from tidings.streams.providers import payload as bodies
from tidings.streams.providers.configuration import Configuration
from tidings.streams.providers.manifest import Manifest, SampleWebhook
from tidings.streams.providers.protocol import BadSignature, Webhook
from tidings.streams.providers.signatures.hmac_signatures import (
    check_hex_hmac,
    hex_hmac,
    open_secrets,
    required,
)
from tidings.streams.providers.signatures.standard_webhooks import TOLERANCE, header_bytes
from tidings.streams.rules.event import Event, OtherResource, Poison

COMPLETED = "async_request_completed"

_NO_ERRORS = frozenset({b"", b"null", b"[]", b"{}", b'""', b"false", b"0"})


class _Result(Struct, frozen=True, gc=False):
    request_id: str | None = None
    model_id: str | None = None
    type: str | None = None
    time: str | None = None
    data: Raw = ABSENT
    errors: Raw = ABSENT


class _Errors(Struct, frozen=True, gc=False):
    errors: tuple[Raw, ...] | None = None


class _Error(Struct, frozen=True, gc=False):
    message: Raw = ABSENT
    code: Raw = ABSENT


_result = bodies.Reader(_Result)
_errors = bodies.Reader(_Errors)
_error = bodies.Reader(_Error)


class Baseten(Struct, frozen=True):
    """Baseten's webhooks."""

    secrets: tuple[bytes, ...]
    tolerance: float = TOLERANCE
    name: str = "baseten"

    def __repr__(self) -> str:
        """Show no secret."""
        return f"Baseten({len(self.secrets)} secrets)"

    def verify(self, headers: Mapping[str, str], body: bytes, now: float) -> str | None:
        """By `v1=` signatures of the body, and the time that it names.

        The delivery's id is the request's.
        """
        entries = header_bytes(required(headers, "x-baseten-signature")).split(b",")
        check_hex_hmac(
            self.secrets, body, [entry[3:] for entry in entries if entry.startswith(b"v1=")]
        )
        found = _result.peek(body)
        sent = _seconds(found.time) if found is not None else None
        if sent is None or not abs(now - sent) <= self.tolerance:
            raise BadSignature(
                f"the body's time is missing or more than {self.tolerance:g} s from this machine's clock"
            )
        return found.request_id if found is not None else None

    def prediction_id(self, body: bytes) -> str | None:
        """`request_id`."""
        found = _result.peek(body)
        return found.request_id if found is not None else None

    def translate(self, webhook: Webhook) -> Event:
        """How the request ended: without errors it succeeded."""
        result, left_out = _result.read(webhook.body)
        if result.type is not None and result.type != COMPLETED:
            raise OtherResource(self.name, result.type)
        if result.type is None and not (result.errors or result.data):
            raise Poison("unknown-status", f"no type, data or errors of a request to {self.name}")
        error = _reasons(result.errors)
        return bodies.event(
            webhook,
            self.name,
            result.request_id,
            left_out=left_out,
            request_id=result.request_id,
            status=Status.FAILED if error is not None else Status.SUCCEEDED,
            model=result.model_id,
            output=bodies.given(result.data),
            error=error,
        )

    def sample(self, prediction_id: str, now: int) -> SampleWebhook:
        """Signed with the first secret."""
        said = {
            "request_id": prediction_id,
            "type": COMPLETED,
            "time": datetime.fromtimestamp(now, UTC).isoformat(),
            "data": {},
            "errors": [],
        }
        body = msgspec.json.encode(said)
        return SampleWebhook(body, {"x-baseten-signature": f"v1={hex_hmac(self.secrets[0], body)}"})


def _reasons(errors: Raw) -> str | None:
    """What the errors say, each in whatever shape it has; None: there are none."""
    if bytes(errors).translate(None, b" \t\r\n") in _NO_ERRORS:
        return None
    found, _ = _errors.read(b'{"errors":%b}' % bytes(errors))
    reasons = []
    for one in (errors,) if found.errors is None else found.errors:
        said = _error.peek(bytes(one))
        named = [one] if said is None else [said.message, said.code]
        reasons.append(next(filter(None, map(bodies.text, named)), "unknown error"))
    return "; ".join(reasons) or None


def _seconds(time: str | None) -> float | None:
    try:
        moment = datetime.fromisoformat(time or "")
    except ValueError:
        return None
    return moment.timestamp() if moment.tzinfo is not None else None


def open_provider(name: str, configuration: Configuration) -> Baseten | None:
    """Baseten as configured; the key is the whole secret's text, `whsec_` included.

    None without a secret.
    """
    secrets = open_secrets(name, configuration)
    tolerance = configuration.tolerance_or(TOLERANCE, name)
    return Baseten(secrets, tolerance, name) if secrets else None


MANIFEST = Manifest(
    open=open_provider,
    configured_by="`TIDINGS_BASETEN_SECRET`",
    proof="HMAC-SHA256 in hex",
)
