"""Reading dead letters back, and making the record that is tried again."""

import pytest

from tidings.streams.log.headers import ATTEMPT
from tidings.streams.log.memory import MemoryLog
from tidings.streams.log.protocol import DEAD_LETTERS, EVENTS, NewRecord, Position, StoredRecord
from tidings.streams.processing import dead_letters
from tidings.streams.processing.dead_letters import (
    EVIDENCE,
    dead_letter,
    parse_dead_letter,
    read_dead_letters,
    redrive_batches,
    redriven,
    select_for_redrive,
    shortened,
)

HEADERS = [("tidings-provider", b"replicate"), ("x", b"1"), ("x", b"2")]


def stored(new: NewRecord, offset: int = 0) -> StoredRecord:
    return StoredRecord(
        DEAD_LETTERS, new.partition or 0, offset, 77, new.key, new.value, new.headers
    )


def poison(offset: int, value: bytes = b"\xff") -> StoredRecord:
    return StoredRecord(EVENTS, 3, offset, 55, b"p1", value, HEADERS)


def test_a_letter_says_everything() -> None:
    """What is read back is the record as it came, and why it lies there."""
    letter = parse_dead_letter(stored(dead_letter(poison(9), "not-json", "no JSON")))
    assert letter is not None
    assert (letter.position, letter.code, letter.message, letter.attempt) == (
        Position(3, 9),
        "not-json",
        "no JSON",
        1,
    )
    assert (letter.topic, letter.timestamp, letter.at) == (EVENTS, 55, 77)
    assert (letter.key, letter.value, list(letter.headers)) == (b"p1", b"\xff", HEADERS)


def test_a_redriven_record_is_the_one_that_came() -> None:
    """Key, value, headers and partition are as they were; only the count of attempts is carried on."""
    first = parse_dead_letter(stored(dead_letter(poison(9), "not-json", "no JSON")))
    assert first is not None
    again = redriven(first)
    assert (again.key, again.value, again.partition) == (b"p1", b"\xff", 3)
    assert list(again.headers) == [*HEADERS, (ATTEMPT, b"1")]
    back = StoredRecord(EVENTS, 3, 12, 60, again.key, again.value, again.headers)
    second = parse_dead_letter(stored(dead_letter(back, "not-json", "still no JSON")))
    assert second is not None
    assert (second.attempt, second.position, list(second.headers)) == (2, Position(3, 12), HEADERS)


def test_half_a_record_is_not_redriven() -> None:
    """A record of which only the beginning was kept cannot be tried again."""
    letter = parse_dead_letter(
        stored(shortened(dead_letter(poison(9, b"x" * (EVIDENCE + 1)), "too-large", "too large")))
    )
    assert letter is not None
    with pytest.raises(ValueError, match=r"3:9 only 65536 of 65537 bytes"):
        redriven(letter)


def test_a_letter_with_too_many_headers_keeps_the_reason() -> None:
    """Where headers or the key are what is large, they go, and the letter still says why and where from."""
    huge = StoredRecord(
        EVENTS,
        3,
        9,
        55,
        b"k" * (EVIDENCE + 1),
        b"value",
        [("x", b"y" * (EVIDENCE + 1)), ("z", None)],  # type: ignore[list-item]
    )
    cut = shortened(dead_letter(huge, "bad-id", "no id"))
    assert (
        sum(len(name) + len(value) for name, value in cut.headers) + len(cut.key or b"")
        < 2 * EVIDENCE
    )
    letter = parse_dead_letter(stored(cut))
    assert letter is not None
    assert (letter.position, letter.code, letter.value, letter.truncated) == (
        Position(3, 9),
        "bad-id",
        b"value",
        5,
    )


def test_a_count_that_is_none_is_not_believed() -> None:
    """What stands in the header of the attempts may be anybody's; the letter is written all the same."""
    for nonsense in (b"9" * 5000, b"-1", b"x", b"", None):
        odd = StoredRecord(EVENTS, 3, 9, 55, b"p1", b"x", [(ATTEMPT, nonsense)])  # type: ignore[list-item]
        assert (ATTEMPT, b"1") in dead_letter(odd, "not-json", "no JSON").headers


