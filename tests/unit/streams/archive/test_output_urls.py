"""Which files a finished prediction has."""

import base64
import json
from typing import Any

import pytest
from msgspec import Raw

from tidings.storage.prediction import ABSENT, Prediction, Status, encode
from tidings.streams.archive.output_urls import (
    data_of,
    may_need_archiving,
    needs_archiving,
    shown_source,
    urls_in,
)
from tidings.streams.rules.event import Archive


def prediction(status: str = "succeeded", output: Any = None, **fields: Any) -> Prediction:
    raw = ABSENT if output is None else Raw(json.dumps(output).encode())
    return Prediction(
        prediction_id="p1",
        status=Status(status),
        version=3,
        created_at=1,
        updated_at=2,
        output=raw,
        **fields,
    )


def found(output: Any, **fields: Any) -> list[str]:
    record = prediction(output=output, **fields)
    return urls_in(record, record.output)


PICTURE = "data:image/png;base64,iVBORw0KGgo="

SHAPES = [
    ("https://x.example/a.png", ["https://x.example/a.png"]),
    (["https://x/1", "https://x/2", "https://x/1"], ["https://x/1", "https://x/2"]),
    (
        {"image": "https://x/1", "seed": 7, "more": {"video": ["http://x/2"]}},
        ["https://x/1", "http://x/2"],
    ),
    ([[[{"a": [{"b": PICTURE}]}]]], [PICTURE]),
    ("file:///etc/passwd", ["file:///etc/passwd"]),
    (["file:/etc/passwd", "gs://bucket/a"], ["file:/etc/passwd", "gs://bucket/a"]),
    ("The answer is at https://x/ or elsewhere", []),
    ("see: this", []),
    (["tok", "ens"], []),
    (42, []),
    ({"https://x/key": 1}, []),
]


@pytest.mark.parametrize(("output", "expected"), SHAPES)
def test_every_url_of_an_output_is_found_once(output: Any, expected: list[str]) -> None:
    """Strings, lists, objects and what is nested: each string that is a URL as a whole, in order, once."""
    assert found(output) == expected


def test_without_an_output_the_picture_counts() -> None:
    """A report that names an `imageUrl` alone has that file; one that says where it is stored has none to fetch."""
    assert found(None, image_url="https://x/1") == ["https://x/1"]
    assert found(None, image_url="https://x/1", image_path="bucket/1") == []
    assert found(None, image_url="/assets/0/0") == []


@pytest.mark.parametrize(
    ("record", "mode", "expected"),
    [
        (prediction(output="https://x/1"), "after", True),
        (prediction(output="https://x/1"), "off", False),
        (prediction("failed", output="https://x/1"), "after", True),
        (prediction("processing", output="https://x/1"), "after", False),
        (prediction("processing", output="https://x/1", pending=Status.SUCCEEDED), "off", True),
        (prediction("processing", pending=Status.SUCCEEDED), "before", True),
        (prediction(), "after", False),
        (prediction(image_url="https://x/1"), "after", True),
        (prediction(output="https://x/1", assets=Raw(b"[]")), "after", False),
        (prediction(output="https://x/1", assets_error="gone"), "after", False),
    ],
)
def test_what_is_dealt_with_is_left(record: Prediction, mode: str, expected: bool) -> None:
    """Finished records and pending ones are wanted, until they have files or a reason why not."""
    assert needs_archiving(record, Archive(mode)) is expected
    glance = may_need_archiving(record.status, encode(record))
    assert glance or not expected


def test_words_in_a_payload_do_not_mislead() -> None:
    """A record is judged by its own fields, not by names that its payload or output happens to use."""
    record = prediction(
        output={"assets": {"video": "https://x/1"}}, payload=Raw(b'{"assetsError":"x","pending":1}')
    )
    assert may_need_archiving(record.status, encode(record))
    assert needs_archiving(record, Archive.AFTER)


def test_data_uris_are_their_own_content() -> None:
    """Base64 with and without padding or escapes, and plain text; what is neither is refused."""
    content = b"\x89PNG\r\n\x1a\n\xff"
    text = base64.b64encode(content).decode()
    assert data_of(f"data:image/png;base64,{text}") == content
    assert data_of(f"data:;base64,{text.rstrip('=')}") == content
    assert data_of(f"DATA:image/png;charset=x;BASE64,{text.replace('+', '%2B')}") == content
    assert data_of("data:,a%20b") == b"a b"
    assert shown_source(f"data:image/png;base64,{text}") == "data:image/png;base64"
    with pytest.raises(ValueError, match="base64"):
        data_of("data:image/png;base64,ü")
