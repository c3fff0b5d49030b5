"""Any sender of Standard Webhooks that speaks of predictions in this service's own words.

Pure. Two shapes: an event of ours (`predictionId` or `id`, `status`, any field of a report), or the
specification's envelope `{"type": "prediction.succeeded", "timestamp": ..., "data": {...}}` with
those fields in `data`. A webhook only ever reports, or appends to a text (`"type": "append"` with
`text` and `offset`): an event type such as `delete` is refused.
If a report tells a status, fields that do not fit are left out; if it does not, there is
nothing else to count, and it is poison.
"""

from collections.abc import Mapping
from typing import Annotated

import msgspec
from msgspec import Meta, Raw, Struct
from msgspec.structs import replace

from tidings.storage.prediction import ABSENT, LARGEST, Status, Usage
from tidings.streams.providers import payload as bodies
from tidings.streams.providers.configuration import Configuration
from tidings.streams.providers.manifest import Manifest, SampleWebhook
from tidings.streams.providers.protocol import Webhook
from tidings.streams.providers.signatures.standard_webhooks import (
    StandardWebhooks,
    open_keys,
    signed_headers,
)
from tidings.streams.rules.event import HALF_CHARACTER, Event, EventType, Poison
from tidings.streams.rules.fields import ASKED_WIRE_NAMES
from tidings.streams.rules.questions import question_of
from tidings.streams.rules.usage import checked
from tidings.streams.support.json_text import has_half_characters

APPEND = EventType.APPEND.value
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
"""What the last part of an envelope's `type` says if `data` has no status."""

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
    text: str | None = None
    offset: Annotated[int, Meta(ge=0, le=LARGEST)] | None = None
    text_closed: bool | None = None
    image_url: str | None = None
    image_path: str | None = None
    assets: Raw = ABSENT
    error: Raw = ABSENT
    progress: Annotated[float, Meta(ge=0, le=1)] | None = None
    logs: str | None = None
    estimated_time: int | float | None = None
    generation_time: int | float | None = None
    usage: Raw = ABSENT
    waiting: Raw = ABSENT
    question: Raw = ABSENT
    question_id: Raw = ABSENT


class _Identity(Struct, frozen=True, gc=False, rename="camel"):
    prediction_id: str | None = None
    id: str | None = None
    data: Raw = ABSENT


_report = bodies.Reader(_Report)
_identity = bodies.Reader(_Identity)
_KNOWN = frozenset(field.encode_name for field in msgspec.structs.fields(_Report)) - {
    "data",
    "timestamp",
}
_SHAPES = {"providerUrls": b"{", "assets": b"["}
"""How those fields begin that pass through, and have a shape."""


class Standard(Struct, frozen=True):
    """Reports of ours, signed by Standard Webhooks."""

    keys: StandardWebhooks
    name: str = "standard"

    def verify(self, headers: Mapping[str, str], body: bytes, now: float) -> str:
        """By Standard Webhooks; the delivery's id is `webhook-id`."""
        return self.keys.verify(headers, body, now)

    def prediction_id(self, body: bytes) -> str | None:
        """`predictionId`, else `id`; in an envelope those of `data`."""
        found = _identity.peek(body)
        if found is not None and found.prediction_id is None and bytes(found.data)[:1] == b"{":
            found = _identity.peek(bytes(found.data))
        return (found.prediction_id or found.id) if found is not None else None

    def translate(self, webhook: Webhook) -> Event:
        """What the report says.

        Raises:
            Poison: It makes no sense, or asks for something that a webhook may not.
        """
        outer, left_out = _report.read(webhook.body)
        text = webhook.body
        report = outer
        if outer.prediction_id is None and bytes(outer.data)[:1] == b"{":
            text = bytes(outer.data)
            report, left_out = _report.read(text)
        _check_type(outer.type)
        own = report.prediction_id or report.id
        prediction_id = bodies.identify(webhook, own)
        if report.prediction_id and report.prediction_id != prediction_id:
            raise Poison(
                "id-mismatch",
                f"the address says {prediction_id!r} and the body {report.prediction_id!r}; send one of them",
            )
        append = APPEND in (outer.type, report.type)
        if append:
            _check_piece(report, text)
        status = None if "status" in left_out else _status(report.status, outer.type)
        at = _at(report.at, webhook.at)
        usage, off = _usage(report, webhook)
        waiting, unfit = _waiting(report, webhook)
        left_out += (
            off
            + unfit
            + _misshapen(report)
            + (("at",) if at is None and status is not None else ())
        )
        if left_out and status is None:
            names = ", ".join(sorted(left_out))
            raise Poison("wrong-type", f"fields of the wrong type or range: {names}")
        if at is None and status is None:
            raise Poison("bad-time", f"at {report.at} is no time in milliseconds since the epoch")
        event = self._event(
            webhook, report, prediction_id, text, status, at or webhook.at, left_out
        )
        if usage is not None:
            event = replace(event, usage=usage)
        if waiting is not None:
            question, id_ = bodies.given(report.question), bodies.string(report.question_id)
            event = replace(event, waiting=waiting, question=question, question_id=id_)
        return replace(event, type=EventType.APPEND) if append else event

    def _event(
        self,
        webhook: Webhook,
        report: _Report,
        prediction_id: str,
        text: bytes,
        status: Status | None,
        at: int,
        left_out: tuple[str, ...],
    ) -> Event:
        output = bodies.given(report.output)
        provider_urls, assets = bodies.given(report.provider_urls), bodies.given(report.assets)
        return Event(
            prediction_id=prediction_id,
            at=at,
            recorded_at=webhook.at,
            id=bodies.delivery_id(webhook, report.id if report.prediction_id else None),
            source=self.name,
            archive=webhook.archive,
            status=status,
            payload=bodies.given(report.payload),
            prompt=report.prompt,
            model=report.model,
            provider=report.provider or self.name,
            provider_id=report.provider_id or (None if report.prediction_id else report.id),
            provider_urls=ABSENT if "providerUrls" in left_out else provider_urls,
            owner=report.owner,
            tags=report.tags or (),
            output=output,
            text=report.text,
            offset=report.offset,
            text_closed=bool(report.text_closed),
            image_url=report.image_url or (bodies.first_url(output) if output else None),
            image_path=report.image_path,
            assets=ABSENT if "assets" in left_out else assets,
            error=bodies.text(report.error),
            progress=report.progress,
            logs=report.logs,
            estimated_time=bodies.duration(report.estimated_time),
            generation_time=bodies.duration(report.generation_time),
            traceparent=webhook.traceparent,
            unknown=tuple(
                name
                for name in bodies.members(text)
                if name not in _KNOWN
                or (name == "usage" and not webhook.usage)
                or (name in ASKED_WIRE_NAMES and not webhook.questions)
            ),
            left_out=left_out,
        )

    def sample(self, prediction_id: str, now: int) -> SampleWebhook:
        """Signed with the first secret."""
        body = msgspec.json.encode({"predictionId": prediction_id, "status": "succeeded"})
        return SampleWebhook(body, signed_headers(self.name, self.keys, body, now))


