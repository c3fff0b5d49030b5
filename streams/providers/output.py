"""The picture in an output: its first http(s) URL, whatever the output's shape. Pure."""

import re
from typing import Any

import msgspec
from msgspec import Raw

_plain = re.compile(rb'"(https?://[$-.0->@-\[\]-~][!#-\[\]-~]*)"')
"""The ordinary output: one URL in ASCII, without escapes."""
_beginning = re.compile(r"https?://[^\s/?#\\]", re.IGNORECASE)


def first_url(output: Raw) -> str | None:
    """The first string in the output, in the order of its text, that is an http or https URL as a whole."""
    data = bytes(output)
    if (simple := _plain.fullmatch(data)) is not None:
        return simple[1].decode()
    if b"http" not in data and b"\\u" not in data and b"http" not in data.lower():
        return None
    try:
        return _first(msgspec.json.decode(data))
    except (
        msgspec.DecodeError,
        RecursionError,
    ):  # numbers no float holds, endless nesting: kept, but not looked into
        return None


def _if_url(text: str) -> str | None:
    return text if _beginning.match(text) and text.isprintable() and " " not in text else None


def _first(value: Any) -> str | None:
    # A stack, not recursion: an output may be nested deeper than the interpreter likes.
    waiting = [value]
    while waiting:
        value = waiting.pop()
        if isinstance(value, str):
            if url := _if_url(value):
                return url
        elif isinstance(value, list):
            waiting.extend(reversed(value))
        elif isinstance(value, dict):
            waiting.extend(reversed(value.values()))
    return None
