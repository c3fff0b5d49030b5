"""The wire of `tidings.v1`: reading a client's messages, and building the server's.

Pure. A record's bytes are spliced into a message as they are and never decoded. `*_message` gives
the JSON of a message (Server-Sent Events carry the same), `frame` wraps one for a WebSocket.
"""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

from tidings.storage.prediction import for_readers
from tidings.streams.changes.codec import Change

SUBPROTOCOL = "tidings.v1"

Ref = int | str | None


class Close:
    """The codes for closing a WebSocket (RFC 6455, 7.4.2: 4000 to 4999 are the application's)."""

    GOING_AWAY = 1001
    INVALID_DATA = 1007
    TOO_BIG = 1009
    RESTART = 1012
    NO_PROGRESS = 4000
    NO_PONG = 4001
    MALFORMED = 4100
    NOT_AUTHENTICATED = 4101
    TOKEN_REFUSED = 4102
    TOO_MANY = 4104


class Malformed(ValueError):
    """A client's message is not one of the protocol; the connection is closed with 4100."""


class Auth(Struct, frozen=True, gc=False, tag_field="type", tag="auth"):
    """A token: the first one if no header carried it, or a newer one."""

    token: str


class Subscribe(Struct, frozen=True, tag_field="type", tag="subscribe"):
    """Watch predictions by id, or all of an owner, a tag or a model, or everything."""

    ref: Ref = None
    predictions: tuple[str, ...] | None = None
    owner: str | None = None
    tag: str | None = None
    model: str | None = None
    all: bool = False
    known: dict[str, int] = {}
    limit: Annotated[int, Meta(ge=0, le=10_000)] = 1_000
    snapshot: bool = True
    text: Literal["append"] | None = None
    """`append`: what grows comes in pieces from now on, for the whole session."""


class Unsubscribe(Struct, frozen=True, tag_field="type", tag="unsubscribe"):
    """The end of a subscription, named as it was begun."""

    ref: Ref = None
    predictions: tuple[str, ...] | None = None
    owner: str | None = None
    tag: str | None = None
    model: str | None = None
    all: bool = False


class Ping(Struct, frozen=True, gc=False, tag_field="type", tag="ping"):
    """A ping in the protocol's own words, for clients that cannot send the WebSocket's."""

    ref: Ref = None


Message = Auth | Subscribe | Unsubscribe | Ping

_messages = msgspec.json.Decoder(Message)
_subscriptions = msgspec.json.Decoder(list[Subscribe])


def parse(data: bytes | bytearray) -> Message:
    """The message in a client's text frame.

    Raises:
        Malformed: It is not JSON, of no known type, or does not say exactly one thing to watch.
    """
    try:
        message: Message = _messages.decode(data)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise Malformed(f"not a message of {SUBPROTOCOL}: {error}") from error
    if isinstance(message, (Subscribe, Unsubscribe)):
        _check_names_one(message)
    return message


def parse_subscriptions(data: bytes) -> list[Subscribe]:
    """The `subscribe` messages in a list, for streams that are asked for at once.

    Raises:
        Malformed: As `parse`.
    """
    try:
        messages = _subscriptions.decode(data)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise Malformed(f"not subscriptions of {SUBPROTOCOL}: {error}") from error
    for message in messages:
        _check_names_one(message)
    return messages


def _check_names_one(message: Subscribe | Unsubscribe) -> None:
    named = (
        (message.predictions is not None)
        + (message.owner is not None)
        + (message.tag is not None)
        + (message.model is not None)
        + message.all
    )
    if named != 1:
        raise Malformed("name exactly one of predictions, owner, tag, model, all")


def keys(message: Subscribe | Unsubscribe) -> tuple[str, ...]:
    """The hub's keys of what a message watches."""
    if message.predictions is not None:
        return tuple(
            "prediction:" + prediction_id for prediction_id in dict.fromkeys(message.predictions)
        )
    return (wide_key(message),)


def wide_key(message: Subscribe | Unsubscribe) -> str:
    """The hub's key of a message that watches by owner, tag, model or everything."""
    for kind, name in (("owner", message.owner), ("tag", message.tag), ("model", message.model)):
        if name is not None:
            return f"{kind}:{name}"
    return "all"


