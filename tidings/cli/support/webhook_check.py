"""A signed test webhook through a running service.

Verified, appended, applied, pushed, and its record removed again.
"""

import asyncio
import json
import secrets
import time
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from tidings.cli.support import service_access
from tidings.config.settings import Settings

if TYPE_CHECKING:
    import httpx

    from tidings.streams.providers.manifest import SampleWebhook
    from tidings.streams.providers.protocol import Provider

WITHIN = 15.0
"""Seconds until the change must have been pushed."""
PREFIX = "doctor-"
"""How the ids of test predictions begin."""


class WebhookFailed(Exception):
    """The test did not come through; the message says where it stopped, and what to fix."""


async def through(settings: Settings, name: str, url: str | None) -> str:
    """Send a test webhook of a provider to a running service.

    Args:
        settings: As the service has them.
        name: The provider's.
        url: The service's address; None: that of the settings.

    Returns:
        What happened and how long it took, in one line.

    Raises:
        WebhookFailed: See there.
    """
    import httpx

    from tidings.streams.providers.manifest import Unsigned, sample_of

    provider = _configured(settings, name)
    if url is None and not settings.port:
        raise WebhookFailed(
            "the service's port is 0 (any): say where it is with --url http://127.0.0.1:PORT"
        )
    base = (url or service_access.url_of(settings)).rstrip("/")
    token = service_access.operator_token(settings)
    token = token() if callable(token) else token
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    prediction_id = PREFIX + secrets.token_hex(8)
    try:
        sent = sample_of(provider, prediction_id, int(time.time()))
    except Unsigned as reason:
        raise WebhookFailed(f"{name}: {reason}; no test can be signed here") from None
    try:
        async with httpx.AsyncClient(
            base_url=base, headers=headers, timeout=WITHIN, trust_env=False
        ) as client:
            return await _TestDelivery(client, settings, name, prediction_id).go(provider, sent)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise WebhookFailed(
            f"no service answers at {base} ({str(error) or type(error).__name__}); start it, or "
            "say where it is with --url"
        ) from None


