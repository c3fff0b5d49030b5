"""Texts as they grow: whatever is repeated, cut otherwise, or comes in another order, no byte is lost or doubled."""

import itertools
import zlib
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import Raw

from tests.support.streams.events import event, judge, record, run
from tidings.storage.prediction import Prediction, Producer, Standing, Status, Tombstone, encode
from tidings.streams.log.protocol import Position
from tidings.streams.rules import text as text_rules
from tidings.streams.rules.decision import Applied, Duplicate, Rejected, Stale
from tidings.streams.rules.event import Event
from tidings.streams.rules.reducer import Reduction, StorePolicy, reduce
from tidings.streams.rules.text import PART, PRODUCERS, TEXT_MAX, Text, grow, text_of

POLICY = StorePolicy(log="log-1")


def piece(text: str, offset: int | None = None, **fields: Any) -> Event:
    return event(type="append", text=text, offset=offset, **fields)


def folded(*events: Event) -> Reduction:
    return reduce(None, [(one, Position(0, n)) for n, one in enumerate(events)], POLICY)


def said(stands: Standing | None, contents: Any = None) -> str:
    """The whole text of a record."""
    assert isinstance(stands, Prediction)
    parts = b"".join([(contents or {})[part.hash] for part in stands.text_parts])
    return (parts + text_of(stands).tail).decode()


texts = st.text(min_size=1, max_size=40)


def cut(text: str, places: list[int]) -> list[Event]:
    """The text in pieces, each with its offset."""
    at = sorted({0, len(text), *[place % (len(text) + 1) for place in places]})
    return [piece(text[a:b], len(text[:a].encode())) for a, b in itertools.pairwise(at)]


cuttings = st.lists(st.integers(0, 40), max_size=6)


@given(texts, cuttings)
def test_any_cutting_gives_the_same_text(text: str, places: list[int]) -> None:
    """However a text is cut into pieces, it stands whole, with its length, and nothing is missing."""
    stands = record(*cut(text, places))
    assert said(stands) == text
    assert stands.text_length == len(text.encode())
    assert stands.text_missing is None
    assert stands.status is Status.PROCESSING


@given(st.data(), texts, st.lists(cuttings, min_size=1, max_size=4))
def test_repeats_and_overlaps_lose_and_double_nothing(
    data: st.DataObject, text: str, cuttings: list[list[int]]
) -> None:
    """Pieces of several cuttings, repeated and in any order: what stands is a beginning, and in order it is the whole."""
    pieces = [one for places in cuttings for one in cut(text, places)]
    order = data.draw(st.permutations(pieces))
    repeats = data.draw(st.lists(st.sampled_from(pieces), max_size=6))
    stands = record(*order, *repeats)
    assert text.startswith(said(stands))
    # A writer that goes back mends whatever was missing.
    again = record(*order, *repeats, *cut(text, cuttings[0]))
    assert said(again) == text
    assert again.text_missing is None


@given(st.data(), texts, cuttings)
def test_a_gap_never_lets_a_wrong_text_through(
    data: st.DataObject, text: str, places: list[int]
) -> None:
    """If pieces are lost, what stands is a beginning of the text, and how far it reaches is known."""
    pieces = cut(text, places)
    kept = [one for one in pieces if data.draw(st.booleans())]
    if not kept:
        return
    reduction = folded(*kept)
    stands = reduction.record
    assert text.startswith(said(stands))
    assert isinstance(stands, Prediction)
    furthest = max((one.offset or 0) + len((one.text or "").encode()) for one in kept)
    length = stands.text_length or 0
    assert (stands.text_missing or length) == furthest
    assert len(reduction.rejected) == (stands.text_missing is not None)


@given(texts, cuttings, st.integers(0, 10))
def test_redelivery_changes_nothing(text: str, places: list[int], back: int) -> None:
    """Events that come again from an earlier offset are duplicates, and the record keeps its bytes."""
    pieces = cut(text, places)
    stands = record(*pieces)
    for offset in range(max(0, len(pieces) - back), len(pieces)):
        assert isinstance(judge(stands, pieces[offset], offset), Duplicate)


