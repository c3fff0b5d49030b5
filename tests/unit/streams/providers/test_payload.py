"""The first URL of an output."""

import json
from typing import Any

import pytest
from msgspec import Raw

from tidings.streams.providers.payload import first_url

URL = "https://replicate.delivery/xezq/tmp5v_v9dtm.png"


@pytest.mark.parametrize(
    "output",
    [
        URL,
        [URL, "https://e.com/second"],
        {
            "images": [{"content_type": "image/jpeg", "width": 10, "url": URL}],
            "x": "https://e.com/second",
        },
        [None, 5, "text", {"a": {"b": [[URL]]}}],
        [
            "see https://e.com/ here",
            "ftp://e.com/x",
            "https://",
            "http:// x",
            "data:image/png;base64,http",
            URL,
        ],
    ],
)
def test_the_first_url_of_any_shape(output: Any) -> None:
    """The first string that is a URL as a whole is found, in the order of the text."""
    assert first_url(Raw(json.dumps(output).encode())) == URL


@pytest.mark.parametrize("text", ['"https:\\/\\/e.com\\/a"', '"\\u0068ttps://e.com/a"'])
def test_escapes_are_read(text: str) -> None:
    """Escaped slashes and letters are the same URL."""
    assert first_url(Raw(text.encode())) == "https://e.com/a"


@pytest.mark.parametrize(
    "output",
    [
        b"",
        b"null",
        b"5",
        b'"a"',
        b"[]",
        b"{}",
        b'["Hel","lo ","https"]',
        b'"data:image/png;base64,AA=="',
        b'[1e999,"http://e.com"]',
    ],
)
def test_no_url(output: bytes) -> None:
    """An output without a URL has no picture."""
    assert first_url(Raw(output)) is None


def test_what_is_nested_too_deep_to_be_read_has_no_picture() -> None:
    """An output that no reader can take apart is kept, and not looked into; one that they can is."""
    for depth, found in ((100, "http://e.com"), (100_000, None)):
        nested = b"[" * depth + b'"http://e.com"' + b"]" * depth
        assert first_url(Raw(nested)) == found


def test_a_url_as_a_key_is_none() -> None:
    """Keys are not outputs."""
    assert first_url(Raw(b'{"https://e.com/a": 1}')) is None
