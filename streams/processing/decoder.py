"""From a log record to an event: plain JSON, CloudEvents 1.0, and providers' webhooks as they came.

Pure. What can never be applied raises `Poison` with a code:

| code | meaning |
|---|---|
| `not-json` | the value is no JSON object |
| `encoding` | the value or a header is not UTF-8 |
| `too-deep` | JSON nested over `MAX_DEPTH` levels |
| `wrong-type`, `missing-field`, `unknown-type`, `unknown-status`, `bad-time` | a field is off |
| `no-id`, `bad-id`, `id-mismatch` | the prediction cannot be told, or is told twice differently |
| `bad-cloudevent` | a CloudEvent without what the specification requires |
| `unknown-provider` | a webhook of a provider that is not configured here |
| `translation-failed` | the provider's mapping has a fault |
"""

import re
from codecs import BOM_UTF8
from collections.abc import Mapping
from operator import attrgetter
from typing import cast

import msgspec
from msgspec import Raw, Struct, field
from msgspec.structs import force_setattr

from tidings.storage.prediction import ABSENT, Status, valid_id
from tidings.streams.log.headers import (
    ARCHIVE_HEADER,
    DELIVERY_HEADER,
    PROVIDER_HEADER,
    TRACE_HEADER,
    UNREADABLE_HEADER,
    USAGE_HEADER,
)
from tidings.streams.log.protocol import Record
from tidings.streams.processing.cloud_events import (
    CloudEvent,
    from_headers,
    from_value,
    milliseconds,
)
from tidings.streams.processing.event_checks import check_question, check_type
from tidings.streams.providers.payload import Reader
from tidings.streams.providers.protocol import USAGE_STAMP, Provider, Webhook
from tidings.streams.providers.translation import translate
from tidings.streams.rules.event import (
    EARLIEST,
    HALF_CHARACTER,
    LATEST,
    Archive,
    BriefEvent,
    Event,
    EventType,
    OtherResource,
    Poison,
)
from tidings.streams.rules.fields import FIELDS, JSON_NAMES
from tidings.streams.rules.large_fields import FIELD_MAX
from tidings.streams.rules.usage import checked
from tidings.streams.support.json_text import has_half_characters, nested_over, repaired

MAX_DEPTH = 200
"""Levels of nested JSON. The decoder's own limit depends on the stack it is called from, and would make a record
readable in one place and poison in another."""

FRAME = 5
"""Bytes before a value or key in the framing of Confluent's and others' schema registries: a zero, and the schema's number."""

_ODD_BEGINNINGS = frozenset({b"\0", b"\xef"})
"""First bytes of a schema registry's frame and of a byte-order mark; no JSON begins with one."""
_trace = re.compile(rb"[\x21-\x7e]{1,128}")

_REPORT, _AFTER = EventType.REPORT, Archive.AFTER
_TYPES = frozenset(kind.value for kind in EventType)
_STATUSES = frozenset(status.value for status in Status)
_event = msgspec.json.Decoder(Event)
_brief = cast("msgspec.json.Decoder[Event]", msgspec.json.Decoder(BriefEvent))
_object = msgspec.json.Decoder(dict[str, Raw])
_TYPED_JSON = tuple(one for one in FIELDS if one.begins)
_STAMPS = tuple(f.name for f in msgspec.structs.fields(Event) if "/" in f.encode_name)
"""What the decoder alone may say."""
_rare = attrgetter(*_STAMPS, *(one.name for one in FIELDS if one.json))
_NOTHING_RARE = _rare(Event())
_NO_STAMPS = _NOTHING_RARE[: len(_STAMPS)]
_NO_HEADERS: dict[str, bytes] = {}
_KNOWN = frozenset(
    one.encode_name for one in msgspec.structs.fields(Event) if "/" not in one.encode_name
)


