"""RunPod, Baseten, ElevenLabs, BFL, Luma and described senders.

Webhooks that bring their result.
"""

import json
from typing import Any

import pytest

from tests.support.providers.bodies import NOW, SECRET, signed, webhook
from tests.support.providers.proofs import (
    BASETEN,
    BFL,
    ELEVENLABS,
    GENERIC,
    GENERIC_OPTIONS,
    LUMA,
    RUNPOD,
)
from tests.support.streams.pipeline import pipeline
from tidings.storage.memory import MemoryStore
from tidings.storage.prediction import ABSENT, Status
from tidings.streams.log.memory import MemoryLog
from tidings.streams.providers.configuration import BadConfiguration, Configuration
from tidings.streams.providers.registry import open_provider, open_providers
from tidings.streams.providers.translation import translate
from tidings.streams.rules.event import Event, OtherResource, Poison


def translated(name: str, body: Any) -> Event:
    provider = open_provider(name, Configuration(secret=("word",)))
    assert provider is not None
    return translate(
        provider, webhook(body if isinstance(body, bytes) else json.dumps(body).encode())
    )


@pytest.mark.parametrize(
    ("name", "field", "words"),
    [
        (
            "runpod",
            "status",
            "IN_QUEUE=starting IN_PROGRESS=processing RUNNING=processing COMPLETED=succeeded",
        ),
        ("runpod", "status", "FAILED=failed TIMED_OUT=failed CANCELLED=canceled"),
        ("bfl", "status", "Pending=processing Ready=succeeded Error=failed"),
        ("luma", "state", "queued=starting dreaming=processing completed=succeeded failed=failed"),
    ],
)
def test_statuses(name: str, field: str, words: str) -> None:
    """Each provider's words stand for ours, and a word that nobody knows is poison."""
    for pair in words.split():
        theirs, _, ours = pair.partition("=")
        assert translated(name, {"id": "a", field: theirs}).status == ours
    for body in ({"id": "a", field: "paused"}, {"id": "a"}):
        with pytest.raises(Poison) as caught:
            translated(name, body)
        assert caught.value.code == "unknown-status"


def test_runpod() -> None:
    """A job brings its input, output, error and time of work."""
    event = translated("runpod", RUNPOD)
    assert (event.prompt, event.generation_time, event.image_url) == (
        "x",
        157,
        "https://e.com/1.png",
    )
    assert translated("runpod", {"id": "a", "status": "TIMED_OUT"}).error == "timed out"
    assert (
        translated("runpod", {"id": "a", "status": "FAILED", "error": {"m": 1}}).error == '{"m": 1}'
    )
    assert open_providers({"runpod": Configuration(token="rpa_x")})["runpod"].name == "runpod"


def test_baseten() -> None:
    """A request without errors succeeded with its data; with errors it failed for all of them."""
    event = translated("baseten", BASETEN)
    assert (event.status, event.model, bytes(event.output)) == (
        Status.SUCCEEDED,
        "abc123",
        b'{"output":"x"}',
    )
    failed = translated(
        "baseten", json.loads(BASETEN) | {"errors": [{"message": "a"}, {"code": "B"}]}
    )
    assert (failed.status, failed.error) == (Status.FAILED, "a; B")
    with pytest.raises(OtherResource):
        translated("baseten", json.loads(BASETEN) | {"type": "other"})


def test_elevenlabs() -> None:
    """A transcript is a success whose output is the data; a call that never began has failed."""
    event = translated("elevenlabs", ELEVENLABS)
    assert (event.prediction_id, event.status, event.model) == ("abc", Status.SUCCEEDED, "xyz")
    assert json.loads(bytes(event.output))["transcript"]
    failed = translated(
        "elevenlabs",
        {
            "type": "call_initiation_failure",
            "data": {"conversation_id": "c", "failure_reason": "busy"},
        },
    )
    assert (failed.status, failed.error, failed.output) == (Status.FAILED, "busy", ABSENT)


