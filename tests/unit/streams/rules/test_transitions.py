"""The rules, one by one and as properties."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from tests.support.streams.events import LOG, T0, event, events, judge, ordinary_events, record, run
from tidings.storage.prediction import (
    TERMINAL,
    Prediction,
    Source,
    Standing,
    Status,
    Tombstone,
    encode,
    to_builtins,
)
from tidings.streams.log.protocol import Position
from tidings.streams.rules.decision import Applied, Duplicate, Rejected, Stale
from tidings.streams.rules.event import Event
from tidings.streams.rules.merging import LOGS_TAIL
from tidings.streams.rules.transitions import decide

TABLE = {
    (None, "starting"),
    ("starting", "processing"),
    ("starting", "failed"),
    ("starting", "canceled"),
    ("processing", "succeeded"),
    ("processing", "failed"),
    ("processing", "canceled"),
}


def trail(standing: Prediction) -> list[str]:
    return [str(entry.to) for entry in standing.transitions]


def apart(standing: Standing) -> dict[str, Any]:
    """The record without what tells the order of events."""
    telling = {"version", "createdAt", "updatedAt", "transitions", "source"}
    return {name: value for name, value in to_builtins(standing).items() if name not in telling}


# ---- first words ----


@pytest.mark.parametrize("kind", ["report", "create"])
def test_whoever_speaks_first_makes_the_record(kind: str) -> None:
    """A report or a create makes the record at version 1, by way of `starting`."""
    made = record(event("processing", kind, id="e"))
    assert made.version == 1
    assert trail(made) == ["starting", "processing"]
    assert made.transitions[0].from_ is None


def test_without_a_status_it_is_starting() -> None:
    """A first event without a status leaves a starting record."""
    assert record(event(prompt="a cat")).status is Status.STARTING


@pytest.mark.parametrize("kind", ["cancel", "delete", "submit", "archive", "repair"])
def test_other_types_make_nothing(kind: str) -> None:
    """Where nothing stands, everything but report and create is stale."""
    assert isinstance(
        judge(None, event(type=kind, attempt="t", assets_error="x", replace=None)), Stale
    )


def test_a_skipped_step_is_implied_and_written_down() -> None:
    """`starting -> succeeded` takes the shortest path, each step an entry of its own."""
    made = record(event("starting"), event("succeeded", output=[1], at=T0 + 5, id="e2", source="s"))
    assert [(t.from_, t.to) for t in made.transitions] == [
        (None, Status.STARTING),
        (Status.STARTING, Status.PROCESSING),
        (Status.PROCESSING, Status.SUCCEEDED),
    ]
    assert made.transitions[-1].position == "0:1"
    assert made.version == 2


def test_strict_mode_rejects_skipped_steps() -> None:
    """In strict mode a status that is reached only by skipping one is rejected, with both names."""
    decision = judge(record(event("starting")), event("succeeded"), 1, strict=True)
    assert isinstance(decision, Rejected)
    assert decision.reason == "Invalid transition from starting to succeeded"
    assert isinstance(judge(None, event("succeeded"), strict=True), Rejected)
    assert isinstance(judge(record(event("starting")), event("failed"), 1, strict=True), Applied)


# ---- duplicates ----


def test_a_position_at_or_below_the_record_is_a_duplicate() -> None:
    """The same log at or below the offset kept for the partition: a duplicate, whatever it says."""
    made = record(event("starting"), event("processing"))
    assert isinstance(judge(made, event("failed"), 1), Duplicate)
    assert isinstance(judge(made, event("failed"), 0), Duplicate)
    assert isinstance(decide(made, event("failed"), Position(1, 0), log=LOG), Applied)
    assert isinstance(decide(made, event("failed"), Position(0, 0), log="another"), Applied)


def test_the_same_create_again_is_a_duplicate() -> None:
    """A create whose id is the record's createId is a duplicate at any position; another one is stale."""
    made = record(event(type="create", id="c1"))
    assert isinstance(judge(made, event(type="create", id="c1"), 9), Duplicate)
    assert isinstance(judge(made, event(type="create", id="c2"), 9), Stale)


# ---- the same status ----


def test_progress_never_goes_down() -> None:
    """The greater progress stays."""
    assert (
        record(event("processing", progress=0.7), event("processing", progress=0.3)).progress == 0.7
    )


def test_the_log_with_the_greater_total_length_wins() -> None:
    """A shorter log is old news, and the record keeps a bounded tail of a long one with its whole length."""
    made = record(event("processing", logs="ab" * 40_000), event("processing", logs="short"))
    assert made.logs == ("ab" * 40_000)[-LOGS_TAIL:]
    assert made.logs_length == 80_000


