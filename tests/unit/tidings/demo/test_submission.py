"""What providers' calls say, sent to the stand-in over real HTTP.

Submitted, looked up, found again, canceled.
"""

import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from msgspec import Raw

from tests.support.conditions import eventually
from tests.support.providers.bodies import SECRET, webhook
from tests.support.providers.faulty_stand_in import FaultyStandIn
from tests.support.providers.receiver import Receiver
from tidings.storage.prediction import ABSENT, Status
from tidings.streams.providers.catalog.fal import Fal
from tidings.streams.providers.configuration import Configuration
from tidings.streams.providers.job_api import (
    Call,
    JobListing,
    Order,
    SubmissionApi,
    Submitted,
    Unreadable,
    submission_api_of,
)
from tidings.streams.providers.protocol import Provider
from tidings.streams.providers.registry import open_providers
from tidings.streams.providers.signatures.jwks import fetch_document
from tidings.streams.rules.event import Event

PROVIDERS = ("replicate", "fal")
both = pytest.mark.parametrize("name", PROVIDERS)


@pytest.fixture
async def stand_in() -> AsyncIterator[FaultyStandIn]:
    async with FaultyStandIn(duration=0.2, steps=2, first_retry=0.01) as running:
        yield running


def opened(stand_in: FaultyStandIn, name: str) -> Provider:
    settings = stand_in.environment()

    def setting(what: str) -> str | None:
        return settings.get(f"TIDINGS_{name.upper()}_{what}")

    secret = setting("SECRET")
    configuration = Configuration(
        secret=(secret,) if secret else (),
        token=setting("TOKEN"),
        url=setting("URL"),
        jwks_url=setting("JWKS_URL"),
    )
    return open_providers({name: configuration})[name]


def api(provider: Provider) -> SubmissionApi:
    found = submission_api_of(provider)
    assert found is not None
    return found


async def send(call: Call) -> httpx.Response:
    async with httpx.AsyncClient(timeout=30) as client:
        return await client.request(
            call.method, call.url, headers=dict(call.headers), content=call.body
        )


async def submit(provider: Provider, **more: Any) -> Submitted:
    order = Order(
        model="black-forest-labs/flux/dev",
        prompt="a cat",
        payload=Raw(b'{"seed":17454220438242315174}'),
    )
    order = Order(**{name: getattr(order, name) for name in order.__struct_fields__} | more)
    if provider.name == "replicate":
        order = Order(
            **{name: getattr(order, name) for name in order.__struct_fields__} | {"model": "a/flux"}
        )
    answer = await send(api(provider).create(order))
    assert answer.is_success, answer.text
    return api(provider).created(answer.content)


async def looked_up(provider: Provider, submitted: Submitted) -> Event:
    """What the reconciler would append, as the processor reads it."""
    calls = api(provider)
    answer = await send(
        calls.get(submitted.provider_id, "black-forest-labs/flux/dev", submitted.urls)
    )
    assert answer.is_success, answer.text
    more = calls.result(
        submitted.provider_id, answer.content, submitted.urls, "black-forest-labs/flux/dev"
    )
    result = (await send(more)).content if more is not None else None
    return provider.translate(
        webhook(calls.report(submitted.provider_id, answer.content, result), "ours")
    )


async def ended(provider: Provider, submitted: Submitted) -> Event:
    async def look() -> Event | None:
        event = await looked_up(provider, submitted)
        return event if event.status is not None and event.status.terminal else None

    event: Event | None = await eventually(look, within=30)
    assert event is not None
    return event


async def came_with(receiver: Receiver, piece: bytes) -> tuple[dict[str, str], bytes]:
    found = await eventually(
        lambda: next((one for one in receiver.came if piece in one[1]), None), within=30
    )
    assert found is not None
    return found


