"""Frames that are read without the library: the same message, or left to it."""

import logging

from hypothesis import given
from hypothesis import strategies as st
from websockets.exceptions import ProtocolError
from websockets.frames import Frame, Opcode
from websockets.protocol import SERVER, Protocol

from tidings.gateway.websocket.frames import FEED_BYTES, whole_text


def as_the_library_reads(data: bytes) -> list[tuple[Opcode, bytes, bool]]:
    """The frames in these bytes; none if they are no whole frame, or are refused."""
    parser = Protocol(SERVER, max_size=1 << 20, logger=logging.getLogger("tests"))
    parser.receive_data(data)
    if isinstance(parser.parser_exc, ProtocolError):
        return []
    events = [event for event in parser.events_received() if isinstance(event, Frame)]
    return [(event.opcode, bytes(event.data), event.fin) for event in events]


@given(st.binary(max_size=300) | st.binary(min_size=FEED_BYTES - 12, max_size=FEED_BYTES + 4))
def test_a_small_text_is_read_as_the_library_reads_it(message: bytes) -> None:
    """Every length, in both of its encodings, up to the bytes that are read at once."""
    data = Frame(Opcode.TEXT, message).serialize(mask=True)
    found = whole_text(data)
    assert found == (message if len(data) <= FEED_BYTES else None)


@given(
    st.binary(max_size=200),
    st.lists(st.tuples(st.integers(0, 15), st.integers(0, 255)), max_size=2),
    st.integers(-3, 3),
)
def test_what_is_read_at_all_is_what_the_library_reads(
    message: bytes, changes: list[tuple[int, int]], more: int
) -> None:
    """Other bits, another length, a longer form of it, a cut or bytes behind: never another message than the library's."""
    data = bytearray(Frame(Opcode.TEXT, message).serialize(mask=True))
    for place, value in changes:
        if place < len(data):
            data[place] = value
    changed = bytes(data[:more]) if more < 0 else bytes(data) + b"x" * more
    found = whole_text(changed)
    if found is not None:
        assert as_the_library_reads(changed) == [(Opcode.TEXT, found, True)]


def test_other_frames_are_left_to_the_library() -> None:
    """Pings, fragments, binary, unmasked and longer forms of a short length."""
    text = Frame(Opcode.TEXT, b"hello").serialize(mask=True)
    assert whole_text(text) == b"hello"
    for other in (
        Frame(Opcode.PING, b"hello").serialize(mask=True),
        Frame(Opcode.BINARY, b"hello").serialize(mask=True),
        Frame(Opcode.CONT, b"hello").serialize(mask=True),
        Frame(Opcode.TEXT, b"hello", fin=False).serialize(mask=True),
        Frame(Opcode.TEXT, b"hello").serialize(mask=False),
        b"\xc1" + text[1:],
        b"\x81\xff" + bytes(131),
        b"\x81\xfe\x00\x05" + text[2:],
        text + text,
        text[:-1],
        b"",
    ):
        assert whole_text(other) is None
