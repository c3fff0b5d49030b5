"""Which files a finished prediction has."""

import base64
import json
import tracemalloc
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from tidings.storage.prediction import ABSENT, Prediction, Status, encode
from tidings.streams.archive.output_urls import (
    SLICE,
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
    return scanned(bytes(record.output), record)


def scanned(output: bytes, record: Prediction | None = None) -> list[str]:
    portions = urls_in(record or prediction(), Raw(output))
    return list(dict.fromkeys(url for portion in portions for url in portion))


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
    ({"https://x/key": "https://x/1"}, ["https://x/1"]),
    ('he said "https://x/1" and left', []),
    (["\\", "https://x/1", "a\\"], ["https://x/1"]),
    ("https://x/\u00e9\u6771", ["https://x/\u00e9\u6771"]),
    ("https://x/" + "a" * 9000, []),
    ("data:," + "a" * 9000, ["data:," + "a" * 9000]),
]


@pytest.mark.parametrize(("output", "expected"), SHAPES)
def test_every_url_of_an_output_is_found_once(output: Any, expected: list[str]) -> None:
    """Strings, lists, objects and what is nested.

    Each string that is a URL as a whole, in order, once.
    """
    assert found(output) == expected


def test_what_other_programs_write() -> None:
    """Escaped slashes, white space anywhere, and schemes in capital letters are understood."""
    assert scanned(rb'[ "https:\/\/x\/1" ,\n"HTTPS://x/2"\t]') == ["https://x/1", "HTTPS://x/2"]
    assert scanned(b'{"https://x/key"\n : "gs://x/1" }') == ["gs://x/1"]


def walked(value: Any) -> Iterator[str]:
    """The strings of a document, by building it."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for item in value:
            yield from walked(item)
    elif isinstance(value, dict):
        for item in value.values():
            yield from walked(item)


_texts = st.text() | st.builds(
    "{}{}".format,
    st.sampled_from(["http://", "https://x/", "data:,", "data:a;base64,", "file:", "x", "\\", '"']),
    st.text(max_size=20),
)


@given(
    st.recursive(
        _texts | st.integers() | st.none(),
        lambda inner: st.lists(inner) | st.dictionaries(_texts, inner),
        max_leaves=30,
    ),
    st.booleans(),
)
def test_a_scan_finds_what_building_it_would(value: Any, ascii_only: bool) -> None:
    """Any document: the URLs found without building it are those of its strings, in their order."""
    text = json.dumps(value, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")
    by_itself = [
        one for one in dict.fromkeys(walked(value)) if scanned(json.dumps([one]).encode()) == [one]
    ]
    assert scanned(text) == by_itself


@pytest.mark.parametrize("shift", range(0, 70, 7))
def test_urls_at_the_edge_of_a_slice(shift: int) -> None:
    """One that begins, ends or lies around the end of a slice is found once."""
    urls = [f"https://x/{number}" for number in range(3)]
    output = b"[" + b" " * (SLICE - shift) + json.dumps(urls).encode()[1:]
    assert scanned(output) == urls


HUGE = {
    "one text": b'"' + b"a" * 2_000_000 + b'"',
    "zeros": b"[" + b"0," * 1_000_000 + b"0]",
    "lists": b"[" + b"[]," * 700_000 + b'"a:b"]',
    "the word": b"[" + b'"http",' * 300_000 + b"0]",
    "marks": b'"' + rb"\"" * 1_000_000 + b'"',
    "white space": b"[" + b'"https://x/"' + b" " * 2_000_000 + b"]",
    "beginnings": b'"' + b"a+b" * 700_000 + b'"',
}


@pytest.mark.parametrize("kind", HUGE)
def test_a_huge_output_is_scanned_in_small_steps(kind: str) -> None:
    """Whatever its values are, a step is done in a fraction of the whole, and builds nothing."""
    output = HUGE[kind]
    assert len(scanned(output)) == (kind == "white space")
    tracemalloc.start()
    steps = sum(1 for _ in urls_in(prediction(), Raw(output)))
    assert steps == -(-len(output) // SLICE)
    assert tracemalloc.get_traced_memory()[1] < 1_000_000 + len(output)
    tracemalloc.stop()


def test_without_an_output_the_picture_counts() -> None:
    """A report that names an `imageUrl` alone has that file.

    One that says where it is stored has none to fetch.
    """
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
