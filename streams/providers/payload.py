"""Reading a provider's body: what every translation does in the same way. Pure.

A body is read by a `Reader`. Its id and status count, whatever the rest is. A member of another
type than documented is left out and named. A number may come as text, and JSON may be written as
other languages write it.
"""

import hashlib
import math
import re
from collections.abc import Callable, Mapping
from types import UnionType
from typing import Any, Generic, TypedDict, TypeVar, Union, Unpack, get_args, get_origin

import msgspec
from msgspec import Raw, Struct

from tidings.storage.prediction import ABSENT, Status, Usage, valid_id
from tidings.streams.providers.job_api import Unreadable
from tidings.streams.providers.protocol import Webhook
from tidings.streams.rules.event import Event, Poison
from tidings.streams.support.json_text import cut_below, in_utf8, nested_over, repaired

MAX_DEPTH = 200
"""Levels of nested JSON, as in the decoder; what lies deeper is left out."""

T = TypeVar("T", bound=Struct)

Parser = Callable[[Raw], tuple[Any, tuple[str, ...]]]
"""A member's value, and the names of what was left out of it. Raises `_Unfit`."""


class ReportFields(TypedDict, total=False):
    """Fields of an event that a provider's body fills."""

    status: Status | None
    payload: Raw
    prompt: str | None
    model: str | None
    provider_urls: Raw
    output: Raw
    text: str | None
    output_text: str | None
    image_url: str | None
    error: str | None
    progress: float | None
    logs: str | None
    generation_time: int | float | None
    notice: bool
    waiting: bool | None
    question: Raw
    question_id: str | None
    usage: Usage | None


class _Unfit(ValueError):
    """A value that cannot be what the member is."""


class _Identity(Struct, frozen=True, gc=False):
    id: str | None = None


class _Input(Struct, frozen=True, gc=False):
    prompt: str | None = None


_NULL = Raw(b"null")
_text = msgspec.json.Decoder(str)
_object = msgspec.json.Decoder(dict[str, Raw])
_array = msgspec.json.Decoder(list[Raw])
_any = msgspec.json.Decoder(Raw)
_FAILURES = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


# ---- bodies ----


def readable(body: bytes) -> bytes:
    """The body in UTF-8, without a byte-order mark, and nested to `MAX_DEPTH` levels at most."""
    body = in_utf8(body)
    if len(body) > 2 * MAX_DEPTH and nested_over(body, MAX_DEPTH):
        return cut_below(body, MAX_DEPTH)
    return body


class Reader(Generic[T]):
    """Reads bodies into a struct. What does not fit is left out, and named.

    Args:
        shape: All of its fields have defaults; of fields that pass through, `Raw`.
    """

    def __init__(self, shape: type[T]) -> None:
        self._shape = shape
        self._strict = msgspec.json.Decoder(shape)
        self._parsers: list[tuple[str, str, Parser]] | None = None

    def read(self, body: bytes) -> tuple[T, tuple[str, ...]]:
        """The body, and the names of the members that were left out.

        Raises:
            Poison: `not-json`, `wrong-type`: it is no JSON object.
        """
        try:
            return self._strict.decode(body), ()
        except _FAILURES:
            return self._lenient(members(body))

    def peek(self, body: bytes) -> T | None:
        """The body; None if it is no JSON object."""
        try:
            return self._strict.decode(body)
        except _FAILURES:
            try:
                return self._lenient(members(readable(body)))[0]
            except Poison:
                return None

    def answer(self, body: bytes, what: str) -> T:
        """The answer of an API; raises `Unreadable` if it is no such thing as `what`."""
        found = self.peek(body)
        if found is None:
            raise Unreadable(f"no {what}: the answer is no JSON object")
        return found

    def _lenient(self, given: Mapping[str, Raw]) -> tuple[T, tuple[str, ...]]:
        if self._parsers is None:  # made when the first odd body comes
            self._parsers = [
                (field.name, field.encode_name, _parser(field.type))
                for field in msgspec.structs.fields(self._shape)
            ]
        values: dict[str, Any] = {}
        left_out: list[str] = []
        for name, wire, parse in self._parsers:
            raw = given.get(wire)
            if raw is None or raw == _NULL:
                continue
            try:
                values[name], below = parse(raw)
            except _Unfit:
                left_out.append(wire)
            else:
                left_out += [f"{wire}.{inner}" for inner in below]
        return self._shape(**values), tuple(left_out)