def _usage(report: _Report, webhook: Webhook) -> tuple[Usage | None, tuple[str, ...]]:
    """What it says of usage, where that counts, and whether it has to be left out."""
    raw = bodies.given(report.usage)
    if not raw or not webhook.usage:
        return None, ()
    try:
        return checked(msgspec.json.decode(raw, type=Usage)), ()
    except (ValueError, RecursionError):
        return None, ("usage",)


def _waiting(report: _Report, webhook: Webhook) -> tuple[bool | None, tuple[str, ...]]:
    """Whether the prediction waits, if that is said, and what has to be left out."""
    waiting = bodies.given(report.waiting)
    if not waiting or not webhook.questions:
        return None, ()
    if bytes(waiting) not in (b"true", b"false"):
        return None, ("waiting",)
    if bytes(waiting) == b"false":
        return False, ()
    try:
        question_of(report.question)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return None, ("question",)
    return True, ()


def _check_type(kind: str | None) -> None:
    if kind is not None and kind not in ("report", APPEND) and "." not in kind:
        raise Poison(
            "unknown-type", f"a webhook cannot ask for {kind[:40]!r}; it reports (leave `type` out)"
        )


def _check_piece(report: _Report, body: bytes) -> None:
    if report.offset is None:
        raise Poison("missing-field", "append by webhook needs offset: senders repeat")
    if has_half_characters(body):
        raise Poison("encoding", HALF_CHARACTER)


def _status(given: str | None, kind: str | None) -> Status | None:
    if given is not None:
        status = STATUSES.get(given)
        if status is None:
            raise Poison(
                "unknown-status", f"{given[:40]!r} is no status; use one of {', '.join(Status)}"
            )
        return status
    if kind is None or kind in ("report", APPEND):
        return None
    last = kind.rpartition(".")[2]
    if last not in STATUS_OF_TYPE and last not in NO_STATUS_TYPES:
        raise Poison("unknown-status", f"type {kind[:80]!r} tells no status; send `status`")
    return STATUS_OF_TYPE.get(last)


def _at(given: int | None, received: int) -> int | None:
    """When it happened, never later than it was received; None: `at` is no time in ms."""
    if given is None:
        return received
    return min(given, received) if given >= EARLIEST else None


def _misshapen(report: _Report) -> tuple[str, ...]:
    """The names of the fields that pass through and do not have their shape."""
    found = {"providerUrls": report.provider_urls, "assets": report.assets}
    return tuple(
        name for name, raw in found.items() if bodies.given(raw) and bytes(raw)[:1] != _SHAPES[name]
    )


def open_provider(name: str, configuration: Configuration) -> Standard | None:
    """As configured; None without a secret. Raises `BadConfiguration` for a bad one."""
    keys = open_keys(name, configuration)
    return Standard(keys, name) if keys is not None else None


MANIFEST = Manifest(
    open=open_provider,
    configured_by="`TIDINGS_STANDARD_SECRET`",
    proof="Standard Webhooks (`v1` HMAC-SHA256 with `whsec_...`, `v1a` Ed25519 with `whpk_...`; also under Svix's header "
    "names)",
)