def decode_event(record: Record, providers: Mapping[str, Provider]) -> Event:
    """The event in a log record.

    Raises:
        Poison: It can never be applied; the code says why.
        OtherResource: A webhook about something else than a prediction, or a tombstone: to be counted by name.
    """
    value = record.value
    if not value:
        raise _no_value(record)
    if not record.headers:
        return _complete(_decode(_text_of(value)), record, _NO_HEADERS)
    headers = _headers(record)
    if PROVIDER_HEADER in headers:
        return _complete(_webhook(record, headers, providers), record, headers)
    value = _text_of(value)
    if any(name.startswith("ce_") for name in headers):
        event = _from_cloudevent(from_headers(headers), value)
    elif headers.get("content-type", b"").lower().startswith(b"application/cloudevents+json"):
        envelope, data = from_value(value)
        event = _from_cloudevent(envelope, _text_of(data))
    else:
        event = _decode(value)
    return _complete(event, record, headers)


def _headers(record: Record) -> dict[str, bytes]:
    headers: dict[str, bytes] = {}
    for name, value in record.headers:
        headers.setdefault(name.lower(), value or b"")  # Kafka's may be null
    return headers


def _no_value(record: Record) -> ValueError:
    if (reason := dict(record.headers or ()).get(UNREADABLE_HEADER)) is not None:
        return Poison(
            "encoding", f"{reason.decode(errors='replace')}; send names of headers in UTF-8"
        )
    if record.value is None:
        # Tools that compact or erase topics write tombstones: well-formed, and about no prediction's state.
        return OtherResource("", "tombstone")
    return Poison("not-json", "the record is empty; an event is a JSON object")


def _unframed(data: bytes) -> bytes:
    """What a serializer for a schema registry has framed, without the frame."""
    return data[FRAME:] if data[:1] == b"\0" and len(data) > FRAME else data


def _text_of(value: bytes) -> bytes:
    """The value as UTF-8 text: without a byte-order mark, and without a schema registry's frame."""
    if value[:1] in _ODD_BEGINNINGS:
        framed = value[:1] == b"\0"
        value = _unframed(value).removeprefix(BOM_UTF8)
        if framed and value.lstrip()[:1] != b"{":
            raise Poison(
                "not-json",
                "the value is framed for a schema registry and is no JSON (Avro or Protobuf); produce JSON",
            )
    _check_text(value)
    return value


def _check_text(value: bytes) -> None:
    # `Raw` passes bytes on unseen: invalid UTF-8 would reach browsers, which close the connection on it.
    if not value.isascii():
        try:
            value.decode()
        except UnicodeDecodeError as error:
            raise Poison(
                "encoding", f"byte {error.start} is not UTF-8; send JSON in UTF-8"
            ) from None
    if len(value) > 2 * MAX_DEPTH and nested_over(value, MAX_DEPTH):
        raise Poison("too-deep", f"nested over {MAX_DEPTH} levels; flatten it")


def _complete(event: Event, record: Record, headers: Mapping[str, bytes]) -> Event:
    """Settle id, time and stamps. The event was made a moment ago and nobody else holds it, so it is set in place."""
    timestamp = record.timestamp
    _settle_id(event, record.key)
    at = event.at or timestamp
    if at < EARLIEST:
        raise Poison("bad-time", f"at {at} is before 2001; give milliseconds since the epoch")
    if timestamp < EARLIEST:  # a producer that sets none
        timestamp = at
    if timestamp > LATEST:
        raise Poison(
            "bad-time",
            f"the record's time {timestamp} is after 5138; give milliseconds since the epoch",
        )
    force_setattr(event, "at", at if at < timestamp else timestamp)
    force_setattr(event, "recorded_at", timestamp)
    if headers and PROVIDER_HEADER not in headers:
        force_setattr(event, "traceparent", _traceparent(headers))
        force_setattr(event, "archive", _archive(headers))
    if not event.brief:
        _check_more(event)
    return event


def _check_more(event: Event) -> None:
    if event.tags or event.model is not None or event.owner is not None:
        _check_names(event)
    if event.waiting is not None:
        check_question(event)
    if event.usage is not None:
        _settle_usage(event)
    if event.type is not _REPORT:
        check_type(event)


def _settle_usage(event: Event) -> None:
    assert event.usage is not None
    try:
        force_setattr(event, "usage", checked(event.usage))
    except ValueError as error:
        raise Poison("wrong-type", str(error)) from None