def frame(payload: bytes) -> bytes:
    """An unfragmented, unmasked text frame with this payload (RFC 6455, 5.2)."""
    return _header(len(payload)) + payload


def _header(length: int) -> bytes:
    if length < 126:
        return b"\x81%c" % length
    if length < 65536:
        return b"\x81\x7e" + length.to_bytes(2, "big")
    return b"\x81\x7f" + length.to_bytes(8, "big")


_CHANGE = b'{"type":"change","prediction":'
_SNAPSHOT = b'{"type":"snapshot","prediction":'

_encode = msgspec.json.Encoder().encode


def change_message(change: Change) -> bytes:
    """What a subscriber is told when a prediction changes: the record, or that it is gone."""
    if change.value:
        return b"%b%b}" % (_CHANGE, for_readers(change.value))
    return deleted_message(change.prediction_id, change.version, change.expired)


def change_frame(change: Change) -> bytes:
    """The frame of `change_message`, put together in one copy of the record."""
    value = for_readers(change.value)
    if not value:
        return frame(deleted_message(change.prediction_id, change.version, change.expired))
    return b"%b%b%b}" % (_header(len(value) + 31), _CHANGE, value)


def append_message(
    prediction_id: str, offset: int, text: str, version: int | None, updated_at: int | None
) -> bytes:
    """A text has grown, from this offset in bytes; with the version that has been written since."""
    told = b"" if version is None else b',"version":%d,"updatedAt":%d' % (version, updated_at or 0)
    return b'{"type":"append","predictionId":%b,"offset":%d,"text":%b%b}' % (
        _encode(prediction_id),
        offset,
        _encode(text),
        told,
    )


def snapshot_message(encoded: bytes) -> bytes:
    """A record as it stands, for a new subscriber."""
    return b"%b%b}" % (_SNAPSHOT, for_readers(encoded))


def deleted_message(prediction_id: str, version: int, expired: bool = False) -> bytes:
    """A prediction is gone, since this version; or hidden, as what has expired is."""
    said = {"type": "deleted", "predictionId": prediction_id, "version": version}
    return _encode({**said, "reason": "expired"} if expired else said)


def unknown_message(prediction_id: str) -> bytes:
    """There is no such prediction (yet) that the client may see; the subscription stands."""
    return _encode({"type": "unknown", "predictionId": prediction_id})


def synced_message(ref: Ref, more: bool) -> bytes:
    """All snapshots of a subscription have been sent; `more`: its limit left some out."""
    if type(ref) is int and not more:  # nearly all of them: put together in a tenth of the time
        return b'{"type":"synced","ref":%d,"more":false}' % ref
    return _encode(
        {"type": "synced", "ref": ref, "more": more}
        if ref is not None
        else {"type": "synced", "more": more}
    )


def welcome_message(
    session: str, heartbeat: int, public_url: str | None = None, *, anonymous: bool = False
) -> bytes:
    """The client is authenticated, or nobody is; a ping comes every `heartbeat` ms."""
    # The session's name is made by us: nothing in it needs an escape.
    more = b',"anonymous":true' if anonymous else b""
    if public_url is not None:
        more += b',"publicUrl":%b' % _encode(public_url)
    return b'{"type":"welcome","session":"%b","heartbeat":%d%b}' % (
        session.encode(),
        heartbeat,
        more,
    )


def subscribed_message(ref: Ref) -> bytes:
    """The subscription stands; snapshots follow."""
    if type(ref) is int:
        return b'{"type":"subscribed","ref":%d}' % ref
    return _encode({"type": "subscribed", **_ref(ref)})


def unsubscribed_message(ref: Ref) -> bytes:
    """The subscription has ended."""
    return _encode({"type": "unsubscribed", **_ref(ref)})


def pong_message(ref: Ref) -> bytes:
    """The answer to the protocol's own ping."""
    return _encode({"type": "pong", **_ref(ref)})


def error_message(ref: Ref, code: str, message: str) -> bytes:
    """A request was not carried out; the connection stays."""
    return _encode({"type": "error", **_ref(ref), "code": code, "message": message})


def bye_message(retry_after: int) -> bytes:
    """The server goes away: come back after `retry_after` ms."""
    return _encode({"type": "bye", "retryAfter": retry_after})


def _ref(ref: Ref) -> dict[str, int | str]:
    return {} if ref is None else {"ref": ref}
