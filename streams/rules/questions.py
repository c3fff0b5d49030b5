"""Waiting for a person: a report brings a question, and the first answer to it counts. Pure.

The status stays as it is, and a deadline goes on. A question has a number within its prediction, and an answer names it.
So an answer to a question that is over is Stale. Of two answers at once the second is.
"""

from typing import Annotated, Any

import msgspec
from msgspec import Meta, Raw, Struct

from tidings.storage.prediction import ABSENT, Prediction, Standing
from tidings.streams.log.protocol import Place
from tidings.streams.rules.decision import STALE, Decision, applied
from tidings.streams.rules.event import Event

MAX_CHOICES = 1_000


class Question(Struct, frozen=True):
    """A question as an object; other members pass through."""

    text: Annotated[str, Meta(min_length=1)]
    choices: Annotated[tuple[Raw, ...], Meta(min_length=1, max_length=MAX_CHOICES)] | None = None
    """The answers that are taken; None: any."""


_question = msgspec.json.Decoder(Annotated[str, Meta(min_length=1)] | Question)


def question_of(given: Raw) -> Question:
    """The question in this JSON; a text alone takes any answer. Raises `msgspec.MsgspecError`."""
    found = _question.decode(given)
    return Question(found) if isinstance(found, str) else found


def ask(current: Prediction, event: Event, changes: dict[str, Any]) -> None:
    """What a report says of waiting, while the prediction has not ended.

    The id tells a question that comes again from one that is asked again. A provider that is looked up every minute says
    the same while it waits.
    """
    if event.waiting is False:
        if current.waiting:
            changes["waiting"] = False
        return
    if not event.question or bytes(event.question) == b"null":
        return
    id_ = event.question_id or event.id
    if current.question_number is not None:
        if id_ is not None and id_ == current.question_id:
            return
        if current.waiting and event.question == current.question:
            return
    changes |= _asked(current, event.question, id_)


def _asked(current: Prediction, question: Raw, id_: str | None) -> dict[str, Any]:
    return {
        "waiting": True,
        "question": question,
        "question_id": id_,
        "question_number": (current.question_number or 0) + 1,
        "answer": ABSENT,
        "answer_id": None,
        "answered_by": None,
        "answered_at": None,
        "answer_taken_at": None,
    }


def decide_answer(
    current: Standing | None, event: Event, position: Place | None, log: str | None
) -> Decision:
    """The answer to the question that stands, once: what comes after it is Stale."""
    if (
        not isinstance(current, Prediction)
        or not current.waiting
        or event.question_number != current.question_number
        or (event.created_at is not None and event.created_at != current.created_at)
    ):
        return STALE
    changes: dict[str, Any] = {
        "waiting": False,
        "answer": event.answer,
        "answer_id": event.id,
        "answered_by": event.answered_by,
        "answered_at": event.at,
    }
    return applied(current, changes, event, position, log)


def is_repeat(current: Prediction, event: Event) -> bool:
    """Whether this is the answer that was taken, of the same person."""
    return (
        current.answered_at is not None
        and not current.waiting
        and current.question_number == event.question_number
        and (current.answer, current.answered_by) == (event.answer, event.answered_by)
    )


def decide_answer_taken(
    current: Standing | None, event: Event, position: Place | None, log: str | None
) -> Decision:
    """The provider has the answer; it may go on with it as another job of its own.

    With `waiting` it has refused the answer: the question comes again under its id, with another number.
    """
    if (
        not isinstance(current, Prediction)
        or current.status.terminal
        or current.waiting
        or current.answered_at is None
        or current.answer_taken_at is not None
        or event.question_number != current.question_number
        or (event.created_at is not None and event.created_at != current.created_at)
    ):
        return STALE
    if event.waiting:
        asked = _asked(current, event.question or current.question, current.question_id)
        return applied(current, asked, event, position, log)
    changes: dict[str, Any] = {"answer_taken_at": event.at}
    if event.provider_id is not None and event.provider_id != current.provider_id:
        changes |= {
            "provider_id": event.provider_id,
            "provider_urls": event.provider_urls,
            "asked_as": current.provider_id,
        }
    return applied(current, changes, event, position, log)
