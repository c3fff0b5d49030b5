"""Webhooks: verified on their raw bytes, appended as they came, answered when that is durable.

Nothing of a body is read but the prediction's id. What it says is the processor's to find out, so a
mapping that is fixed later fixes the records by a replay.
"""

import base64
import hmac
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from hashlib import sha256

from aiohttp import web

from tidings.gateway.api.webhook_counts import RefusalLog, WebhookCounts
from tidings.gateway.auth.request_guard import RequestGuard
from tidings.gateway.http.fast_response import answer, whole_answer, whole_problem
from tidings.gateway.http.held_bytes import HeldAccount, HeldBytes, Kind
from tidings.gateway.http.problems import Problem, from_failure, unavailable
from tidings.gateway.http.request_body import (
    check_encoding,
    check_length,
    discard_body,
    is_buffered,
    is_compressed,
    plain,
    read_body,
    read_buffered,
)
from tidings.gateway.http.request_trace import RequestTrace, begun
from tidings.storage.clock import SYSTEM_CLOCK, Clock
from tidings.storage.loggers import get_logger
from tidings.storage.prediction import valid_id
from tidings.streams.log.headers import (
    ARCHIVE_HEADER,
    DELIVERY_HEADER,
    PROVIDER_HEADER,
    RECEIVED_HEADER,
    TRACE_HEADER,
)
from tidings.streams.log.log_fields import fields
from tidings.streams.log.protocol import (
    EVENTS,
    Log,
    LogError,
    NewRecord,
    Position,
    RecordTooLarge,
    submit_of,
)
from tidings.streams.providers.protocol import (
    USAGE_STAMP,
    BadSignature,
    KeysUnavailable,
    Provider,
    UnprovenByHeaders,
)
from tidings.streams.providers.registry import built_in, manifest
from tidings.streams.providers.signatures.hmac_signatures import ProvenByAddress
from tidings.streams.rules.event import Archive
from tidings.streams.support import compression
from tidings.streams.support.tracing import Tracing

MOST_INFLATED = 100
"""Times its size that an unproven body may have decompressed; JSON has 10 to 30."""

_SPAN = "POST /api/webhooks/{provider}"
_HEADERS = b"Content-Type: application/json\r\nX-Content-Type-Options: nosniff\r\n"
_ACCEPTED = b'{"success":true}'

logger = get_logger(__name__)


def url_token(key: bytes, prediction_id: str) -> str:
    """The token that proves a webhook URL of ours: HMAC-SHA256 of the prediction's id, in hex."""
    return hmac.new(key, prediction_id.encode(), sha256).hexdigest()


def token_proves(key: bytes, prediction_id: str, token: str) -> bool:
    """Whether the token is of this prediction's URL, in hex or base64url; constant in time."""
    digest = hmac.new(key, prediction_id.encode("utf-8", "surrogateescape"), sha256).digest()
    given = token.encode("utf-8", "surrogateescape").rstrip(b"=")
    in_hex = hmac.compare_digest(given, digest.hex().encode())
    in_base64 = hmac.compare_digest(given, base64.urlsafe_b64encode(digest).rstrip(b"="))
    return in_hex or in_base64


