"""Calls to RunPod, OpenAI, AssemblyAI and Gemini: what they say and how their answers are read."""

import json
import posixpath
from urllib.parse import unquote, urlsplit

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import Raw

from tests.support.providers.bodies import SECRET, webhook
from tidings.storage.prediction import ABSENT, Status
from tidings.streams.providers.catalog.openai import OpenAIApi
from tidings.streams.providers.configuration import Configuration
from tidings.streams.providers.job_api import (
    Order,
    Origin,
    SubmissionApi,
    Unreadable,
    address,
    is_at,
    job_api_of,
    submission_api_of,
)
from tidings.streams.providers.protocol import Provider
from tidings.streams.providers.registry import open_providers
from tidings.streams.providers.translation import translate

SECRETS = {"runpod": (), "openai": (SECRET,), "assemblyai": ("old", "new")}
SUCCESS = {
    "runpod": ("COMPLETED", "output"),
    "openai": ("completed", "output"),
    "assemblyai": ("completed", "text"),
}
"""Each one's word for it, and the member with the result."""
each = pytest.mark.parametrize("name", SECRETS)


def opened(name: str, url: str | None = None) -> tuple[Provider, SubmissionApi]:
    provider = open_providers({name: Configuration(secret=SECRETS[name], token="tok", url=url)})[
        name
    ]
    api = submission_api_of(provider)
    assert api is not None
    return provider, api


def test_runpod_runs_a_job_at_an_endpoint() -> None:
    """The model is the endpoint; the input and the webhook's address are the body."""
    _, api = opened("runpod")
    call = api.create(
        Order(
            model="ep/1",
            prompt="a",
            payload=Raw(b'{"n":17454220438242315174}'),
            webhook="https://e.com/h",
        )
    )
    assert (call.method, call.url) == ("POST", "https://api.runpod.ai/v2/ep%2F1/run")
    assert call.headers["Authorization"] == "Bearer tok"
    assert b"17454220438242315174" in call.body
    assert json.loads(call.body) == {
        "input": {"n": 17454220438242315174, "prompt": "a"},
        "webhook": "https://e.com/h",
    }
    assert api.get("j/1", "ep", ABSENT).url == "https://api.runpod.ai/v2/ep/status/j%2F1"
    stop = api.cancel("j1", "ep", ABSENT)
    assert stop is not None
    assert stop.url == "https://api.runpod.ai/v2/ep/cancel/j1"


def test_openai_answers_in_the_background() -> None:
    """A prompt is the input, the payload's members are the call's.

    Batches are looked up where batches are.
    """
    _, api = opened("openai", "http://127.0.0.1:9/")
    call = api.create(
        Order(model="gpt-5", prompt="hi", payload=Raw(b'{"temperature":0.5,"background":false}'))
    )
    assert (call.method, call.url) == ("POST", "http://127.0.0.1:9/v1/responses")
    assert json.loads(call.body) == {
        "temperature": 0.5,
        "background": True,
        "input": "hi",
        "model": "gpt-5",
    }
    kept = json.loads(
        api.create(
            Order(model="m", prompt="x", payload=Raw(b'{"input":[1],"prompt":{"id":"p"}}'))
        ).body
    )
    assert (kept["input"], kept["prompt"]) == ([1], {"id": "p"})
    assert api.get("batch_1", None, ABSENT).url.endswith("/v1/batches/batch_1")
    stop = api.cancel("resp_1", None, ABSENT)
    assert stop is not None
    assert stop.url.endswith("/v1/responses/resp_1/cancel")


def test_openai_is_told_whose_a_response_is() -> None:
    """Prediction and attempt stand in the metadata, and are read from what is fetched."""
    _, api = opened("openai")
    assert isinstance(api, OpenAIApi)
    origin = Origin("p1", "attempt-1")
    payload = Raw(b'{"metadata":{"team":"a"}}')
    sent = json.loads(api.create(Order(model="m", prompt="x", payload=payload, origin=origin)).body)
    assert sent["metadata"] == {
        "team": "a",
        "tidings_prediction_id": "p1",
        "tidings_attempt": "attempt-1",
    }
    assert api.origin(json.dumps({"id": "resp_1", "metadata": sent["metadata"]}).encode()) == origin
    assert "metadata" not in json.loads(api.create(Order(model="m", prompt="x")).body)
    odd = api.create(Order(model="m", payload=Raw(b'{"metadata":5}'), origin=origin))
    assert json.loads(odd.body)["metadata"] == 5
    for none in (
        b"{}",
        b'{"metadata":null}',
        b'{"metadata":{"team":"a"}}',
        b'{"metadata":[1]}',
        b"[" * 10_000,
        b"\xff",
    ):
        assert api.origin(none) is None


