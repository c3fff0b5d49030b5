"""OpenAI, Gemini and AssemblyAI: webhooks that name a result and do not bring it."""

import base64
import json
from typing import Any

import jwt
import pytest
from msgspec import Raw

from tests.support.providers.bodies import NOW, SECRET, signed, webhook
from tests.support.providers.proofs import (
    ASSEMBLYAI,
    GEMINI,
    JWKS,
    OPENAI,
    prove_gemini_dynamic,
    rsa_key,
    token,
)
from tidings.storage.prediction import Prediction, Status
from tidings.streams.providers.catalog.assemblyai import AssemblyAI
from tidings.streams.providers.catalog.gemini import Gemini
from tidings.streams.providers.catalog.openai import OpenAI
from tidings.streams.providers.configuration import BadConfiguration, Configuration
from tidings.streams.providers.job_api import ThinNotice, ThinWebhook, job_api_of
from tidings.streams.providers.protocol import BadSignature
from tidings.streams.providers.registry import open_provider, open_providers
from tidings.streams.providers.translation import translate
from tidings.streams.rules.decision import Applied, Stale
from tidings.streams.rules.event import Event, OtherResource, Poison
from tidings.streams.rules.transitions import decide


def translated(name: str, body: Any) -> Event:
    provider = open_provider(name, Configuration(secret=(SECRET,)))
    assert provider is not None
    return translate(
        provider, webhook(body if isinstance(body, bytes) else json.dumps(body).encode())
    )


@pytest.mark.parametrize(
    ("kind", "status", "error"),
    [
        ("response.completed", None, None),
        ("batch.completed", None, None),
        ("response.failed", Status.FAILED, None),
        ("response.incomplete", Status.FAILED, "incomplete"),
        ("batch.expired", Status.FAILED, "expired"),
        ("response.cancelled", Status.CANCELED, None),
    ],
)
def test_openai_events(kind: str, status: Status | None, error: str | None) -> None:
    """A success waits for its result.

    Other ends are told at once, with the kind of failure where it is the reason.
    """
    event = translated("openai", json.loads(OPENAI) | {"type": kind})
    assert (event.prediction_id, event.status, event.error) == ("resp_abc123", status, error)


def test_an_openai_response_as_fetched() -> None:
    """The fetched response brings status, model, output and error."""
    body = {
        "id": "resp_abc123",
        "object": "response",
        "status": "completed",
        "model": "gpt-5",
        "input": "hi",
        "output": [1],
    }
    event = translated("openai", body)
    assert (event.status, event.model, event.prompt, bytes(event.output)) == (
        Status.SUCCEEDED,
        "gpt-5",
        "hi",
        b"[1]",
    )
    cut = translated(
        "openai",
        body | {"status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}},
    )
    assert (cut.status, cut.error) == (Status.FAILED, 'incomplete: {"reason": "max_output_tokens"}')


def test_openai_is_thin_where_it_is_an_event() -> None:
    """An event names what to fetch; a fetched response needs nothing more."""
    provider = open_provider("openai", Configuration(secret=(SECRET,)))
    assert isinstance(provider, OpenAI)
    assert provider.thin(OPENAI) == ThinNotice("resp_abc123", status=Status.SUCCEEDED)
    assert provider.thin(OPENAI.replace(b"completed", b"expired")) == ThinNotice(
        "resp_abc123", status=Status.FAILED, error="expired"
    )
    assert provider.thin(OPENAI.replace(b"response.completed", b"invoice.paid")) is None
    assert provider.thin(b'{"id":"resp_1","status":"completed"}') is None
    assert provider.thin(b"[" * 10_000) is None


def test_an_openai_secret_without_prefix_is_the_key_itself() -> None:
    """A secret without `whsec_` is not decoded."""
    provider = open_providers({"openai": Configuration(secret=("just some text!",))})["openai"]
    assert provider.verify(signed(OPENAI, key=b"just some text!"), OPENAI, NOW)


@pytest.mark.parametrize(
    ("kind", "status", "error"),
    [
        ("batch.succeeded", None, None),
        ("interaction.completed", None, None),
        ("video.generated", None, None),
        ("batch.failed", Status.FAILED, "bad input"),
        ("batch.expired", Status.FAILED, "bad input"),
        ("interaction.cancelled", Status.CANCELED, None),
        ("interaction.requires_action", Status.PROCESSING, None),
    ],
)
def test_gemini_events(kind: str, status: Status | None, error: str | None) -> None:
    """A success waits for its result; other ends are told at once with their reason."""
    event = translated("gemini", json.loads(GEMINI) | {"type": kind})
    assert (event.prediction_id, event.status, event.error) == ("batch_123456", status, error)


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        (
            {"id": "v1_x", "status": "completed", "model": "g", "input": "hi", "outputs": [1]},
            "succeeded",
            ("[1]", None),
        ),
        ({"id": "v1_x", "status": "completed", "steps": [2]}, "succeeded", ("[2]", None)),
        ({"id": "v1_x", "status": "in_progress"}, "processing", ("", None)),
        ({"id": "v1_x", "status": "failed", "error": {"code": 3}}, "failed", ("", '{"code": 3}')),
        ({"id": "v1_x", "status": "incomplete"}, "failed", ("", "incomplete")),
        ({"id": "v1_x", "status": "cancelled"}, "canceled", ("", None)),
        (
            {
                "name": "batches/v1_x",
                "metadata": {"state": "BATCH_STATE_SUCCEEDED", "model": "models/g"},
                "response": {},
            },
            "succeeded",
            ("{}", None),
        ),
        (
            {"name": "batches/v1_x", "metadata": {"state": "JOB_STATE_PENDING"}},
            "starting",
            ("", None),
        ),
        (
            {"name": "batches/v1_x", "metadata": {"state": "BATCH_STATE_EXPIRED"}},
            "failed",
            ("", "expired"),
        ),
        ({"name": "v1_x", "done": False}, "processing", ("", None)),
        ({"name": "v1_x", "done": True, "response": {"v": 1}}, "succeeded", ('{"v": 1}', None)),
        ({"name": "v1_x", "done": True, "error": {"code": 3}}, "failed", ("", '{"code": 3}')),
    ],
)
def test_what_gemini_shows_when_asked(body: Any, status: str, said: tuple[str, str | None]) -> None:
    """An interaction, a batch and a video, as fetched, tell how they stand."""
    event = translated("gemini", body)
    assert (event.prediction_id, event.status) == ("v1_x", status)
    assert (bytes(event.output).decode(), event.error) == said
    assert not event.notice
    with pytest.raises(Poison):
        translated("gemini", {"id": "x"})


