"""The picture in an output: its first http(s) URL, whatever the output's shape. Pure."""

import re
from typing import Any

import msgspec
from msgspec import Raw

_url = re.compile(r"https?://[^\s/?#\\][^\s\x00-\x1f\x7f]*", re.IGNORECASE)
_scheme = re.compile(rb"https?:|\\u", re.IGNORECASE)


def first_url(output: Raw) -> str | None:
    """The first string in the output, in the order of its text, that is an http or https URL as a whole."""
    data = bytes(output)
    if _scheme.search(data) is None:
        return None
    return _first(msgspec.json.decode(data))


def _first(value: Any) -> str | None:
    # A stack, not recursion: an output may be nested deeper than the interpreter likes.
    waiting = [value]
    while waiting:
        value = waiting.pop()
        if isinstance(value, str):
            if _url.fullmatch(value):
                return value
        elif isinstance(value, list):
            waiting.extend(reversed(value))
        elif isinstance(value, dict):
            waiting.extend(reversed(value.values()))
    return None