@both
async def test_submitted_and_looked_up(stand_in: FaultyStandIn, name: str) -> None:
    """A submitted prediction is looked up until it has succeeded, with its result."""
    provider = opened(stand_in, name)
    submitted = await submit(provider)
    assert b"17454220438242315174" in bytes(stand_in.jobs[submitted.provider_id].input)
    assert stand_in.jobs[submitted.provider_id].wishes.prompt == "a cat"
    event = await ended(provider, submitted)
    assert (event.prediction_id, event.provider_id) == ("ours", submitted.provider_id)
    assert event.status is Status.SUCCEEDED
    assert event.image_url is not None
    async with httpx.AsyncClient() as client:
        assert (await client.get(event.image_url)).content.startswith(b"\x89PNG")


@both
async def test_the_webhook_comes_and_is_proven(stand_in: FaultyStandIn, name: str) -> None:
    """The webhook that was asked for comes, is proven by the provider's own proof, and says the same as a look-up."""
    provider = opened(stand_in, name)
    if isinstance(provider, Fal):
        provider.key_set.load(await fetch_document(provider.key_set.url))
    async with Receiver() as receiver:
        submitted = await submit(provider, webhook=f"{receiver.url}?token=a%2Bb&x=1")
        seen = await ended(provider, submitted)
        final = b'"completed_at"' if name == "replicate" else b'"status":"OK"'
        headers, body = await came_with(receiver, final)
        timestamp = float(headers.get("webhook-timestamp") or headers["x-fal-webhook-timestamp"])
        assert provider.verify(headers, body, timestamp)
        told = provider.translate(webhook(body, "ours"))
    assert (told.status, told.provider_id, told.image_url) == (
        seen.status,
        seen.provider_id,
        seen.image_url,
    )


@both
async def test_a_cancel_is_told(stand_in: FaultyStandIn, name: str) -> None:
    """A canceled prediction is looked up as canceled, even where addresses were lost."""
    provider = opened(stand_in, name)
    submitted = await submit(provider, payload=Raw(b'{"duration":600}'))
    urls = submitted.urls if name == "replicate" else ABSENT
    call = api(provider).cancel(submitted.provider_id, "black-forest-labs/flux/dev", urls)
    assert call is not None
    answer = await send(call)
    assert answer.is_success, answer.text
    assert (await ended(provider, submitted)).status is Status.CANCELED


@both
async def test_a_failure_says_why(stand_in: FaultyStandIn, name: str) -> None:
    """A failed prediction is looked up with its reason."""
    provider = opened(stand_in, name)
    async with Receiver() as receiver:
        submitted = await submit(
            provider, payload=Raw(b'{"fail":"NSFW content"}'), webhook=receiver.url
        )
        event = await ended(provider, submitted)
        assert event.status is Status.FAILED
        assert event.error
        _, body = await came_with(
            receiver, b'"completed_at"' if name == "replicate" else b'"status":"ERROR"'
        )
        assert "NSFW content" in str(provider.translate(webhook(body)).error)


async def test_a_submission_without_an_answer_is_found_by_its_webhook(
    stand_in: FaultyStandIn,
) -> None:
    """The list shows webhooks' addresses, page after page."""
    provider = opened(stand_in, "replicate")
    calls = api(provider)
    assert isinstance(calls, JobListing)
    first = await submit(
        provider, webhook="http://127.0.0.1:9/hook/lost?token=x", payload=Raw(b'{"duration":0}')
    )
    for _ in range(100):
        await submit(provider, payload=Raw(b'{"duration":0,"steps":1}'))
    found, following = calls.listed((await send(calls.list())).content)
    assert (len(found), following is None) == (100, False)
    found, following = calls.listed((await send(calls.list(following))).content)
    assert [(one.provider_id, one.webhook) for one in found] == [
        (first.provider_id, "http://127.0.0.1:9/hook/lost?token=x")
    ]
    assert following is None


def configured(name: str) -> SubmissionApi:
    configuration = Configuration(
        secret=(SECRET,) if name == "replicate" else (), token="t", jwks_url="https://e.com/j"
    )
    return api(open_providers({name: configuration})[name])


