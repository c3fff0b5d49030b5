"""Server-Sent Events are taken apart wherever they are cut."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidings.streams.support.event_stream import MAX_EVENT, EventStreamReader, ServerEvent

STREAM = (
    ": hello\n\nevent: output\r\nid: 1\r\ndata: zwei\r\ndata: Zeilen\u2028\r\n\r\n"
    "data:für\n\nevent: output\rdata: \r\revent: nothing\n\nevent: done\ndata: {}\n\ndata: cut"
).encode()
EVENTS = [
    ServerEvent("output", "zwei\nZeilen\u2028"),
    ServerEvent("message", "für"),
    ServerEvent("output", ""),
    ServerEvent("done", "{}"),
]


@given(st.lists(st.integers(0, len(STREAM))))
def test_any_cut_gives_the_same_events(places: list[int]) -> None:
    """Lines, line breaks and characters may be cut in two; what has no end is no event."""
    reader, found = EventStreamReader(), list[ServerEvent]()
    cuts = [0, *sorted(places), len(STREAM)]
    for start, end in itertools.pairwise(cuts):
        found += reader.feed(STREAM[start:end])
    assert found == EVENTS


@pytest.mark.parametrize("piece", [b"data: " + b"x" * 100_000, b"data: " + b"x" * 100_000 + b"\n"])
def test_an_event_without_an_end_is_refused(piece: bytes) -> None:
    """A sender cannot fill the memory."""
    reader, count = EventStreamReader(), MAX_EVENT // len(piece) + 1
    with pytest.raises(ValueError, match="an event of over"):
        list(map(reader.feed, [piece] * count))
