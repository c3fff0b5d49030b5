"""fal: Ed25519 over four lines, keys from a JWKS; the webhook tells the end alone.

Pure. Source: fal's documentation of webhooks ("Verifying webhook signatures") and of the queue API.
The answer to a submission names the addresses of the rest, and status answers are understood like
webhooks.
"""

import hashlib
from collections.abc import Mapping
from typing import TYPE_CHECKING
from urllib.parse import quote

import msgspec
from msgspec import Raw, Struct

from tidings.storage.prediction import ABSENT, Status, Usage
from tidings.streams.providers import payload as bodies
from tidings.streams.providers import usage as usages
from tidings.streams.providers.configuration import BadConfiguration, Configuration, setting_name
from tidings.streams.providers.job_api import (
    Call,
    Order,
    Submitted,
    ThinNotice,
    Unreadable,
    address,
    given_input,
    is_at,
    parts,
)
from tidings.streams.providers.manifest import Manifest, SampleWebhook, Unsigned
from tidings.streams.providers.protocol import BadSignature, Webhook
from tidings.streams.providers.signatures.hmac_signatures import required
from tidings.streams.providers.signatures.standard_webhooks import (
    TOLERANCE,
    check_timestamp,
    header_bytes,
)
from tidings.streams.rules.event import Archive, Event

if TYPE_CHECKING:
    from tidings.streams.providers.signatures.jwks import KeySet

URL = "https://queue.fal.run"

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
    message: str | None = None


class _Metrics(Struct, frozen=True, gc=False):
    inference_time: float | None = None


class _Request(Struct, frozen=True, gc=False):
    request_id: str | None = None
    status: str | None = None
    payload: Raw = ABSENT
    payload_error: Raw = ABSENT
    error: Raw = ABSENT
    error_type: str | None = None
    logs: tuple[_Line, ...] | None = None
    metrics: _Metrics | None = None


class _Urls(Struct, frozen=True, omit_defaults=True):
    status_url: str | None = None
    response_url: str | None = None
    cancel_url: str | None = None


class _Answer(_Urls, frozen=True):
    request_id: str | None = None


_request = bodies.Reader(_Request)
_answer = bodies.Reader(_Answer)
_urls = bodies.Reader(_Urls)


class Fal(Struct, frozen=True):
    """fal's webhooks."""

    key_set: "KeySet"
    tolerance: float = TOLERANCE
    name: str = "fal"
    api: "FalApi | None" = None
    """For submitting; None without a token."""

    def verify(self, headers: Mapping[str, str], body: bytes, now: float) -> str:
        """By Ed25519 over request, user, time and the body's hash.

        The delivery's id is the request's.
        """
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
        found = _request.peek(body)
        return found.request_id if found is not None else None

    def thin(self, body: bytes) -> ThinNotice | None:
        """The request's id, if it succeeded and its result is left to be fetched."""
        found = _request.peek(body)
        if found is None or not found.request_id or not _left_out(found):
            return None
        return ThinNotice(found.request_id, status=Status.SUCCEEDED)

    def translate(self, webhook: Webhook) -> Event:
        """How the request ended.

        A success whose result was left out of the webhook says so without an output.

        If a success waits for its files, it waits for that result first: nobody knows of any
        file before.
        """
        request, left_out = _request.read(webhook.body)
        status = bodies.status(STATUSES, request.status, self.name)
        error = bodies.text(request.error) or bodies.text(request.payload_error)
        failed = status is Status.FAILED or (
            request.status == "COMPLETED" and bodies.text(request.error) is not None
        )
        output = bodies.given(request.payload)
        if request.error_type == CANCELED:
            status, failed = Status.CANCELED, False
        if failed:
            status = Status.FAILED
            error = _with_detail(error or request.error_type or "failed", output)
        # `COMPLETED` is the queue's word: what is fetched has whatever result there is.
        waits = webhook.archive is Archive.BEFORE and request.status == "OK" and _left_out(request)
        seconds = request.metrics.inference_time if request.metrics else None
        return bodies.event(
            webhook,
            self.name,
            request.request_id,
            left_out=left_out,
            request_id=request.request_id,
            status=None if waits and request.request_id else status,
            output=ABSENT if failed or status is Status.CANCELED else output,
            error=error if failed else None,
            logs="".join(f"{line.message or ''}\n" for line in request.logs)
            if request.logs
            else None,
            generation_time=bodies.milliseconds(seconds),
            usage=_usage(output, seconds) if webhook.usage and not failed else None,
        )

    def sample(self, prediction_id: str, now: int) -> SampleWebhook:
        """Raises `Unsigned`."""
        raise Unsigned("fal signs with a private key of its own")


