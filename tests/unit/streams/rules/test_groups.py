"""Groups: members' statuses are taken as steps forward, and the group ends with its last member."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from tests.support.streams.events import T0, event, judge, record
from tidings.storage.prediction import Prediction, Status, encode, is_group
from tidings.streams.log.protocol import StoredRecord
from tidings.streams.processing.decoder import decode_event
from tidings.streams.rules.decision import Applied, Rejected, Stale
from tidings.streams.rules.event import Event, Poison
from tidings.streams.rules.groups import member_id
from tidings.streams.rules.large_fields import reference, settle, settles


def group(size: int = 3) -> Event:
    found = event(
        "processing",
        type="create",
        kind="group",
        member_status="q" * size,
        members=Raw(msgspec.json.encode([member_id("p1", index) for index in range(size)])),
        orders=Raw(msgspec.json.encode([{"model": "m"}] * size)),
    )
    assert settles(found, 1)
    settle(found)
    return found


def member(index: int, status: str, attempt: int | None = None, **fields: Any) -> Event:
    return event(status, type="member", index=index, retry_count=attempt, **fields)


def test_a_group_is_made_by_one_event() -> None:
    """Ids and orders stand in it by reference, however few; a letter stands for each member."""
    made = record(group())
    assert (made.kind, made.status, made.member_status) == ("group", "processing", "qqq")
    ids, orders = reference(made.members), reference(made.orders)
    assert ids is not None
    assert orders is not None
    assert (ids.length, orders.length) == (3, 3)
    assert is_group(encode(made))
    assert not is_group(encode(record(event(payload={"kind": "group"}, prompt=',"kind":"group"'))))


@pytest.mark.parametrize(
    ("ends", "status", "error"),
    [
        (["succeeded"] * 3, "succeeded", None),
        (["succeeded", "failed", "canceled"], "failed", "1 of 3 failed"),
        (["succeeded", "canceled", "succeeded"], "canceled", None),
    ],
)
def test_it_ends_with_its_last_member(ends: list[str], status: str, error: str | None) -> None:
    """Succeeded if all did, failed if one failed, else canceled; processing until then."""
    steps = [member(index, end) for index, end in enumerate(ends)]
    assert record(group(), *steps[:-1]).status == "processing"
    found = record(group(), *steps)
    assert (found.status, found.error) == (status, error)
    assert len(found.transitions) == 3


@given(
    st.permutations(
        [
            member(0, "processing"),
            member(0, "failed"),
            member(0, "processing", 1),
            member(0, "succeeded", 1),
            member(1, "processing"),
            member(1, "succeeded"),
            member(1, "succeeded"),
        ]
    )
)
def test_order_and_repeats_do_not_matter(steps: list[Event]) -> None:
    """The letters are the same whatever comes first, and how often."""
    found = record(group(3), *steps, *steps)
    assert (found.member_status, found.member_retries) == ("ssq", {"0": 1})
    assert found.status == "processing"


def test_its_end_stays_though_a_member_is_tried_again() -> None:
    """The letter goes on, the group's own status does not."""
    ended = record(group(1), member(0, "failed"))
    found = judge(ended, member(0, "succeeded", 1), 5)
    assert isinstance(found, Applied)
    assert isinstance(found.record, Prediction)
    assert (found.record.status, found.record.member_status) == ("failed", "s")


def test_what_is_no_members_word_is_stale() -> None:
    """A place that there is not, an earlier group with this id, or a prediction that is no group."""
    made = record(group())
    for odd in (
        member(3, "failed"),
        member(-1, "failed"),
        member(0, "starting"),
        member(0, "failed", created_at=T0 - 1),
    ):
        assert isinstance(judge(made, odd, 5), Stale)
    assert isinstance(judge(record(event()), member(0, "failed"), 1), Stale)


def test_nobody_reports_on_a_group() -> None:
    """How it stands follows from its members; a cancel is a request to them."""
    made = record(group())
    assert isinstance(judge(made, event("succeeded"), 1), Rejected)
    canceled = judge(made, event(type="cancel"), 1)
    assert isinstance(canceled, Applied)
    assert isinstance(canceled.record, Prediction)
    assert canceled.record.status is Status.PROCESSING
    assert canceled.record.cancel_requested_at is not None


def test_a_groups_success_waits_for_no_files() -> None:
    """The archive mode `before` is about predictions."""
    found = record(group(1), member(0, "succeeded", archive="before"))
    assert (found.status, found.pending) == ("succeeded", None)


@pytest.mark.parametrize(
    "given",
    [
        {"members": []},
        {"members": ["a", "a"], "orders": [{}, {}], "memberStatus": "qq"},
        {"members": ["a b"], "orders": [{}]},
        {"members": ["a"], "orders": [1]},
        {"members": ["a"], "orders": []},
        {"members": "a"},
        {"memberStatus": "s"},
        {
            "members": [f"m{i}" for i in range(1001)],
            "orders": [{}] * 1001,
            "memberStatus": "q" * 1001,
        },
    ],
)
def test_an_event_that_makes_no_group(given: dict[str, Any]) -> None:
    """It is poison: nothing half is made of it."""
    said = {
        "type": "create",
        "kind": "group",
        "members": ["a"],
        "orders": [{}],
        "memberStatus": "q",
    }
    value = msgspec.json.encode({**said, **given})
    with pytest.raises(Poison):
        decode_event(StoredRecord("predictions.events", 0, 0, T0, b"g", value), {})
