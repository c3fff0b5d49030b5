"""Calls to RunPod and OpenAI: what they say and how their answers are read."""

import json

import pytest
from msgspec import Raw

from storage.prediction import ABSENT, Status
from streams.providers.configuration import Configuration
from streams.providers.provider import Provider
from streams.providers.registry import open_providers
from streams.providers.submission import Order, Submitting, Unreadable, api_of
from tests.streams.providers.bodies import SECRET, webhook

SECRETS = {"runpod": (), "openai": (SECRET,)}
both = pytest.mark.parametrize("name", SECRETS)


def opened(name: str, url: str | None = None) -> tuple[Provider, Submitting]:
    provider = open_providers({name: Configuration(secret=SECRETS[name], token="tok", url=url)})[name]
    api = api_of(provider)
    assert api is not None
    return provider, api


def test_runpod_runs_a_job_at_an_endpoint() -> None:
    """The model is the endpoint; the input and the webhook's address are the body."""
    _, api = opened("runpod")
    call = api.create(
        Order(model="ep/1", prompt="a", payload=Raw(b'{"n":17454220438242315174}'), webhook="https://e.com/h")
    )
    assert (call.method, call.url) == ("POST", "https://api.runpod.ai/v2/ep%2F1/run")
    assert call.headers["Authorization"] == "Bearer tok"
    assert b"17454220438242315174" in call.body
    assert json.loads(call.body) == {"input": {"n": 17454220438242315174, "prompt": "a"}, "webhook": "https://e.com/h"}
    assert api.get("j/1", "ep", ABSENT).url == "https://api.runpod.ai/v2/ep/status/j%2F1"
    assert api.cancel("j1", "ep", ABSENT).url == "https://api.runpod.ai/v2/ep/cancel/j1"


def test_openai_answers_in_the_background() -> None:
    """A prompt is the input, the payload's members are the call's; batches are looked up where batches are."""
    _, api = opened("openai", "http://127.0.0.1:9/")
    call = api.create(Order(model="gpt-5", prompt="hi", payload=Raw(b'{"temperature":0.5,"background":false}')))
    assert (call.method, call.url) == ("POST", "http://127.0.0.1:9/v1/responses")
    assert json.loads(call.body) == {"temperature": 0.5, "background": True, "input": "hi", "model": "gpt-5"}
    kept = json.loads(api.create(Order(model="m", prompt="x", payload=Raw(b'{"input":[1],"prompt":{"id":"p"}}'))).body)
    assert (kept["input"], kept["prompt"]) == ([1], {"id": "p"})
    assert api.get("batch_1", None, ABSENT).url.endswith("/v1/batches/batch_1")
    assert api.cancel("resp_1", None, ABSENT).url.endswith("/v1/responses/resp_1/cancel")


@both
def test_an_answer_is_a_report(name: str) -> None:
    """What a look-up answers is appended as a report, if it is about the right one."""
    provider, api = opened(name)
    word = "COMPLETED" if name == "runpod" else "completed"
    body = json.dumps({"id": "x1", "status": word, "output": "https://e.com/a.png"}).encode()
    assert api.created(body).provider_id == "x1"
    assert api.result("x1", body, ABSENT, "m") is None
    event = provider.translate(webhook(api.report("x1", body, None), "ours"))
    assert (event.status, event.provider_id, event.image_url) == (Status.SUCCEEDED, "x1", "https://e.com/a.png")
    for odd in (b"", b"{}", b"[]", b'{"id":"x2"}', b"[" * 10_000):
        with pytest.raises(Unreadable):
            api.report("x1", odd, None)


@both
def test_a_token_is_not_shown(name: str) -> None:
    """Printing a provider with a token shows none of it."""
    provider, api = opened(name)
    assert "tok'" not in repr(provider) + repr(api) + repr(api.create(Order(model="m")))
