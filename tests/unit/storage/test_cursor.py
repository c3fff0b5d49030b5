"""A cursor leads back to its place, and whatever else a client sends is refused before a store sees it."""

from base64 import urlsafe_b64encode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidings.storage.cursor import MAX_LENGTH, MAX_TIME, ListingPlace, decode_cursor, encode_cursor


@given(
    st.integers(0, MAX_TIME),
    st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=64),
)
def test_there_and_back(created_at: int, prediction_id: str) -> None:
    """Any id at any time."""
    place = ListingPlace(created_at, prediction_id)
    assert decode_cursor(encode_cursor(place)) == place


def test_the_longest_id_has_room() -> None:
    """An id of 256 bytes at the last moment makes a cursor that is taken."""
    place = ListingPlace(MAX_TIME, "ü" * 128)
    assert len(encode_cursor(place)) < MAX_LENGTH
    assert decode_cursor(encode_cursor(place)) == place


@pytest.mark.parametrize(
    "text",
    [
        b"99999999999999999999:z",
        b"9223372036854775808:z",
        b"-1:z",
        b"+1:z",
        b" 1:z",
        b"1_0:z",
        "٣:z".encode(),
        b"1",
        b":z",
        b"1:",
        b"1:\0",
        b"1:\xff",
        b"9" * 100_000 + b":z",
    ],
)
def test_what_is_none(text: bytes) -> None:
    """Huge, negative, oddly written times and broken ids are no cursors; the message is short."""
    with pytest.raises(ValueError, match="is no cursor; pass") as caught:
        decode_cursor(urlsafe_b64encode(text).decode().rstrip("="))
    assert len(str(caught.value)) < 200


@given(st.text(max_size=600))
def test_any_text_is_taken_or_refused(text: str) -> None:
    """Nothing that a client sends raises anything but ValueError, and what is taken every store can compare with."""
    try:
        place = decode_cursor(text)
    except ValueError:
        return
    assert 0 <= place.created_at <= MAX_TIME
    assert place.prediction_id