@pytest.mark.parametrize("first", [0, 1])
async def test_a_conversation_keeps_transcript_and_audio(first: int) -> None:
    """Both webhooks of a conversation are kept, in either order, the audio under its own id."""
    provider = open_provider("elevenlabs", Configuration(secret=("word",)))
    assert provider is not None
    audio = {"agent_id": "xyz", "conversation_id": "abc", "full_audio": "UklGRg=="}
    bodies = [ELEVENLABS, json.dumps({"type": "post_call_audio", "data": audio}).encode()]
    async with pipeline(MemoryLog(), MemoryStore(), providers={"elevenlabs": provider}) as pipe:
        for body in (bodies[first], bodies[1 - first]):
            own = provider.prediction_id(body)
            assert own == translate(provider, webhook(body)).prediction_id
            assert (
                translate(provider, webhook(body, "abc")).prediction_id == "abc"
            )  # as its record is keyed
            await pipe.send(body, key=own, tidings_provider="elevenlabs")
        await pipe.settled()
        transcript, recording = await pipe.prediction("abc"), await pipe.prediction("abc.audio")
        assert json.loads(bytes(transcript.output))["transcript"]
        assert json.loads(bytes(recording.output)) == audio
        assert transcript.provider_id == recording.provider_id == "abc"
        assert await pipe.letters() == []


def test_bfl() -> None:
    """The sample is the output and the picture."""
    event = translated("bfl", BFL)
    assert event.image_url == "https://delivery-eu1.bfl.ai/results/x/sample.jpeg"
    assert (event.prompt, event.progress) == ("a cat", 1.0)
    assert translated("bfl", {"id": "a", "status": "Error", "message": "no"}).error == "no"
    assert translated("bfl", {"id": "a", "status": "Error", "error": "why"}).error == "why"


def test_luma() -> None:
    """Assets are the output, and what was asked for is the payload."""
    event = translated("luma", LUMA)
    assert (event.image_url, event.prompt, event.model) == (
        "https://storage.cdn-luma.com/x.mp4",
        "a tiger in the snow",
        "ray-2",
    )
    assert (
        translated("luma", {"id": "a", "state": "failed", "failure_reason": "nsfw"}).error == "nsfw"
    )


def described(**options: Any) -> Event:
    provider = open_provider(
        "acme", Configuration(kind="generic", secret=("word",), options=GENERIC_OPTIONS | options)
    )
    assert provider is not None
    return translate(provider, webhook(GENERIC))


def test_a_described_sender() -> None:
    """Fields are found where the description says, and words mean what it says."""
    event = described()
    assert (event.prediction_id, event.status, event.image_url) == (
        "j1",
        Status.SUCCEEDED,
        "https://e.com/a.png",
    )
    assert event.progress == 0.5


@pytest.mark.parametrize(
    "path", ["job.results[7].url", "job.results.url", "job[0]", "job.id.x", "nothing"]
)
def test_a_way_that_ends_early_is_absent(path: str) -> None:
    """Where a body does not go as far as a path, the field is absent."""
    fields = {"id": "job.id", "status": "job.state", "output": path}
    assert described(fields=fields).output == ABSENT


@pytest.mark.parametrize(
    "options",
    [
        {"proof": "none"},
        {"odd": 1},
        {"statuses": {"done": "ready"}},
        {"fields": {"odd": "x"}},
        {"fields": {"id": "a..b"}},
    ],
)
def test_a_description_that_cannot_be_followed_is_refused(options: dict[str, Any]) -> None:
    """A mistake in the description stops the start with the table's name."""
    with pytest.raises(BadConfiguration, match="acme"):
        described(**options)


def test_a_described_sender_may_use_standard_webhooks() -> None:
    """By default a described sender signs by Standard Webhooks, with plain field names."""
    provider = open_providers({"generic": Configuration(secret=(SECRET,))})["generic"]
    body = b'{"id":"p","status":"failed"}'
    assert provider.verify(signed(body), body, NOW) == "msg_1"
    assert translate(provider, webhook(body)).status is Status.FAILED
    assert open_providers({"generic": Configuration()}) == {}