class _TestDelivery:
    """The delivery of one test webhook, from sending it to the change it causes."""

    def __init__(
        self, client: "httpx.AsyncClient", settings: Settings, name: str, prediction_id: str
    ) -> None:
        self._client, self._settings, self._name, self._id = client, settings, name, prediction_id
        self._pushed = asyncio.Event()
        self._subscribed = asyncio.Event()

    async def go(self, provider: "Provider", sent: "SampleWebhook") -> str:
        watching = asyncio.create_task(self._watch())
        try:
            await _first(self._subscribed.wait(), watching)
            start = time.perf_counter()
            await self._post(sent)
            answered = time.perf_counter()
            if self._waits_for_a_result(provider):
                return (
                    f"{self._name}: verified and kept after {_ms(start, answered)} ms; it names a "
                    "result alone, which is "
                    "fetched at the provider, and changes nothing by itself"
                )
            try:
                async with asyncio.timeout(WITHIN):
                    await _first(self._pushed.wait(), watching)
            except TimeoutError:
                raise WebhookFailed(
                    f"{self._name}: verified and kept, and not applied within {WITHIN:.0f} s; does "
                    "a processor run, and what "
                    "say its /readyz and tidings dead-letters list?"
                ) from None
            pushed = time.perf_counter()
        finally:
            watching.cancel()
            await asyncio.wait([watching])
        await self._remove()
        return (
            f"{self._name}: verified and kept after {_ms(start, answered)} ms, applied and pushed "
            "after "
            f"{_ms(start, pushed)} ms, and removed again"
        )

    def _waits_for_a_result(self, provider: "Provider") -> bool:
        from tidings.streams.providers.job_api import ThinWebhook, job_api_of

        return isinstance(provider, ThinWebhook) and job_api_of(provider) is not None

    async def _watch(self) -> None:
        """See the prediction's changes as a page does."""
        async with self._client.stream("GET", f"/api/predictions/{self._id}/events") as answer:
            if answer.status_code != 200:
                await answer.aread()
                raise WebhookFailed(
                    f"its changes cannot be watched ({answer.status_code} {_said(answer)}); "
                    "the doctor signs in with TIDINGS_JWT_SECRET or the first of TIDINGS_API_KEYS"
                )
            self._subscribed.set()
            async for line in answer.aiter_lines():
                if line in ("event: change", "event: snapshot"):
                    self._pushed.set()
                    return
        raise WebhookFailed("the stream of its changes ended before one came")

    async def _post(self, sent: "SampleWebhook") -> None:
        from tidings.streams.providers.signatures.standard_webhooks import header_bytes

        path, token = f"/api/webhooks/{quote(self._name)}", sent.token
        if token == "":
            path, token = f"{path}/{self._id}", self._own_token()
        # As bytes: a shared secret may have letters beyond ASCII.
        proof = {name.encode(): header_bytes(value) for name, value in sent.headers.items()}
        headers = {b"Content-Type": b"application/json", **proof}
        query = {"token": token} if token else None
        answer = await self._client.post(path, content=sent.body, headers=headers, params=query)
        if answer.status_code != 200:
            raise WebhookFailed(self._refusal(answer))

    def _own_token(self) -> str:
        from tidings.config.webhook_key import FILE
        from tidings.gateway.api.webhooks import url_token

        key = self._settings.webhook_key
        file = self._settings.data_folder / FILE
        if not key and self._settings.everything and file.exists():
            key = file.read_text(encoding="ascii", errors="replace").strip()
        if not key:
            raise WebhookFailed(
                f"{self._name}: its addresses are proven by TIDINGS_WEBHOOK_KEY, which is not set "
                "here"
            )
        return url_token(key.encode(), self._id)

    def _refusal(self, answer: "httpx.Response") -> str:
        secret = f"TIDINGS_{self._name.upper().replace('-', '_')}_SECRET"
        said = f"the service answered {answer.status_code}"
        match answer.status_code:
            case 404:
                return (
                    f"{said}: it has no secret for {self._name}; set {secret} where it runs, and "
                    "start it again"
                )
            case 401:
                return (
                    f"{said}: it has another secret than these settings, or another time; compare "
                    f"{secret} and clocks"
                )
            case 503:
                return f"{said}: its log does not take the webhook; {_said(answer)}"
        return f"{said}: {_said(answer)}"

    async def _remove(self) -> None:
        answer = await self._client.delete(f"/api/predictions/{self._id}")
        if answer.status_code != 204:
            raise WebhookFailed(
                f"all went well, but the test's record {self._id} could not be removed "
                f"({answer.status_code} {_said(answer)})"
            )


async def _first(awaited: Coroutine[Any, Any, object], watching: "asyncio.Task[None]") -> None:
    """Wait for something, or raise what the watching ended with."""
    waiting = asyncio.ensure_future(awaited)
    try:
        await asyncio.wait([waiting, watching], return_when=asyncio.FIRST_COMPLETED)
    finally:
        waiting.cancel()
    if watching.done() and not waiting.done():
        watching.result()


def _configured(settings: Settings, name: str) -> "Provider":
    from tidings.streams.providers.registry import known_providers, manifest, open_providers

    provider = open_providers(settings.providers).get(name)
    if provider is not None:
        return provider
    if name not in settings.providers and name not in known_providers():
        raise WebhookFailed(
            f"no provider is called {name[:64]!r}; known are {', '.join(known_providers())}"
        )
    kind = settings.providers[name].kind if name in settings.providers else None
    what = manifest(kind or name).missing(name)
    raise WebhookFailed(
        f"{name}: is not configured here, its webhooks are answered with 404; set {what}"
    )


def _said(answer: "httpx.Response") -> str:
    try:
        detail = json.loads(answer.content).get("detail", "")
    except (ValueError, AttributeError):
        detail = answer.text
    return " ".join(str(detail).split())[:200]


def _ms(start: float, end: float) -> str:
    return f"{(end - start) * 1000:.1f}"
