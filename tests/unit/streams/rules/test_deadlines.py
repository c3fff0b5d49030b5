"""What the event `deadline` does, and what comes after it."""

from typing import Any

import pytest

from tests.support.streams.events import LOG, T0, event, judge, record
from tidings.storage.prediction import Prediction, Status, encode
from tidings.streams.log.protocol import Position
from tidings.streams.rules.decision import Applied, Rejected, Stale
from tidings.streams.rules.event import Event
from tidings.streams.rules.reducer import StorePolicy, reduce
from tidings.streams.rules.timeouts import DefaultTimeouts

LATER = T0 + 1_000


def passed(deadline: int = LATER, **fields: Any) -> Event:
    fields.setdefault("recorded_at", deadline)
    return event(type="deadline", deadline=deadline, at=deadline, **fields)


def failed(**fields: Any) -> Prediction:
    return record(event("processing", deadline=LATER, **fields), passed())


def test_a_deadline_fails_what_has_not_ended() -> None:
    """The record fails at the deadline's own time, with an error and a code, as one step of its trail."""
    found = failed()
    assert (found.status, found.error_code) == (Status.FAILED, "deadline")
    assert found.error
    assert (found.updated_at, found.transitions[-1].at) == (LATER, LATER)


@pytest.mark.parametrize("recorded_at", [LATER - 1, T0])
def test_the_logs_time_decides_whether_it_has_passed(recorded_at: int) -> None:
    """An event that the log took before its deadline changes nothing, whatever it says of itself."""
    standing = record(event("processing", deadline=LATER))
    assert isinstance(judge(standing, passed(recorded_at=recorded_at), 1), Stale)


def test_a_deadline_that_was_moved_is_outdated() -> None:
    """The event of a former deadline changes nothing; that of the present one does."""
    standing = record(event("processing", deadline=LATER), event(deadline=LATER + 500))
    assert isinstance(judge(standing, passed(), 2), Stale)
    assert isinstance(judge(standing, passed(LATER + 500), 3), Applied)


@pytest.mark.parametrize("status", ["succeeded", "failed", "canceled"])
def test_what_has_ended_stays(status: str) -> None:
    """A deadline says nothing about what has ended, or has only its files to be stored."""
    assert isinstance(judge(record(event(status, deadline=LATER)), passed(), 1), Stale)
    pending = record(event("processing"), event("succeeded", archive="before"))
    assert isinstance(judge(pending, passed(), 2), Stale)


def test_the_event_brings_the_deadline_of_what_came_without_one() -> None:
    """A prediction from elsewhere has no deadline until the event says it; an earlier one of its id is not meant."""
    standing = record(event("processing"))
    assert isinstance(judge(standing, passed(created_at=T0 - 1), 1), Stale)
    decision = judge(standing, passed(created_at=T0), 1)
    assert isinstance(decision, Applied)
    assert isinstance(decision.record, Prediction)
    assert decision.record.deadline == LATER


def test_two_reconcilers_say_it_once() -> None:
    """The second event about the same deadline changes nothing."""
    assert isinstance(judge(failed(), passed(recorded_at=LATER + 9), 2), Stale)


def test_a_late_success_is_noted_once_and_kept_apart() -> None:
    """It goes to the dead letters as every contradiction, and the record says once that it came."""
    policy = StorePolicy(LOG)
    late = [
        (event("succeeded", at=LATER + offset, output=["x"]), Position(0, offset))
        for offset in (2, 3)
    ]
    reduction = reduce(failed(), late, policy)
    found = reduction.record
    assert isinstance(found, Prediction)
    assert (found.status, found.late_status, found.version) == ("failed", "succeeded", 3)
    assert not found.output
    assert [(index, one.code) for index, one in reduction.rejected] == [
        (0, "contradiction"),
        (1, "contradiction"),
    ]


def test_a_late_cancel_is_what_was_asked_for() -> None:
    """The provider's word that it canceled contradicts nothing."""
    decision = judge(failed(), event("canceled"), 2)
    assert isinstance(decision, Applied)
    assert decision.letter is None
    assert isinstance(decision.record, Prediction)
    assert (decision.record.status, decision.record.late_status) == ("failed", "canceled")
    # Its webhook and the look-up after the cancel say the same: neither is a dead letter.
    assert isinstance(judge(decision.record, event("canceled"), 3), Stale)
    assert isinstance(judge(decision.record, event("succeeded"), 3), Rejected)


def test_a_cancel_by_the_provider_after_the_deadline_is_the_deadlines() -> None:
    """Where its word comes before ours, the record fails by its deadline all the same, unless a cancel was asked for."""
    running = event("processing", deadline=LATER)
    canceled = event("canceled", at=LATER + 5, recorded_at=LATER + 5)
    found = record(running, canceled)
    assert (found.status, found.error_code, found.late_status) == (
        "failed",
        "deadline",
        "canceled",
    )
    assert found.transitions[-1].at == LATER
    early = event("canceled", at=LATER - 5, recorded_at=LATER - 5)
    assert record(running, early).status == "canceled"
    asked = event(type="cancel")
    assert record(
        event("processing", deadline=LATER, attempt="a", provider_id="r"), asked, canceled
    ).status == ("canceled")


def test_a_late_failure_is_noted_too() -> None:
    """It ended at its provider: nobody need ask for a cancel any more."""
    decision = judge(failed(), event("failed", error="out of memory"), 2)
    assert isinstance(decision, Applied)
    assert isinstance(decision.record, Prediction)
    assert decision.record.late_status == "failed"
    assert decision.record.error == failed().error


def test_what_failed_by_itself_has_no_late_status() -> None:
    """Another end after an ordinary failure is a contradiction and nothing else."""
    assert isinstance(judge(record(event("failed")), event("succeeded"), 1), Rejected)


def test_an_id_that_comes_late_is_kept() -> None:
    """Where the provider is asked to cancel shows in the record, though it had failed before."""
    decision = judge(failed(), event("processing", provider_id="r1"), 2)
    assert isinstance(decision, Applied)
    assert isinstance(decision.record, Prediction)
    assert decision.record.provider_id == "r1"


def test_a_record_without_a_deadline_has_the_bytes_it_had() -> None:
    """Nothing of this costs a record that it does not concern."""
    encoded = encode(record(event("succeeded")))
    assert not any(name in encoded for name in (b"deadline", b"errorCode", b"lateStatus"))


def test_the_closest_default_counts() -> None:
    """A model's timeout goes before its provider's, and that before everybody's."""
    defaults = DefaultTimeouts.parse(["*=3600", "fal=60", "fal:fal-ai/flux=1.5"])
    assert defaults.of("fal", "fal-ai/flux") == 1_500
    assert defaults.of("fal", "other") == 60_000
    assert defaults.of("replicate", None) == 3_600_000
    assert DefaultTimeouts.parse(["fal=60"]).of("replicate", "m") is None
