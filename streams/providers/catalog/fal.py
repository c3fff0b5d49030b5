"""fal: Ed25519 over four lines, keys from a JWKS; the webhook tells the end alone.

Pure. Source: fal's documentation of webhooks ("Verifying webhook signatures") and of the queue API, whose status
answers are understood too.
"""

import hashlib
from collections.abc import Mapping

import msgspec
from msgspec import Raw, Struct

from tidings.storage.prediction import ABSENT, Status
from tidings.streams.providers import payload as bodies
from tidings.streams.providers.catalog.fal_api import URL, FalApi
from tidings.streams.providers.configuration import BadConfiguration, Configuration, setting
from tidings.streams.providers.job_api import Notice
from tidings.streams.providers.protocol import BadSignature, Webhook
from tidings.streams.providers.signatures.hmac_signatures import required
from tidings.streams.providers.signatures.jwks import KeySet
from tidings.streams.providers.signatures.standard_webhooks import (
    TOLERANCE,
    check_timestamp,
    header_bytes,
)
from tidings.streams.rules.event import Archive, Event

STATUSES = {
    "OK": Status.SUCCEEDED,
    "ERROR": Status.FAILED,
    "IN_QUEUE": Status.STARTING,
    "IN_PROGRESS": Status.PROCESSING,
    "COMPLETED": Status.SUCCEEDED,
}

CANCELED = "client_cancelled"
"""The `error_type` of a request that its sender canceled."""


class _Line(Struct, frozen=True, gc=False):
    message: str = ""


class _Metrics(Struct, frozen=True, gc=False):
    inference_time: float | None = None


class _Request(Struct, frozen=True, gc=False):
    request_id: str | None = None
    gateway_request_id: str | None = None
    status: str | None = None
    payload: Raw = ABSENT
    payload_error: Raw = ABSENT
    error: Raw = ABSENT
    error_type: str | None = None
    logs: tuple[_Line, ...] | None = None
    metrics: _Metrics | None = None


class _Identity(Struct, frozen=True, gc=False):
    request_id: str | None = None


_request = msgspec.json.Decoder(_Request)
_identity = msgspec.json.Decoder(_Identity)


class Fal(Struct, frozen=True):
    """fal's webhooks."""

    key_set: KeySet
    tolerance: float = TOLERANCE
    name: str = "fal"
    api: FalApi | None = None
    """For submitting; None without a token."""

    def verify(self, headers: Mapping[str, str], body: bytes, now: float) -> str:
        """By Ed25519 over request, user, time and the body's hash; the delivery's id is the request's."""
        request_id = required(headers, "x-fal-webhook-request-id")
        user = required(headers, "x-fal-webhook-user-id")
        timestamp = required(headers, "x-fal-webhook-timestamp")
        signature = _hex(required(headers, "x-fal-webhook-signature"))
        check_timestamp(timestamp, now, self.tolerance)
        digest = hashlib.sha256(body).hexdigest().encode()
        message = b"\n".join(
            (header_bytes(request_id), header_bytes(user), timestamp.encode(), digest)
        )
        if any(key.proves(signature, message) for key in self.key_set.ed25519()):
            return request_id
        self.key_set.missed()
        raise BadSignature("no key of fal's proves the signature")

    def prediction_id(self, body: bytes) -> str | None:
        """`request_id`, which stays the same over retries."""
        found = bodies.peek(_identity, body)
        return found.request_id if found is not None else None

    def thin(self, body: bytes) -> Notice | None:
        """The request's id, where it succeeded and its result is left to be fetched."""
        found = bodies.peek(_request, body)
        if found is None or not found.request_id or not _left_out(found):
            return None
        return Notice(found.request_id, status=Status.SUCCEEDED)

    def translate(self, webhook: Webhook) -> Event:
        """How the request ended. A success whose result was left out of the webhook says so without an output.

        Where a success waits for its files, it waits for that result first: nobody knows of any file before.
        """
        request = bodies.decode(_request, webhook.body)
        status = bodies.status(STATUSES, request.status, self.name)
        error = bodies.text(request.error) or bodies.text(request.payload_error)
        failed = status is Status.FAILED or (
            request.status == "COMPLETED" and bodies.text(request.error) is not None
        )
        output = bodies.given(request.payload)
        if request.error_type == CANCELED:
            status, failed = Status.CANCELED, False
        if failed:
            status, error = (
                Status.FAILED,
                _with_detail(error or request.error_type or "failed", output),
            )
        # `COMPLETED` is the queue's word: what is fetched has whatever result there is.
        waits = webhook.archive is Archive.BEFORE and request.status == "OK" and _left_out(request)
        seconds = request.metrics.inference_time if request.metrics else None
        return bodies.event(
            webhook,
            self.name,
            request.request_id,
            request_id=request.request_id,
            status=None if waits and request.request_id else status,
            output=ABSENT if failed or status is Status.CANCELED else output,
            error=error if failed else None,
            logs="".join(f"{line.message}\n" for line in request.logs) if request.logs else None,
            generation_time=bodies.milliseconds(seconds),
        )


def _left_out(request: _Request) -> bool:
    """Whether this is a success without its result."""
    return (
        request.status in ("OK", "COMPLETED")
        and request.error_type != CANCELED
        and not bodies.given(request.payload)
        and bodies.text(request.error) is None
    )


def _with_detail(error: str, payload: Raw) -> str:
    """The error, with what the payload of a failure says beyond it (such as which field was missing)."""
    return f"{error}: {bytes(payload).decode()}" if payload else error


def _hex(text: str) -> bytes:
    """Hex in small letters alone: one signature has one spelling."""
    try:
        raw = bytes.fromhex(text)
    except ValueError:
        raise BadSignature("the signature is not hex") from None
    if raw.hex() != text:
        raise BadSignature("the signature is not plain hex in small letters")
    return raw


def open_provider(name: str, configuration: Configuration) -> Fal | None:
    """Open fal as configured; None without the URL of its keys. Raises `BadConfiguration`."""
    if not configuration.jwks_url:
        if configuration.secret:
            raise BadConfiguration(
                f"{setting(name, 'SECRET')} proves nothing: set {setting(name, 'JWKS_URL')}"
            )
        return None
    api = (
        FalApi(configuration.token, (configuration.url or URL).rstrip("/"))
        if configuration.token
        else None
    )
    return Fal(
        KeySet(configuration.jwks_url), configuration.tolerance_or(TOLERANCE, name), name, api
    )
