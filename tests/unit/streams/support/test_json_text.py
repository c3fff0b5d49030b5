"""How deep JSON is nested, and what is nearly JSON."""

import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidings.streams.support.json_text import cut_below, in_utf8, nested_over, repaired


def depth(value: Any) -> int:
    if isinstance(value, dict):
        return 1 + max(map(depth, value.values()), default=0)
    if isinstance(value, list):
        return 1 + max(map(depth, value), default=0)
    return 0


text = st.text('[]{}"\\a,:\n')
values = st.recursive(
    text | st.integers(), lambda inner: st.lists(inner) | st.dictionaries(text, inner), max_leaves=40
)  # fmt: skip


@given(values, st.integers(1, 8))
def test_it_agrees_with_parsing(value: Any, limit: int) -> None:
    """The answer is that of walking through the parsed value, brackets in strings left aside."""
    assert nested_over(json.dumps(value).encode(), limit) == (depth(value) > limit)


@pytest.mark.parametrize("opening", [b"[", b'{"a":'])
def test_very_deep_is_found(opening: bytes) -> None:
    """A million levels are found without the interpreter's stack."""
    closing = b"]" if opening == b"[" else b"}"
    assert nested_over(opening * 200_000 + b"1" + closing * 200_000, 200)
    assert not nested_over(opening * 200 + b"1" + closing * 200, 200)
    assert nested_over(opening * 201 + b"1" + closing * 201, 200)


def test_large_and_flat_is_not_deep() -> None:
    """Many small objects are no depth."""
    assert not nested_over(b"[" + b",".join([b'{"a":["[[[["]}'] * 100_000) + b"]", 3)


@pytest.mark.parametrize(
    "hostile",
    [
        b"[" * 201 + b'"' + b"a" * 100_000,
        b"[" * 201 + b'"' + b'\\"' * 100_000,
        b"[" * 201 + b'"' + b"\\" * 100_001,
        b'"[' * 100_000,
        b"[" * 100_000,
        (b"[" * 190 + b"]" * 190) * 500,
    ],
)
def test_no_bytes_take_long(hostile: bytes) -> None:
    """Strings that do not end, and brackets by the thousand, take a moment as everything does."""
    started = time.process_time()
    nested_over(hostile, 200)
    assert time.process_time() - started < 5


@given(values, st.integers(1, 8))
def test_what_is_too_deep_is_cut(value: Any, limit: int) -> None:
    """The rest is the same value with null in place of what lies deeper."""

    def cut(part: Any, left: int) -> Any:
        if isinstance(part, list):
            return [cut(item, left - 1) for item in part] if left else None
        if isinstance(part, dict):
            return {name: cut(item, left - 1) for name, item in part.items()} if left else None
        return part

    assert json.loads(cut_below(json.dumps(value).encode(), limit)) == cut(value, limit)


@given(values)
def test_json_is_not_touched(value: Any) -> None:
    """What a strict parser takes comes back byte for byte."""
    for text in (json.dumps(value), json.dumps(value, ensure_ascii=False, indent=1)):
        data = text.encode("utf-8", "replace")
        assert in_utf8(data) == data
        assert json.loads(repaired(data)) == json.loads(data)
        assert cut_below(data, 100) == data


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        (b'{"a":NaN,"b":[Infinity,-Infinity]}', {"a": None, "b": [None, None]}),
        (b'{"NaN":"NaN, -Infinity"}', {"NaN": "NaN, -Infinity"}),
        (
            rb'["\ud83d", "\ude00", "x\ud83dy", "\ud83d\ude00"]',
            ["\ufffd", "\ufffd", "x\ufffdy", "😀"],
        ),
        (rb'["\ud83d\ud83d\ude00", "\\ud83d", "\\\ud83d"]', ["\ufffd😀", "\\ud83d", "\\\ufffd"]),
        (b'["a\tb\nc\x00", "d"]\n', ["a\tb\nc\x00", "d"]),
        (b'{"half": "\\ud83', None),
    ],
)
def test_what_is_nearly_json_is_repaired(given: bytes, meant: Any) -> None:
    """Numbers that are none, half characters and bare control characters.

    What is no JSON stays none.
    """
    if meant is None:
        with pytest.raises(ValueError, match=r"."):
            json.loads(repaired(given))
    else:
        assert json.loads(repaired(given)) == meant


def test_marks_and_other_encodings() -> None:
    """A byte-order mark goes, UTF-16 is read by it, and what is not UTF-8 is replaced."""
    plain = '{"a":"é"}'
    assert in_utf8(b"\xef\xbb\xbf" + plain.encode()) == plain.encode()
    assert in_utf8(plain.encode("utf-16")) == plain.encode()
    assert in_utf8(b"\xfe\xff" + plain.encode("utf-16-be")) == plain.encode()
    assert in_utf8('{"a":"é"}'.encode("latin-1")) == '{"a":"\ufffd"}'.encode()