@given(texts, cuttings, st.integers(1, 5))
def test_batches_make_no_difference(text: str, places: list[int], size: int) -> None:
    """A fold of many pieces and folds of few give the same record, version included."""
    events = [(one, Position(0, n)) for n, one in enumerate(cut(text, places))]
    at_once = reduce(None, events, POLICY).record
    bit_by_bit: Standing | None = None
    for start in range(0, len(events), size):
        bit_by_bit = reduce(bit_by_bit, events[start : start + size], POLICY).record
    assert bit_by_bit == at_once
    assert at_once is not None
    assert at_once.version == len(events)


@settings(max_examples=20, deadline=None)
@given(
    st.lists(st.integers(1, 30_000), min_size=2, max_size=12),
    st.sampled_from(["a", "é", "猫", "🐈"]),
)
def test_parts_depend_on_the_text_alone(sizes: list[int], letter: str) -> None:
    """Where a large text is cut into parts does not depend on its pieces; each part is whole characters, and hashed."""
    text, contents, whole = Text(), dict[str, bytes](), b""
    for number, size in enumerate(sizes):
        more = (letter * (size // len(letter.encode())) + str(number)).encode()
        text, new = grow(text, more)
        contents |= new
        whole += more
    assert (text, contents) == grow(Text(), whole)
    assert text.length == len(whole)
    assert text.crc == zlib.crc32(whole)
    assert b"".join(contents[part.hash] for part in text.parts) + text.tail == whole
    assert bool(text.parts) is (len(whole) > PART)
    for part in text.parts:
        assert PART - 4 < part.bytes <= PART
        contents[part.hash].decode()


@pytest.mark.parametrize(
    "pieces",
    [
        [piece("The ", 0), piece("quick", 4), piece(" brøwn"), piece("é", 16, at=7)],
        [piece("x" * (PART - 1), 0), piece("y"), piece("z"), piece("w")],
        [piece("The ", 0), piece("fox", 9), piece("quick", 4), piece("x")],
        [
            piece("The ", 0),
            piece("quick", 4, owner="ada", tags=["a"]),
            piece(" fox", 9, owner="ada"),
        ],
        [piece("The ", 0), piece("", 4), piece("quick", 4, text_closed=True), piece("x")],
        [event("starting"), piece("The "), event("canceled"), piece("quick", 4)],
    ],
)
def test_the_usual_piece_is_judged_like_every_other(
    pieces: list[Event], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is judged the short way gives the same bytes, and the same growth, as what is looked at closely."""
    short = folded(*pieces)
    monkeypatch.setattr(text_rules, "_at_the_end", lambda *_: None)
    long = folded(*pieces)
    assert short.record is not None
    assert long.record is not None
    assert encode(short.record) == encode(long.record)
    assert (short.added, short.grown, short.applied) == (long.added, long.grown, long.applied)
    assert (short.refusals, short.contents) == (long.refusals, long.contents)


def test_the_table() -> None:
    """Each row of the table of offsets gives the decision that it names."""
    stands = record(piece("The quick", 0))
    grown = judge(stands, piece("quick brown", 4), 1)
    assert isinstance(grown, Applied)
    assert (said(grown.record), grown.growth, grown.record.version) == ("The quick brown", True, 2)
    assert judge(stands, piece("The", 0), 1) == Stale(refusal="stale")
    wrong = judge(stands, piece("slow", 4), 1)
    assert isinstance(wrong, Rejected)
    assert wrong.code == "text-mismatch"
    gap = judge(stands, piece("fox", 20), 1)
    assert isinstance(gap, Applied)
    assert isinstance(gap.record, Prediction)
    assert gap.letter is not None
    assert (gap.letter.code, gap.refusal, gap.record.text_missing) == ("text-gap", "text-gap", 23)
    assert said(gap.record) == "The quick"
    deleted = run(event("processing"), event(type="delete"))
    assert isinstance(deleted, Tombstone)
    assert judge(deleted, piece("x", 0), 2) == Stale(refusal="deleted")


def test_a_gap_is_told_once() -> None:
    """10,000 pieces with a gap: one dead letter, and the furthest end is kept."""
    reduction = folded(piece("a", 0), *[piece("b", 2 + n) for n in range(10_000)])
    assert [one.code for _, one in reduction.rejected] == ["text-gap"]
    assert isinstance(reduction.record, Prediction)
    assert reduction.record.text_missing == 10_002
    assert {one.code for one in reduction.refusals} == {"text-gap"}


def test_a_piece_without_an_offset_does_not_close_a_gap() -> None:
    """Where something is missing, a piece without an offset belongs behind it and not at the end of what stands."""
    stands = record(piece("a", 0), piece("c", 2), piece("d"))
    assert (said(stands), stands.text_missing) == ("a", 4)
    assert said(record(piece("a"), piece("b"), piece("c"))) == "abc"


def test_a_text_of_which_pieces_are_missing_can_be_closed() -> None:
    """An end without an offset closes what there is, and the record says that something is missing."""
    stands = record(piece("The ", 0), piece("fox", 10), piece("", text_closed=True))
    assert (stands.status, stands.text, stands.text_missing) == (Status.SUCCEEDED, "The ", 13)
    stands = record(piece("The ", 0), piece("fox", 10), piece("", 13, text_closed=True))
    assert stands.status is Status.PROCESSING


def test_after_the_end() -> None:
    """A late piece that the text has is stale, another is noted once, and a closed text takes none."""
    ended = record(piece("ab", 0), event("failed", error="x"))
    assert judge(ended, piece("b", 1), 2) == Stale(refusal="stale")
    late = judge(ended, piece("c", 2), 2)
    assert isinstance(late, Applied)
    assert isinstance(late.record, Prediction)
    assert late.letter is not None
    assert (late.letter.code, late.record.text_missing, said(late.record)) == ("text-late", 3, "ab")
    assert judge(late.record, piece("d", 3), 3) == Stale(refusal="text-late")
    closed = record(piece("ab", 0), piece("c", 2, text_closed=True))
    assert (closed.status, closed.text_closed, said(closed)) == (Status.SUCCEEDED, True, "abc")
    assert judge(closed, piece("d", 3), 2) == Stale(refusal="text-closed")
    assert judge(closed, piece("c", 2), 2) == Stale(refusal="stale")
    pending = record(piece("ab", 0), event("succeeded", archive="before", output="https://x/y"))
    assert pending.pending is Status.SUCCEEDED
    refused = judge(pending, piece("c", 2), 2)
    assert isinstance(refused, Applied)
    assert refused.refusal == "text-late"


def test_a_report_with_the_whole_text() -> None:
    """While it runs the longer of two with a common beginning counts, another one replaces; at the end the report's."""
    stands = record(piece("The qu", 0), piece("wn", 13))
    longer = record(piece("The qu", 0), piece("wn", 13), event(text="The quick brown"))
    assert (said(longer), longer.text_missing, longer.text_epoch) == ("The quick brown", None, None)
    assert judge(stands, event(text="The"), 2) == Stale()
    other = record(piece("The qu", 0), event(text="A fox"))
    assert (said(other), other.text_epoch, other.text_length) == ("A fox", 2, 5)
    ended = record(piece("The qu", 0), event("succeeded", text="The"))
    assert (said(ended), ended.text_epoch, ended.text_closed) == ("The", 2, True)


def test_what_the_output_says_is_not_stored_twice() -> None:
    """A final output that is the text, as a string or in pieces, becomes the text; another output stays."""
    ended = record(piece("The qu", 0), event("succeeded", output=["The ", "quick"]))
    assert (said(ended), bytes(ended.output), ended.text_closed) == ("The quick", b"", True)
    repeated = judge(ended, event("succeeded", output=["The ", "quick"]), 2)
    assert repeated == Stale()
    picture = record(piece("A cat", 0), event("succeeded", output="https://x/cat.png"))
    assert (said(picture), bytes(picture.output)) == ("A cat", b'"https://x/cat.png"')
    ending = event("succeeded", output=[{"type": "message"}], output_text="The quick")
    messages = record(piece("The qu", 0), ending)
    assert (messages.text, bytes(messages.output)) == ("The quick", b"")
    plain = record(event("succeeded", output="The quick"))
    assert (plain.text, bytes(plain.output)) == (None, b'"The quick"')


def test_a_text_has_an_end() -> None:
    """Beyond 1 MiB a piece is refused with one dead letter, and a report without its text alone."""
    most = "a" * TEXT_MAX
    reduction = folded(piece(most, 0), *[piece("b") for _ in range(5)])
    assert [one.code for _, one in reduction.rejected] == ["text-too-long"]
    assert isinstance(reduction.record, Prediction)
    assert (reduction.record.text_length, len(reduction.record.text_parts)) == (TEXT_MAX, 31)
    report = folded(event("processing"), event("succeeded", text=most + "b", error="x"))
    assert isinstance(report.record, Prediction)
    assert (report.record.status, report.record.text_length) == (Status.SUCCEEDED, None)
    assert [one.code for _, one in report.rejected] == ["text-too-long"]


@pytest.mark.parametrize(
    ("epoch", "seq", "refusal"),
    [
        (1, 2, None),
        (1, 1, "stale"),
        (1, 3, "producer-gap"),
        (0, 5, "producer-fenced"),
        (2, 0, None),
        (2, 1, "producer-gap"),
    ],
)
def test_producers_are_judged(epoch: int, seq: int, refusal: str | None) -> None:
    """A number that follows is taken; repeats, gaps and older epochs are not."""
    stands = record(*[piece(c, producer=Producer("w", 1, n)) for n, c in enumerate("ab")])
    decision = judge(stands, piece("c", producer=Producer("w", epoch, seq)), 2)
    if refusal is None:
        assert isinstance(decision, Applied)
        assert isinstance(decision.record, Prediction)
        assert decision.record.text_producers == (Producer("w", epoch, seq),)
        assert said(decision.record) == "abc"
    else:
        assert decision == Stale(refusal=refusal)  # type: ignore[arg-type]


def test_the_last_producers_are_kept() -> None:
    """Of many writers the last 16 are known."""
    stands = record(*[piece("x", producer=Producer(f"w{n}", 0, 0)) for n in range(40)])
    assert [one.id for one in stands.text_producers] == [f"w{n}" for n in range(40 - PRODUCERS, 40)]


def test_owner_model_and_tags_stand_beside_a_piece() -> None:
    """They count as in a report; another owner's piece is rejected."""
    stands = record(piece("a", 0), piece("b", 1, owner="o", model="m", tags=("t",)))
    assert (stands.owner, stands.model, stands.tags) == ("o", "m", ("t",))
    decision = judge(stands, piece("c", 2, owner="stranger"), 2)
    assert isinstance(decision, Rejected)
    assert decision.code == "owner"


def test_a_late_piece_of_a_provider_that_is_read_is_no_dead_letter() -> None:
    """The provider's word for the end is the last one: what its stream brings later is stale."""
    stands = record(
        event(type="create", stream=True), event(status="processing"), event(status="failed")
    )
    decision = judge(stands, piece("late", 0), 3)
    assert isinstance(decision, Stale)
    assert decision.refusal == "text-closed"


def test_an_output_that_came_before_the_text_goes_with_it() -> None:
    """An answer that was looked up, and then read as text, is not kept twice."""
    stands = record(
        event(type="create", stream=True),
        event(status="processing", output=Raw(b'["ab"]')),
        piece("ab", 0),
        event(status="succeeded", output=Raw(b'["ab"]')),
    )
    assert (stands.text, bytes(stands.output)) == ("ab", b"")


def test_a_partial_output_that_the_text_has_is_not_kept() -> None:
    """While it runs a look at the provider brings what the text already has."""
    stands = record(piece("abc", 0), event(status="processing", output=Raw(b'["a", "b"]')))
    assert (stands.text, bytes(stands.output)) == ("abc", b"")


def test_a_text_is_closed_by_a_status_that_ends_alone() -> None:
    """A piece that closes the text with a status that is no end ends the prediction as `succeeded`."""
    stands = record(piece("The quick", 0), event("starting", type="append", text_closed=True))
    assert isinstance(stands, Prediction)
    assert [step.to for step in stands.transitions][-1] is Status.SUCCEEDED


def test_an_output_goes_once_the_text_says_the_same() -> None:
    """A start with an empty output, looks at the provider meanwhile and the end leave no output beside the text."""
    events = [
        event("processing", output=[]),
        piece("A ", 0),
        event("processing", output=["A ", "big "]),
        piece("big cat", 2),
        event("processing", output=["A ", "big "]),
        event("succeeded", output=["A ", "big ", "cat"]),
    ]
    outputs = [bytes(record(*events[: n + 1]).output) for n in range(len(events))]
    assert outputs == [b"[]", b"[]", b"", b"", b"", b""]
    assert said(record(*events)) == "A big cat"
