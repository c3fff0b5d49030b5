"""Reports under Standard Webhooks, bare and in the envelope."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.providers.bodies import AT, NOW, SECRET, signed, webhook
from tidings.storage.prediction import Status
from tidings.streams.providers.configuration import Configuration
from tidings.streams.providers.protocol import Provider
from tidings.streams.providers.registry import open_providers
from tidings.streams.providers.translation import translate
from tidings.streams.rules.event import Event, EventType, Poison


def standard() -> Provider:
    return open_providers({"standard": Configuration(secret=(SECRET,))})["standard"]


def translated(body: Any, prediction_id: str | None = None) -> Event:
    return translate(standard(), webhook(json.dumps(body).encode(), prediction_id))


def test_a_signed_report_is_accepted() -> None:
    """A report of our own shape under Standard Webhooks is proven and understood."""
    body = b'{"predictionId":"p1","status":"processing","progress":0.5,"tags":["a"],"payload":{"seed":17454220438242315174}}'
    assert standard().verify(signed(body), body, NOW) == "msg_1"
    assert standard().prediction_id(body) == "p1"
    event = translate(standard(), webhook(body))
    assert (event.prediction_id, event.status, event.progress, event.tags) == (
        "p1",
        Status.PROCESSING,
        0.5,
        ("a",),
    )
    assert bytes(event.payload) == b'{"seed":17454220438242315174}'
    assert (event.source, event.provider, event.provider_id, event.at) == (
        "standard",
        "standard",
        None,
        AT,
    )


def test_every_field_of_a_report() -> None:
    """Any field of an event may be sent, named as on the wire."""
    event = translated(
        {
            "type": "report", "id": "p1", "status": "succeeded", "at": AT - 5, "prompt": "a", "model": "m",
            "provider": "acme", "providerId": "x", "providerUrls": {"get": "u"}, "owner": "o", "output": ["https://e.com/a"],
            "imagePath": "p", "assets": [], "error": None, "logs": "l", "estimatedTime": 5, "generationTime": 6, "odd": 1,
        }
    )  # fmt: skip
    assert event.type is EventType.REPORT
    assert (event.prediction_id, event.provider, event.provider_id, event.owner) == (
        "p1",
        "acme",
        "x",
        "o",
    )
    assert (event.at, event.estimated_time, event.generation_time, event.unknown) == (
        AT - 5,
        5,
        6,
        ("odd",),
    )
    assert (event.image_url, event.image_path, event.logs, event.model) == (
        "https://e.com/a",
        "p",
        "l",
        "m",
    )


def test_a_time_later_than_the_record_counts_as_the_record() -> None:
    """A sender's clock that runs ahead does not reach into the future."""
    assert translated({"id": "p1", "at": AT + 10**6}).at == AT


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        ("prediction.succeeded", Status.SUCCEEDED),
        ("acme.prediction.completed", Status.SUCCEEDED),
        ("prediction.cancelled", Status.CANCELED),
        ("prediction.failed", Status.FAILED),
        ("prediction.started", Status.PROCESSING),
        ("prediction.updated", None),
    ],
)
def test_the_envelope(kind: str, status: Status | None) -> None:
    """In the specification's envelope `data` has the fields, and `type` ends with the status."""
    body = {
        "type": kind,
        "timestamp": "2022-11-03T20:26:10.344522Z",
        "data": {"id": "p1", "output": "https://e.com/x"},
    }
    event = translated(body)
    assert (event.prediction_id, event.status, event.image_url) == ("p1", status, "https://e.com/x")
    assert event.unknown == ()
    assert standard().prediction_id(json.dumps(body).encode()) == "p1"


def test_a_status_in_the_data_wins() -> None:
    """`data.status` is believed before the type."""
    assert (
        translated({"type": "a.succeeded", "data": {"id": "p", "status": "processing"}}).status
        is Status.PROCESSING
    )


