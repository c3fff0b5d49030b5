"""What must never be shown is taken out of texts of others, and nothing else is."""

import json

import httpx
import pytest

from tidings.storage.errors import StoreMisconfigured, StoreUnavailable
from tidings.storage.redaction import MASK, Redactor, error_text, redact, without_proofs
from tidings.streams.log.protocol import LogMisconfigured, LogUnavailable

PROOF = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
ADDRESS = f"https://tidings.example/api/webhooks/fal/p-1?token={PROOF}"


@pytest.mark.parametrize(
    "text",
    [
        ADDRESS,
        f"could not deliver to {ADDRESS} (404)",
        json.dumps({"callback_url": ADDRESS, "prompt": "a cat"}),
        json.dumps({"callback_url": ADDRESS}).replace("/", "\\/"),
        ADDRESS.replace("?", "\\u003f").replace("=", "\\u003d"),
        f"https://tidings.example/base/api/webhooks/luma?x=1&token={PROOF}&y=2",
        f"POST /m?fal_webhook=https%3A%2F%2Ftidings.example%2Fapi%2Fwebhooks%2Ffal%2Fp%2D1%3Ftoken%3D{PROOF}",
        f"%252Fapi%252Fwebhooks%252Ffal%252Fp1%253Ftoken%253D{PROOF} again",
        f"https://tidings.example/api/webhooks/fal/webhooks%2Fwebhooks?token={PROOF}",
    ],
)
def test_a_proof_is_taken_out_however_the_address_is_written(text: str) -> None:
    """The token of a webhook's address goes, in text and in bytes; what stands around it stays."""
    shown = without_proofs(text)
    assert PROOF not in shown
    assert shown == text.replace(PROOF, MASK)
    assert without_proofs(text.encode()) == shown.encode()


@pytest.mark.parametrize(
    "link",
    [
        "https://bucket.s3.amazonaws.com/x.png?X-Amz-Credential=AKIAIOSFODNN7EXAMPLE%2F20&X-Amz-Signature=ab12",
        "https://cdn.example/token/a(1).png?token=abcdef&sig=%2B%2f",
        "https://hooks.example/webhooks/about.png",
        '{"a":"webhooks","token":"token=1"}',
    ],
)
def test_a_link_to_an_output_stays_byte_for_byte(link: str) -> None:
    """A link with a signature of its own is no proof of a webhook of ours."""
    assert without_proofs(link) == link
    assert without_proofs(link.encode()) == link.encode()


SECRET = "c4n4ry-S3cret-v4lue"


@pytest.mark.parametrize(
    "text",
    [
        f"Illegal header value b'Bearer {SECRET}\\n'",
        f"Illegal header value b'Key {SECRET}:x\\n'",
        f"Invalid header value b'{SECRET}\\r'",
        f"headers: [(b'authorization', b'Bearer {SECRET}')]",
        f'{{"Authorization": "Key {SECRET}"}}',
        f"Authorization: Token {SECRET}",
        f"x-goog-api-key: {SECRET}",
        f"cannot connect to postgresql://user:{SECRET}@db.example:5432/x",
        f"redis://:{SECRET}@cache:6379/0 refused",
        f"dsn host=db user=u password={SECRET} sslmode=require",
        f"KafkaClient(sasl_plain_password='x', sasl_plain_password={SECRET})",
        f"{{'sasl_plain_password': '{SECRET}', 'security_protocol': 'SASL_SSL'}}",
        f"GET https://api.example/v1?api_key={SECRET}&x=1",
        f"GET https://keys.example/jwks?access_token={SECRET}",
        f"whsec_{SECRET.replace('-', '')}",
        f"r8_{SECRET.replace('-', '')}",
    ],
)
def test_texts_of_client_libraries_show_no_credential(text: str) -> None:
    """Headers, URLs, DSNs and settings in an exception's text lose what looks like a credential."""
    assert SECRET not in redact(text)
    assert SECRET.replace("-", "") not in redact(text)
    assert SECRET not in error_text(ValueError(text))


@pytest.mark.parametrize(
    "text",
    [
        "no signature matches; compare the secret with the provider's",
        "the token has expired, or tells no time",
        "401: the key is not valid for this model",
        "https://api.example/v1/predictions/p-1?limit=10: ConnectError",
        "http://127.0.0.1:8080/files/a@2x.png",
        "partition 3, offset 17: key p-1 has no value",
    ],
)
def test_ordinary_texts_stay(text: str) -> None:
    """What only speaks of secrets is left as it is."""
    assert redact(text) == text


def test_an_error_is_one_bounded_line() -> None:
    """Line breaks become spaces, long texts are cut, and an empty one is its type's name."""
    assert error_text(ValueError("a\n  b\tc")) == "a b c"
    assert error_text(ValueError("x" * 9000)) == "x" * 500
    assert error_text(TimeoutError()) == "TimeoutError"
    assert (
        error_text(httpx.LocalProtocolError(f"Illegal header value b'{SECRET}'")).count(SECRET) == 0
    )


def test_configured_secrets_go_by_their_value() -> None:
    """A secret of any form is taken out, stripped, percent-encoded and escaped as well.

    A very short one is not.
    """
    odd = 'pa ss/wo"rd\n'
    redactor = Redactor([odd, "abc", "s3cr3tvalue"])
    shown = redactor.text(
        f'{odd}| pa%20ss%2Fwo%22rd%0A | {odd!r} | s3cr3tvalue | abcdef | pa ss/wo"rd'
    )
    assert "pa ss" not in shown
    assert "wo%22rd" not in shown
    assert "s3cr3tvalue" not in shown
    assert "abcdef" in shown
    assert "s3cr3t" not in repr(redactor)


def test_a_hostile_text_is_read_in_linear_time() -> None:
    """A megabyte of beginnings that never become a proof or a credential is read through."""
    for beginning in (
        "webhooks",
        "webhooks?&",
        "webhooks%2F",
        "://a:",
        "token",
        "'key",
        "-key ",
        "\\u0026",
    ):
        text = beginning * (1_000_000 // len(beginning))
        assert redact(text) == text


@pytest.mark.parametrize(
    "kind", [StoreUnavailable, StoreMisconfigured, LogUnavailable, LogMisconfigured]
)
def test_errors_of_stores_and_logs_repeat_no_credential(kind: type[Exception]) -> None:
    """What a driver says of its URL and settings is taken out where the error is made."""
    said = f"redis://:{SECRET}@cache:6379 refused sasl_plain_password={SECRET} of kafka.example"
    text = str(kind(said))
    assert SECRET not in text
    assert "cache:6379" in text
    assert "kafka.example" in text
