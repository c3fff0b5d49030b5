"""Reading a provider's body: what every translation does in the same way. Pure."""

import hashlib
from collections.abc import Mapping
from typing import TypedDict, TypeVar, Unpack

import msgspec
from msgspec import Raw, Struct

from tidings.storage.prediction import ABSENT, Status, valid_id
from tidings.streams.providers.output import first_url
from tidings.streams.providers.protocol import Webhook
from tidings.streams.rules.event import Event, Poison

MAX_REPORT = 64 * 1024
"""Bytes below which a body is kept in the record as `report`."""

T = TypeVar("T")


class Said(TypedDict, total=False):
    """Fields of an event that a provider's body fills."""

    status: Status | None
    payload: Raw
    prompt: str | None
    model: str | None
    provider_urls: Raw
    output: Raw
    image_url: str | None
    error: str | None
    progress: float | None
    logs: str | None
    generation_time: int | float | None
    notice: bool


class _Identity(Struct, frozen=True, gc=False):
    id: str | None = None


class _Input(Struct, frozen=True, gc=False):
    prompt: str | None = None


_identity = msgspec.json.Decoder(_Identity)
_input = msgspec.json.Decoder(_Input)
_NULL = Raw(b"null")
_text = msgspec.json.Decoder(str)


def decode(decoder: msgspec.json.Decoder[T], body: bytes) -> T:
    """The body as this decoder reads it.

    Raises:
        Poison: `encoding` (not UTF-8), `too-deep`, `not-json`, `wrong-type`.
    """
    if not body.isascii():
        try:
            body.decode()
        except UnicodeDecodeError as error:
            raise Poison(
                "encoding", f"the body is not UTF-8: byte {error.start} is {body[error.start]:#04x}"
            ) from None
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        raise Poison("wrong-type", f"the body has a field of the wrong type: {error}") from None
    except msgspec.DecodeError as error:
        raise Poison("not-json", f"the body is not JSON: {error}") from None
    except (
        RecursionError
    ):  # the record's own limit is lower: met only where a body comes another way
        raise Poison("too-deep", "the body is nested too deeply to be read") from None


def peek(decoder: msgspec.json.Decoder[T], body: bytes) -> T | None:
    """The body as this decoder reads it; None where it does not."""
    try:
        return decoder.decode(body)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return None


def plain_id(body: bytes) -> str | None:
    """`id` of a body, where there is such a string."""
    found = peek(_identity, body)
    return found.id if found is not None else None


def identify(webhook: Webhook, own: str | None) -> str:
    """The prediction's id: the one that the webhook's URL or key named, else the body's own.

    Raises:
        Poison: `no-id`, `bad-id`.
    """
    prediction_id = webhook.prediction_id if webhook.prediction_id is not None else own
    if not prediction_id:
        raise Poison("no-id", "neither the webhook's address nor its body names a prediction")
    if not valid_id(prediction_id):
        raise Poison(
            "bad-id",
            f"{prediction_id[:64]!r} cannot name a prediction: 1 to 256 bytes without spaces or commas",
        )
    return prediction_id


def delivery_id(webhook: Webhook, request_id: str | None = None) -> str:
    """The event's id: the delivery's, else the request's, else what the body's bytes hash to."""
    return webhook.delivery or request_id or f"sha256:{hashlib.sha256(webhook.body).hexdigest()}"


def report(body: bytes) -> Raw:
    """The body itself for the record, where it is small enough."""
    return Raw(body) if len(body) < MAX_REPORT else ABSENT


def given(raw: Raw) -> Raw:
    """The value, with `null` as absent."""
    return ABSENT if raw == _NULL else raw


def text(raw: Raw) -> str | None:
    """A string as it is, anything else as its JSON; None where it is absent or null."""
    if not raw or raw == _NULL:
        return None
    data = bytes(raw)
    return _text.decode(data) if data[0] == 0x22 else data.decode()


def string(raw: Raw) -> str | None:
    """The value where it is a string, else None."""
    data = bytes(raw)
    return _text.decode(data) if data[:1] == b'"' else None


def milliseconds(seconds: float | None) -> int | None:
    """Whole milliseconds; None where it is no length of time."""
    return round(seconds * 1000) if seconds is not None and 0 <= seconds < 1e12 else None


def event(
    webhook: Webhook,
    provider: str,
    own: str | None,
    *,
    request_id: str | None = None,
    **said: Unpack[Said],
) -> Event:
    """The event of a webhook: what all have in common, and what this one said.

    Args:
        webhook: As it came.
        provider: The provider's name.
        own: Its id of the prediction, which counts where the webhook's address names none.
        request_id: Its id of the delivery, where the body has one.
        said: The fields that it reported.

    Raises:
        Poison: `no-id`, `bad-id`.
    """
    output = said.get("output", ABSENT)
    if output and "image_url" not in said:
        said["image_url"] = first_url(output)
    return Event(
        prediction_id=identify(webhook, own),
        at=webhook.at,
        recorded_at=webhook.at,
        id=delivery_id(webhook, request_id),
        source=provider,
        archive=webhook.archive,
        provider=provider,
        provider_id=own or None,
        report=report(webhook.body),
        traceparent=webhook.traceparent,
        **said,
    )


def status(table: Mapping[str, Status], word: str | None, provider: str) -> Status:
    """The status that the provider's word stands for. Raises `Poison` (`unknown-status`)."""
    found = table.get(word) if word is not None else None
    if found is None:
        shown = "no status" if word is None else repr(word[:40])
        raise Poison("unknown-status", f"{shown} says nothing about a prediction of {provider}")
    return found


def prompt(payload: Raw) -> str | None:
    """`prompt` of an input, where it is text."""
    if not payload:
        return None
    try:
        return _input.decode(payload).prompt
    except (
        msgspec.ValidationError
    ):  # an input of another shape, or a prompt that is no text: kept in the payload
        return None