def test_the_longer_partial_output_wins_and_otherwise_the_later() -> None:
    """Of two lists or strings the longer stays; of other values the later."""
    assert (
        bytes(record(event("processing", output=[1, 2]), event("processing", output=[1])).output)
        == b"[1,2]"
    )
    assert (
        bytes(record(event("processing", output="ab"), event("processing", output="a")).output)
        == b'"ab"'
    )
    assert (
        bytes(
            record(
                event("processing", output={"a": 1}), event("processing", output={"b": 2})
            ).output
        )
        == b'{"b":2}'
    )
    assert (
        bytes(record(event("processing", output=[1]), event("processing", output="x")).output)
        == b'"x"'
    )


def test_nothing_new_is_stale() -> None:
    """A report that says nothing new changes nothing, though its body and time are others."""
    made = record(event("processing", progress=0.5, tags=("x",)))
    again = event("processing", progress=0.5, at=T0 + 9, tags=("x",), id="other")
    assert isinstance(judge(made, again, 1), Stale)


# ---- the end ----


@pytest.mark.parametrize("first", sorted(TERMINAL))
@pytest.mark.parametrize("second", sorted(TERMINAL))
def test_another_end_is_rejected_and_the_same_one_stale(first: Status, second: Status) -> None:
    """A terminal status never becomes another one; saying it again is stale."""
    decision = judge(record(event(first)), event(second), 1)
    if first is second:
        assert isinstance(decision, Stale)
    else:
        assert isinstance(decision, Rejected)
        assert decision.code == "contradiction"
        assert decision.reason == f"Invalid transition from {first} to {second}"


def test_the_same_end_again_fills_what_is_absent() -> None:
    """A second report of the end fills what the first left out and replaces nothing."""
    made = record(
        event("succeeded", output=[1]), event("succeeded", output=[2], generation_time=7, error="e")
    )
    assert bytes(made.output) == b"[1]"
    assert (made.generation_time, made.error, made.version) == (7, "e", 2)


def test_a_status_behind_is_stale_and_counted_apart() -> None:
    """`processing` after `succeeded` is ordinary: stale, marked as behind."""
    decision = judge(record(event("succeeded")), event("processing", progress=0.1), 1)
    assert decision == Stale(behind=True)


def test_set_once_fields_are_filled_in_every_state() -> None:
    """An event that would be stale but fills owner, model or prompt is applied, and nothing else of it counts."""
    made = record(
        event("succeeded"), event("processing", owner="o", prompt="cat", model="m", progress=0.1)
    )
    assert (made.owner, made.prompt, made.model, made.progress) == ("o", "cat", "m", None)
    assert made.status is Status.SUCCEEDED
    assert made.version == 2


def test_a_late_create_replaces_what_reports_had_filled() -> None:
    """The first create wins over reports on prompt, model and payload, also after the end."""
    made = record(
        event("succeeded", prompt="theirs", payload={"a": 1}, output=[1]),
        event(
            type="create",
            id="c",
            owner="o",
            prompt="ours",
            payload={"b": 2},
            model="m",
            tags=("t",),
            estimated_time=5,
        ),
    )
    assert (made.prompt, bytes(made.payload), made.owner, made.model) == (
        "ours",
        b'{"b":2}',
        "o",
        "m",
    )
    assert (made.tags, made.estimated_time, made.create_id, made.status) == (
        ("t",),
        5,
        "c",
        Status.SUCCEEDED,
    )


@pytest.mark.parametrize("field", ["owner", "provider_id"])
def test_another_owner_or_provider_id_is_rejected(field: str) -> None:
    """What belongs to somebody else, or is another job, does not mix."""
    made = record(event("processing", **{field: "a"}))
    assert isinstance(judge(made, event("processing", **{field: "b"}), 1), Rejected)
    assert record(event("processing", model="a"), event("succeeded", model="b")).model == "a"


# ---- cancel, submit, archive, delete, repair ----


def test_cancel_is_a_request_once_something_was_submitted() -> None:
    """With an attempt or a provider's id the status stays until the provider answers."""
    made = record(
        event(type="create", id="c"),
        event(type="submit", attempt="t1"),
        event(type="cancel", at=T0 + 3),
    )
    assert (made.status, made.cancel_requested_at) == (Status.STARTING, T0 + 3)
    assert (
        record(event("processing", provider_id="r"), event(type="cancel")).status
        is Status.PROCESSING
    )
    assert isinstance(judge(made, event(type="cancel", at=T0 + 4), 3), Stale)


def test_cancel_is_at_once_where_nothing_was_submitted() -> None:
    """Without an attempt and a provider's id there is nobody to ask."""
    made = record(event(type="create", id="c"), event(type="cancel"))
    assert made.status is Status.CANCELED
    assert trail(made) == ["starting", "canceled"]


