"""Questions in the bodies of senders of Standard Webhooks, and of those that the settings describe."""

import json
from typing import Any

import pytest
from msgspec import Raw
from msgspec.structs import replace

from tests.support.providers.bodies import SECRET, webhook
from tidings.streams.providers.configuration import Configuration
from tidings.streams.providers.registry import open_providers
from tidings.streams.providers.translation import translate
from tidings.streams.rules.event import Event, Poison

FIELDS = {"id": "id", "status": "status", "question": "ask.what", "question_id": "ask.id"}
OPTIONS = {"statuses": {"busy": "processing"}, "fields": FIELDS}


def told(body: dict[str, Any], name: str = "standard", *, questions: bool = True) -> Event:
    if name == "standard":
        configuration = Configuration(secret=(SECRET,))
    else:
        configuration = Configuration(secret=(SECRET,), kind="generic", options=OPTIONS)
    provider = open_providers({name: configuration})[name]
    found = webhook(json.dumps(body).encode(), "p1")
    return translate(provider, replace(found, questions=questions))


def test_a_report_asks() -> None:
    """In the words of an event; `false` takes the question back."""
    said = {"predictionId": "p1", "waiting": True, "question": "Go on?", "questionId": "q1"}
    event = told(said)
    assert (event.waiting, event.question, event.question_id) == (True, Raw(b'"Go on?"'), "q1")
    assert not event.unknown
    assert told({"predictionId": "p1", "waiting": False}).waiting is False
    assert told({"predictionId": "p1", "question": "Go on?"}).waiting is None


def test_what_is_no_question_is_left_out() -> None:
    """With a status the rest counts; without one there is nothing else."""
    bad = {"predictionId": "p1", "waiting": True, "question": 5}
    assert told({**bad, "status": "processing"}).left_out == ("question",)
    assert told({**bad, "waiting": "yes", "status": "processing"}).left_out == ("waiting",)
    with pytest.raises(Poison):
        told(bad)


def test_older_bodies_ask_nothing() -> None:
    """What stands there under these names is unknown, as it always was."""
    said = {"predictionId": "p1", "waiting": "yes", "question": 5, "logs": "x"}
    event = told(said, questions=False)
    assert (event.waiting, event.logs, set(event.unknown)) == (None, "x", {"waiting", "question"})


@pytest.mark.parametrize(
    ("what", "question"),
    [
        ("Go on?", "Go on?"),
        ({"text": "Go on?", "choices": [1]}, {"text": "Go on?", "choices": [1]}),
        ([1], "[1]"),
        (None, None),
        ("", None),
    ],
)
def test_a_described_sender_asks(what: Any, question: Any) -> None:
    """What stands at the configured place is the question; anything else than one is the text of one."""
    body = {"id": "j1", "status": "busy", "ask": {"what": what, "id": 7}}
    event = told(json.loads(json.dumps(body)), "acme")
    said = json.loads(bytes(event.question)) if event.question else None
    assert said == question
    assert event.waiting is (True if question else None)
    assert event.question_id == ("7" if question else None)
    assert told(body, "acme", questions=False).waiting is None
