"""A report of a status, perhaps with an output, is read and judged by a shorter way; what comes of it is the same."""

import json
from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import force_setattr

from tidings.storage.prediction import Standing, encode
from tidings.streams.log.protocol import Position, StoredRecord
from tidings.streams.processing.decoder import decode_event
from tidings.streams.rules.decision import Applied
from tidings.streams.rules.event import BriefEvent, Event
from tidings.streams.rules.transitions import decide

NOW = 1_764_000_000_000
_SAID = {"predictionId", "at", "id", "source", "status", "prompt", "output"}
_STATUSES = ("starting", "processing", "succeeded", "failed", "canceled")

briefly = st.fixed_dictionaries(
    {},
    optional={
        "status": st.sampled_from(_STATUSES),
        "id": st.sampled_from(("a", "b")),
        "source": st.just("s"),
        "at": st.integers(NOW - 5, NOW + 5),
        "prompt": st.sampled_from(("x", "y")),
        "output": st.sampled_from(("te", "text", ["a"], ["a", "b"], ["a", "c"], {"a": 1})),
    },
)
fully = st.fixed_dictionaries(
    {"type": st.sampled_from(("create", "report", "cancel", "delete", "append", "deadline"))},
    optional={
        "status": st.sampled_from(_STATUSES),
        "owner": st.just("o"),
        "providerId": st.just("j"),
        "output": st.sampled_from(("text", ["a", "b"])),
        "text": st.sampled_from(("te", "text")),
        "kind": st.just("group"),
        "waiting": st.booleans(),
        "deadline": st.integers(NOW, NOW + 9),
        "progress": st.floats(0, 1),
        "error": st.just("broken"),
    },
)


def whole(event: Event) -> Event:
    """The same event with a place for every field."""
    found = Event(prediction_id=event.prediction_id)
    for name in BriefEvent.__struct_fields__:
        force_setattr(found, name, getattr(event, name))
    return found


def read(value: dict[str, Any], offset: int) -> Event | None:
    """The event in a record; None if it is poison."""
    record = StoredRecord("e", 0, offset, NOW + offset, b"p", json.dumps(value).encode())
    try:
        return decode_event(record, {})
    except ValueError:
        return None


@given(st.lists(st.one_of(briefly, fully), max_size=8), st.booleans())
def test_both_ways_judge_alike(values: list[dict[str, Any]], strict: bool) -> None:
    """Whatever stands, a brief event changes it as the same event with all its fields does."""
    standing: Standing | None = None
    for offset, value in enumerate(values):
        event, place = read(value, offset), Position(0, offset)
        if event is None:
            continue
        decision = decide(standing, event, place, "log", strict)
        assert event.brief is (value.keys() <= _SAID)
        if event.brief:
            assert decision == decide(standing, whole(event), place, "log", strict)
        if isinstance(decision, Applied):
            standing = decision.record
            encode(standing)


def test_what_it_cannot_say_reads_as_nothing() -> None:
    """Every field of an event can be read of a brief one, and says what an event says that leaves it out."""
    brief, event = read({"status": "starting"}, 0), Event(prediction_id="p")
    assert brief is not None
    assert brief.brief
    for field in msgspec.structs.fields(Event):
        if field.name not in BriefEvent.__struct_fields__:
            assert getattr(brief, field.name) == getattr(event, field.name), field.name


def test_no_output_is_none() -> None:
    """An output of `null` says nothing, in a brief event too; a large one lies elsewhere."""
    event = read({"status": "succeeded", "output": None}, 0)
    assert event is not None
    assert not event.output
    large = read({"status": "succeeded", "output": "x" * 40_000}, 0)
    assert large is not None
    assert not large.brief


def test_nobody_brings_what_the_decoder_says() -> None:
    """The names of what only the decoder may set are unknown fields, in a brief event too."""
    event = read({"status": "starting", "tidings/recorded_at": 5, "tidings/archive": "off"}, 0)
    assert event is not None
    assert (event.recorded_at, event.archive.value) == (NOW, "after")
    assert sorted(event.unknown) == ["tidings/archive", "tidings/recorded_at"]
