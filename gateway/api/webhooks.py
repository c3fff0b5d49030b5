"""Webhooks: proven on their raw bytes, appended to the log as they came, answered when that is durable.

Nothing of a body is read but the prediction's id. What it says is the processor's to find out, so a mapping that is
mended later mends the records by a replay.
"""

import base64
import hmac
from collections.abc import Mapping
from hashlib import sha256

import structlog
from aiohttp import web

from tidings.gateway.api.appending import Appender
from tidings.gateway.http.fast_response import answer
from tidings.gateway.http.problems import Handler, Problem, unavailable
from tidings.gateway.http.request_body import read_body
from tidings.gateway.http.request_trace import RequestTrace, begun
from tidings.storage.clock import SYSTEM_CLOCK, Clock
from tidings.storage.prediction import valid_id
from tidings.streams.log.headers import (
    ARCHIVE_HEADER,
    DELIVERY_HEADER,
    PROVIDER_HEADER,
    RECEIVED_HEADER,
    TRACE_HEADER,
)
from tidings.streams.log.log_fields import fields
from tidings.streams.log.protocol import EVENTS, Log, LogError, NewRecord, RecordTooLarge
from tidings.streams.providers.protocol import BadSignature, KeysUnavailable, Provider
from tidings.streams.providers.registry import built_in, manifest
from tidings.streams.providers.signatures.hmac_signatures import ProvenByAddress
from tidings.streams.rules.event import Archive
from tidings.streams.support.histogram import Histogram
from tidings.streams.support.tracing import Tracing

APPEND_TIME = 4.0
"""Seconds for the log to take a webhook, so that the answer is out within 5 s: providers give up after that."""

_SPAN = "POST /api/webhooks/{provider}"
_HEADERS = b"Content-Type: application/json\r\nX-Content-Type-Options: nosniff\r\n"
_ACCEPTED = b'{"success":true}'

REFUSAL_EVERY = 1.0
"""Seconds between two lines about one provider's refusals; the next one says how many were left out."""

logger = structlog.get_logger(__name__)


class WebhookCounts:
    """Webhooks since the start; plain numbers that metrics read."""

    __slots__ = ("answers", "refusals", "seconds")

    def __init__(self) -> None:
        self.answers: dict[tuple[str, int], int] = {}
        """By provider (none of the configured ones: an empty name) and status of the answer."""
        self.refusals: dict[tuple[str, str], int] = {}
        """By provider and the problem's code."""
        self.seconds = Histogram()
        """From a webhook's last byte to its record being durable."""

    def refused(self, provider: str, status: int, code: str) -> None:
        """Count an answer that is a refusal."""
        self.answered(provider, status)
        key = (provider, code)
        self.refusals[key] = self.refusals.get(key, 0) + 1

    def answered(self, provider: str, status: int) -> None:
        """Count an answer."""
        key = (provider, status)
        self.answers[key] = self.answers.get(key, 0) + 1


class RefusalLog:
    """Logs refused webhooks: enough to find the cause, and bounded under a flood from strangers.

    Args:
        clock: Tells the time.
    """

    def __init__(self, clock: Clock = SYSTEM_CLOCK) -> None:
        self._clock = clock
        self._last: dict[str, float] = {}
        self._left_out: dict[str, int] = {}

    def note(self, request: web.Request, provider: str, refused: Problem) -> None:
        """A webhook was refused.

        Args:
            request: Of it; its body and its proof are not repeated.
            provider: The configured one, or an empty name.
            refused: What it is answered.
        """
        now = self._clock.monotonic()
        if now - self._last.get(provider, -REFUSAL_EVERY) < REFUSAL_EVERY:
            self._left_out[provider] = self._left_out.get(provider, 0) + 1
            return
        self._last[provider] = now
        named = request.match_info.get("id", "")
        about = fields(named if valid_id(named) else None, request.headers.get(TRACE_HEADER))
        left_out = self._left_out.pop(provider, 0)
        more = {"left_out": left_out} if left_out else {}
        logger.warning(
            "webhook.refused",
            provider=provider or "unknown",
            status=refused.status,
            code=refused.code,
            **about,
            **more,
        )


def url_token(key: bytes, prediction_id: str) -> str:
    """The token that proves a webhook URL of ours: HMAC-SHA256 of the prediction's id, in hex."""
    return hmac.new(key, prediction_id.encode(), sha256).hexdigest()


def token_proves(key: bytes, prediction_id: str, token: str) -> bool:
    """Whether the token is the one of this prediction's URL, in hex or in unpadded base64url; constant in time."""
    digest = hmac.new(key, prediction_id.encode("utf-8", "surrogateescape"), sha256).digest()
    given = token.encode("utf-8", "surrogateescape").rstrip(b"=")
    in_hex = hmac.compare_digest(given, digest.hex().encode())
    in_base64 = hmac.compare_digest(given, base64.urlsafe_b64encode(digest).rstrip(b"="))
    return in_hex or in_base64


