"""Replicate: genuine bodies, odd bodies."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.providers.bodies import AT, NOW, REPLICATE, SECRET, signed, webhook
from tidings.storage.prediction import ABSENT, Status
from tidings.streams.providers.configuration import Configuration
from tidings.streams.providers.protocol import BadSignature, Provider
from tidings.streams.providers.registry import open_providers
from tidings.streams.providers.translation import translate
from tidings.streams.rules.event import Event, Poison


def replicate() -> Provider:
    return open_providers({"replicate": Configuration(secret=(SECRET,))})["replicate"]


def translated(**changes: Any) -> Event:
    return translate(replicate(), webhook(json.dumps(json.loads(REPLICATE) | changes).encode()))


def test_a_genuine_prediction_is_verified() -> None:
    """The documented body, signed by plain HMAC, is accepted; without its signature it is not."""
    assert replicate().verify(signed(REPLICATE), REPLICATE, NOW) == "msg_1"
    with pytest.raises(BadSignature):
        replicate().verify({}, REPLICATE, NOW)


def test_a_genuine_prediction_says_everything() -> None:
    """Every field of the documented body arrives where it belongs, as it came."""
    event = translate(replicate(), webhook(REPLICATE))
    assert event.prediction_id == event.provider_id == "vcscvthbaxrm80cq9xqtcbaw4m"
    assert event.at == event.recorded_at == AT
    assert (event.id, event.source, event.provider) == ("msg_1", "replicate", "replicate")
    assert event.status is Status.SUCCEEDED
    assert bytes(event.payload) == b'{"prompt":"a jersey","seed":17454220438242315174}'
    assert event.prompt == "a jersey"
    assert event.model == "black-forest-labs/flux-kontext-pro"
    assert bytes(event.output) == b'"https://replicate.delivery/xezq/tmp5v_v9dtm.png"'
    assert event.image_url == "https://replicate.delivery/xezq/tmp5v_v9dtm.png"
    assert event.error is None
    assert event.logs == "Using seed: 7710683\nGenerating...\n"
    assert event.generation_time == 5247
    assert json.loads(bytes(event.provider_urls))["cancel"].endswith("/cancel")


def test_the_address_names_the_prediction() -> None:
    """An id from the webhook's address is the prediction's.

    Replicate's own stays the provider's.
    """
    event = translate(replicate(), webhook(REPLICATE, "ours"))
    assert (event.prediction_id, event.provider_id) == ("ours", "vcscvthbaxrm80cq9xqtcbaw4m")


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("starting", Status.STARTING),
        ("processing", Status.PROCESSING),
        ("succeeded", Status.SUCCEEDED),
        ("failed", Status.FAILED),
        ("canceled", Status.CANCELED),
        ("aborted", Status.CANCELED),
    ],
)
def test_statuses(theirs: str, ours: Status) -> None:
    """Replicate's words are ours, and an aborted prediction counts as canceled."""
    assert translated(status=theirs).status is ours


def test_nulls_are_absent() -> None:
    """What is null says nothing."""
    event = translated(
        output=None, error=None, logs=None, metrics=None, urls=None, input=None, model=None
    )
    assert event.output == event.payload == event.provider_urls == ABSENT
    assert (event.error, event.logs, event.generation_time, event.image_url) == (None,) * 4
    assert (event.prompt, event.model) == (None, None)


@pytest.mark.parametrize(
    ("error", "text"), [("no GPU", "no GPU"), ({"code": 5}, '{"code": 5}'), ([1], "[1]")]
)
def test_an_error_of_any_shape_is_text(error: Any, text: str) -> None:
    """An error that is no string becomes its JSON text."""
    assert translated(status="failed", error=error).error == text


@pytest.mark.parametrize("payload", [{"prompt": 5}, {"prompt": None}, {}, [], "a string", 7])
def test_a_prompt_is_a_string_or_nothing(payload: Any) -> None:
    """An input without a prompt in words is kept and has no prompt."""
    event = translated(input=payload)
    assert event.prompt is None
    assert json.loads(bytes(event.payload)) == payload


def test_without_a_delivery_id_the_body_is_the_id() -> None:
    """A webhook without an id of its own is known by its body's hash."""
    first, second = (translate(replicate(), webhook(REPLICATE, delivery=None)).id for _ in range(2))
    assert first == second
    assert first is not None
    assert first.startswith("sha256:")


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", "not-json"),
        (b"hello", "not-json"),
        (b"{", "not-json"),
        (b"\xef\xbb\xbf{}", "no-id"),
        (b'{"id":"a","input":' + b"[" * 150, "not-json"),
        (b"[]", "wrong-type"),
        (b"null", "wrong-type"),
        (b'{"id":7,"status":"starting"}', "no-id"),
        (b'{"test": 2432232314}', "no-id"),
        (b'{"id":"","status":"starting"}', "no-id"),
        (b'{"id":"a b","status":"starting"}', "bad-id"),
        (b'{"id":"' + b"a" * 257 + b'","status":"starting"}', "bad-id"),
        (b'{"id":"a","status":"paused"}', "unknown-status"),
        (b'{"id":"a"}', "unknown-status"),
        (b'{"id":"a","input":' + b"[" * 100_000, "not-json"),
    ],
)
def test_what_makes_no_sense_is_poison(body: bytes, code: str) -> None:
    """A body that can never be applied is refused with the code that says why."""
    with pytest.raises(Poison) as caught:
        translate(replicate(), webhook(body))
    assert caught.value.code == code
    replicate().prediction_id(body)


@given(st.binary() | st.text().map(str.encode))
def test_any_body_is_an_event_or_poison(body: bytes) -> None:
    """No bytes raise anything but Poison, and the gateway's glance raises nothing."""
    replicate().prediction_id(body)
    with pytest.raises(Poison):
        translate(replicate(), webhook(body))


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@given(
    st.dictionaries(
        st.sampled_from(["id", "status", "input", "output", "error", "logs", "metrics", "urls"]),
        json_values,
    )
)
def test_any_json_in_its_fields_is_an_event_or_poison(fields: dict[str, Any]) -> None:
    """Whatever JSON the fields hold, the outcome is an event or Poison."""
    body = json.dumps({"id": "a", "status": "processing"} | fields).encode()
    try:
        event = translate(replicate(), webhook(body))
    except Poison:
        return
    if fields.get("output") is not None:
        assert json.loads(bytes(event.output)) == fields["output"]