def test_submit_applies_once_to_a_starting_record() -> None:
    """One attempt, on a starting record that nobody asked to cancel."""
    made = record(event(type="create", id="c"))
    assert isinstance(judge(made, event(type="submit", attempt="t1"), 1), Applied)
    taken = record(event(type="create", id="c"), event(type="submit", attempt="t1"))
    assert isinstance(judge(taken, event(type="submit", attempt="t2"), 2), Stale)
    assert isinstance(
        judge(record(event("processing")), event(type="submit", attempt="t"), 1), Stale
    )


ASSETS = [{"url": "/assets/x/0", "path": "x/0"}]


def test_archived_files_give_the_lasting_url() -> None:
    """`archive` after the end sets assets, and imageUrl and imagePath come from the first."""
    made = record(
        event("succeeded", image_url="https://dies"), event(type="archive", assets=ASSETS)
    )
    assert (made.image_url, made.image_path, made.status) == (
        "/assets/x/0",
        "x/0",
        Status.SUCCEEDED,
    )
    assert isinstance(judge(made, event(type="archive", assets=ASSETS), 2), Stale)
    assert isinstance(judge(made, event(type="archive", assets_error="gone"), 2), Stale)


def test_archive_before_holds_the_success_back() -> None:
    """In mode `before` the record is processing with the end pending until the files are stored."""
    held = record(event("starting"), event("succeeded", output=["u"], archive="before"))
    assert (held.status, held.pending) == (Status.PROCESSING, Status.SUCCEEDED)
    assert trail(held) == ["starting", "processing"]
    assert isinstance(judge(held, event("processing", progress=0.9), 2), Stale)
    assert isinstance(judge(held, event("failed"), 2), Rejected)
    done = judge(held, event(type="archive", assets=ASSETS), 2)
    assert isinstance(done, Applied)
    assert isinstance(done.record, Prediction)
    assert (done.record.status, done.record.pending) == (Status.SUCCEEDED, None)
    lost = judge(held, event(type="archive", assets_error="404"), 2)
    assert isinstance(lost, Applied)
    assert isinstance(lost.record, Prediction)
    assert (lost.record.status, lost.record.error) == (Status.FAILED, "Processing failed: 404")


def test_delete_leaves_a_tombstone_that_late_reports_do_not_lift() -> None:
    """After a delete reports are stale; an explicit create begins again at the next version."""
    grave = run(event("processing", owner="o", tags=("t",)), event(type="delete"))
    assert isinstance(grave, Tombstone)
    assert (grave.version, grave.owner, grave.tags) == (2, "o", ("t",))
    assert isinstance(judge(grave, event("succeeded"), 2), Stale)
    assert isinstance(judge(grave, event(type="delete"), 2), Stale)
    again = judge(grave, event(type="create", id="c2", owner="o"), 2)
    assert isinstance(again, Applied)
    assert isinstance(again.record, Prediction)
    assert (again.record.version, trail(again.record)) == (3, ["starting"])
    assert isinstance(judge(grave, event(type="create", owner="stranger"), 2), Rejected)


@pytest.mark.parametrize(
    "wrong",
    [
        {"created_at": 10**18},
        {"source": Source(LOG, {"zero": 0})},
        {"source": Source(LOG, {"9" * 30: 0})},
        {"source": Source(LOG, {"0": 1})},
        {"source": Source(LOG, {"0": 2**60})},
    ],
)
def test_a_repair_that_no_rebuild_can_have_made_is_stale(wrong: dict[str, Any]) -> None:
    """Times and positions that a store could not hold, or that lie beyond what was read, do not get into one."""
    live = record(event("processing"))
    right = replace(live, prompt="mended")
    assert isinstance(
        judge(live, event(type="repair", replace=to_builtins(right), version=2, upto={"0": 0}), 7),
        Applied,
    )
    forged = event(
        type="repair", replace=to_builtins(replace(right, **wrong)), version=2, upto={"0": 0}
    )
    assert isinstance(judge(live, forged, 7), Stale)


def test_repair_replaces_only_what_the_rebuild_had_read() -> None:
    """A repair applies where nothing beyond `upto` was applied, and takes its version and its own offset."""
    live = record(event("processing", prompt="wrong"))
    right = msgspec.structs.replace(live, prompt="right")
    mend = event(type="repair", replace=to_builtins(right), version=2, upto={"0": 0})
    applied = judge(live, mend, 7)
    assert isinstance(applied, Applied)
    assert isinstance(applied.record, Prediction)
    assert applied.record.source is not None
    assert (applied.record.prompt, applied.record.version) == ("right", 2)
    assert applied.record.source.offsets == {"0": 7}
    moved = record(event("processing"), event("succeeded"))
    assert isinstance(judge(moved, mend, 7), Stale)
    gone = judge(live, event(type="repair", replace=None, version=2, upto={"0": 0}), 7)
    assert isinstance(gone, Applied)
    assert isinstance(gone.record, Tombstone)