def test_the_address_names_the_prediction() -> None:
    """A sender's own `id` is the provider's where the address names the prediction.

    Another `predictionId` is refused.
    """
    event = translated({"id": "x"}, "ours")
    assert (event.prediction_id, event.provider_id) == ("ours", "x")
    with pytest.raises(Poison) as caught:
        translated({"predictionId": "x"}, "ours")
    assert caught.value.code == "id-mismatch"


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({"type": "delete", "predictionId": "p"}, "unknown-type"),
        ({"type": "repair", "predictionId": "p", "replace": None}, "unknown-type"),
        ({"type": "create", "data": {"id": "p"}}, "unknown-type"),
        ({"type": "invoice.paid", "data": {"id": "p"}}, "unknown-status"),
        ({"id": "p", "status": "done"}, "unknown-status"),
        ({"id": "p", "status": 3}, "wrong-type"),
        ({"id": "p", "progress": 2}, "wrong-type"),
        ({"id": "p", "providerUrls": "x"}, "wrong-type"),
        ({"id": "p", "assets": {}}, "wrong-type"),
        ({"id": "p", "at": 1764000000}, "bad-time"),
        ({"id": "p", "logs": ["a"]}, "wrong-type"),
        ({"id": "p,q"}, "bad-id"),
        ({"status": "failed"}, "no-id"),
        ({"type": "a.failed", "data": {}}, "no-id"),
        ({"type": "a.failed", "data": []}, "no-id"),
        ([], "wrong-type"),
    ],
)
def test_what_makes_no_sense_is_poison(body: Any, code: str) -> None:
    """A webhook can only report, and only what can be understood."""
    with pytest.raises(Poison) as caught:
        translated(body)
    assert caught.value.code == code


@pytest.mark.parametrize(
    ("odd", "name"),
    [
        ({"progress": 100}, "progress"),
        ({"logs": ["a"]}, "logs"),
        ({"providerUrls": "x"}, "providerUrls"),
        ({"assets": {}}, "assets"),
        ({"at": 1764000000}, "at"),
        ({"owner": 1.5}, "owner"),
    ],
)
def test_a_status_counts_whatever_stands_beside_it(odd: Any, name: str) -> None:
    """With a status, a field that does not fit is left out and named."""
    for body in ({"id": "p", "status": "succeeded"}, {"type": "a.succeeded", "data": {"id": "p"}}):
        event = translated(
            {**body, **odd} if "data" not in body else {**body, "data": {"id": "p", **odd}}
        )
        assert (event.prediction_id, event.status, event.left_out) == (
            "p",
            Status.SUCCEEDED,
            (name,),
        )
        assert event.at == AT


@given(st.binary() | st.text().map(str.encode))
def test_any_body_is_an_event_or_poison(body: bytes) -> None:
    """No bytes raise anything but Poison, and the gateway's glance raises nothing."""
    standard().prediction_id(body)
    with pytest.raises(Poison):
        translate(standard(), webhook(body))


@pytest.mark.parametrize(
    "body",
    [
        {"type": "append", "predictionId": "p1", "text": "né", "offset": 3},
        {"type": "append", "data": {"predictionId": "p1", "text": "né", "offset": 3}},
    ],
)
def test_a_piece_of_text(body: Any) -> None:
    """A webhook may append to a text, bare or in the envelope."""
    event = translated(body)
    assert (event.type, event.text, event.offset) == (EventType.APPEND, "né", 3)
    assert (event.prediction_id, event.status, event.text_closed) == ("p1", None, False)


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b'{"type":"append","predictionId":"p1","text":"a"}', "missing-field"),
        (b'{"type":"append","predictionId":"p1","text":"a","offset":-1}', "missing-field"),
        (b'{"type":"append","predictionId":"p1","text":"\\ud83d","offset":0}', "encoding"),
        (b'{"type":"append","predictionId":"p1","text":7,"offset":0}', "wrong-type"),
    ],
)
def test_a_piece_needs_its_offset(body: bytes, code: str) -> None:
    """Senders repeat, so a piece by webhook says where it goes, in whole characters."""
    with pytest.raises(Poison) as caught:
        translate(standard(), webhook(body))
    assert caught.value.code == code