def members(body: bytes) -> dict[str, Raw]:
    """The members of a body as they stand there.

    Raises:
        Poison: `not-json`, `wrong-type`: it is no JSON object, however it is read.
    """
    reason = ""
    for text in (body, repaired(body)):
        try:
            return _object.decode(text)
        except msgspec.ValidationError as error:
            raise Poison("wrong-type", f"the body is no JSON object: {error}") from None
        except _FAILURES as error:
            reason = reason or str(error)
    raise Poison("not-json", f"the body is not JSON: {reason}")


def answer_members(body: bytes, what: str) -> dict[str, Raw]:
    """The members of an API's answer; raises `Unreadable` if it is no `what`."""
    try:
        return members(readable(body))
    except Poison as error:
        raise Unreadable(f"no {what}: {error}") from None


def json_of(body: bytes) -> Raw:
    """A body as JSON that may stand in another one. Raises `Unreadable`."""
    for text in (body, repaired(readable(body))):
        try:
            return Raw(bytes(_any.decode(text)))
        except _FAILURES:
            continue
    raise Unreadable("the answer is not JSON")


def _parser(declared: Any) -> Parser:
    """What reads a member of this type as well as it can be."""
    if get_origin(declared) in (Union, UnionType):
        declared = next(one for one in get_args(declared) if one is not type(None))
    if declared is Raw:
        return lambda raw: (raw, ())
    if declared is str:
        return _string
    if get_origin(declared) is tuple:
        return _items(_parser(get_args(declared)[0]))
    if isinstance(declared, type) and issubclass(declared, Struct):
        return _nested(Reader(declared))
    return _number_or_flag(msgspec.json.Decoder(declared, strict=False))


def _string(raw: Raw) -> tuple[str, tuple[str, ...]]:
    try:
        return _text.decode(raw), ()
    except _FAILURES:
        raise _Unfit from None


def _number_or_flag(decoder: msgspec.json.Decoder[Any]) -> Parser:
    def parse(raw: Raw) -> tuple[Any, tuple[str, ...]]:
        try:
            value = decoder.decode(raw)
        except _FAILURES:
            raise _Unfit from None
        if isinstance(value, float) and not math.isfinite(value):
            raise _Unfit
        return value, ()

    return parse


def _nested(reader: Reader[Any]) -> Parser:
    def parse(raw: Raw) -> tuple[Any, tuple[str, ...]]:
        try:
            return reader.read(bytes(raw))
        except Poison:
            raise _Unfit from None

    return parse


def _items(item: Parser) -> Parser:
    def parse(raw: Raw) -> tuple[Any, tuple[str, ...]]:
        try:
            given = _array.decode(raw)
        except _FAILURES:
            raise _Unfit from None
        values, left_out = [], set()
        for one in given:
            try:
                value, below = item(one)
            except _Unfit:
                left_out.add("[]")
            else:
                values.append(value)
                left_out |= {f"[].{name}" for name in below}
        return tuple(values), tuple(sorted(left_out))

    return parse


_identity = Reader(_Identity)
_input = msgspec.json.Decoder(_Input)


# ---- events ----


def plain_id(body: bytes) -> str | None:
    """`id` of a body, if there is one."""
    found = _identity.peek(body)
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


def event(
    webhook: Webhook,
    provider: str,
    own: str | None,
    *,
    left_out: tuple[str, ...] = (),
    request_id: str | None = None,
    **fields: Unpack[ReportFields],
) -> Event:
    """The event of a webhook: what all have in common, and what this one reports.

    Args:
        webhook: As it came.
        provider: The provider's name.
        own: Its id of the prediction, which counts if the webhook's address names none.
        left_out: Names of the body's members that do not fit.
        request_id: The event's id, if the delivery has none.
        fields: Of the event.

    Raises:
        Poison: `no-id`, `bad-id`.
    """
    output = fields.get("output", ABSENT)
    # One dictionary, filled in place: a webhook's translation is mostly the making of its event.
    event: dict[str, Any] = fields  # type: ignore[assignment]
    if output and "image_url" not in event:
        event["image_url"] = first_url(output)
    event["prediction_id"] = identify(webhook, own)
    event["at"] = event["recorded_at"] = webhook.at
    event["id"] = webhook.delivery or delivery_id(webhook, request_id)
    event["source"] = event["provider"] = provider
    event["archive"] = webhook.archive
    event["provider_id"] = own or None
    event["traceparent"] = webhook.traceparent
    if left_out:
        event["left_out"] = left_out
    return Event(**event)


