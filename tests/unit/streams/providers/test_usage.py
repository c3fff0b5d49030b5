"""What the providers' bodies say of usage, and that bodies from before that was read say nothing."""

from typing import Any

import msgspec
import pytest

from tidings.storage.prediction import Usage
from tidings.streams.log.protocol import StoredRecord
from tidings.streams.processing.decoder import decode_event
from tidings.streams.providers.configuration import BadConfiguration, Configuration
from tidings.streams.providers.registry import open_provider
from tidings.streams.rules.event import Event

NOW = 1_764_000_000_000
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
ACME = {
    "currency": "USD",
    "fields": {"input_tokens": "used.in", "cost": "used.total", "seconds": "used.s", "images": "n"},
}

INLINE = {"response": {"usageMetadata": {"promptTokenCount": 3, "candidatesTokenCount": 4}}}
BODIES: list[tuple[str, Any, Usage | None]] = [
    ("replicate", {"id": "p", "status": "succeeded", "metrics": {"predict_time": 5.247161016, "image_count": 1}},
     Usage(seconds=5.247161016, images=1)),
    ("replicate", {"id": "p", "status": "succeeded", "metrics": {"input_token_count": 7, "output_token_count": 9}},
     Usage(input_tokens=7, output_tokens=9)),
    ("replicate", {"id": "p", "status": "succeeded", "metrics": {"predict_time": -1, "image_count": "x"}}, None),
    ("openai", {"id": "r", "object": "response", "status": "completed",
                "usage": {"input_tokens": 36, "output_tokens": 87, "total_tokens": 123}},
     Usage(input_tokens=36, output_tokens=87)),
    ("openai", {"id": "r", "object": "response", "status": "completed", "usage": None}, None),
    ("gemini", {"id": "i", "status": "completed",
                "usage": {"total_input_tokens": 5, "total_output_tokens": 6, "total_thought_tokens": 2}},
     Usage(input_tokens=5, output_tokens=8)),
    ("gemini", {"name": "batches/b", "metadata": {"state": "BATCH_STATE_SUCCEEDED"},
                "response": {"inlinedResponses": {"inlinedResponses": [INLINE, INLINE, {"error": {}}]}}},
     Usage(input_tokens=6, output_tokens=8)),
    ("fal", {"request_id": "r", "status": "OK", "payload": {"images": [{}, {}], "timings": {"inference": 2.1}}},
     Usage(seconds=2.1, images=2)),
    ("fal", {"request_id": "r", "status": "COMPLETED", "metrics": {"inference_time": 3}, "payload": {}},
     Usage(seconds=3)),
    ("runpod", {"id": "j", "status": "COMPLETED", "executionTime": 157,
                "output": [{"usage": {"input": 10, "output": 16}}]},
     Usage(seconds=0.157, input_tokens=10, output_tokens=16)),
    ("assemblyai", {"id": "t", "status": "completed", "text": "a", "audio_duration": 281}, Usage(seconds=281)),
    ("elevenlabs", {"type": "post_call_transcription",
                    "data": {"conversation_id": "c", "metadata": {"call_duration_secs": 22, "cost": 296}}},
     Usage(seconds=22)),
    ("standard", {"predictionId": "p1", "status": "succeeded",
                  "usage": {"seconds": 2.0, "cost": "0.0123", "currency": "EUR"}},
     Usage(seconds=2, cost="0.0123", currency="EUR")),
    ("acme", {"id": "p", "status": "succeeded", "used": {"in": "12", "total": 0.00001, "s": 1.5}, "n": 3},
     Usage(input_tokens=12, seconds=1.5, images=3, cost="0.00001", currency="USD")),
    ("acme", {"id": "p", "status": "succeeded", "used": {"total": -1}, "n": 0}, None),
]  # fmt: skip


def read(name: str, body: Any, *, stamped: bool = True) -> Event:
    options: Any = ACME if name == "acme" else {}
    kind = "generic" if name == "acme" else None
    url = "https://keys.test" if name == "fal" else None
    configuration = Configuration(secret=(SECRET,), options=options, jwks_url=url, kind=kind)
    provider = open_provider(name, configuration)
    assert provider is not None
    headers = [("tidings-provider", name.encode()), *([("tidings-usage", b"1")] * stamped)]
    value = msgspec.json.encode(body)
    return decode_event(StoredRecord("t", 0, 0, NOW, b"p1", value, headers), {name: provider})


@pytest.mark.parametrize(("name", "body", "usage"), BODIES)
def test_a_body_says_what_was_used(name: str, body: Any, usage: Usage | None) -> None:
    """Each provider's own members become the record's; what is no number is left out."""
    assert read(name, body).usage == usage


@pytest.mark.parametrize(("name", "body", "usage"), BODIES)
def test_a_body_of_before_says_nothing_of_usage(name: str, body: Any, usage: Usage | None) -> None:
    """Without the stamp of its append the event is as it always was: a replay gives equal bytes."""
    before, now = read(name, body, stamped=False), read(name, body)
    assert before.usage is None
    assert msgspec.structs.replace(now, usage=None, unknown=()) == msgspec.structs.replace(
        before, unknown=()
    )


def test_a_broken_usage_does_not_stop_a_success() -> None:
    """Of a report that ends a prediction, a usage that makes no sense is left out and named."""
    body = {"predictionId": "p1", "status": "succeeded", "usage": {"cost": "1"}}
    event = read("standard", body)
    assert (event.status, event.usage, event.left_out) == ("succeeded", None, ("usage",))


@pytest.mark.parametrize("options", [{"currency": "USD"}, {"fields": {"cost": "c"}}, {"currency": "usd", "fields": {"cost": "c"}}])  # fmt: skip
def test_a_cost_in_the_settings_needs_a_currency(options: Any) -> None:
    """A sender's table names both or neither, and the currency by three capital letters."""
    with pytest.raises(BadConfiguration, match="currency"):
        open_provider("acme", Configuration(secret=(SECRET,), options=options, kind="generic"))