def test_foreign_records_are_passed_over() -> None:
    """A record without our headers, or with nonsense in them, is no letter."""
    assert parse_dead_letter(poison(1)) is None
    odd = dead_letter(poison(1), "c", "m")
    broken = [(name, b"x" if name == "tidings-offset" else value) for name, value in odd.headers]
    assert parse_dead_letter(StoredRecord(DEAD_LETTERS, 0, 0, 0, None, b"", broken)) is None


async def test_each_record_is_listed_once() -> None:
    """A record that a crash put there twice is listed once; an empty topic lists nothing."""
    log = MemoryLog(partitions=4)
    assert [letter async for letter in read_dead_letters(log)] == []
    twice = dead_letter(poison(9), "not-json", "no JSON")
    await log.append(DEAD_LETTERS, [twice, twice, dead_letter(poison(10), "bad-id", "no id")])
    assert [str(letter.position) async for letter in read_dead_letters(log)] == ["3:9", "3:10"]
    assert [
        letter.code async for letter in read_dead_letters(log, lambda one: one.code == "bad-id")
    ] == ["bad-id"]


async def test_the_newest_attempt_of_a_record_is_chosen() -> None:
    """Of letters that hold the same record the one with the most attempts stands for all, or each where all are wanted."""
    log = MemoryLog(partitions=4)
    first, other = (
        dead_letter(poison(9), "not-json", "no JSON"),
        dead_letter(poison(10, b"\xfe"), "not-json", "no JSON"),
    )
    tried = StoredRecord(EVENTS, 3, 12, 60, b"p1", b"\xff", [*HEADERS, (ATTEMPT, b"1")])
    cut = shortened(dead_letter(poison(13, b"x" * (EVIDENCE + 1)), "too-large", "too large"))
    await log.append(
        DEAD_LETTERS, [first, other, dead_letter(tried, "not-json", "still no JSON"), cut]
    )
    selection = await select_for_redrive(log, lambda _: True)
    assert selection.chosen == {(EVENTS, Position(3, 10)), (EVENTS, Position(3, 12))}
    assert selection.left_out == 2
    assert selection.cut == {
        (EVENTS, Position(3, 13)): "of 3:13 only 65536 of 65537 bytes were kept"
    }
    ((one, two),) = [records async for records in redrive_batches(log, selection)]
    assert [(new.value, dict(new.headers)[ATTEMPT]) for new in (one, two)] == [
        (b"\xfe", b"1"),
        (b"\xff", b"2"),
    ]
    everything = await select_for_redrive(log, lambda one: one.code == "not-json", repeats=True)
    assert ({position.offset for _, position in everything.chosen}, everything.left_out) == (
        {9, 10, 12},
        0,
    )


async def test_letters_are_appended_again_in_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    """A slice has so many records and so many bytes at most; what comes to lie there meanwhile is not tried again."""
    monkeypatch.setattr(dead_letters, "AT_ONCE_BYTES", 1000)
    log = MemoryLog(partitions=4)
    sizes = [10] * 7 + [400, 400, 400] + [2000] + [10]
    await log.append(
        DEAD_LETTERS,
        [dead_letter(poison(n, b"%d" % n + b"x" * size), "c", "m") for n, size in enumerate(sizes)],
    )
    selection = await select_for_redrive(log, lambda _: True)
    slices = []
    async for records in redrive_batches(log, selection, 5):
        slices.append([int((new.value or b"").rstrip(b"x")) for new in records])
        await log.append(
            DEAD_LETTERS, [dead_letter(poison(100 + len(slices)), "c", "came meanwhile")]
        )
    assert slices == [[0, 1, 2, 3, 4], [5, 6, 7, 8], [9], [10], [11]]