class Webhooks:
    """The handler of both webhook routes.

    Args:
        guard: Tells whose address a body comes from.
        log: Where webhooks go.
        providers: By name, those that are configured.
        held: The budget for bodies that are not appended yet.
        webhook_key: Key of the tokens in webhook URLs; None: no URL names a prediction.
        max_body: Bytes of a body, as sent and decompressed.
        archive: The archive mode that is stamped on each.
        tracing: Where the spans of sampled webhooks go; None: nothing is traced here.
        counts: What is counted.
        clock: Tells the time.
    """

    def __init__(
        self,
        guard: RequestGuard,
        log: Log,
        providers: Mapping[str, Provider],
        held: HeldBytes,
        *,
        webhook_key: bytes | None = None,
        max_body: int,
        archive: Archive = Archive.AFTER,
        tracing: Tracing | None = None,
        counts: WebhookCounts | None = None,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._guard = guard
        self._log = log
        # Who traces has the spans of the whole way.
        self._submit = submit_of(log) if tracing is None else None
        self._providers = providers
        self._held = held
        self._webhook_key = webhook_key
        self._max_body = max_body
        self._archive = (ARCHIVE_HEADER, archive.value.encode())
        self._names = {name: (PROVIDER_HEADER, name.encode()) for name in providers}
        # Sorted out once: isinstance() on a protocol takes longer than the verification itself.
        self._by_address = {
            name: provider
            for name, provider in providers.items()
            if isinstance(provider, ProvenByAddress)
        }
        self._tracing = tracing
        self._counts = counts or WebhookCounts()
        self._refusals = RefusalLog()
        self._clock = clock

    async def receive(self, request: web.Request) -> web.StreamResponse:
        """`POST /api/webhooks/{provider}` and `POST /api/webhooks/{provider}/{id}`."""
        name = request.match_info["provider"]
        try:
            answered = await self._take(request, name)
        except Problem as refused:
            self.refuse(request, name, refused)
            raise
        self._counts.answered(name, 200)
        return answered

    def refuse(self, request: web.Request, name: str, refused: Problem) -> None:
        """Count and log a webhook that was refused, or whose address no route serves."""
        self._refuse(request.match_info.get("id", ""), request.headers, name, refused)

    def _refuse(self, named: str, headers: Mapping[str, str], name: str, refused: Problem) -> None:
        known = name if name in self._providers else ""
        self._counts.refused(known, refused.status, refused.code)
        self._refusals.note(named, headers, known, refused)

    def take(
        self,
        name: str,
        headers: Mapping[str, str],
        body: bytes,
        answer: Callable[[bytes, bool], None],
    ) -> bool:
        """Take an ordinary webhook that came whole, in the call that received it: see `Taker`.

        Whatever is unusual about one, above all its proof, is for `receive` to find and to say.
        """
        submit, provider = self._submit, self._providers.get(name)
        if (
            submit is None
            or provider is None
            or name in self._by_address
            or "Content-Encoding" in headers
            or "Origin" in headers
            or len(body) > self._max_body
            or compression.is_compressed(body, None)
        ):
            return False
        clock, counts = self._clock, self._counts
        began, received = clock.monotonic(), clock.ms()
        try:
            delivery = provider.verify(headers, body, received / 1000)
        except Exception:
            return False
        _, carried = begun(None, _SPAN, None, headers.get(TRACE_HEADER), 0)
        prediction_id = _told_id(provider, body)
        record = self._record(name, prediction_id, body, received, delivery, carried)

        def told(result: Sequence[Position] | LogError) -> None:
            if isinstance(result, LogError):
                problem = from_failure(_not_taken(result, name, prediction_id, None))
                self._refuse("", headers, name, problem)
                goes_on = not problem.ends_connection
                answer(whole_problem(problem, goes_on=goes_on), goes_on)
                return
            counts.seconds.observe(clock.monotonic() - began)
            counts.answered(name, 200)
            answer(whole_answer(_HEADERS, _ACCEPTED), True)

        try:
            submit(EVENTS, (record,), told)
        except LogError:
            return False
        return True

    async def _take(self, request: web.Request, name: str) -> web.StreamResponse:
        provider = self._providers.get(name)
        if provider is None:
            raise _unknown_provider(name)
        prediction_id = request.match_info.get("id")
        if prediction_id is not None:
            _check_token(self._webhook_key, prediction_id, request.query.get("token"))
        if name in self._by_address:
            _verify_address(name, self._by_address[name], request)
        check_encoding(request)
        if is_buffered(request):  # the ordinary case: it came with the headers
            body = read_buffered(request, self._max_body)
            return await self._append(request, name, provider, prediction_id, body, None)
        check_length(request, self._max_body)
        await self._verify_headers(name, provider, request)
        with self._held.account(self._guard.limited_address(request)) as account:
            body = await read_body(request, self._max_body, account, Kind.UNPROVEN)
            return await self._append(request, name, provider, prediction_id, body, account)

    async def _append(
        self,
        request: web.Request,
        name: str,
        provider: Provider,
        prediction_id: str | None,
        body: bytes,
        account: HeldAccount | None,
    ) -> web.StreamResponse:
        clock = self._clock
        began, received = clock.monotonic(), clock.ms()
        now = received / 1000
        delivery, body = self._verify(name, provider, request, body, now)
        if account is not None:
            account.change(Kind.UNPROVEN, Kind.BODIES)
        if prediction_id is None:
            prediction_id = _told_id(provider, body)
        trace, carried = begun(
            self._tracing,
            _SPAN,
            prediction_id,
            request.headers.get(TRACE_HEADER),
            now,
            provider=name,
        )
        record = self._record(name, prediction_id, body, received, delivery, carried)
        try:
            await self._log.append(EVENTS, (record,))
        except LogError as error:
            raise _not_taken(error, name, prediction_id, trace) from None
        if trace is not None:
            trace.end()
        self._counts.seconds.observe(clock.monotonic() - began)
        return answer(request, _HEADERS, _ACCEPTED)

    def _record(
        self,
        name: str,
        prediction_id: str | None,
        body: bytes,
        received: int,
        delivery: str | None,
        carried: bytes | None,
    ) -> NewRecord:
        """What is appended: the body as it came, and what the processor must know beside it."""
        key = prediction_id.encode() if prediction_id and valid_id(prediction_id) else None
        stamps = [
            self._names[name],
            (RECEIVED_HEADER, b"%d" % received),
            self._archive,
            USAGE_STAMP,
        ]
        if delivery:
            stamps.append((DELIVERY_HEADER, delivery.encode("utf-8", "replace")))
        if carried is not None:
            stamps.append((TRACE_HEADER, carried))
        return NewRecord(key, body, stamps)

    async def _verify_headers(self, name: str, provider: Provider, request: web.Request) -> None:
        """Refuse what its headers alone show to be unproven, without holding its body."""
        if name in self._by_address:
            return
        with _unproven_is_401(name):
            try:
                provider.verify(request.headers, b"", self._clock.ms() / 1000)
            except UnprovenByHeaders:
                if request.content_length is None:
                    await discard_body(request, self._max_body)
                raise
            except BadSignature:
                pass  # of an empty body: the whole one may be proven

    def _verify(
        self, name: str, provider: Provider, request: web.Request, body: bytes, now: float
    ) -> tuple[str | None, bytes]:
        """The provider's id of the delivery, and the body as it was before a sender compressed it.

        The signature is over the bytes as sent or, if a proxy on the way compressed them, over
        those before. What nobody has proven yet is decompressed to a bounded multiple of its size.
        """
        if name in self._by_address:  # proven before its body was read
            return None, plain(request, body, self._max_body)
        packed = is_compressed(request, body)
        with _unproven_is_401(name):
            try:
                delivery = provider.verify(request.headers, body, now)
            except BadSignature:
                if not packed:
                    raise
                body = plain(request, body, min(self._max_body, MOST_INFLATED * len(body)))
                return provider.verify(request.headers, body, now), body
        return delivery, plain(request, body, self._max_body) if packed else body


def _not_taken(
    error: LogError, provider: str, prediction_id: str | None, trace: RequestTrace | None
) -> Exception:
    """What the request ends with if the log has not taken its webhook."""
    if trace is not None:
        trace.end(str(error))
    if isinstance(error, RecordTooLarge):
        return error
    about = fields(prediction_id, trace.traceparent if trace is not None else None)
    logger.warning("webhook.not_taken", provider=provider, error=str(error), **about)
    return unavailable("Log", "The log has not taken the webhook")


def _verify_address(name: str, provider: ProvenByAddress, request: web.Request) -> None:
    """Verify a webhook whose address is all of its proof."""
    with _unproven_is_401(name):
        # If the address names a prediction, its token was found to be right before.
        provider.verify_address(request.query.get("token"), proven="id" in request.match_info)


@contextmanager
def _unproven_is_401(name: str) -> Iterator[None]:
    """Turn what a verification raises into the problem that is answered."""
    try:
        yield
    except KeysUnavailable as refused:
        raise unavailable("Provider's keys", str(refused)) from None
    except BadSignature as refused:
        reason = str(refused)
    except Problem:
        raise
    except Exception as error:  # fail closed: whatever a provider's code trips over is not proven
        logger.warning("webhook.verification_failed", provider=name, kind=type(error).__name__)
        reason = "its proof cannot be read"
    else:
        return
    raise Problem(
        401,
        "bad-signature",
        "Bad signature",
        f"The webhook is not proven: {reason}; check the provider's webhook secret here and there, "
        "and both clocks.",
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
            "The URL names a prediction and its token does not prove it; use the URL that was given "
            "to the provider.",
        )


def _unknown_provider(name: str) -> Problem:
    if name in built_in():
        detail = f"The provider {name!r} is not configured; set {manifest(name).missing(name)}."
    else:
        known = ", ".join(built_in())
        detail = f"{name[:64]!r} is no provider of this service; there are {known}."
    return Problem(404, "unknown-provider", "Provider not configured", detail)
