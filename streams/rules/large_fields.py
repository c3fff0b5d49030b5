"""Fields that are too large for a record: what stands in their place, and where their content lies. Pure.

It is settled on the event, before anything is judged by it, so a rebuild makes the same records and need not put
anything. The content lies per prediction, so that whoever may read the record may read it, nobody else, and it can go
with the record.
"""

import hashlib
import re
from collections.abc import Awaitable, Callable
from typing import Literal

import msgspec
from msgspec import Raw
from msgspec.structs import force_setattr, replace

from tidings.storage.errors import StoreUnavailable
from tidings.storage.prediction import Blob, Prediction
from tidings.streams.rules.event import Event, EventType
from tidings.streams.rules.fields import ANSWERED, ASKED, CREATED, FIELDS
from tidings.streams.rules.measure import members

FIELD_MAX = 32 * 1024
"""Bytes of a field (of JSON as it came, of a string in UTF-8) that a record takes; what is larger goes elsewhere."""

BY_REFERENCE = frozenset({"members", "orders"})
"""Fields that are large as a rule, in records that change often: they never stand in the record itself."""

FOLDER = "blobs"
NOTE = "id"
PREFIX = "sha256-"

_JSON_FIELDS = tuple(
    field.name for field in (*FIELDS, *CREATED, *ASKED, *ANSWERED) if field.large and field.json
)
_TEXT_FIELDS = tuple(field.name for field in FIELDS if field.large and not field.json)
_Kind = Literal["", "object", "number"]
_HASH = re.compile(r"sha256-[0-9a-f]{64}")
_NO_BLOBS: dict[str, bytes] = {}

_reference = msgspec.json.Decoder(Blob)
_json = msgspec.json.Decoder(Raw)
_text = msgspec.json.Decoder(str)


def settle(event: Event) -> dict[str, bytes]:
    """Put references in place of the event's large fields; it was made a moment ago and nobody else holds it.

    Returns:
        The contents by hash (`sha256-...`): JSON, to be put where `path` says.
    """
    contents: dict[str, bytes] = _NO_BLOBS
    for name in _JSON_FIELDS:
        content = bytes(getattr(event, name))
        if len(content) > FIELD_MAX or (content and name in BY_REFERENCE):
            if name == "assets" and event.type is EventType.ARCHIVE:
                _keep_first(event)
            elif name == "output":
                force_setattr(event, "whole_output", event.output)
            blob = _blob(content)
            force_setattr(event, name, Raw(msgspec.json.encode(blob)))
            contents = {**contents, blob.hash: content}
    for name in _TEXT_FIELDS:
        value = getattr(event, name)
        if (
            isinstance(value, str)
            and len(value) * 4 > FIELD_MAX
            and len(value.encode()) > FIELD_MAX
        ):
            content = msgspec.json.encode(value)
            blob = _blob(content)
            force_setattr(event, name, blob)
            contents = {**contents, blob.hash: content}
    return contents


def settles(event: Event, size: int) -> bool:
    """Whether an event whose JSON has so many bytes has anything for `settle`."""
    return size > FIELD_MAX or event.kind is not None


def reference(field: Raw | str | Blob | None) -> Blob | None:
    """The reference that stands in a record's field; None if the field is what it says."""
    if isinstance(field, Blob):
        return field
    if not isinstance(field, Raw) or not bytes(field).startswith(b'{"$blob":'):
        return None
    try:
        blob = _reference.decode(field)
    except msgspec.DecodeError:
        return None
    return blob if valid_hash(blob.hash) else None


def says(field: Raw, content: Raw) -> bool:
    """Whether a record's field is this JSON, be it only by reference."""
    blob = reference(field)
    return field == content if blob is None else blob.hash == _hash_of(bytes(content))


def references(record: Prediction) -> list[str]:
    """The hashes of all that a record refers to instead of saying it: large fields, and parts of its text."""
    fields = [getattr(record, name) for name in (*_JSON_FIELDS, *_TEXT_FIELDS)]
    blobs = [blob.hash for field in fields if (blob := reference(field)) is not None]
    return [*blobs, *[part.hash for part in record.text_parts]]


def valid_hash(name: str) -> bool:
    """Whether this may name a content."""
    return _HASH.fullmatch(name) is not None


def folder(prediction_id: str) -> str:
    """Where the contents of a prediction lie. Not a secret: they are served to whoever may read the record alone."""
    return f"{FOLDER}/{hashlib.sha256(prediction_id.encode()).hexdigest()[:40]}"


def note(prediction_id: str) -> str:
    """Where the prediction's id itself is written down, for whoever finds the folder."""
    return f"{folder(prediction_id)}/{NOTE}"


def path(prediction_id: str, hash_: str) -> str:
    """Where one content lies."""
    return f"{folder(prediction_id)}/{hash_.removeprefix(PREFIX)}"


def _blob(content: bytes) -> Blob:
    kind, length = _measure(content)
    return Blob(_hash_of(content), len(content), length, kind)


def _hash_of(content: bytes) -> str:
    return f"{PREFIX}{hashlib.sha256(content).hexdigest()}"


def _measure(content: bytes) -> tuple[_Kind, int]:
    """What a JSON value is, and how long."""
    try:
        match content[:1]:
            case b"[":
                _json.decode(content)
                return "", members(content)
            case b'"':
                return "", len(_text.decode(content))
            case b"{":
                _json.decode(content)
                return "object", members(content)
    except (msgspec.DecodeError, RecursionError):
        # What passes through unread need not be readable: a lone surrogate, for example.
        return "", len(content)
    return "number", len(content)


def _keep_first(event: Event) -> None:
    """Of a list of files that the record will only refer to, it shows the first."""
    try:
        listed = msgspec.json.decode(event.assets, type=list[dict[str, Raw]])
    except msgspec.DecodeError:
        return
    first = listed[0] if listed else {}
    for name, member in (("image_url", "url"), ("image_path", "path")):
        value = first.get(member)
        if value is not None and bytes(value)[:1] == b'"':
            force_setattr(event, name, _text.decode(value))


async def whole(
    read: Callable[[str], Awaitable[bytes | None]], shown: str, record: Prediction
) -> Prediction:
    """The record with its payload and prompt themselves, whatever their size.

    Args:
        read: Gives the content at a path in the object storage.
        shown: The object storage, for people.
        record: As the store has it.

    Raises:
        StorageError: The object storage does not give them.
    """

    async def content(name: str) -> bytes:
        found = await read(path(record.prediction_id, name))
        if found is None:
            raise StoreUnavailable(
                f"{name} of {record.prediction_id} is not in the object storage {shown}"
            )
        return found

    payload, prompt = reference(record.payload), reference(record.prompt)
    if payload is not None:
        record = replace(record, payload=Raw(await content(payload.hash)))
    if prompt is not None:
        record = replace(record, prompt=_text.decode(await content(prompt.hash)))
    return record
