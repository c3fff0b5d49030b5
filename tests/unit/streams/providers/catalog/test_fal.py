"""fal: results, failures, results left to be fetched, and keys that rotate."""

import json
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from msgspec.structs import replace

from tests.support.providers.bodies import NOW, SECRET, webhook
from tests.support.providers.proofs import FAL, JWKS, prove_fal
from tests.unit.streams.providers.signatures.test_jwks import jwks
from tidings.storage.prediction import ABSENT, Status
from tidings.streams.providers.catalog.fal import Fal
from tidings.streams.providers.configuration import BadConfiguration, Configuration
from tidings.streams.providers.job_api import ThinNotice
from tidings.streams.providers.protocol import BadSignature, KeysUnavailable
from tidings.streams.providers.registry import open_providers
from tidings.streams.providers.translation import translate
from tidings.streams.rules.event import Archive, Event


def fal() -> Fal:
    provider = open_providers({"fal": Configuration(jwks_url="https://e.com/jwks")})["fal"]
    assert isinstance(provider, Fal)
    return provider


def translated(body: Any) -> Event:
    return translate(fal(), webhook(body if isinstance(body, bytes) else json.dumps(body).encode()))


def test_a_result() -> None:
    """A result succeeds with its payload as output, numbers as they came, and its first picture."""
    event = translated(FAL)
    assert event.status is Status.SUCCEEDED
    assert b"17454220438242315174" in bytes(event.output)
    assert event.image_url == "https://v3.fal.media/files/lion/x.jpeg"
    assert event.error is None
    assert fal().thin(FAL) is None


def test_a_failure_says_what_was_wrong() -> None:
    """A failure's error carries the payload's detail, and its payload is no output."""
    event = translated(
        b'{"request_id":"r","gateway_request_id":"g","status":"ERROR","error":"Invalid status code: 422",'
        b'"payload":{"detail":[{"loc":["body","prompt"],"msg":"field required","type":"value_error.missing"}]}}'
    )
    assert (event.status, event.output, event.prediction_id) == (Status.FAILED, ABSENT, "r")
    assert isinstance(event.error, str)
    assert event.error.startswith("Invalid status code: 422: ")
    assert "field required" in event.error


def test_a_success_without_its_payload_is_to_be_fetched() -> None:
    """`OK` with a payload that could not be sent is a success, and thin.

    Where its files come first, it waits for them.
    """
    body = {
        "request_id": "r",
        "status": "OK",
        "payload": None,
        "payload_error": "Response payload is not JSON",
    }
    event = translated(body)
    assert (event.status, event.output, event.error) == (Status.SUCCEEDED, ABSENT, None)
    assert fal().thin(json.dumps(body).encode()) == ThinNotice("r", status=Status.SUCCEEDED)
    for said, status in (
        (body, None),
        (body | {"status": "COMPLETED"}, Status.SUCCEEDED),
        (FAL, Status.SUCCEEDED),
    ):
        before = webhook(said if isinstance(said, bytes) else json.dumps(said).encode())
        assert translate(fal(), replace(before, archive=Archive.BEFORE)).status is status


@pytest.mark.parametrize(
    ("word", "status"),
    [
        ("IN_QUEUE", Status.STARTING),
        ("IN_PROGRESS", Status.PROCESSING),
        ("COMPLETED", Status.SUCCEEDED),
    ],
)
def test_the_queue_speaks_too(word: str, status: Status) -> None:
    """Answers of the queue are understood, logs included.

    One that completed with an error has failed.
    """
    event = translated(
        {"request_id": "r", "status": word, "logs": [{"message": "a"}, {"message": "b"}]}
    )
    assert (event.status, event.logs) == (status, "a\nb\n")
    failed = translated(
        {"request_id": "r", "status": "COMPLETED", "error": "boom", "error_type": "x"}
    )
    assert (failed.status, failed.error) == (Status.FAILED, "boom")


def test_before_its_keys_are_there_nothing_passes() -> None:
    """Until the keys have been fetched a webhook is refused so that a retry may help."""
    with pytest.raises(KeysUnavailable):
        fal().verify(prove_fal(FAL), FAL, NOW)


def test_all_keys_are_tried_and_a_miss_is_told() -> None:
    """Any key of the set proves a webhook.

    Where none does, whoever keeps the keys fresh is told.
    """
    provider = fal()
    provider.key_set.load(jwks(Ed25519PrivateKey.generate()))
    with pytest.raises(BadSignature):
        provider.verify(prove_fal(FAL), FAL, NOW)
    assert provider.key_set._missed.is_set()
    provider.key_set.load(JWKS)
    assert provider.verify(prove_fal(FAL), FAL, NOW) == "req-1"


@pytest.mark.parametrize(
    "document", [b"", b"<html>", b"[]", b'{"keys":[]}', b'{"keys":[{"kty":"OKP"}]}', b'{"keys":5}']
)
def test_an_odd_document_leaves_the_keys(document: bytes) -> None:
    """What is no key set is refused, and the keys in force stay."""
    provider = fal()
    provider.key_set.load(JWKS)
    with pytest.raises(ValueError, match="jwks"):
        provider.key_set.load(document)
    assert provider.verify(prove_fal(FAL), FAL, NOW)


def test_a_secret_is_no_configuration() -> None:
    """There is no shared secret of fal: one without the keys' URL is a mistake, and is named."""
    with pytest.raises(BadConfiguration, match="TIDINGS_FAL_JWKS_URL"):
        open_providers({"fal": Configuration(secret=(SECRET,))})
    assert open_providers({"fal": Configuration(token="key")}) == {}
