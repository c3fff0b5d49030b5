"""What a provider is quoted with names no secret of the call, wherever in the call it stood."""

import msgspec
import pytest

from tests.support.providers.bodies import SECRET
from tidings.streams.providers.configuration import Configuration
from tidings.streams.providers.job_api import Order, submission_api_of
from tidings.streams.providers.registry import open_providers
from tidings.streams.submission.http import Answer
from tidings.streams.submission.redaction import reason_of, secrets_of

WEBHOOK = "https://e.com/api/webhooks/x/p1?token=of-the-webhook"
GIVEN = {
    "replicate": SECRET,
    "fal": None,
    "openai": SECRET,
    "runpod": None,
    "assemblyai": "of-the-header",
}


@pytest.mark.parametrize("name", GIVEN)
def test_a_call_that_is_echoed_shows_no_secret(name: str) -> None:
    """Headers and body are quoted whole.

    Neither key nor webhook's secret nor webhook's token is among the reason.
    """
    given = GIVEN[name]
    keys = "https://e.com/jwks" if name == "fal" else None
    settings = Configuration(
        secret=(given,) if given else (), token="key-of-the-account", jwks_url=keys
    )
    api = submission_api_of(open_providers({name: settings})[name])
    assert api is not None
    call = api.create(Order(model="a/b", prompt="x", webhook=WEBHOOK))
    echoed = f"Authorization: {call.headers['Authorization']} {call.url} {call.body.decode()}"
    assert "key-of-the-account" in echoed
    assert (name == "assemblyai") == ("of-the-header" in echoed)
    for detail in (echoed, {"echoed": echoed}):
        said = reason_of(
            Answer(400, {}, msgspec.json.encode({"detail": detail})), secrets_of(api, call, WEBHOOK)
        )
        assert said.startswith("400: ")
        for secret in ("key-of-the-account", "of-the-header", "of-the-webhook"):
            assert secret not in said


def test_the_scheme_is_no_secret() -> None:
    """The words of a reason that belong to no secret stay as they are."""
    api = submission_api_of(
        open_providers({"replicate": Configuration(secret=(SECRET,), token="key-of-it")})[
            "replicate"
        ]
    )
    assert api is not None
    call = api.create(Order(model="a/b", webhook=WEBHOOK))
    answer = Answer(401, {}, b'{"detail":"Bearer key-of-it is no Bearer token"}')
    assert reason_of(answer, secrets_of(api, call, WEBHOOK)) == "401: ... is no Bearer token"