@both
@pytest.mark.parametrize(
    "urls",
    [
        {
            "get": "https://evil.example/x",
            "cancel": "https://evil.example/x",
            "status_url": "https://evil.example/x",
        },
        {
            "get": "https://api.replicate.com.evil.example/x",
            "status_url": "https://queue.fal.run.evil.example/x",
        },
        {
            "get": "https://api.replicate.com@evil.example/x",
            "status_url": "https://queue.fal.run@evil.example/x",
        },
        {"get": "http://api.replicate.com/x", "status_url": "http://queue.fal.run/x"},
        {"get": "https://api.replicate.com/v1/../../x", "status_url": 5},
        [],
        "x",
    ],
)
def test_a_token_goes_to_its_provider_alone(name: str, urls: Any) -> None:
    """An address in a report cannot lead a token anywhere but to the provider."""
    calls = configured(name)
    base = (
        "https://api.replicate.com/v1/predictions/"
        if name == "replicate"
        else "https://queue.fal.run/a/b/requests/"
    )
    raw = Raw(json.dumps(urls).encode())
    assert calls.get("p1", "a/b", raw).url.startswith(f"{base}p1")
    with pytest.raises(ValueError, match="cannot be part of an address"):
        calls.get("p/../1", "a/b", raw)
    stop = calls.cancel("p1", "a/b", raw)
    assert stop is not None
    assert stop.url == f"{base}p1/cancel"


def test_models_of_replicate() -> None:
    """A model is named with its owner, with a version, or by the version alone."""
    calls = configured("replicate")
    named = calls.create(Order(model="a/b"))
    assert named.url.endswith("/v1/models/a/b/predictions")
    for model in ("a/b:v1", "v1"):
        call = calls.create(Order(model=model, prompt="p", webhook="https://e.com/h"))
        assert call.url.endswith("/v1/predictions")
        body = json.loads(call.body)
        assert (body["version"], body["input"], body["webhook"]) == (
            "v1",
            {"prompt": "p"},
            "https://e.com/h",
        )


@both
def test_an_input_is_an_object_whose_prompt_stays(name: str) -> None:
    """A prompt in the input is left alone; an input that is no object is refused."""
    body = json.loads(
        configured(name).create(Order(model="a/b", payload=Raw(b'{"prompt":"x"}'), prompt="y")).body
    )
    assert body.get("input", body) == {"prompt": "x"}
    for odd in (b"[]", b'"x"', b"5"):
        with pytest.raises(ValueError, match="no JSON object"):
            configured(name).create(Order(model="a/b", payload=Raw(odd)))


@both
@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b"{}", b'{"id":5}', b"[" * 10_000])
def test_an_odd_answer_is_unreadable(name: str, body: bytes) -> None:
    """An answer that is not what the documentation says is refused as such."""
    calls = configured(name)
    with pytest.raises(Unreadable):
        calls.created(body)
    if isinstance(calls, JobListing):
        with pytest.raises(Unreadable):
            calls.listed(body)


@both
def test_tokens_are_not_shown(name: str) -> None:
    """Printing a call or its maker shows no token."""
    calls = configured(name)
    call = calls.create(Order(model="a/b", webhook="https://e.com/h?token=abc"))
    assert "abc" not in repr(call)
    assert "Bearer" not in repr(call) + repr(calls)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/fal/a/b/requests/nothere/status", 404),
        ("GET", "/fal/a/b/requests/nothere", 404),
        ("PUT", "/fal/a/b/requests/nothere/cancel", 404),
        ("POST", "/fal/a/b", 422),
    ],
)
async def test_refusals_of_fal(
    stand_in: FaultyStandIn, method: str, path: str, status: int
) -> None:
    """What is unknown or invalid is refused with a reason, and nobody gets in without the key."""
    async with httpx.AsyncClient(base_url=stand_in.url) as client:
        answer = await client.request(
            method, path, headers={"Authorization": f"Key {stand_in.token}"}
        )
        assert (answer.status_code, bool(answer.json()["detail"])) == (status, True)
        assert (await client.request(method, path)).status_code == 401
