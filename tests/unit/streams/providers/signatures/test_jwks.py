"""Providers' public keys stay fresh."""

import asyncio
import base64
import contextlib
import json
from collections.abc import AsyncIterator

import pytest
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tests.support.conditions import eventually
from tidings.streams.providers.protocol import KeysUnavailable
from tidings.streams.providers.signatures.jwks import KeySet, fetch_document


def jwks(*private: Ed25519PrivateKey) -> bytes:
    keys = []
    for number, key in enumerate(private):
        x = base64.urlsafe_b64encode(key.public_key().public_bytes_raw()).rstrip(b"=").decode()
        keys.append({"kty": "OKP", "crv": "Ed25519", "kid": str(number), "x": x, "use": "sig"})
    return json.dumps({"keys": keys}).encode()


class Documents:
    """Answers with the next of these; the last one stays."""

    def __init__(self, *answers: bytes | Exception) -> None:
        self.answers = list(answers)
        self.asked = 0

    async def fetch(self, _url: str) -> bytes:
        self.asked += 1
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer


@contextlib.asynccontextmanager
async def refreshed(key_set: KeySet, after_miss: float = 0.0) -> AsyncIterator[None]:
    task = asyncio.create_task(key_set.keep_fresh(after_miss))
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


ONE, TWO = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()


async def test_keys_are_there_after_an_outage_at_the_start() -> None:
    """A document that cannot be had, or is none, is asked for again until it is one."""
    documents = Documents(OSError("down"), b"<html>", jwks(ONE))
    key_set = KeySet("https://e.com/jwks", documents.fetch)
    with pytest.raises(KeysUnavailable):
        key_set.ed25519()
    async with refreshed(key_set):
        await eventually(lambda: key_set.fetched_at is not None, within=30)
    assert len(key_set.ed25519()) == 1


async def test_a_miss_fetches_rotated_keys() -> None:
    """A webhook that no key proves makes the document be fetched again."""
    documents = Documents(jwks(ONE), jwks(ONE, TWO))
    key_set = KeySet("https://e.com/jwks", documents.fetch)
    async with refreshed(key_set):
        await eventually(lambda: key_set.fetched_at is not None)

        def rotated() -> bool:
            key_set.missed()
            return len(key_set.ed25519()) == 2

        await eventually(rotated)


async def test_misses_do_not_flood_the_provider() -> None:
    """However many webhooks miss, the document is fetched once within the pause."""
    documents = Documents(jwks(ONE))
    key_set = KeySet("https://e.com/jwks", documents.fetch)
    async with refreshed(key_set, after_miss=3600):
        await eventually(lambda: key_set.fetched_at is not None)
        for _ in range(100):
            key_set.missed()
            await asyncio.sleep(0)
    assert documents.asked == 1


async def test_an_outage_keeps_the_keys() -> None:
    """While the document cannot be had the last good keys go on."""
    documents = Documents(jwks(ONE), OSError("down"))
    key_set = KeySet("https://e.com/jwks", documents.fetch)
    async with refreshed(key_set):
        await eventually(lambda: key_set.fetched_at is not None)

        def asked_again() -> bool:
            key_set.missed()
            return documents.asked > 1

        await eventually(asked_again)
    assert len(key_set.ed25519()) == 1


async def test_a_document_is_fetched_over_http() -> None:
    """A document comes by real HTTP.

    An error, a redirect, an endless one and a dead address are refused.
    """

    async def document(request: web.Request) -> web.Response:
        match request.path:
            case "/jwks":
                return web.Response(body=jwks(ONE))
            case "/large":
                return web.Response(body=b"x" * 2_000_000)
            case "/moved":
                return web.Response(status=302, headers={"Location": "/jwks"})
        return web.Response(status=500)

    app = web.Application()
    app.router.add_get("/{tail:.*}", document)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    assert await fetch_document(f"{url}/jwks") == jwks(ONE)
    for path in ("/large", "/moved", "/broken"):
        with pytest.raises(ValueError, match=path):
            await fetch_document(url + path)
    await runner.cleanup()
    for dead in (f"{url}/jwks", "http://[", "nonsense"):
        with pytest.raises(OSError, match="cannot be had"):
            await fetch_document(dead)
