"""Any sender of Standard Webhooks that speaks of predictions in this service's own words.

Pure. Two shapes: an event of ours (`predictionId` or `id`, `status`, any field of a report), or the specification's
envelope `{"type": "prediction.succeeded", "timestamp": ..., "data": {...}}` with those fields in `data`. A webhook only
ever reports: an event type such as `delete` is refused.
"""

from collections.abc import Mapping
from typing import Annotated

import msgspec
from msgspec import Meta, Raw, Struct

from tidings.storage.prediction import ABSENT, Status
from tidings.streams.providers import payload as bodies
from tidings.streams.providers.configuration import Configuration
from tidings.streams.providers.output import first_url
from tidings.streams.providers.protocol import Webhook
from tidings.streams.providers.signatures.standard_webhooks import StandardWebhooks, open_keys
from tidings.streams.rules.event import Event, Poison

EARLIEST = 10**12
"""In ms: September 2001. A smaller time was given in seconds."""

STATUSES = {status.value: status for status in Status}

STATUS_OF_TYPE = STATUSES | {
    "created": Status.STARTING,
    "queued": Status.STARTING,
    "started": Status.PROCESSING,
    "running": Status.PROCESSING,
    "completed": Status.SUCCEEDED,
    "cancelled": Status.CANCELED,
    "aborted": Status.CANCELED,
    "expired": Status.FAILED,
}
"""What the last part of an envelope's `type` says where `data` has no status."""

NO_STATUS_TYPES = frozenset({"updated", "progress", "output", "logs"})
"""Last parts of a `type` that report fields alone."""


class _Report(Struct, frozen=True, gc=False, rename="camel"):
    """A report as somebody may send it; `null` is absent."""

    type: str | None = None
    data: Raw = ABSENT
    timestamp: Raw = ABSENT
    id: str | None = None
    prediction_id: str | None = None
    status: str | None = None
    at: int | None = None
    payload: Raw = ABSENT
    prompt: str | None = None
    model: str | None = None
    provider: str | None = None
    provider_id: str | None = None
    provider_urls: Raw = ABSENT
    owner: str | None = None
    tags: tuple[str, ...] | None = None
    output: Raw = ABSENT
    image_url: str | None = None
    image_path: str | None = None
    assets: Raw = ABSENT
    error: Raw = ABSENT
    progress: Annotated[float, Meta(ge=0, le=1)] | None = None
    logs: str | None = None
    estimated_time: int | float | None = None
    generation_time: int | float | None = None


class _Identity(Struct, frozen=True, gc=False, rename="camel"):
    prediction_id: str | None = None
    id: str | None = None
    data: Raw = ABSENT


_report = msgspec.json.Decoder(_Report)
_identity = msgspec.json.Decoder(_Identity)
_object = msgspec.json.Decoder(dict[str, Raw])
_KNOWN = frozenset(field.encode_name for field in msgspec.structs.fields(_Report)) - {
    "data",
    "timestamp",
}


class Standard(Struct, frozen=True):
    """Reports of ours, signed by Standard Webhooks."""

    keys: StandardWebhooks
    name: str = "standard"

    def verify(self, headers: Mapping[str, str], body: bytes, now: float) -> str:
        """By Standard Webhooks; the delivery's id is `webhook-id`."""
        return self.keys.verify(headers, body, now)

    def prediction_id(self, body: bytes) -> str | None:
        """`predictionId`, else `id`; in an envelope those of `data`."""
        found = bodies.peek(_identity, body)
        if found is not None and found.prediction_id is None and bytes(found.data)[:1] == b"{":
            found = bodies.peek(_identity, bytes(found.data))
        return (found.prediction_id or found.id) if found is not None else None

    def translate(self, webhook: Webhook) -> Event:
        """What the report says.

        Raises:
            Poison: It makes no sense, or asks for something that a webhook may not.
        """
        outer = bodies.decode(_report, webhook.body)
        if outer.prediction_id is None and bytes(outer.data)[:1] == b"{":
            return self._event(
                webhook, bodies.decode(_report, bytes(outer.data)), outer.type, bytes(outer.data)
            )
        return self._event(webhook, outer, outer.type, webhook.body)

    def _event(self, webhook: Webhook, report: _Report, kind: str | None, text: bytes) -> Event:
        _check_type(kind)
        own = report.prediction_id or report.id
        prediction_id = bodies.identify(webhook, own)
        if report.prediction_id and report.prediction_id != prediction_id:
            raise Poison(
                "id-mismatch",
                f"the address says {prediction_id!r} and the body {report.prediction_id!r}; send one of them",
            )
        output = bodies.given(report.output)
        return Event(
            prediction_id=prediction_id,
            at=_at(report.at, webhook.at),
            recorded_at=webhook.at,
            id=bodies.delivery_id(webhook, report.id if report.prediction_id else None),
            source=self.name,
            archive=webhook.archive,
            status=_status(report.status, kind),
            payload=bodies.given(report.payload),
            prompt=report.prompt,
            model=report.model,
            provider=report.provider or self.name,
            provider_id=report.provider_id or (None if report.prediction_id else report.id),
            provider_urls=_shaped(report.provider_urls, "providerUrls", b"{"),
            owner=report.owner,
            tags=report.tags or (),
            output=output,
            image_url=report.image_url or (first_url(output) if output else None),
            image_path=report.image_path,
            assets=_shaped(report.assets, "assets", b"["),
            error=bodies.text(report.error),
            progress=report.progress,
            logs=report.logs,
            estimated_time=report.estimated_time,
            generation_time=report.generation_time,
            report=bodies.report(webhook.body),
            traceparent=webhook.traceparent,
            unknown=sum(1 for name in _object.decode(text) if name not in _KNOWN),
        )


def _check_type(kind: str | None) -> None:
    if kind is not None and kind != "report" and "." not in kind:
        raise Poison(
            "unknown-type", f"a webhook cannot ask for {kind[:40]!r}; it reports (leave `type` out)"
        )


def _status(given: str | None, kind: str | None) -> Status | None:
    if given is not None:
        status = STATUSES.get(given)
        if status is None:
            raise Poison(
                "unknown-status", f"{given[:40]!r} is no status; use one of {', '.join(Status)}"
            )
        return status
    if kind is None or kind == "report":
        return None
    last = kind.rpartition(".")[2]
    if last not in STATUS_OF_TYPE and last not in NO_STATUS_TYPES:
        raise Poison("unknown-status", f"type {kind[:80]!r} tells no status; send `status`")
    return STATUS_OF_TYPE.get(last)


def _at(given: int | None, received: int) -> int:
    if given is None:
        return received
    if given < EARLIEST:
        raise Poison("bad-time", f"at {given} is before 2001; give milliseconds since the epoch")
    return min(given, received)


def _shaped(raw: Raw, name: str, opening: bytes) -> Raw:
    value = bodies.given(raw)
    if value and bytes(value)[:1] != opening:
        raise Poison("wrong-type", f"{name} is no {'object' if opening == b'{' else 'array'}")
    return value


def open_provider(name: str, configuration: Configuration) -> Standard | None:
    """As configured; None without a secret. Raises `BadConfiguration` for a bad one."""
    keys = open_keys(name, configuration)
    return Standard(keys, name) if keys is not None else None
