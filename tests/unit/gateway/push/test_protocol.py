"""The messages of `tidings.v1`: what is read, and what is written."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.frames import Frame, Opcode

from tidings.gateway.push import protocol
from tidings.gateway.push.protocol import Malformed, Subscribe
from tidings.streams.changes.codec import Change

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=8,
)
fields = st.sampled_from(
    ["ref", "predictions", "owner", "tag", "model", "all", "known", "limit", "snapshot", "token"]
)
kinds = st.sampled_from(["auth", "subscribe", "unsubscribe", "ping", "other"])


@given(st.dictionaries(fields, json_values, max_size=5), kinds)
def test_any_object_is_a_message_or_malformed(value: dict[str, object], kind: str) -> None:
    """No JSON object, however odd, raises anything but `Malformed`."""
    try:
        message = protocol.parse(json.dumps({**value, "type": kind}).encode())
    except Malformed:
        return
    if isinstance(message, Subscribe):
        assert protocol.keys(message) is not None


@given(st.binary(max_size=40))
def test_any_bytes_are_a_message_or_malformed(data: bytes) -> None:
    """Nor do any bytes."""
    with pytest.raises(Malformed):
        protocol.parse(data)


@pytest.mark.parametrize(
    "size", [0, 1, 94, 95, 96, 125, 126, 65_503, 65_504, 65_505, 65_536, 300_000]
)
def test_frames_are_those_of_the_library(size: int) -> None:
    """A change's frame is the library's frame of its message, at every size of the header."""
    change = Change("p", 1, b'"' + b"x" * size + b'"')
    message = protocol.change_message(change)
    expected = Frame(Opcode.TEXT, message).serialize(mask=False)
    assert protocol.change_frame(change) == expected == protocol.frame(message)
    assert json.loads(message)["prediction"] == "x" * size


def test_a_deletion_has_id_and_version() -> None:
    """A change without a value is a deletion; its id is escaped as JSON wants."""
    assert json.loads(protocol.change_message(Change('a"\\é', 7, b""))) == {
        "type": "deleted",
        "predictionId": 'a"\\é',
        "version": 7,
    }


def test_a_ref_is_left_out_where_none_was_given() -> None:
    """An answer carries the request's ref, and none where there was none."""
    assert json.loads(protocol.subscribed_message("x")) == {"type": "subscribed", "ref": "x"}
    assert json.loads(protocol.synced_message(None, more=True)) == {"type": "synced", "more": True}


def test_names_may_repeat() -> None:
    """A prediction that is named twice is watched once."""
    message = protocol.parse(b'{"type":"subscribe","predictions":["a","b","a"]}')
    assert isinstance(message, Subscribe)
    assert protocol.keys(message) == ("prediction:a", "prediction:b")
