"""Undoing compression in pieces: the same as at once, whatever the pieces, and never too much."""

import contextlib
import gzip
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidings.streams.archive.decompression import ALLOWANCE, PIECE, RATIO, Decompressor, Undecodable


def through(data: bytes, size: int) -> tuple[bytes, bool]:
    decompressor = Decompressor()
    out = [
        piece
        for at in range(0, len(data), size)
        for piece in decompressor.feed(data[at : at + size])
    ]
    return b"".join(out), decompressor.whole


@given(
    st.lists(st.binary(max_size=2000), min_size=1, max_size=4),
    st.integers(1, 700),
    st.sampled_from([b"", bytes(9)]),
)
def test_members_in_pieces(members: list[bytes], size: int, padding: bytes) -> None:
    """Several members of gzip, cut anywhere, with or without padding behind them, give what was in them."""
    packed = b"".join(gzip.compress(member) for member in members) + padding
    assert through(packed, size) == (b"".join(members), True)
    assert through(zlib.compress(members[0]), size) == (members[0], True)


@pytest.mark.parametrize("length", [PIECE - 1, PIECE, PIECE + 1, PIECE * 3, PIECE * 3 + 200])
def test_what_comes_out_at_a_pieces_edge(length: int) -> None:
    """Nothing is lost where a piece is full just as the input ends."""
    content = b"ab" * (length // 2) + b"c" * (length % 2)
    for size in (1, 7, 10_000):
        assert through(gzip.compress(content), size) == (content, True)


@given(st.binary(max_size=200))
def test_anything_else_is_refused(data: bytes) -> None:
    """Whatever the bytes, they are decompressed, or wait for more, or are refused with a reason."""
    with contextlib.suppress(Undecodable):
        through(data, 50)


def test_what_was_cut_off_is_not_whole() -> None:
    """An end that has not come is told."""
    assert through(gzip.compress(b"hello")[:-1], 100)[1] is False
    assert through(b"", 100)[1] is False


def test_a_bomb_ends_early() -> None:
    """What grows out of proportion is refused when it is over the allowance; a small file may be as dense as it likes."""
    small = bytes(ALLOWANCE)
    assert through(gzip.compress(small), 1000) == (small, True)
    bomb = gzip.compress(bytes(50_000_000))
    sizes: list[int] = []
    with pytest.raises(Undecodable, match=f"{RATIO} times"):
        sizes.extend(len(piece) for piece in Decompressor().feed(bomb))
    assert sum(sizes) <= max(ALLOWANCE, RATIO * len(bomb)) + PIECE