def _settle_id(event: Event, key: bytes | None) -> None:
    prediction_id = event.prediction_id
    if key:
        try:
            named = (_unframed(key) if key[0] == 0 else key).decode()
        except UnicodeDecodeError:
            raise Poison(
                "bad-id", "the record's key is not UTF-8; the key is the prediction's id"
            ) from None
        if not prediction_id:
            force_setattr(event, "prediction_id", named)
            prediction_id = named
        elif named != prediction_id:
            raise Poison(
                "id-mismatch",
                f"the key says {named!r} and the event {prediction_id!r}; send one of them",
            )
    if not prediction_id:
        raise Poison("no-id", "neither a key nor predictionId; name the prediction")
    if not valid_id(prediction_id):
        raise Poison(
            "bad-id",
            f"{prediction_id[:80]!r} is no id: 1 to 256 bytes without spaces, commas or control characters",
        )


def _check_names(event: Event) -> None:
    """What is listed by; a store that cannot hold it would refuse what another one has applied."""
    if (
        "\0" in (event.owner or "")
        or "\0" in (event.model or "")
        or any("\0" in tag for tag in event.tags)
    ):
        raise Poison("wrong-type", "an owner, model or tag with the character U+0000; leave it out")


def _check_surrogates(event: Event, value: bytes) -> None:
    """Half a character in a piece is refused: another in its place would have another length than its writer counts."""
    if event.type is EventType.APPEND and has_half_characters(value):
        raise Poison("encoding", HALF_CHARACTER)


def _traceparent(headers: Mapping[str, bytes]) -> bytes | None:
    """The trace to go on with; one that is no visible ASCII goes no further than here.

    It is carried on in the change, where every gateway reads it: a sender must not be able to write anything there.
    """
    given = headers.get(TRACE_HEADER)
    return given if given and _trace.fullmatch(given) else None


def _archive(headers: Mapping[str, bytes]) -> Archive:
    stamp = headers.get(ARCHIVE_HEADER)
    if stamp is None:
        return Archive.AFTER
    try:
        return Archive(stamp.decode())
    except ValueError:
        raise Poison(
            "wrong-type", f"header {ARCHIVE_HEADER} is {stamp[:20]!r}; use after, before or off"
        ) from None


# ---- plain JSON ----


def _decode(value: bytes) -> Event:
    if len(value) > FIELD_MAX:
        return _decode_whole(value)  # it may have to say where its output lies
    try:
        event = _brief.decode(value)
    except (msgspec.DecodeError, RecursionError):
        return _decode_whole(value)  # it says more, or is odd
    if event.recorded_at or event.traceparent is not None or event.archive is not _AFTER:
        return _decode_leniently(value)  # the decoder alone may say these
    if event.output and bytes(event.output) == b"null":
        return _decode_whole(value)  # which says nothing
    return event


def _decode_whole(value: bytes) -> Event:
    try:
        event = _event.decode(value)
        if (rare := _rare(event)) == _NOTHING_RARE:
            return event
        if rare[: len(_STAMPS)] != _NO_STAMPS:
            event = _decode_leniently(value)
    except msgspec.ValidationError:
        event = _decode_leniently(value)
    except (msgspec.DecodeError, RecursionError) as error:
        # Other languages write NaN, half a surrogate pair, or a line break in a string.
        if (fixed := repaired(value)) != value:
            event = _decode_whole(fixed)
            _check_surrogates(event, value)
            return event
        raise Poison("not-json", f"{error}; an event is a JSON object") from None
    if b"null" in value:
        _drop_nulls(event)
    for one in _TYPED_JSON:
        raw: Raw = getattr(event, one.name)
        if raw and bytes(raw)[:1] != one.begins:
            kind = "object" if one.begins == b"{" else "array"
            raise Poison("wrong-type", f"Expected `{kind}` - at `$.{one.wire}`")
    return event


def _decode_leniently(value: bytes) -> Event:
    """What the quick way refuses: `null` means absent, and unknown fields are counted and left out.

    The names of fields that only the decoder may set are among the unknown.
    """
    try:
        fields = _object.decode(value)
    except (msgspec.DecodeError, RecursionError):
        if (fixed := repaired(value)) != value:
            event = _decode_leniently(fixed)
            _check_surrogates(event, value)
            return event
        raise Poison("not-json", "not a JSON object; an event is a JSON object") from None
    known = {
        n: v for n, v in fields.items() if n in _KNOWN and (n == "replace" or bytes(v) != b"null")
    }
    unknown = tuple(name for name in fields if name not in _KNOWN)
    try:
        event = _event.decode(msgspec.json.encode(known))
    except msgspec.ValidationError as error:
        raise _refusal(error) from None
    force_setattr(event, "unknown", unknown)
    return event


