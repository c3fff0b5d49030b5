"""Waiting for a person: questions that reports bring, and their answers."""

from typing import Any

import msgspec
import pytest
from msgspec import Raw

from tests.support.streams.events import T0, event, judge, record
from tidings.storage.prediction import ABSENT, Prediction, encode
from tidings.streams.rules.decision import Applied, Stale
from tidings.streams.rules.event import Event


def question(text: Any = "Go on?", status: str | None = None, **fields: Any) -> Event:
    return event(status, waiting=True, question=Raw(msgspec.json.encode(text)), **fields)


def answer(said: Any = "yes", number: int = 1, **fields: Any) -> Event:
    raw = Raw(msgspec.json.encode(said))
    return event(type="answer", answer=raw, question_number=number, **fields)


def applied(before: Prediction | None, what: Event, offset: int = 9) -> Prediction:
    decision = judge(before, what, offset)
    assert isinstance(decision, Applied)
    assert isinstance(decision.record, Prediction)
    return decision.record


@pytest.mark.parametrize("status", ["starting", "processing"])
def test_a_report_asks_and_the_status_stays(status: str) -> None:
    """Waiting is a flag beside the status; a deadline stays as it is."""
    before = record(event(status, deadline=T0 + 1000))
    asked = applied(before, question(id="e1"))
    assert (asked.status, asked.waiting, asked.question_number) == (status, True, 1)
    assert (asked.question, asked.question_id) == (Raw(b'"Go on?"'), "e1")
    assert (asked.transitions, asked.deadline) == (before.transitions, T0 + 1000)


def test_it_may_be_asked_with_the_first_report_and_with_a_step() -> None:
    """Whatever the report does beside it, the question counts."""
    assert applied(None, question(status="processing")).waiting
    assert applied(record(event("starting")), question(status="processing")).waiting
    assert not applied(record(event("starting")), question(status="failed")).question


def test_a_question_without_the_flag_is_none() -> None:
    """What an event of another kind of service happens to call so changes nothing."""
    before = record(event("processing"))
    said = event("processing", question=Raw(b'"Go on?"'), question_id="q")
    assert isinstance(judge(before, said, 9), Stale)


def test_the_first_answer_counts() -> None:
    """It ends the wait, and says who gave it and when; what comes after it changes nothing."""
    asked = record(event("processing"), question())
    answered = applied(asked, answer(answered_by="ada", id="a1", at=T0 + 5))
    assert (answered.waiting, answered.answer) == (False, Raw(b'"yes"'))
    assert (answered.answered_by, answered.answered_at) == ("ada", T0 + 5)
    assert (answered.answer_id, answered.question) == ("a1", asked.question)
    for again in (answer(answered_by="ada"), answer("no", answered_by="bob")):
        assert isinstance(judge(answered, again, 10), Stale)


def test_an_answer_is_for_the_question_that_stands() -> None:
    """To a question before it, one that is not there, or an earlier prediction with this id it is none."""
    asked = record(event("processing"), question(id="e1"), question("And now?", id="e2"))
    assert asked.question_number == 2
    for wrong in (answer(number=1), answer(number=3), answer(number=2, created_at=T0 - 1)):
        assert isinstance(judge(asked, wrong, 9), Stale)
    assert isinstance(judge(record(event("processing")), answer(), 9), Stale)
    assert isinstance(judge(None, answer(), 9), Stale)
    assert applied(asked, answer(number=2)).answer


def test_a_question_that_comes_again_is_not_asked_again() -> None:
    """By its id, after its answer too; without an id by what it says, while it waits."""
    asked = record(event("processing"), question(question_id="q1"))
    assert isinstance(judge(asked, question("other words", question_id="q1"), 9), Stale)
    assert isinstance(judge(asked, question(id="e2"), 9), Stale)
    answered = applied(asked, answer())
    assert isinstance(judge(answered, question(question_id="q1"), 10), Stale)
    anew = applied(answered, question(id="e3"), 10)
    assert (anew.waiting, anew.question_number, anew.answer) == (True, 2, ABSENT)
    assert (anew.answered_by, anew.answered_at, anew.answer_id) == (None, None, None)


def test_a_question_can_be_taken_back() -> None:
    """`waiting: false` ends the wait without an answer."""
    asked = record(event("processing"), question())
    back = applied(asked, event(waiting=False))
    assert not back.waiting
    assert back.answered_at is None
    assert isinstance(judge(back, answer(), 10), Stale)
    assert isinstance(judge(back, event(waiting=False), 10), Stale)


@pytest.mark.parametrize(
    "end",
    [
        event("succeeded"),
        event("failed"),
        event("canceled"),
        event(type="cancel"),
        event("succeeded", archive="before"),
        event(type="deadline", deadline=T0 + 1, at=T0 + 1, recorded_at=T0 + 2),
        event(type="append", text="x", text_closed=True),
    ],
    ids=lambda what: f"{what.type}-{what.status}-{what.archive}",
)
def test_no_end_waits(end: Event) -> None:
    """However it ends, nobody is asked any more, and an answer or a question comes too late."""
    asked = record(event("processing", deadline=T0 + 1), question())
    ended = applied(asked, end)
    assert not ended.waiting
    assert b'"waiting"' not in encode(ended)
    assert isinstance(judge(ended, answer(), 10), Stale)
    assert isinstance(judge(ended, question("And now?", "processing"), 10), Stale)


def test_the_provider_has_the_answer_once() -> None:
    """It may go on under another id; what is said of the job that asked is over then."""
    asked = record(event("processing", provider_id="j1"), question(question_id="q1"))
    taken = event(type="answerTaken", question_number=1, provider_id="j2", at=T0 + 7)
    assert isinstance(judge(asked, taken, 9), Stale)
    answered = applied(asked, answer())
    refused = event(
        type="answerTaken", question_number=1, waiting=True, question=Raw(b'{"text":"Again"}')
    )
    again = applied(answered, refused, 10)
    assert (again.waiting, again.question_number, again.question_id) == (True, 2, "q1")
    assert (again.answer, again.answered_at) == (ABSENT, None)
    assert isinstance(judge(again, question(question_id="q1"), 11), Stale)
    assert isinstance(judge(again, refused, 11), Stale)
    gone_on = applied(answered, taken, 10)
    assert (gone_on.provider_id, gone_on.asked_as) == ("j2", "j1")
    assert gone_on.answer_taken_at == T0 + 7
    assert isinstance(judge(gone_on, taken, 11), Stale)
    assert isinstance(judge(gone_on, event("failed", provider_id="j1"), 11), Stale)
    assert applied(gone_on, event("succeeded", provider_id="j2"), 11).status == "succeeded"
