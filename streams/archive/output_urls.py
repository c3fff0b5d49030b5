"""Finds the URLs in a prediction's output, and tells which predictions have files to store.

Pure.
"""

import base64
import binascii
import re
from collections.abc import Iterator
from urllib.parse import unquote_to_bytes

import msgspec
from msgspec import Raw, Struct

from tidings.storage.prediction import ABSENT, TERMINAL, Prediction, Status
from tidings.streams.rules.event import Archive

MAX_OUTPUTS = 10_000
"""Files of one prediction that are stored at most."""
MAX_URL = 8192
"""Characters of a URL; a longer string that is no `data:` URI is text."""

SLICE = 16 * 1024
"""Bytes of an output that are scanned at once: a few milliseconds, whatever they are."""
_LONGEST_ESCAPED = 6 * MAX_URL
"""Bytes of a URL as a JSON string: each character may be written as an escape."""
_LONGEST_BEGINNING = 64
_BACKSLASH = 0x5C

_string_of_a_url = re.compile(
    rb'"(?=[a-z][a-z0-9+.\-]{0,31}:\\?/\\?/|file:|data:)',  # some programs escape the slashes
    re.IGNORECASE,
)
_names_a_member = re.compile(rb'"[ \t\r\n]*+:')
_beginning = re.compile(r"[a-z][a-z0-9+.\-]{0,31}://[^\s]|file:[^\s]", re.IGNORECASE)
_data = re.compile(r"data:([^,;]*)((?:;[^,;]*)*?)(;base64)?,", re.IGNORECASE)


class Asset(Struct, frozen=True, rename="camel"):
    """A file that is kept, as the event `archive` and the record show it."""

    url: str
    """Its lasting address."""
    path: str
    """Within the object storage."""
    content_type: str
    bytes: int
    source: str
    """The URL it was downloaded from; of a `data:` URI the beginning."""


def needs_archiving(record: Prediction, mode: Archive) -> bool:
    """Whether this record has files that are not stored yet.

    Args:
        record: As it stands.
        mode: In force when the archiver runs. What waits for its files is dealt with in every
            mode.
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
    """Whether a change may be about a record with files to keep.

    What has none is most often seen at a glance.
    """
    if status == Status.PROCESSING:
        if b'"pending":' not in value:
            return False
    elif status not in TERMINAL:
        return False
    seen = _glance.decode(value)
    if seen.assets or seen.assets_error is not None:
        return False
    return seen.pending is not None or bool(seen.output) or seen.image_url is not None


def urls_in(record: Prediction, output: Raw) -> Iterator[list[str]]:
    """The URLs of an output.

    Every string in it, however deep, that is one as a whole, in the order of its text.

    They come a portion for each `SLICE` of the text, so that the caller can let others run in
    between: an output of millions of values costs a scan of its bytes, and no value of it is built
    but the URLs. One that is there several times may come several times.

    Args:
        record: For its picture, if it has no output.
        output: The record's, or what its reference stands for.
    """
    if not output:
        if _only_picture(record):
            yield [record.image_url or ""]
        return
    data = bytes(output)
    at = 0
    while at < len(data):
        portion: list[str] = []
        for found in _string_of_a_url.finditer(data, at, at + SLICE + _LONGEST_BEGINNING):
            if found.start() >= at + SLICE:
                break  # the next slice finds it
            if (url := _url_at(data, found.start())) is not None:
                portion.append(url)
        yield portion
        at += SLICE


def _url_at(data: bytes, start: int) -> str | None:
    """The URL in the JSON string whose quotation mark is there.

    None: it is none, or the name of a member.
    """
    if start and data[start - 1] == _BACKSLASH:
        return None  # a mark within a string
    end = data.find(b'"', start + 1)
    if end < 0 or data[end - 1] == _BACKSLASH:
        return None  # no URL holds a quotation mark
    long = end - start > _LONGEST_ESCAPED and data[start + 1 : start + 6].lower() != b"data:"
    if long or _names_a_member.match(data, end) is not None:
        return None
    try:
        text = msgspec.json.decode(data[start : end + 1], type=str)
    except msgspec.DecodeError:
        return None
    return text if _is_url(text) else None


def is_data(url: str) -> bool:
    """Whether the URL is its own content (RFC 2397)."""
    return url[:5].lower() == "data:"


def data_of(url: str) -> bytes:
    """The content of a `data:` URI. Raises ValueError if it has none."""
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