def _refusal(error: msgspec.ValidationError) -> Poison:
    text = str(error)
    if text.endswith("`$.status`"):
        return Poison("unknown-status", f"{text}; use one of {', '.join(Status)}")
    if text.endswith("`$.type`"):
        return Poison("unknown-type", f"{text}; use one of {', '.join(EventType)}")
    return Poison("wrong-type", text)


def _drop_nulls(event: Event) -> None:
    for name in JSON_NAMES:
        raw: Raw = getattr(event, name)
        if raw and bytes(raw) == b"null":
            force_setattr(event, name, ABSENT)


def _from_cloudevent(envelope: CloudEvent, data: bytes) -> Event:
    if envelope.specversion != "1.0":
        raise Poison(
            "bad-cloudevent", f"specversion {envelope.specversion!r} is not known; send 1.0"
        )
    event = _decode_whole(data)  # the envelope may say any type
    if event.id is None:
        force_setattr(event, "id", envelope.id)
    if event.source is None:
        force_setattr(event, "source", envelope.source)
    if event.at == 0 and envelope.time is not None:
        force_setattr(event, "at", milliseconds(envelope.time))
    if envelope.subject:
        if event.prediction_id and event.prediction_id != envelope.subject:
            raise Poison(
                "id-mismatch",
                f"the subject says {envelope.subject!r} and the event {event.prediction_id!r}; send one of them",
            )
        force_setattr(event, "prediction_id", envelope.subject)
    last = envelope.type.rpartition(".")[2]
    if event.type is EventType.REPORT and last in _TYPES:
        force_setattr(event, "type", EventType(last))
    if event.status is None and last in _STATUSES:
        force_setattr(event, "status", Status(last))
    return event


# ---- webhooks ----


def _webhook(
    record: Record, headers: Mapping[str, bytes], providers: Mapping[str, Provider]
) -> Event:
    try:
        name = headers[PROVIDER_HEADER].decode()
        delivery = headers.get(DELIVERY_HEADER, b"").decode() or None
        key = record.key.decode() if record.key else None
    except UnicodeDecodeError:
        raise Poison("encoding", "a header or the key of this webhook is not UTF-8") from None
    provider = providers.get(name)
    if provider is None:
        raise Poison(
            "unknown-provider",
            f"provider {name[:40]!r} is not known here; configure it and redrive",
        )
    stamp = headers.get(USAGE_HEADER)
    webhook = Webhook(
        record.value or b"",
        key,
        record.timestamp,
        delivery,
        _archive(headers),
        _traceparent(headers),
        stamp is not None,
        stamp == USAGE_STAMP[1],
    )
    return translate(provider, webhook)


# ---- which prediction a record is about, for dead letters ----


class _Named(Struct, gc=False):
    prediction_id: str | None = field(default=None, name="predictionId")
    subject: str | None = None
    """Of a structured CloudEvent."""
    data: Raw = ABSENT


_named = Reader(_Named)


def name_prediction(record: Record, providers: Mapping[str, Provider]) -> str | None:
    """The prediction that a record is about, as far as its key, its headers or its body say; for a dead letter."""
    if record.key:
        return _unframed(record.key).decode("utf-8", "replace")
    headers = _headers(record) if record.headers else {}
    value = record.value or b""
    if (name := headers.get(PROVIDER_HEADER)) is not None:
        provider = providers.get(name.decode("utf-8", "replace"))
        try:
            return provider.prediction_id(value) if provider is not None else None
        except Exception:  # a fault in the mapping may be why it is a dead letter
            return None
    if subject := headers.get("ce_subject"):
        return subject.decode("utf-8", "replace")
    found = _named.peek(_unframed(value))
    if found is None:
        return None
    inner = _named.peek(bytes(found.data)) if found.data else None
    return found.prediction_id or found.subject or (inner.prediction_id if inner else None)