@pytest.mark.parametrize("version", [1, 2, 3])
@pytest.mark.parametrize("after", ["succeeded", "deleted"])
def test_a_repair_never_turns_a_version_back(after: str, version: int) -> None:
    """A repair whose version is not above the one that stands is stale, whatever it was made from."""
    last = event(type="delete") if after == "deleted" else event("succeeded")
    live = run(event("starting"), event("processing"), last)
    assert live is not None
    assert live.version == 3
    right = to_builtins(record(event("processing", prompt="right")))
    for content in (right, None):
        mend = event(type="repair", replace=content, version=version, upto={"0": 2})
        assert isinstance(judge(live, mend, 7), Stale)
    ahead = judge(live, event(type="repair", replace=right, version=4, upto={"0": 2}), 7)
    assert isinstance(ahead, Applied)
    assert ahead.record.version == 4


# ---- properties ----


@given(st.lists(events, max_size=8))
def test_decide_never_raises(sequence: list[Event]) -> None:
    """Whatever comes in whatever order is judged, never an exception."""
    run(*sequence)


@given(st.lists(ordinary_events, max_size=10), st.booleans())
def test_versions_rise_by_one_and_no_end_is_left(sequence: list[Event], strict: bool) -> None:
    """Each applied event raises the version by exactly one, every step is in the table, and no end is ever left."""
    current: Standing | None = None
    for offset, what in enumerate(sequence):
        decision = judge(current, what, offset, strict=strict)
        if not isinstance(decision, Applied):
            continue
        after = decision.record
        assert after.version == (current.version if current else 0) + 1
        if isinstance(after, Prediction):
            last = None
            for entry in after.transitions:
                assert entry.from_ == last
                assert (entry.from_ and str(entry.from_), str(entry.to)) in TABLE
                last = entry.to
            assert last == after.status
            if isinstance(current, Prediction) and current.status.terminal:
                assert after.status is current.status
        current = after


@given(st.lists(events, max_size=8), st.data())
def test_any_redelivery_leaves_the_same_bytes(sequence: list[Event], data: st.DataObject) -> None:
    """The partition again from any earlier offset, at any moment, any number of times: the bytes of a single pass."""
    once = run(*sequence)
    current: Standing | None = None
    offset, jumps = 0, 0
    while offset < len(sequence):
        decision = judge(current, sequence[offset], offset)
        if isinstance(decision, Applied):
            current = decision.record
        offset += 1
        if jumps < 4 and data.draw(st.booleans()):
            offset = data.draw(st.integers(0, offset))
            jumps += 1
    assert (current and encode(current)) == (once and encode(once))


@st.composite
def cumulative(draw: st.DrawFn) -> list[Event]:
    """Reports that each say at least what those before said, without contradictory ends."""
    end = draw(st.sampled_from(sorted(TERMINAL)))
    ranks = sorted(draw(st.lists(st.integers(0, 2), min_size=1, max_size=6)))
    known: dict[str, Any] = {}
    logs, progress = "", 0.0
    images: list[int] = []
    reports = []
    for index, rank in enumerate(ranks):
        if draw(st.booleans()):
            logs += draw(st.text(min_size=1, max_size=4))
        if draw(st.booleans()) and rank < 2:
            images = [*images, index]
        progress = max(progress, draw(st.floats(0, 1)))
        for name in ("prompt", "model", "owner", "provider_id", "provider", "image_url"):
            if name not in known and draw(st.booleans()):
                known[name] = f"{name}-value"
        if draw(st.booleans()):
            known["tags"] = tuple({*known.get("tags", ()), draw(st.sampled_from("abc"))})
        status = ["starting", "processing", str(end)][rank]
        fields = dict(known)
        if logs:
            fields["logs"] = logs
        if images:
            fields["output"] = list(images)
        reports.append(event(status, progress=progress, at=T0 + index, **fields))
    return reports


@given(cumulative(), st.data())
def test_the_order_of_cumulative_reports_does_not_matter(
    reports: list[Event], data: st.DataObject
) -> None:
    """Any order of cumulative reports, each repeated or not, ends in the same record apart from what tells the order."""
    shuffled = data.draw(
        st.permutations([*reports, *data.draw(st.lists(st.sampled_from(reports), max_size=4))])
    )
    straight, mixed = run(*reports), run(*shuffled)
    assert straight is not None
    assert mixed is not None
    assert apart(mixed) == apart(straight)
