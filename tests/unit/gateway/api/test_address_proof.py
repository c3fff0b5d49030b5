"""Providers that sign nothing are proven by their webhook's address; keys that are not there yet ask for a retry."""

import time
from typing import Any

import httpx
import pytest

from tests.support.gateway.small_service import small_service
from tidings.gateway.api.webhooks import url_token
from tidings.streams.providers.configuration import Configuration
from tidings.streams.providers.registry import open_providers

pytestmark = pytest.mark.doors

KEY = b"key of webhook URLs"
BODY = b'{"id":"job-1","status":"COMPLETED","output":{"image":"https://x.example/1.png"}}'
WORD = "a-long-word-that-only-the-provider-was-told"
PROVIDERS = open_providers(
    {"runpod": Configuration(secret=(WORD,)), "fal": Configuration(jwks_url="https://x.example")}
)


@pytest.mark.parametrize(
    ("path", "status"),
    [
        (f"/api/webhooks/runpod/p1?token={url_token(KEY, 'p1')}", 200),
        (f"/api/webhooks/runpod/p1?token={url_token(KEY, 'p2')}", 401),
        ("/api/webhooks/runpod/p1", 401),
        (f"/api/webhooks/runpod?token={WORD}", 200),
        (f"/api/webhooks/runpod?token={WORD}x", 401),
        ("/api/webhooks/runpod", 401),
    ],
)
async def test_an_address_proves_what_is_not_signed(path: str, status: int) -> None:
    """The token of the prediction's URL, or the configured word, lets an unsigned webhook in; nothing else does."""
    parts: dict[str, Any] = {"providers": PROVIDERS, "webhook_key": KEY}
    async with (
        small_service(**parts) as service,
        httpx.AsyncClient(base_url=service.url, timeout=20) as client,
    ):
        answer = await client.post(path, content=BODY)
    assert answer.status_code == status, answer.text


@pytest.mark.parametrize("written", ["ab+cd/ef==", "ab%2Bcd%2Fef%3D%3D"])
async def test_a_word_in_base64_is_taken_as_it_is_pasted(written: str) -> None:
    """A `+` in an address stands for a space in forms; a word that was pasted there means itself."""
    providers = open_providers({"runpod": Configuration(secret=("ab+cd/ef==",))})
    parts: dict[str, Any] = {"providers": providers, "webhook_key": KEY}
    async with (
        small_service(**parts) as service,
        httpx.AsyncClient(base_url=service.url, timeout=20) as client,
    ):
        answer = await client.post(f"/api/webhooks/runpod?token={written}", content=BODY)
    assert answer.status_code == 200, answer.text


async def test_keys_that_are_not_there_yet_ask_for_a_retry() -> None:
    """A webhook whose keys have not been fetched is answered 503, so that the provider sends it again."""
    headers = {
        "x-fal-webhook-request-id": "r",
        "x-fal-webhook-user-id": "u",
        "x-fal-webhook-timestamp": str(int(time.time())),
        "x-fal-webhook-signature": "00" * 64,
    }
    parts: dict[str, Any] = {"providers": PROVIDERS, "webhook_key": KEY}
    async with (
        small_service(**parts) as service,
        httpx.AsyncClient(base_url=service.url, timeout=20) as client,
    ):
        answer = await client.post("/api/webhooks/fal", content=b"{}", headers=headers)
    assert answer.status_code == 503, answer.text
    assert "retry-after" in answer.headers