def test_a_gemini_batch_is_fetched_where_batches_are() -> None:
    """Whichever way an event names a batch, its id and its place are the same."""
    provider = open_provider("gemini", Configuration(secret=(SECRET,)))
    assert isinstance(provider, Gemini)
    for own in ("b1", "batches/b1"):
        body = json.dumps({"type": "batch.succeeded", "data": {"id": own}}).encode()
        assert provider.thin(body) == ThinNotice(
            "b1", Raw(b'{"get":"batches/b1"}'), Status.SUCCEEDED
        )
        assert provider.prediction_id(body) == "b1"
    assert provider.thin(b'{"type":"interaction.completed","data":{"id":"i1"}}') == ThinNotice(
        "i1", status=Status.SUCCEEDED
    )
    assert provider.thin(b'{"type":"model.tuned","data":{"id":"i1"}}') is None
    assert provider.thin(b'{"id":"i1","status":"completed"}') is None


@pytest.mark.parametrize(
    ("name", "body"),
    [
        ("openai", OPENAI.replace(b"completed", b"failed")),
        ("gemini", GEMINI),
        ("assemblyai", b'{"transcript_id":"t","status":"error"}'),
    ],
)
def test_a_webhook_without_a_result_begins_no_record(name: str, body: bytes) -> None:
    """What names the provider's id alone may be about a prediction with an id of ours.

    It only adds to what stands.
    """
    event = translated(name, body)
    assert event.notice
    assert isinstance(decide(None, event, None), Stale)
    begun = decide(None, Event(prediction_id=event.prediction_id, at=event.at), None)
    assert isinstance(begun, Applied)
    ended = decide(begun.record, event, None)
    assert isinstance(ended, Applied)
    assert isinstance(ended.record, Prediction)
    assert ended.record.status is Status.FAILED


def gemini() -> Gemini:
    provider = open_provider(
        "gemini", Configuration(jwks_url="https://e.com/jwks", options={"audience": "tidings"})
    )
    assert isinstance(provider, Gemini)
    assert provider.key_set is not None
    provider.key_set.load(JWKS)
    return provider


def none_token() -> str:
    header, claims = (
        base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode()
        for part in (
            {"alg": "none", "kid": "g1"},
            json.loads(GEMINI) | {"aud": "tidings", "exp": NOW + 60},
        )
    )
    return f"{header}.{claims}."


@pytest.mark.parametrize(
    "wrong",
    [
        token(GEMINI, aud="another"),
        token(GEMINI, exp=NOW - 301),
        token(GEMINI, exp="soon"),
        token(GEMINI, type="batch.succeeded"),
        token(GEMINI, data={"id": "another"}),
        none_token(),
        jwt.encode(
            json.loads(GEMINI) | {"aud": "tidings", "exp": NOW + 60},
            b"x" * 32,
            "HS256",
            headers={"kid": "g1"},
        ),
        jwt.encode(
            json.loads(GEMINI) | {"aud": "tidings", "exp": NOW + 60},
            rsa_key(),
            "RS256",
            headers={"kid": "g2"},
        ),
        jwt.encode(
            json.loads(GEMINI) | {"aud": "tidings"}, rsa_key(), "RS256", headers={"kid": "g1"}
        ),
        "a.b.c",
        "....",
    ],
)
def test_a_gemini_token_that_does_not_prove_the_body(wrong: str) -> None:
    """Another audience, time, content, key or algorithm than the body's own proves nothing."""
    with pytest.raises(BadSignature):
        gemini().verify(prove_gemini_dynamic(GEMINI) | {"webhook-signature": wrong}, GEMINI, NOW)


