"""The files of a finished prediction: what of its output is a URL, and which files are to be kept. Pure."""

import base64
import binascii
import re
from typing import Any
from urllib.parse import unquote_to_bytes

import msgspec
from msgspec import Raw, Struct

from tidings.storage.prediction import ABSENT, TERMINAL, Prediction, Status
from tidings.streams.rules.event import Archive

MAX_OUTPUTS = 10_000
"""Files of one prediction that are kept."""
MAX_URL = 8192
"""Characters; what is longer and no `data:` URI is text."""

_beginning = re.compile(r"[a-z][a-z0-9+.\-]{0,31}://[^\s]|file:[^\s]", re.IGNORECASE)
_data = re.compile(r"data:([^,;]*)((?:;[^,;]*)*?)(;base64)?,", re.IGNORECASE)


class Asset(Struct, frozen=True, rename="camel"):
    """A file that is kept, as the event `archive` and the record show it."""

    url: str
    """Where it can be read from now on."""
    path: str
    """Within the object storage."""
    content_type: str
    bytes: int
    source: str
    """Where it came from; of a `data:` URI the beginning."""


def needs_archiving(record: Prediction, mode: Archive) -> bool:
    """Whether this record's files are still to be dealt with.

    Args:
        record: As it stands.
        mode: In force where the archiver runs. What waits for its files is dealt with in every mode.
    """
    if record.assets or record.assets_error is not None:
        return False
    if record.pending is not None:
        return True
    return (
        mode is not Archive.OFF
        and record.status.terminal
        and (bool(record.output) or _only_picture(record))
    )


class _Glance(Struct, gc=False, rename="camel"):
    pending: str | None = None
    output: Raw = ABSENT
    image_url: str | None = None
    assets: Raw = ABSENT
    assets_error: str | None = None


_glance = msgspec.json.Decoder(_Glance)


def may_need_archiving(status: str | None, value: bytes) -> bool:
    """Whether a change may be about a record with files to keep; what has none is most often seen at a glance."""
    if status == Status.PROCESSING:
        if b'"pending":' not in value:
            return False
    elif status not in TERMINAL:
        return False
    seen = _glance.decode(value)
    if seen.assets or seen.assets_error is not None:
        return False
    return seen.pending is not None or bool(seen.output) or seen.image_url is not None


def urls_in(record: Prediction, output: Raw) -> list[str]:
    """The URLs in the order of the output's text, each once: every string in it, however deep, that is one as a whole.

    Args:
        record: For its picture, where it has no output.
        output: The record's, or what its reference stands for.
    """
    if not output:
        return [record.image_url or ""] if _only_picture(record) else []
    data = bytes(output)
    if b":" not in data:
        return []
    try:
        value = msgspec.json.decode(data)
    except (msgspec.DecodeError, RecursionError):
        return []
    found: dict[str, None] = {}
    waiting: list[Any] = [value]
    while waiting:
        value = waiting.pop()
        if isinstance(value, str):
            if _is_url(value):
                found[value] = None
        elif isinstance(value, list):
            waiting.extend(reversed(value))
        elif isinstance(value, dict):
            waiting.extend(reversed(value.values()))
    return list(found)


def is_data(url: str) -> bool:
    """Whether the URL is its own content (RFC 2397)."""
    return url[:5].lower() == "data:"


def data_of(url: str) -> bytes:
    """The content of a `data:` URI. Raises ValueError where it has none."""
    match = _data.match(url)
    if match is None:
        raise ValueError("the data: URI has no comma")
    text = url[match.end() :]
    if match[3] is None:
        return unquote_to_bytes(text)
    try:
        plain = unquote_to_bytes(text) if "%" in text else text.encode("ascii")
        if b"\n" in plain or b" " in plain or b"\r" in plain:
            plain = b"".join(plain.split())
        plain = plain.rstrip(b"=")
        return base64.b64decode(plain + b"=" * (-len(plain) % 4), validate=True)
    except (binascii.Error, UnicodeEncodeError):
        raise ValueError("the data: URI is not base64") from None


def shown_source(url: str) -> str:
    """The URL as it may stand in the record: of a `data:` URI what comes before the content."""
    return url.partition(",")[0][:128] if is_data(url) else url


def _only_picture(record: Prediction) -> bool:
    url = record.image_url
    return not record.output and record.image_path is None and url is not None and _is_url(url)


def _is_url(text: str) -> bool:
    if is_data(text):
        return _data.match(text[:256]) is not None
    return (
        len(text) <= MAX_URL
        and _beginning.match(text) is not None
        and text.isprintable()
        and " " not in text
    )
