"""Replicate: the body is the bare prediction, signed by Standard Webhooks.

Pure. Source: Replicate's documentation of webhooks and of the prediction object, and its HTTP API
reference.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any
from urllib.parse import urlsplit

import msgspec
from msgspec import Raw, Struct

from tidings.storage.prediction import ABSENT, Status, Usage
from tidings.streams.providers import payload as bodies
from tidings.streams.providers import usage as usages
from tidings.streams.providers.configuration import Configuration
from tidings.streams.providers.job_api import (
    Call,
    ListedJob,
    Order,
    Submitted,
    Unreadable,
    address,
    given_input,
    is_at,
    parts,
)
from tidings.streams.providers.manifest import Manifest, SampleWebhook
from tidings.streams.providers.protocol import Webhook
from tidings.streams.providers.signatures.standard_webhooks import (
    StandardWebhooks,
    open_keys,
    signed_headers,
)
from tidings.streams.providers.text_stream import NOTHING, StreamedPiece
from tidings.streams.rules.event import Event
from tidings.streams.support.event_stream import ServerEvent

URL = "https://api.replicate.com"

STREAM_HOSTS = (".replicate.com", ".replicate.net")
"""How the names of the hosts end that its streams are read from (`stream.replicate.com`)."""

CANCEL_AFTER = 5
"""Seconds, the least that its header `Cancel-After` takes (its HTTP API reference)."""

STATUSES = {
    "starting": Status.STARTING,
    "processing": Status.PROCESSING,
    "succeeded": Status.SUCCEEDED,
    "failed": Status.FAILED,
    "canceled": Status.CANCELED,
    "aborted": Status.CANCELED,
}


class _Metrics(Struct, frozen=True, gc=False):
    predict_time: float | None = None
    image_count: Raw = ABSENT
    input_token_count: Raw = ABSENT
    output_token_count: Raw = ABSENT


class _Prediction(Struct, frozen=True, gc=False):
    id: str | None = None
    status: str | None = None
    model: str | None = None
    input: Raw = ABSENT
    output: Raw = ABSENT
    error: Raw = ABSENT
    logs: str | None = None
    metrics: _Metrics | None = None
    urls: Raw = ABSENT


class _Urls(Struct, frozen=True):
    get: str | None = None
    cancel: str | None = None
    stream: str | None = None


class _Listed(Struct, frozen=True):
    id: str | None = None
    webhook: str | None = None
    created_at: datetime | None = None


class _Page(Struct, frozen=True):
    results: tuple[_Listed, ...] | None = None
    next: str | None = None


_prediction = bodies.Reader(_Prediction)
_urls = bodies.Reader(_Urls)
_page = bodies.Reader(_Page)


class Replicate(Struct, frozen=True):
    """Replicate's webhooks."""

    keys: StandardWebhooks
    name: str = "replicate"
    api: "ReplicateApi | None" = None
    """For submitting; None without a token."""

    def verify(self, headers: Mapping[str, str], body: bytes, now: float) -> str:
        """By Standard Webhooks; the delivery's id is `webhook-id`."""
        return self.keys.verify(headers, body, now)

    def prediction_id(self, body: bytes) -> str | None:
        """The prediction's own `id`."""
        return bodies.plain_id(body)

    def translate(self, webhook: Webhook) -> Event:
        """The prediction as it stood when the webhook was sent.

        Every report says all that those before it said.
        """
        prediction, left_out = _prediction.read(webhook.body)
        status = STATUSES.get(prediction.status or "")
        if status is None:
            bodies.identify(webhook, prediction.id)  # which is told first of a body without both
            status = bodies.status(STATUSES, prediction.status, self.name)
        return bodies.event(
            webhook,
            self.name,
            prediction.id,
            left_out=left_out,
            status=status,
            payload=bodies.given(prediction.input),
            prompt=bodies.prompt(prediction.input),
            model=prediction.model,
            provider_urls=bodies.object_of(prediction.urls),
            output=bodies.given(prediction.output),
            error=bodies.text(prediction.error),
            logs=prediction.logs,
            generation_time=bodies.milliseconds(prediction.metrics.predict_time)
            if prediction.metrics
            else None,
            usage=_usage(prediction.metrics) if webhook.usage and prediction.metrics else None,
        )

    def sample(self, prediction_id: str, now: int) -> SampleWebhook:
        """Signed with the first secret."""
        said = {"id": prediction_id, "status": "succeeded", "output": None, "error": None}
        body = msgspec.json.encode(said)
        return SampleWebhook(body, signed_headers(self.name, self.keys, body, now))


def _usage(metrics: _Metrics) -> Usage | None:
    """`predict_time` is what it bills by; models that bill otherwise count images and tokens."""
    return usages.usage(
        input_tokens=metrics.input_token_count,
        output_tokens=metrics.output_token_count,
        seconds=metrics.predict_time,
        images=metrics.image_count,
    )