def test_gemini_keys_need_an_audience() -> None:
    """Google signs for all its customers, so keys without an audience are refused at the start."""
    with pytest.raises(BadConfiguration, match="audience"):
        open_providers({"gemini": Configuration(jwks_url="https://e.com/jwks")})


def test_assemblyai() -> None:
    """A webhook's success waits for its text; a failure does not wait.

    The fetched transcript brings both.
    """
    event = translated("assemblyai", ASSEMBLYAI)
    assert (event.prediction_id, event.status) == ("5552493-16d8-42d8-8feb-c2a16b56f6e8", None)
    assert (
        translated("assemblyai", {"transcript_id": "t", "status": "error"}).status is Status.FAILED
    )
    provider = open_provider("assemblyai", Configuration(secret=("word",)))
    assert isinstance(provider, AssemblyAI)
    assert provider.thin(b'{"transcript_id":"t","status":"error"}') == ThinNotice(
        "t", status=Status.FAILED
    )
    assert provider.thin(b'{"transcript_id":"t","status":"odd"}') is None
    fetched = translated("assemblyai", {"id": "t", "status": "completed", "text": "hello"})
    assert (fetched.status, bytes(fetched.output)) == (Status.SUCCEEDED, b'"hello"')
    broken = translated("assemblyai", {"id": "t", "status": "error", "error": "no speech"})
    assert (broken.status, broken.error) == (Status.FAILED, "no speech")


def test_assemblyai_takes_a_header_of_choice() -> None:
    """The header's name can be set, and must be one."""
    provider = open_provider(
        "assemblyai", Configuration(secret=("word",), options={"header": "X-Mine"})
    )
    assert isinstance(provider, AssemblyAI)
    provider.verify({"x-mine": "word"}, ASSEMBLYAI, NOW)
    with pytest.raises(BadSignature):
        provider.verify({"x-tidings-secret": "word"}, ASSEMBLYAI, NOW)
    for odd in ("", "a b", "ü", 5):
        with pytest.raises(BadConfiguration, match="header"):
            open_provider("assemblyai", Configuration(secret=("word",), options={"header": odd}))


@pytest.mark.parametrize(
    ("name", "body"),
    [
        ("openai", {"type": "fine_tuning.job.succeeded", "data": {"id": "ftjob_1"}}),
        ("openai", {"type": "video.failed", "data": {"id": "video_1"}}),
        ("openai", {"id": "video_1", "object": "video", "status": "failed"}),
        ("gemini", {"type": "model.tuned", "data": {"id": "x"}}),
        ("elevenlabs", {"type": "voice_removed", "data": {"voice_id": "v"}}),
        ("assemblyai", {"status": "redacted_audio_ready", "transcript_id": "t"}),
        ("baseten", {"type": "deployment_ready", "request_id": "r"}),
    ],
)
def test_events_about_other_resources_are_set_aside_by_name(name: str, body: Any) -> None:
    """What is not about a prediction fails none, and is no poison either."""
    with pytest.raises(OtherResource) as caught:
        translated(name, body)
    assert caught.value.provider == name
    assert caught.value.kind in body.values()
    provider = open_provider(name, Configuration(secret=(SECRET,)))
    assert not isinstance(provider, ThinWebhook) or provider.thin(json.dumps(body).encode()) is None


@pytest.mark.parametrize("name", ["openai", "gemini", "assemblyai"])
def test_a_status_that_nobody_knows_is_poison(name: str) -> None:
    """An event of a known kind that tells nothing known goes to the dead letters."""
    kind = {"openai": "response.paid", "gemini": "batch.paid"}.get(name)
    said = {"status": "paid", "transcript_id": "x", "data": {"id": "x"}, "type": kind}
    with pytest.raises(Poison) as caught:
        translated(name, said)
    assert caught.value.code == "unknown-status"


def test_another_resource_is_not_looked_up_where_responses_are() -> None:
    """A 404 there would say that it is gone, and fail what may be well."""
    provider = open_provider("openai", Configuration(secret=(SECRET,), token="tok"))
    api = job_api_of(provider)
    assert api is not None
    for ask in (api.get, api.cancel):
        with pytest.raises(ValueError, match="video_1"):
            ask("video_1", None, Raw())
