"""The event `retry`, and what a policy asks for."""

from typing import Any

import msgspec
import pytest
from msgspec import Raw

from tests.support.streams.events import T0, event, judge, record
from tidings.storage.prediction import Prediction
from tidings.streams.rules.decision import Applied, Duplicate, Stale
from tidings.streams.rules.event import Event
from tidings.streams.rules.retries import Elsewhere, due_retry, policy_of


def retry(successor: str = "p2", **fields: Any) -> Event:
    return event(type="retry", successor=successor, **fields)


def failed(retries: Any = None, **fields: Any) -> Prediction:
    given: Any = {} if retries is None else {"retries": Raw(msgspec.json.encode(retries))}
    created = event(type="create", provider="fal", model="m", **given, **fields)
    return record(created, event("failed", error="CUDA out of memory"))


@pytest.mark.parametrize("end", ["failed", "canceled"])
def test_a_retry_names_the_successor_once(end: str) -> None:
    """What failed or was canceled stays so, and says who tries it again; a second word changes nothing."""
    old = record(event(end))
    decision = judge(old, retry(), 1)
    assert isinstance(decision, Applied)
    assert isinstance(decision.record, Prediction)
    assert (decision.record.status, decision.record.retried_as) == (end, "p2")
    assert decision.record.transitions == old.transitions
    assert isinstance(judge(decision.record, retry("p3"), 2), Stale)


@pytest.mark.parametrize("status", ["starting", "processing", "succeeded"])
def test_nothing_else_is_tried_again(status: str) -> None:
    """What is under way, or has succeeded, has no successor."""
    assert isinstance(judge(record(event(status)), retry(), 1), Stale)


def test_a_prediction_is_not_its_own_successor() -> None:
    """Nor does the word about an earlier prediction with the same id count."""
    assert isinstance(judge(failed(), retry("p1"), 2), Stale)
    assert isinstance(judge(failed(), retry(created_at=T0 - 1), 2), Stale)


def test_the_successors_create_is_one_however_often_it_is_said() -> None:
    """Whoever sees the retry appends the create: the second is a duplicate, and the count is told."""
    create = event(type="create", id="retry-p2", retry_of="p0", retry_count=1)
    new = record(create)
    assert (new.retry_of, new.retry_count) == ("p0", 1)
    assert isinstance(judge(new, create, 1), Duplicate)


@pytest.mark.parametrize(
    ("retries", "wait", "elsewhere"),
    [
        (1, 1_000, Elsewhere()),
        ({"max": 3, "backoff": 50}, 50, Elsewhere()),
        ({"max": 1, "on": ["cuda"]}, 1_000, Elsewhere()),
        ({"max": 1, "then": [{"provider": "bfl", "model": "n"}]}, 1_000, Elsewhere("bfl", "n")),
    ],
)
def test_a_policy_asks_for_a_retry(retries: Any, wait: int, elsewhere: Elsewhere) -> None:
    """How long after the failure, and who makes it."""
    found = due_retry(failed(retries))
    assert found is not None
    assert (found.at, found.elsewhere) == (T0 + wait, elsewhere)


@pytest.mark.parametrize("retries", [None, 0, {"max": 1, "on": ["deadline", "nsfw"]}])
def test_a_policy_that_does_not_ask(retries: Any) -> None:
    """No policy, none left, or another kind of error."""
    assert due_retry(failed(retries)) is None


def test_each_retry_waits_twice_as_long_until_none_is_left() -> None:
    """The count goes on from attempt to attempt."""
    for count, wait in enumerate([1_000, 2_000, 4_000]):
        found = due_retry(failed(3, retry_count=count))
        assert found is not None
        assert found.at == T0 + wait
    assert due_retry(failed(3, retry_count=3)) is None


@pytest.mark.parametrize(
    "retries",
    [-1, 21, "often", {"max": 1, "on": "x"}, {"max": 1, "more": 1}, {"backoff": 1}, [1], True],
)
def test_a_policy_that_is_none(retries: Any) -> None:
    """It is refused whole."""
    with pytest.raises(msgspec.MsgspecError):
        policy_of(Raw(msgspec.json.encode(retries)))
