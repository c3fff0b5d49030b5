"""CloudEvents 1.0 as records carry them: in headers, or as the value. Pure.

https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/bindings/kafka-protocol-binding.md
"""

import base64
import binascii
from collections.abc import Mapping
from datetime import datetime

import msgspec
from msgspec import Raw, Struct

from tidings.storage.prediction import ABSENT
from tidings.streams.rules.event import Poison
from tidings.streams.support.json_text import repaired


class CloudEvent(Struct, gc=False):
    """The attributes of a CloudEvent, and in structured mode its data."""

    specversion: str
    id: str
    source: str
    type: str
    time: str | None = None
    subject: str | None = None
    data: Raw = ABSENT
    data_base64: str | None = None


_cloudevent = msgspec.json.Decoder(CloudEvent)


def from_headers(headers: Mapping[str, bytes]) -> CloudEvent:
    """The CloudEvent of a record in binary mode, whose value is its data. Raises `Poison`."""
    attributes: dict[str, str] = {}
    for name, raw in headers.items():
        if name.startswith("ce_"):
            try:
                attributes[name[3:]] = raw.decode()
            except UnicodeDecodeError:
                raise Poison("encoding", f"header {name} is not UTF-8") from None
    missing = [f"ce_{name}" for name in ("id", "source", "type") if not attributes.get(name)]
    if missing:
        raise Poison("bad-cloudevent", f"a CloudEvent needs {', '.join(missing)}")
    return CloudEvent(
        attributes.get("specversion", "1.0"),
        attributes["id"],
        attributes["source"],
        attributes["type"],
        attributes.get("time"),
        attributes.get("subject"),
    )


def from_value(value: bytes) -> tuple[CloudEvent, bytes]:
    """The CloudEvent of a record in structured mode, and its data. Raises `Poison`."""
    try:
        envelope = _cloudevent.decode(value)
    except msgspec.ValidationError as error:
        raise Poison(
            "bad-cloudevent", f"{error}; a CloudEvent needs specversion, id, source and type"
        ) from None
    except (msgspec.DecodeError, RecursionError) as error:
        if (fixed := repaired(value)) != value:
            return from_value(fixed)
        raise Poison("not-json", f"{error}; a structured CloudEvent is a JSON object") from None
    if not (envelope.id and envelope.source and envelope.type):
        raise Poison("bad-cloudevent", "a CloudEvent's id, source and type must not be empty")
    if envelope.data_base64 is not None:
        try:
            data = base64.b64decode(envelope.data_base64, validate=True)
        except binascii.Error:
            raise Poison("bad-cloudevent", "data_base64 is not base64") from None
        return envelope, data
    return envelope, bytes(envelope.data) if envelope.data else b"{}"


def milliseconds(text: str) -> int:
    """A time of RFC 3339 in ms since the epoch. Raises `Poison`."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise Poison("bad-time", f"time {text[:40]!r} is not RFC 3339") from None
    if moment.tzinfo is None:
        raise Poison("bad-time", f"time {text[:40]!r} has no time zone; RFC 3339 requires one")
    return int(moment.timestamp() * 1000)
