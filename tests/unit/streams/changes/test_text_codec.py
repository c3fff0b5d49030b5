"""Pieces of growing texts on their topic."""

import zlib

from tests.support.streams.events import event, record
from tidings.storage.prediction import encode
from tidings.streams.changes.codec import announcement, parse
from tidings.streams.changes.text_codec import (
    parse_piece,
    piece,
    refusals_of,
    refused,
    text_crc,
    text_length,
)
from tidings.streams.log.protocol import TEXT, NewRecord, Position, StoredRecord
from tidings.streams.rules.reducer import Refusal


def stored(new: NewRecord) -> StoredRecord:
    return StoredRecord(TEXT, new.partition or 0, 7, 0, new.key, new.value, new.headers)


def test_a_piece_says_what_it_stands_on() -> None:
    """What is announced is read back: the written version, length and checksum before it, and who may see it."""
    stands = record(
        event(type="append", text="The ", offset=0, owner="o", model="m", tags=("a", "b"))
    )
    new = piece(
        stands,
        1,
        b"quick",
        before=text_length(stands),
        crc=text_crc(stands),
        position=Position(3, 9),
    )
    assert (new.key, new.partition) == (b"p1", 3)
    found = parse_piece(stored(new))
    assert found is not None
    assert (found.prediction_id, found.base, found.before, found.text) == ("p1", 1, 4, b"quick")
    assert (found.crc, found.crc_after) == (zlib.crc32(b"The "), zlib.crc32(b"The quick"))
    assert (found.after, found.position, found.epoch) == (9, Position(3, 9), None)
    assert (found.owner, found.model, found.tags, found.refusal) == ("o", "m", ("a", "b"), None)


def test_a_refused_piece_is_told_with_its_code() -> None:
    """It is empty, names the event, and the length that stood."""
    stands = record(event(type="append", text="The ", offset=0))
    [new] = refused(stands, 1, [Refusal(Position(0, 5), "text-mismatch", 4)])
    found = parse_piece(stored(new))
    assert found is not None
    assert (found.text, found.refusal, found.position) == (b"", "text-mismatch", Position(0, 5))
    assert found.before == 4


def test_a_change_says_that_nothing_but_the_text_has_grown() -> None:
    """Its header names the former written version, and refusals stand beside it."""
    stands = record(event(type="append", text="The ", offset=0))
    new = announcement(
        stands,
        encode(stands),
        position=Position(0, 6),
        grown_from=4,
        refusals=[Refusal(Position(0, 5), "text-gap", 4)],
    )
    change = parse(stored(new))
    assert change is not None
    assert (change.grown_from, change.position) == (4, Position(0, 6))
    assert refusals_of(stored(new)) == {Position(0, 5): "text-gap"}


def test_what_is_no_piece_is_passed_over() -> None:
    """Without a key, without its headers, or with senseless ones there is none."""
    assert parse_piece(StoredRecord(TEXT, 0, 0, 0, None, b"x", ())) is None
    assert parse_piece(StoredRecord(TEXT, 0, 0, 0, b"p1", b"x", (("b", b"1"),))) is None
    assert parse_piece(StoredRecord(TEXT, 0, 0, 0, b"p1", b"x", (("b", b"one"),))) is None
