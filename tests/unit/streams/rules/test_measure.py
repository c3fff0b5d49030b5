"""How much there is in a JSON text, against what a parser finds in it."""

import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidings.streams.rules import measure as measuring
from tidings.streams.rules.measure import measure, members
from tidings.streams.support import json_text
from tidings.streams.support.json_text import nested_over, outside_strings

texts = st.text(alphabet='ab"\\[]{},: \n\u00e9\U0001f600', max_size=12)
values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), texts),
    lambda inner: st.one_of(st.lists(inner, max_size=5), st.dictionaries(texts, inner, max_size=4)),
    max_leaves=25,
)


def found(value: Any, depth: int = 0) -> tuple[int, int]:
    """Values and levels, by walking through what a parser has built."""
    if isinstance(value, dict):
        value = list(value.values())
    if not isinstance(value, list):
        return 1, depth
    below = [found(one, depth + 1) for one in value]
    return 1 + sum(count for count, _ in below), max([depth + 1, *(deep for _, deep in below)])


@pytest.fixture(params=[1, 2, 3, 7, 64 * 1024])
def slices(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Portions of a few bytes, so that every boundary is met."""
    monkeypatch.setattr(json_text, "SLICE", request.param)


@pytest.mark.usefixtures("slices")
@pytest.mark.parametrize("indent", [None, 1])
@given(value=values)
def test_it_counts_what_a_parser_builds(indent: int | None, value: Any) -> None:
    """Never fewer values than there are, at most one more for each empty list or object, and the depth exactly."""
    text = json.dumps(value, indent=indent, ensure_ascii=False).encode()
    count, depth = found(value)
    measured = measure(text)
    assert measured.depth == depth
    assert count <= measured.values <= 2 * count
    assert nested_over(text, depth) is False
    assert depth == 0 or nested_over(text, depth - 1)
    if isinstance(value, list | dict):
        assert members(text) == len(value)


@pytest.mark.usefixtures("slices")
@given(value=values)
def test_nothing_of_a_string_is_left(value: Any) -> None:
    """What lies outside of strings is the text with each string cut out."""
    text = json.dumps([value, "a\\", 'b"]'], ensure_ascii=False).encode()
    outside = b"".join(outside_strings(text))
    assert b'"' not in outside
    assert b"\\" not in outside
    assert json_text._strings.sub(b"", text) == outside


@pytest.mark.parametrize(
    "text",
    [
        b"[" + b"0," * 5_000_000 + b"0]",
        b"[" + b"[]," * 3_000_000 + b"0]",
        b'["' + b"\\\\" * 5_000_000 + b'"]',
        b'["' + b'\\"' * 5_000_000 + b'"]',
        b"[" + b'"http",' * 1_400_000 + b"0]",
        b'"' * 10_000_000,
        b"\\" * 10_000_000,
        b"[" * 10_000_000,
        b'{"a":' * 2_000_000,
    ],
    ids=["zeros", "lists", "escapes", "marks", "words", "quotes", "backslashes", "open", "objects"],
)
def test_the_time_grows_with_the_bytes_alone(text: bytes) -> None:
    """Ten megabytes of anything are measured in seconds at most, on the slowest of machines: nothing is quadratic."""
    begun = time.process_time()
    measuring.measure(text)
    members(text)
    nested_over(text, 200)
    assert time.process_time() - begun < 20