def _usage(output: Raw, seconds: float | None) -> Usage | None:
    """The queue's own time, or that of the inference in the result; and its pictures."""
    said = usages.members(output)
    if seconds is None:
        timings = usages.members(said.get("timings", ABSENT))
        seconds = usages.seconds(timings.get("inference", ABSENT))
    return usages.usage(seconds=seconds, images=len(usages.items(said.get("images", ABSENT))))


def _left_out(request: _Request) -> bool:
    """Whether this is a success without its result."""
    return (
        request.status in ("OK", "COMPLETED")
        and request.error_type != CANCELED
        and not bodies.given(request.payload)
        and bodies.text(request.error) is None
    )


def _with_detail(error: str, payload: Raw) -> str:
    """The error, with what the payload of a failure says beyond it, such as a missing field."""
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


class FalApi(Struct, frozen=True):
    """The calls, with the key that they carry."""

    token: str
    url: str = URL

    def __repr__(self) -> str:
        """Show no key."""
        return f"FalApi({self.url})"

    def create(self, order: Order) -> Call:
        """Put it into the model's queue; the webhook stands in the query."""
        url = address(self.url, *parts(order.model))
        if order.webhook is not None:
            url += f"?fal_webhook={quote(order.webhook, safe='')}"
        headers = self._headers() | {"Content-Type": "application/json"}
        body = msgspec.json.encode(given_input(order))
        return Call(method="POST", url=url, headers=headers, body=body)

    def created(self, body: bytes) -> Submitted:
        """The request's id, and the addresses of its status, its result and its end."""
        answer = _answer.answer(body, "request")
        if not answer.request_id:
            raise Unreadable("no request: it has no request_id")
        urls = _Urls(answer.status_url, answer.response_url, answer.cancel_url)
        return Submitted(answer.request_id, Raw(msgspec.json.encode(urls)))

    def get(self, provider_id: str, model: str | None, urls: Raw) -> Call:
        """The status, logs included."""
        url = self._at(urls, "status_url", provider_id, model, "status")
        return Call(method="GET", url=f"{url}?logs=1", headers=self._headers())

    def result(self, provider_id: str, body: bytes, urls: Raw, model: str | None) -> Call | None:
        """The result of a request that completed without an error."""
        found = _request.peek(body)
        if found is None or found.status != "COMPLETED" or bodies.text(found.error) is not None:
            return None
        url = self._at(urls, "response_url", provider_id, model)
        return Call(method="GET", url=url, headers=self._headers())

    def report(self, provider_id: str, body: bytes, result: bytes | None) -> bytes:
        """The status with the request's id, and the result as its payload."""
        fields = bodies.answer_members(body, "status")
        fields["request_id"] = Raw(msgspec.json.encode(provider_id))
        if result is not None:
            fields["payload"] = bodies.json_of(result)
        return msgspec.json.encode(fields)

    def cancel(self, provider_id: str, model: str | None, urls: Raw) -> Call:
        """Take it out of the queue, or stop it."""
        url = self._at(urls, "cancel_url", provider_id, model, "cancel")
        return Call(method="PUT", url=url, headers=self._headers())

    def _headers(self) -> dict[str, str]:
        return {"Authorization": f"Key {self.token}"}

    def _at(self, urls: Raw, name: str, provider_id: str, model: str | None, *tail: str) -> str:
        """The address that fal gave, if it is fal's: the key must not go elsewhere."""
        found = _urls.peek(bytes(urls)) if urls else None
        given = getattr(found, name, None)
        if isinstance(given, str) and is_at(given, self.url):
            return given
        if not model:
            # Another address would answer 404, which says that the request is gone.
            raise ValueError(
                "no model: a request is found by the model's name; report it as `model`"
            )
        # fal's addresses leave out what follows the second part of a model's name.
        return address(self.url, *parts(model)[:2], "requests", provider_id, *tail)


def open_provider(name: str, configuration: Configuration) -> Fal | None:
    """Open fal as configured; None without the URL of its keys. Raises `BadConfiguration`."""
    if not configuration.jwks_url:
        if configuration.secret:
            raise BadConfiguration(
                f"{setting_name(name, 'SECRET')} proves nothing: set {setting_name(name, 'JWKS_URL')}"
            )
        return None
    from tidings.streams.providers.signatures.jwks import KeySet  # with its libraries

    token, url = configuration.token, configuration.url_or(URL)
    return Fal(
        KeySet(configuration.jwks_url),
        configuration.tolerance_or(TOLERANCE, name),
        name,
        FalApi(token, url) if token else None,
    )


MANIFEST = Manifest(
    open=open_provider,
    configured_by="`TIDINGS_FAL_JWKS_URL` (`https://rest.alpha.fal.ai/.well-known/jwks.json`); `_TOKEN` to submit",
    proof="Ed25519 with fal's public keys, fetched and kept fresh",
    required="jwks_url",
    takes_jwks_url=True,
)