class ReplicateApi(Struct, frozen=True):
    """The calls, with the token that they carry."""

    token: str
    url: str = URL

    def __repr__(self) -> str:
        """Show no token."""
        return f"ReplicateApi({self.url})"

    def create(self, order: Order) -> Call:
        """Start a prediction of a model (`owner/name`) or of a version of one.

        A version is named `owner/name:version`, or by itself.
        """
        body: dict[str, Any] = {"input": given_input(order)}
        if order.webhook is not None:
            body |= {
                "webhook": order.webhook,
                # Of a stream the outputs come faster than by webhook, and logs repeat the output.
                "webhook_events_filter": ["start", "completed"]
                if order.stream
                else ["start", "output", "logs", "completed"],
            }
        if order.stream:
            body["stream"] = True
        name, _, version = (
            order.model.rpartition(":") if ":" in order.model else (order.model, "", "")
        )
        if "/" in name and not version:
            owner, _, model = name.partition("/")
            url = address(self.url, "v1", "models", owner, *parts(model), "predictions")
        else:
            url = address(self.url, "v1", "predictions")
            body["version"] = version or name
        headers = self._headers() | {"Content-Type": "application/json"}
        if order.timeout is not None:
            headers["Cancel-After"] = f"{max(CANCEL_AFTER, order.timeout)}s"
        return Call(method="POST", url=url, headers=headers, body=msgspec.json.encode(body))

    def created(self, body: bytes) -> Submitted:
        """The answer is a prediction like any webhook's."""
        found = _prediction.answer(body, "prediction")
        if not found.id:
            raise Unreadable("no prediction: it has no id")
        return Submitted(found.id, bodies.object_of(found.urls))

    def get(self, provider_id: str, model: str | None, urls: Raw) -> Call:
        """At `urls.get`, or where that would be."""
        return Call(method="GET", url=self._at(urls, "get", provider_id), headers=self._headers())

    def result(self, provider_id: str, body: bytes, urls: Raw, model: str | None) -> None:
        """Nothing has to be fetched apart."""
        return

    def report(self, provider_id: str, body: bytes, result: bytes | None) -> bytes:
        """The answer itself, if it is the prediction that was asked for."""
        if self.created(body).provider_id != provider_id:
            raise Unreadable(f"another prediction than {provider_id[:64]!r}")
        return body

    def cancel(self, provider_id: str, model: str | None, urls: Raw) -> Call:
        """At `urls.cancel`, or where that would be."""
        url = self._at(urls, "cancel", provider_id, "cancel")
        return Call(method="POST", url=url, headers=self._headers())

    def stream(self, provider_id: str, urls: Raw, after: int | None) -> Call | None:
        """At `urls.stream`, if that is Replicate's; the token goes below our base URL alone.

        It is read from its beginning each time.
        """
        found = _urls.peek(bytes(urls)) if urls else None
        url = found.stream if found is not None else None
        if url is None or not (is_at(url, self.url) or _is_stream_host(url)):
            return None
        headers = {"Accept": "text/event-stream", "Cache-Control": "no-store"}
        if is_at(url, self.url):
            headers |= self._headers()
        return Call(method="GET", url=url, headers=headers)

    def piece(self, event: ServerEvent) -> StreamedPiece:
        """`output` has text, and `done` or `error` end it: how it ended says the webhook."""
        if event.kind == "output":
            return StreamedPiece(event.data)
        return StreamedPiece(over=True) if event.kind in ("done", "error") else NOTHING

    def list(self, following: str | None = None) -> Call:
        """Newest first, a hundred a page."""
        url = address(self.url, "v1", "predictions")
        if following is not None and is_at(following, self.url):
            url = following
        return Call(method="GET", url=url, headers=self._headers())

    def listed(self, body: bytes) -> tuple[Sequence[ListedJob], str | None]:
        """What stands on the page, and the next one's address."""
        page = _page.answer(body, "page of predictions")
        if page.results is None:
            raise Unreadable("no page of predictions: it has no results")
        following = page.next if page.next is not None and is_at(page.next, self.url) else None
        shown = [
            ListedJob(one.id, one.webhook, _milliseconds(one.created_at))
            for one in page.results
            if one.id
        ]
        return shown, following

    def _headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token}"}

    def _at(self, urls: Raw, name: str, provider_id: str, *tail: str) -> str:
        """The address that the provider gave, if it is the provider's.

        The token must not go elsewhere.
        """
        found = _urls.peek(bytes(urls)) if urls else None
        given = getattr(found, name, None)
        if isinstance(given, str) and is_at(given, self.url):
            return given
        return address(self.url, "v1", "predictions", provider_id, *tail)


def _is_stream_host(url: str) -> bool:
    """Whether an address is that of a stream on Replicate's own hosts, with TLS and the usual port."""
    try:
        host = urlsplit(url).hostname or ""
    except ValueError:
        return False
    return host.endswith(STREAM_HOSTS) and is_at(url, f"https://{host}")


def _milliseconds(moment: datetime | None) -> int | None:
    return (
        int(moment.timestamp() * 1000) if moment is not None and moment.tzinfo is not None else None
    )


def open_provider(name: str, configuration: Configuration) -> Replicate | None:
    """Replicate as configured; None without a secret. Raises `BadConfiguration` for a bad one."""
    keys = open_keys(name, configuration)
    token = configuration.token
    api = ReplicateApi(token, configuration.url_or(URL)) if token else None
    return Replicate(keys, name, api) if keys is not None else None


MANIFEST = Manifest(
    open=open_provider,
    configured_by="`TIDINGS_REPLICATE_SECRET`; `_TOKEN` to submit",
    proof="Standard Webhooks",
    creates_a_minute=600,  # Replicate's documentation of rate limits
)
