"""JSON as it is written in the world: how deep it is nested, and how to read what is nearly JSON.

Pure.

Nothing here parses: the bytes are looked at once, by expressions in linear time.
"""

import codecs
import re
from collections.abc import Iterator
from itertools import accumulate

_BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)

# Possessive, and a string that does not end is one too: whatever the bytes, each is looked at once.
_STRING = rb'"(?:[^"\\]++|\\.)*+(?:"|\\?\Z)'
_strings = re.compile(_STRING, re.DOTALL)
_strings_and_brackets = re.compile(_STRING + rb"|[\[\]{}]", re.DOTALL)
_strings_and_words = re.compile(_STRING + rb"|-?(?:NaN|Infinity)", re.DOTALL)
_escapes_and_controls = re.compile(
    rb"\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}"  # a pair, which is a character
    rb"|(\\u[dD][89a-fA-F][0-9a-fA-F]{2})"
    rb"|\\."
    rb"|([\x00-\x1f])",
    re.DOTALL,
)
_unusual = re.compile(rb"\\u[dD]|[\x00-\x1f]")
_not_brackets = bytes(set(range(256)) - set(b"[]{}"))
_as_steps = bytes.maketrans(b"[]{}", b"\x01\xff\x01\xff")

SLICE = 64 * 1024
"""Bytes that are looked at in one go: about a millisecond, whatever they are."""


def outside_strings(value: bytes) -> Iterator[bytes]:
    """What of the JSON lies outside of strings, with their quotation marks gone too, a portion for each `SLICE`.

    Portions, so that a thread that reads a large body lets others run in between: one expression over all of it would
    keep them waiting for its whole length.
    """
    inside = False
    at = 0
    while at < len(value):
        end = at + SLICE
        part = value[at:end]
        if (len(part) - len(part.rstrip(b"\\"))) % 2:  # an escape is not cut in two
            end += 1
            part = value[at:end]
        at = end
        pieces = part.replace(b"\\\\", b"").replace(b'\\"', b"").split(b'"')
        yield b"".join(pieces[inside::2])
        if len(pieces) % 2 == 0:
            inside = not inside


def nested_over(value: bytes, limit: int) -> bool:
    """Whether the JSON in these bytes is nested over `limit` levels.

    Brackets in strings do not count.

    If brackets do not match, which no parser accepts, the answer may be either. The time it
    takes grows with the number of bytes alone.
    """
    if value.count(b"[") + value.count(b"{") <= limit:
        return False
    depth = 0
    for text in outside_strings(value):
        steps = text.translate(_as_steps, _not_brackets)
        if steps:
            depths = list(accumulate(memoryview(steps).cast("b"), initial=depth))
            if max(depths) > limit:
                return True
            depth = depths[-1]
    return False


def cut_below(value: bytes, limit: int) -> bytes:
    """The JSON with `null` in place of every array and object that lies below `limit` levels."""
    kept: list[bytes] = []
    depth = copied = 0
    for match in _strings_and_brackets.finditer(value):
        bracket = match[0]
        if bracket in (b"[", b"{"):
            depth += 1
            if depth == limit + 1:
                kept.append(value[copied : match.start()])
        elif bracket in (b"]", b"}"):
            if depth == limit + 1:
                kept.append(b"null")
                copied = match.end()
            depth -= 1
    # If brackets do not match, what is left is no JSON whatever is returned.
    return b"".join((*kept, value[copied:])) if depth <= limit else b"".join(kept)


def in_utf8(value: bytes) -> bytes:
    """The text in UTF-8, without a byte-order mark; U+FFFD stands for what is not UTF-8."""
    for mark, encoding in _BYTE_ORDER_MARKS:
        if value.startswith(mark):
            return value.decode(encoding, "replace").encode("utf-8", "replace")
    if value.isascii():
        return value
    try:
        value.decode()
    except UnicodeDecodeError:
        return value.decode("utf-8", "replace").encode()
    return value


def repaired(value: bytes) -> bytes:
    """What other languages take for JSON, as JSON: for bytes that a parser has refused.

    `NaN` and infinities become `null`, as JavaScript writes them; half of a surrogate pair becomes
    U+FFFD; control characters in strings are escaped.
    """
    if b"NaN" in value or b"Infinity" in value:
        value = _strings_and_words.sub(_as_null, value)
    return _strings.sub(_as_string, value) if _unusual.search(value) else value


def has_half_characters(value: bytes) -> bool:
    """Whether the JSON has half of a surrogate pair somewhere, which `repaired` would replace."""
    if b"\\u" not in value:
        return False
    return repaired(value).count(b"\\ufffd") > value.count(b"\\ufffd")


def _as_null(match: re.Match[bytes]) -> bytes:
    return match[0] if match[0][:1] == b'"' else b"null"


def _as_string(match: re.Match[bytes]) -> bytes:
    string = match[0]
    return _escapes_and_controls.sub(_as_escape, string) if _unusual.search(string) else string


def _as_escape(match: re.Match[bytes]) -> bytes:
    if match[1]:
        return b"\\ufffd"
    return b"\\u%04x" % match[2][0] if match[2] else match[0]