def test_assemblyai_transcribes() -> None:
    """The payload's members are the call's, with the webhook's address and the newest secret.

    Nothing stops it.
    """
    _, api = opened("assemblyai", "https://api.eu.assemblyai.com/")
    order = Order(
        model="universal-2",
        payload=Raw(b'{"audio_url":"https://e.com/a.mp3"}'),
        webhook="https://e.com/h",
    )
    call = api.create(order)
    assert (call.method, call.url) == ("POST", "https://api.eu.assemblyai.com/v2/transcript")
    assert call.headers["Authorization"] == "tok"
    assert json.loads(call.body) == {
        "audio_url": "https://e.com/a.mp3",
        "speech_models": ["universal-2"],
        "webhook_url": "https://e.com/h",
        "webhook_auth_header_name": "x-tidings-secret",
        "webhook_auth_header_value": "new",
    }
    own = Order(model="m", payload=Raw(b'{"speech_model":"nano"}'))
    assert json.loads(api.create(own).body) == {"speech_model": "nano"}
    assert api.get("t/1", None, ABSENT).url.endswith("/v2/transcript/t%2F1")
    assert api.cancel("t1", None, ABSENT) is None


@pytest.mark.parametrize(
    ("provider_id", "urls", "path", "cancel"),
    [
        ("v1_x", ABSENT, "interactions/v1_x", "/cancel"),
        ("b1", Raw(b'{"get":"batches/b1"}'), "batches/b1", ":cancel"),
        ("models/veo/operations/o1", ABSENT, "models/veo/operations/o1", ":cancel"),
        ("b1", Raw(b'{"get":"batches/b1?x#y"}'), "batches/b1%3Fx%23y", ":cancel"),
    ],
)
def test_gemini_is_asked_where_a_resource_lies(
    provider_id: str, urls: Raw, path: str, cancel: str
) -> None:
    """A resource's name leads nowhere but below Gemini's API; nothing is submitted there."""
    provider = open_providers({"gemini": Configuration(secret=(SECRET,), token="key")})["gemini"]
    api = job_api_of(provider)
    assert api is not None
    assert submission_api_of(provider) is None
    call = api.get(provider_id, None, urls)
    assert call.url == f"https://generativelanguage.googleapis.com/v1beta/{path}"
    assert call.headers == {"x-goog-api-key": "key"}
    stop = api.cancel(provider_id, None, urls)
    assert stop is not None
    assert (stop.method, stop.url) == ("POST", call.url + cancel)
    assert "key" not in repr(api) + repr(call)


@pytest.mark.parametrize("model", [None, ""])
def test_without_its_model_nothing_is_asked(model: str | None) -> None:
    """RunPod and fal find a prediction by its model.

    Without it there is no address, rather than one that answers 404.
    """
    configured = {
        "runpod": Configuration(token="tok"),
        "fal": Configuration(token="tok", jwks_url="https://e.com/jwks"),
    }
    providers = open_providers(configured)
    for name in configured:
        api = submission_api_of(providers[name])
        assert api is not None
        for ask in (api.get, api.cancel):
            with pytest.raises(ValueError, match="no model"):
                ask("j1", model, ABSENT)
            assert ask("j1", "owner/name", ABSENT) is not None
    fal = submission_api_of(providers["fal"])
    assert fal is not None
    with pytest.raises(ValueError, match="no model"):
        fal.result("j1", b'{"status":"COMPLETED"}', ABSENT, model)
    told = Raw(b'{"status_url":"https://queue.fal.run/owner/name/requests/j1/status"}')
    assert (
        fal.get("j1", model, told).url
        == "https://queue.fal.run/owner/name/requests/j1/status?logs=1"
    )


@each
def test_an_answer_is_a_report(name: str) -> None:
    """What a look-up answers is appended as a report, if it is about the right one."""
    provider, api = opened(name)
    word, result = SUCCESS[name]
    body = json.dumps({"id": "x1", "status": word, result: "https://e.com/a.png"}).encode()
    assert api.created(body).provider_id == "x1"
    assert api.result("x1", body, ABSENT, "m") is None
    event = provider.translate(webhook(api.report("x1", body, None), "ours"))
    assert (event.status, event.provider_id, event.image_url) == (
        Status.SUCCEEDED,
        "x1",
        "https://e.com/a.png",
    )
    for odd in (b"", b"{}", b"[]", b'{"id":"x2"}', b"[" * 10_000):
        with pytest.raises(Unreadable):
            api.report("x1", odd, None)


@each
def test_an_answer_counts_however_its_json_is_written(name: str) -> None:
    """Id and status of a look-up are read beside NaN, half characters and a byte-order mark."""
    provider, api = opened(name)
    word, result = SUCCESS[name]
    plain = json.dumps({"id": "x1", "status": word, result: "MARK", "odd": "MARK"})
    for value in ("NaN", r'"cut \ud83d"', '"a\nb"', "[" * 5000 + "]" * 5000, "1e999", '{"a":[{}]}'):
        body = b"\xef\xbb\xbf" + plain.replace('"MARK"', value).encode()
        assert api.created(body).provider_id == "x1"
        event = translate(provider, webhook(api.report("x1", body, None), "ours"))
        assert (event.status, event.provider_id) == (Status.SUCCEEDED, "x1")


