"""How deep JSON is nested."""

import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidings.streams.processing.decoder import nested_over


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
