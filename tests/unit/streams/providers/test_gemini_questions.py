"""An interaction of Gemini's that requires an action: the question, and the call that an answer is."""

import json
from typing import Any

import pytest
from msgspec import Raw
from msgspec import json as encoding
from msgspec.structs import replace

from tests.support.providers.bodies import SECRET, webhook
from tidings.storage.prediction import Status
from tidings.streams.providers.configuration import Configuration
from tidings.streams.providers.gemini_api import GeminiApi
from tidings.streams.providers.job_api import Reply, Unreadable
from tidings.streams.providers.registry import open_providers
from tidings.streams.providers.translation import translate
from tidings.streams.rules.event import Event

CALL = {"type": "function_call", "id": "c1", "name": "weather", "arguments": {"at": "Bonn"}}
OTHER = {**CALL, "id": "c2", "name": "time"}
ASKING = {"id": "i1", "status": "requires_action", "model": "gemini-3", "outputs": [CALL]}
API = GeminiApi("tok", dynamic=True)


def told(body: dict[str, Any], *, questions: bool = True) -> Event:
    provider = open_providers({"gemini": Configuration(secret=(SECRET,), token="tok")})["gemini"]
    found = webhook(json.dumps(body).encode(), "p1")
    return translate(provider, replace(found, questions=questions))


def reply(question: Raw | bytes, answer: Any, **more: Any) -> Reply:
    given = {"provider_id": "i1", "model": "gemini-3", "webhook": "https://e.com/h", "key": "p1:1"}
    return Reply(**{**given, **more}, question=bytes(question), answer=encoding.encode(answer))


def sent(call_for: Reply, api: GeminiApi = API) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(api.answer(call_for).body)
    return found


def test_an_action_that_is_required_is_a_question() -> None:
    """It names the calls whose results are needed, as they came; the interaction's id is the question's."""
    event = told(ASKING)
    assert (event.status, event.waiting, event.question_id) == (Status.PROCESSING, True, "i1")
    said = encoding.decode(event.question)
    assert (said["text"], said["calls"]) == ("The result is needed of weather", [CALL])
    plan = told({**ASKING, "outputs": [{"type": "text", "text": "My plan"}], "agent": "deep"})
    assert encoding.decode(plan.question) == {"text": "My plan", "agent": "deep"}
    assert encoding.decode(told({**ASKING, "outputs": None}).question)["text"]


@pytest.mark.parametrize("status", ["in_progress", "completed", "failed"])
def test_nothing_else_is_a_question(status: str) -> None:
    """Nor is a body that was appended before there were questions: a replay gives what it gave."""
    assert told({**ASKING, "status": status}).waiting is None
    old = told(ASKING, questions=False)
    assert (old.status, old.waiting, old.question) == (Status.PROCESSING, None, Raw(b""))


def test_an_answer_is_an_interaction_that_goes_on() -> None:
    """It names the one that asked, and its webhook is of the same prediction."""
    question = told(ASKING).question
    call = API.answer(reply(question, {"celsius": 20}))
    assert (call.method, call.url) == (
        "POST",
        "https://generativelanguage.googleapis.com/v1beta/interactions",
    )
    assert call.headers["idempotency-key"] == "p1:1"
    assert json.loads(call.body) == {
        "model": "gemini-3",
        "previous_interaction_id": "i1",
        "input": [
            {
                "type": "function_result",
                "call_id": "c1",
                "name": "weather",
                "result": {"celsius": 20},
            }
        ],
        "background": True,
        "store": True,
        "webhook_config": {"uris": ["https://e.com/h"]},
    }
    assert "webhook_config" not in sent(reply(question, 1), GeminiApi("tok"))
    assert "webhook_config" not in sent(reply(question, 1, webhook=None))


def test_several_results_and_plain_answers() -> None:
    """Of several calls each gets its own; a text is one; Gemini's own form goes as it is."""
    both = told({**ASKING, "outputs": [CALL, OTHER]}).question
    found = sent(reply(both, {"c2": 5, "c1": "sun"}))["input"]
    assert [(one["call_id"], one["result"]) for one in found] == [("c1", "sun"), ("c2", 5)]
    plan = told({**ASKING, "outputs": [{"type": "text", "text": "?"}], "agent": "deep"}).question
    answer = sent(reply(plan, "Go on", model=None))
    assert (answer["input"], answer["agent"]) == ("Go on", "deep")
    assert "model" not in answer
    own = [{"type": "text", "text": "Go on"}]
    assert sent(reply(both, own))["input"] == own


@pytest.mark.parametrize("answer", [{"c1": 1}, {"c1": 1, "c3": 2}, "both", [1]])
def test_an_answer_that_does_not_fit(answer: Any) -> None:
    """Without a result for each of several calls it cannot be sent."""
    both = told({**ASKING, "outputs": [CALL, OTHER]}).question
    with pytest.raises(ValueError, match="c1, c2"):
        API.answer(reply(both, answer))


def test_what_goes_on_has_an_id() -> None:
    """Its answer is the new interaction."""
    assert API.answered(b'{"id":"i2","status":"in_progress"}').provider_id == "i2"
    for body in (b"{}", b"[]", b"no"):
        with pytest.raises(Unreadable):
            API.answered(body)