def test_a_result_that_is_nearly_json_is_put_into_the_report() -> None:
    """Fal's result comes apart: status and result become one body that everybody can read."""
    fal = open_providers({"fal": Configuration(token="tok", jwks_url="https://e.com/jwks")})["fal"]
    api = submission_api_of(fal)
    assert api is not None
    status = b'{"status":"COMPLETED","logs":[{"message":"a"}],"score":NaN}'
    told = Raw(b'{"response_url":"https://queue.fal.run/o/n/requests/r1"}')
    assert api.result("r1", status, told, None) is not None
    report = api.report(
        "r1", status, b'\xef\xbb\xbf{"images":[{"url":"https://e.com/a.png"}],"s":NaN}'
    )
    event = translate(fal, webhook(report, "ours"))
    assert (event.status, event.image_url) == (Status.SUCCEEDED, "https://e.com/a.png")
    with pytest.raises(Unreadable):
        api.report("r1", status, b"<html>")


@each
def test_a_token_is_not_shown(name: str) -> None:
    """Printing a provider with a token shows none of it."""
    provider, api = opened(name)
    assert "tok'" not in repr(provider) + repr(api) + repr(api.create(Order(model="m")))


BASE = "https://gateway.example/providers/here"
segment = st.text(min_size=1, max_size=12) | st.sampled_from(
    [
        "..",
        ".",
        "%2e%2e",
        "%252e%252e",
        "..%2f..",
        "x%252f..%252f..%252f..",
        "..\\..",
        "a/../b",
        "//evil.example",
        "?x",
        "#y",
        "@evil",
        "a\r\nb",
    ]
)


@settings(max_examples=400, deadline=None)
@given(st.lists(segment, min_size=1, max_size=5))
def test_an_address_stays_below_its_base(segments: list[str]) -> None:
    """An address is refused, or lies below its base however it is normalised."""
    try:
        url = address(BASE, *segments)
    except ValueError:
        return
    assert url.isascii()
    assert url.isprintable()
    split = urlsplit(url)
    assert (split.scheme, split.netloc, split.query, split.fragment) == (
        "https",
        "gateway.example",
        "",
        "",
    )
    path = split.path
    for _ in range(4):
        normal = posixpath.normpath(path.replace("\\", "/"))
        assert f"{normal}/".startswith("/providers/here/")
        path = unquote(path)
    assert str(httpx.URL(url).join("./")).startswith(f"{BASE}/")


@pytest.mark.parametrize(
    "model",
    [
        "x/../../deployments/acme/private",
        "../../internal/admin",
        "..",
        "a/%2e%2e/b",
        "a//b",
        "a/b\r\nHost: evil",
        "a\\..\\b",
        "m" * 513,
        "/".join("a" * 20),
    ],
)
@pytest.mark.parametrize("name", ["replicate", "fal", "runpod"])
def test_a_models_name_leads_nowhere_else(name: str, model: str) -> None:
    """A name that would lead to another place is refused before anything is sent."""
    configured = {
        "replicate": Configuration(secret=(SECRET,), token="tok", url=BASE),
        "fal": Configuration(token="tok", jwks_url="https://e.com/jwks", url=BASE),
        "runpod": Configuration(token="tok", url=BASE),
    }
    api = submission_api_of(open_providers({name: configured[name]})[name])
    assert api is not None
    try:
        url = api.create(Order(model=model)).url
    except ValueError:
        return
    # RunPod takes it for one part, Replicate for a version: neither is a path then.
    assert "/../" not in url
    assert url.startswith(f"{BASE}/")
    assert name in ("runpod", "replicate")


@pytest.mark.parametrize(
    "given",
    [
        "https://gateway.example.evil.example/providers/here/x",
        "https://gateway.example@evil.example/providers/here/x",
        "https://gateway.example/providers/here/../../x",
        "https://gateway.example/providers/here/%2e%2e/%2E%2E/x",
        "https://gateway.example/providers/here/..%2f..%2fx",
        "https://gateway.example/providers/hereabouts/x",
        "http://gateway.example/providers/here/x",
        "https://gateway.example:444/providers/here/x",
        "https://gateway.example/providers/here/x\r\nX: y",
        "https://gateway.example/providers/here\\..\\x",
        "//gateway.example/providers/here/x",
        "https://[gateway.example/providers/here/x",
    ],
)
def test_an_address_that_a_provider_gives_is_checked(given: str) -> None:
    """A token goes to no address but one below the provider's base."""
    assert not is_at(given, BASE)
    assert is_at(f"{BASE}/v1/predictions/p1?logs=1", BASE)