def webhook_handler(
    log: Log,
    providers: Mapping[str, Provider],
    *,
    webhook_key: bytes | None = None,
    max_body: int,
    archive: Archive = Archive.AFTER,
    tracing: Tracing | None = None,
    counts: WebhookCounts | None = None,
    clock: Clock = SYSTEM_CLOCK,
) -> Handler:
    """The handler of both webhook routes.

    Args:
        log: Where webhooks go.
        providers: By name, those that are configured.
        webhook_key: Key of the tokens in webhook URLs; None: no URL names a prediction.
        max_body: Bytes of a body.
        archive: The archive mode that is stamped on each.
        tracing: Where the spans of sampled webhooks go; None: nothing is traced here.
        counts: What is counted.
        clock: Tells the time.
    """
    appender = Appender(log, EVENTS, APPEND_TIME)
    archive_stamp = (ARCHIVE_HEADER, archive.value.encode())
    counts = counts or WebhookCounts()
    named = {name: (PROVIDER_HEADER, name.encode()) for name in providers}
    # Sorted out once: asking a protocol whether a value is one of it takes longer than the proof itself.
    unsigned = {
        name: provider
        for name, provider in providers.items()
        if isinstance(provider, ProvenByAddress)
    }
    refusals = RefusalLog()

    async def receive(request: web.Request) -> web.StreamResponse:
        name = request.match_info["provider"]
        try:
            answered = await take(request, name)
        except Problem as refused:
            counts.refused(name if name in providers else "", refused.status, refused.code)
            refusals.note(request, name if name in providers else "", refused)
            raise
        counts.answered(name, 200)
        return answered

    async def take(request: web.Request, name: str) -> web.StreamResponse:
        provider = providers.get(name)
        if provider is None:
            raise _unknown_provider(name)
        prediction_id = request.match_info.get("id")
        if prediction_id is not None:
            _check_token(webhook_key, prediction_id, request.query.get("token"))
        body = await read_body(request, max_body)
        began, received = clock.monotonic(), clock.ms()
        now = received / 1000
        delivery = _prove(provider, unsigned.get(name), request, body, now)
        if prediction_id is None:
            prediction_id = _told_id(provider, body)
        stamps = [named[name], (RECEIVED_HEADER, b"%d" % received), archive_stamp]
        if delivery:
            stamps.append((DELIVERY_HEADER, delivery.encode("utf-8", "replace")))
        trace, carried = begun(
            tracing, _SPAN, prediction_id, request.headers.get(TRACE_HEADER), now, provider=name
        )
        if carried is not None:
            stamps.append((TRACE_HEADER, carried))
        key = (
            prediction_id.encode()
            if prediction_id is not None and valid_id(prediction_id)
            else None
        )
        try:
            await appender.append(NewRecord(key, body, stamps))
        except LogError as error:
            raise _not_taken(error, name, prediction_id, trace) from None
        if trace is not None:
            trace.end()
        counts.seconds.observe(clock.monotonic() - began)
        return answer(request, _HEADERS, _ACCEPTED)

    return receive


def _not_taken(
    error: LogError, provider: str, prediction_id: str | None, trace: RequestTrace | None
) -> Exception:
    """What the request ends with where the log has not taken its webhook."""
    if trace is not None:
        trace.end(str(error))
    if isinstance(error, RecordTooLarge):
        return error
    about = fields(prediction_id, trace.traceparent if trace is not None else None)
    logger.warning("webhook.not_taken", provider=provider, error=str(error), **about)
    return unavailable("Log", "The log has not taken the webhook")


def _prove(
    provider: Provider,
    unsigned: ProvenByAddress | None,
    request: web.Request,
    body: bytes,
    now: float,
) -> str | None:
    try:
        if unsigned is not None:
            # Where the address names a prediction, its token was found to be right before.
            unsigned.verify_address(request.query.get("token"), proven="id" in request.match_info)
            return None
        return provider.verify(request.headers, body, now)
    except KeysUnavailable as refused:
        raise unavailable("Provider's keys", str(refused)) from None
    except BadSignature as refused:
        reason = str(refused)
    except Exception as error:  # fail closed: whatever a provider's code trips over is not proven
        logger.warning(
            "webhook.verification_failed", provider=provider.name, kind=type(error).__name__
        )
        reason = "its proof cannot be read"
    raise Problem(
        401,
        "bad-signature",
        "Bad signature",
        f"The webhook is not proven: {reason}; check the provider's webhook secret here and there, and both clocks.",
    )


def _told_id(provider: Provider, body: bytes) -> str | None:
    try:
        return provider.prediction_id(body)
    except (
        Exception
    ) as error:  # the body is well signed: it is kept, and the processor says what is wrong with it
        logger.warning("webhook.id_unreadable", provider=provider.name, kind=type(error).__name__)
        return None


def _check_token(key: bytes | None, prediction_id: str, token: str | None) -> None:
    if key is None or token is None or not token_proves(key, prediction_id, token):
        raise Problem(
            401,
            "bad-token",
            "Bad token",
            "The URL names a prediction and its token does not prove it; use the URL that was given to the provider.",
        )


def _unknown_provider(name: str) -> Problem:
    if name in built_in():
        detail = f"The provider {name!r} is not configured; set {manifest(name).missing(name)}."
    else:
        known = ", ".join(built_in())
        detail = f"{name[:64]!r} is no provider of this service; there are {known}."
    return Problem(404, "unknown-provider", "Provider not configured", detail)
