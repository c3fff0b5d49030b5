"""Replicate: the body is the bare prediction, signed by Standard Webhooks.

Pure. Source: Replicate's documentation of webhooks and of the prediction object.
"""

from collections.abc import Mapping

import msgspec
from msgspec import Raw, Struct

from tidings.storage.prediction import ABSENT, Status
from tidings.streams.providers import payload as bodies
from tidings.streams.providers.catalog.replicate_api import URL, ReplicateApi
from tidings.streams.providers.configuration import Configuration
from tidings.streams.providers.output import first_url
from tidings.streams.providers.protocol import Webhook
from tidings.streams.providers.signatures.standard_webhooks import StandardWebhooks, open_keys
from tidings.streams.rules.event import Event

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


class _Identity(Struct, frozen=True, gc=False):
    id: str | None = None


_prediction = msgspec.json.Decoder(_Prediction)
_identity = msgspec.json.Decoder(_Identity)


class Replicate(Struct, frozen=True):
    """Replicate's webhooks."""

    keys: StandardWebhooks
    name: str = "replicate"
    api: ReplicateApi | None = None
    """For submitting; None without a token."""

    def verify(self, headers: Mapping[str, str], body: bytes, now: float) -> str:
        """By Standard Webhooks; the delivery's id is `webhook-id`."""
        return self.keys.verify(headers, body, now)

    def prediction_id(self, body: bytes) -> str | None:
        """The prediction's own `id`."""
        found = bodies.peek(_identity, body)
        return found.id if found is not None else None

    def translate(self, webhook: Webhook) -> Event:
        """The prediction as it stood when the webhook was sent: every report says all that those before it said."""
        return translate(self.name, webhook)


def translate(name: str, webhook: Webhook) -> Event:
    """The event in a prediction of Replicate's shape.

    Raises:
        Poison: It makes no sense.
    """
    body = webhook.body
    prediction = bodies.decode(_prediction, body)
    prediction_id = bodies.identify(webhook, prediction.id)
    status = bodies.status(STATUSES, prediction.status, name)
    output = bodies.given(prediction.output)
    return Event(
        prediction_id=prediction_id,
        at=webhook.at,
        recorded_at=webhook.at,
        id=bodies.delivery_id(webhook),
        source=name,
        archive=webhook.archive,
        status=status,
        payload=bodies.given(prediction.input),
        prompt=bodies.prompt(prediction.input),
        model=prediction.model,
        provider=name,
        provider_id=prediction.id,
        provider_urls=bodies.given(prediction.urls),
        output=output,
        image_url=first_url(output) if output else None,
        error=bodies.text(prediction.error),
        logs=prediction.logs,
        generation_time=bodies.milliseconds(prediction.metrics.predict_time)
        if prediction.metrics
        else None,
        report=bodies.report(body),
        traceparent=webhook.traceparent,
    )


def open_provider(name: str, configuration: Configuration) -> Replicate | None:
    """Replicate as configured; None without a secret. Raises `BadConfiguration` for a bad one."""
    keys = open_keys(name, configuration)
    if keys is None:
        return None
    api = (
        ReplicateApi(configuration.token, (configuration.url or URL).rstrip("/"))
        if configuration.token
        else None
    )
    return Replicate(keys, name, api)