# ---- values ----


def given(raw: Raw) -> Raw:
    """The value, with `null` as absent."""
    return ABSENT if raw == _NULL else raw


def object_of(raw: Raw) -> Raw:
    """The value if it is an object, else absent."""
    return raw if bytes(raw)[:1] == b"{" else ABSENT


def text(raw: Raw) -> str | None:
    """A string as it is, anything else as its JSON; None if it is absent, null or empty."""
    if not raw or raw == _NULL:
        return None
    data = bytes(raw)
    return (_text.decode(data) if data[0] == 0x22 else data.decode()) or None


def string(raw: Raw) -> str | None:
    """The value if it is a string, else None."""
    data = bytes(raw)
    return _text.decode(data) if data[:1] == b'"' else None


def milliseconds(seconds: float | None) -> int | None:
    """Whole milliseconds; None if it is no length of time."""
    return round(seconds * 1000) if seconds is not None and 0 <= seconds < 1e12 else None


def duration(milliseconds: float | None) -> float | None:
    """A length of time in ms; None if it is none."""
    return milliseconds if milliseconds is not None and 0 <= milliseconds < 1e15 else None


def status(table: Mapping[str, Status], word: str | None, provider: str) -> Status:
    """The status that the provider's word stands for. Raises `Poison` (`unknown-status`)."""
    found = table.get(word) if word is not None else None
    if found is None:
        shown = "no status" if word is None else repr(word[:40])
        raise Poison("unknown-status", f"{shown} says nothing about a prediction of {provider}")
    return found


def prompt(payload: Raw) -> str | None:
    """`prompt` of an input, if it is text."""
    if not payload:
        return None
    try:
        return _input.decode(payload).prompt
    except _FAILURES:  # an input of another shape, or a prompt that is no text: kept in the payload
        return None


# ---- the picture in an output ----

_plain_url = re.compile(rb'"(https?://[$-.0->@-\[\]-~][!#-\[\]-~]*)"')
"""The ordinary output: one URL in ASCII, without escapes."""
_candidate = re.compile(rb'(?<!\\)"(?=https?:|\\)', re.IGNORECASE)
"""Where a string may begin that is a URL; a mark behind a backslash is one within a string."""
_string_value = re.compile(rb'("(?:[^"\\]++|\\.)*+")(?![ \t\r\n]*+:)', re.DOTALL)
"""A string that is not the name of a member."""
_huge_number = re.compile(rb"[eE]\+?[0-9]{3}|[0-9]{309}")
_BUILT = 64 * 1024
"""Bytes of an output that is built to look at its numbers."""
_checked = msgspec.json.Decoder()
_beginning = re.compile(r"https?://[^\s/?#\\]", re.IGNORECASE)


def first_url(output: Raw) -> str | None:
    """The first string in the output that is an http or https URL as a whole."""
    data = bytes(output)
    if (simple := _plain_url.fullmatch(data)) is not None:
        return simple[1].decode()
    if b"http" not in data and b"\\u" not in data and b"http" not in data.lower():
        return None
    if len(data) <= _BUILT and _huge_number.search(data) is not None:
        try:
            _checked.decode(data)
        except _FAILURES:  # numbers no float holds: kept, but not looked into
            return None
    if nested_over(data, MAX_DEPTH):
        return None
    # No value is built but the candidates: an output may be millions of them.
    for found in _candidate.finditer(data):
        string = _string_value.match(data, found.start())
        if string is not None:
            try:
                text = _text.decode(string[1])
            except _FAILURES:  # half a surrogate pair, for example
                continue
            if url := _if_url(text):
                return url
    return None


def _if_url(text: str) -> str | None:
    return text if _beginning.match(text) and text.isprintable() and " " not in text else None
