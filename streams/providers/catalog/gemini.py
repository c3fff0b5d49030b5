"""Gemini: thin events, proven by Standard Webhooks (static) or by a JWT of Google's (dynamic).

Pure. Fetched batches, operations and interactions are understood in their own shape. An interaction
that asks goes on with an answer; nothing else is submitted from here. A dynamic webhook carries the
event as an RS256 JWT in `webhook-signature`; the JWT does not cover the body, so the body counts
only if it says what the JWT says. Source: the Gemini API's documentation of webhooks, batch mode,
interactions and long-running operations.
"""

import binascii
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import Raw, Struct

from tidings.storage.prediction import ABSENT, Status, Usage
from tidings.streams.providers import payload as bodies
from tidings.streams.providers import usage as usages
from tidings.streams.providers.configuration import BadConfiguration, Configuration, setting_name
from tidings.streams.providers.gemini_api import BATCHES, URL, GeminiApi, Where, question, short
from tidings.streams.providers.job_api import ThinNotice
from tidings.streams.providers.manifest import Manifest, SampleWebhook
from tidings.streams.providers.protocol import BadSignature, Webhook
from tidings.streams.providers.signatures.hmac_signatures import required
from tidings.streams.providers.signatures.standard_webhooks import (
    TOLERANCE,
    StandardWebhooks,
    check_timestamp,
    open_keys,
    signed_headers,
)
from tidings.streams.rules.event import Event, OtherResource

if TYPE_CHECKING:
    from tidings.streams.providers.signatures.jwks import KeySet

RESOURCES = frozenset({"batch", "interaction", "video"})
"""First words of the events that are about predictions."""

STATUSES = {
    "succeeded": Status.SUCCEEDED,
    "completed": Status.SUCCEEDED,
    "generated": Status.SUCCEEDED,
    "failed": Status.FAILED,
    "expired": Status.FAILED,
    "cancelled": Status.CANCELED,
    "requires_action": Status.PROCESSING,
    "in_progress": Status.PROCESSING,
    "incomplete": Status.FAILED,
}
"""Of events, and of interactions as fetched."""

STATES = {
    "PENDING": Status.STARTING,
    "RUNNING": Status.PROCESSING,
    "SUCCEEDED": Status.SUCCEEDED,
    "FAILED": Status.FAILED,
    "EXPIRED": Status.FAILED,
    "CANCELLED": Status.CANCELED,
}
"""The last word of a batch's `metadata.state` (`BATCH_STATE_SUCCEEDED`, formerly
`JOB_STATE_SUCCEEDED`)."""

ASKS = "requires_action"
"""The status of an interaction that goes on with an answer."""

NAMED_ERRORS = frozenset({"expired", "incomplete"})
"""Kinds of failure that are their own reason."""


class _Data(Struct, frozen=True, gc=False):
    id: str | None = None
    name: str | None = None
    error_code: Raw = ABSENT
    error_message: Raw = ABSENT


class _Metadata(Struct, frozen=True, gc=False):
    state: str | None = None
    model: str | None = None
    output: Raw = ABSENT


class _Event(Struct, frozen=True, gc=False):
    """An event (`type` and `data`), or as fetched.

    An interaction (`id`, `status`), an operation (`name`, `done`).
    """

    type: str | None = None
    data: _Data | None = None
    id: str | None = None
    status: str | None = None
    model: str | None = None
    agent: str | None = None
    input: Raw = ABSENT
    outputs: Raw = ABSENT
    steps: Raw = ABSENT
    error: Raw = ABSENT
    name: str | None = None
    done: bool = False
    metadata: _Metadata | None = None
    response: Raw = ABSENT
    usage: Raw = ABSENT


_event = bodies.Reader(_Event)


class Gemini(Struct, frozen=True):
    """Gemini's webhooks; one of both proofs suffices, and the header's form tells which it is."""

    keys: StandardWebhooks | None
    key_set: "KeySet | None"
    audience: str | None
    tolerance: float = TOLERANCE
    name: str = "gemini"
    api: GeminiApi | None = None
    """For look-ups; None without a token."""

    def verify(self, headers: Mapping[str, str], body: bytes, now: float) -> str:
        """By a `v1` signature, or by a JWT; the delivery's id is `webhook-id`."""
        signature = required(headers, "webhook-signature")
        if "," in signature:
            if self.keys is None:
                raise BadSignature("a static webhook, and no secret is configured for those")
            return self.keys.verify(headers, body, now)
        if self.key_set is None:
            raise BadSignature("a dynamic webhook, and no keys are configured for those")
        check_timestamp(required(headers, "webhook-timestamp"), now, self.tolerance)
        claims = self._claims(signature, now)
        if not _says_the_same(claims, body):
            raise BadSignature("the body says something else than its signed token")
        return required(headers, "webhook-id")

    def prediction_id(self, body: bytes) -> str | None:
        """`data.id`."""
        found = _event.peek(body)
        return _own_id(found) if found is not None else None

    def thin(self, body: bytes) -> ThinNotice | None:
        """The batch, interaction or video that is to be fetched."""
        found = _event.peek(body)
        if found is None or found.data is None or (own := _own_id(found)) is None:
            return None
        resource, _, word = (found.type or "").rpartition(".")
        status = STATUSES.get(word)
        if resource not in RESOURCES or status is None:
            return None
        error = _error(found.data, word) if status is Status.FAILED else None
        return ThinNotice(own, _place(found, own), status=status, error=error)

    def translate(self, webhook: Webhook) -> Event:
        """An event says how it failed or that it was canceled.

        A success waits for its result, which is fetched.
        """
        found, left_out = _event.read(webhook.body)
        if found.data is None and found.type is None:
            return self._fetched(webhook, found, left_out)
        resource, _, word = (found.type or "").rpartition(".")
        if found.type is not None and resource not in RESOURCES:
            raise OtherResource(self.name, found.type)
        status = bodies.status(STATUSES, word, self.name)
        own = _own_id(found)
        return bodies.event(
            webhook,
            self.name,
            own,
            left_out=left_out,
            status=None if status is Status.SUCCEEDED else status,
            provider_urls=_place(found, own),
            error=_error(found.data or _Data(), word) if status is Status.FAILED else None,
            notice=True,
        )

    def _fetched(self, webhook: Webhook, found: _Event, left_out: tuple[str, ...]) -> Event:
        own, error = _own_id(found), bodies.text(found.error)
        if found.status is not None:
            status = bodies.status(STATUSES, found.status, self.name)
            asking = webhook.questions and found.status == ASKS
            return bodies.event(
                webhook,
                self.name,
                own,
                left_out=left_out,
                status=status,
                waiting=True if asking else None,
                question=question(_outputs(found), found.agent) if asking else ABSENT,
                question_id=own if asking else None,
                model=found.model,
                payload=bodies.given(found.input),
                prompt=bodies.string(found.input),
                output=_outputs(found),
                error=(error or found.status) if status is Status.FAILED else None,
                usage=_usage(found) if webhook.usage else None,
            )
        metadata = found.metadata or _Metadata()
        status = self._state(found, metadata)
        return bodies.event(
            webhook,
            self.name,
            own,
            left_out=left_out,
            status=status,
            model=metadata.model.removeprefix("models/") if metadata.model else None,
            provider_urls=_place(found, own),
            output=bodies.given(found.response) or bodies.given(metadata.output),
            error=(error or (metadata.state or "failed").rpartition("_")[2].lower())
            if status is Status.FAILED
            else None,
            usage=_usage(found) if webhook.usage else None,
        )

    def _state(self, found: _Event, metadata: _Metadata) -> Status:
        """Of an operation: a batch names its state.

        A video is done or not, with an error or without.
        """
        if metadata.state is not None:
            return bodies.status(STATES, metadata.state.rpartition("_")[2], self.name)
        if found.name is None:
            return bodies.status(STATES, None, self.name)
        if not found.done:
            return Status.PROCESSING
        return Status.FAILED if bodies.given(found.error) else Status.SUCCEEDED

    def sample(self, prediction_id: str, now: int) -> SampleWebhook:
        """A static one, signed with the first secret."""
        said = {"type": "interaction.completed", "version": "v1", "data": {"id": prediction_id}}
        body = msgspec.json.encode(said)
        return SampleWebhook(body, signed_headers(self.name, self.keys, body, now))

    def _claims(self, token: str, now: float) -> dict[str, Any]:
        import jwt  # for dynamic webhooks alone

        assert self.key_set is not None
        try:
            header = jwt.get_unverified_header(token)
        except (jwt.PyJWTError, ValueError, RecursionError):
            raise BadSignature(
                "webhook-signature is neither a list of signatures nor a JWT"
            ) from None
        if header.get("alg") != "RS256":
            raise BadSignature("the token is not signed by RS256")
        key = self.key_set.rsa(header.get("kid"))
        if key is None:
            self.key_set.missed()
            raise BadSignature("the token's key is none of Google's")
        unchecked = {"verify_exp": False, "verify_nbf": False, "verify_iat": False}
        try:
            claims: dict[str, Any] = jwt.decode(
                token,
                key,
                ["RS256"],
                options=unchecked,  # type: ignore[arg-type]
                audience=self.audience,
            )
        except (jwt.PyJWTError, ValueError, RecursionError):
            raise BadSignature(
                "the token is not signed by its key, or for another audience"
            ) from None
        if not _one_spelling(token):
            raise BadSignature("the token's signature is not spelled as base64url has it")
        self._check_times(claims, now)
        return claims

    def _check_times(self, claims: Mapping[str, Any], now: float) -> None:
        """Against the caller's clock, not the machine's.

        The timestamp's header is not covered by the token.
        """
        expiry, issued = claims.get("exp"), claims.get("iat")
        if isinstance(expiry, int | float):
            fresh = now <= expiry + self.tolerance
        else:
            fresh = isinstance(issued, int | float) and abs(now - issued) <= self.tolerance
        if not fresh:
            raise BadSignature("the token has expired, or tells no time")


def _one_spelling(token: str) -> bool:
    """The last letter of a signature in base64url has bits to spare, which decoders overlook."""
    signature = token.rpartition(".")[2]
    try:
        raw = urlsafe_b64decode(signature + "=" * (-len(signature) % 4))
    except (binascii.Error, ValueError):
        return False
    return urlsafe_b64encode(raw).rstrip(b"=").decode() == signature


def _says_the_same(claims: Mapping[str, Any], body: bytes) -> bool:
    try:
        said = msgspec.json.decode(bodies.readable(body))
    except (msgspec.DecodeError, RecursionError):
        return False
    if not isinstance(said, dict) or "type" not in said or "data" not in said:
        return False
    return all(name in claims and claims[name] == value for name, value in said.items())


def _outputs(found: _Event) -> Raw:
    return bodies.given(found.outputs) or bodies.given(found.steps)


def _own_id(found: _Event) -> str | None:
    if found.data is not None:
        return short(found.data.id or found.data.name)
    return found.id or short(found.name)


def _place(found: _Event, own: str | None) -> Raw:
    """The resource's name, if the id does not say it: a batch's."""
    batch = (found.type or "").startswith("batch.") or (found.name or "").startswith(BATCHES)
    return Raw(msgspec.json.encode(Where(f"{BATCHES}{own}"))) if batch and own else ABSENT


def _usage(found: _Event) -> Usage | None:
    """Of an interaction its `usage`; of a batch the `usageMetadata` of its inline answers, summed.

    What it has thought is billed as output.
    """
    response = usages.members(found.response)
    inline = response.get("inlinedResponses", ABSENT)
    inline = usages.members(inline).get("inlinedResponses", inline)
    answers = [usages.members(one).get("response", ABSENT) for one in usages.items(inline)]
    said = [usages.members(found.usage)]
    said += [
        usages.members(usages.members(one).get("usageMetadata", ABSENT))
        for one in (found.response, *answers)
    ]

    def total(*names: str) -> Raw:
        found = [usages.count(one[name]) for one in said for name in names if name in one]
        known = [number for number in found if number is not None]
        return Raw(b"%d" % sum(known)) if known else ABSENT

    return usages.usage(
        input_tokens=total("total_input_tokens", "promptTokenCount"),
        output_tokens=total(
            "total_output_tokens",
            "total_thought_tokens",
            "candidatesTokenCount",
            "thoughtsTokenCount",
        ),
    )


def _error(data: _Data, word: str) -> str | None:
    return (
        bodies.text(data.error_message)
        or bodies.text(data.error_code)
        or (word if word in NAMED_ERRORS else None)
    )


def open_provider(name: str, configuration: Configuration) -> Gemini | None:
    """Gemini as configured; None with neither a secret nor the URL of Google's keys.

    Raises:
        BadConfiguration: A bad secret, or keys without an audience: any other customer of Google's
            could sign then.
    """
    keys = open_keys(name, configuration)
    audience = configuration.options.get("audience")
    if configuration.jwks_url and not isinstance(audience, str):
        raise BadConfiguration(
            f"{setting_name(name, 'JWKS_URL')} needs `audience` in the table [{name}] of tidings.toml"
        )
    if keys is None and not configuration.jwks_url:
        return None
    key_set = None
    if configuration.jwks_url:
        from tidings.streams.providers.signatures.jwks import KeySet  # with its libraries

        key_set = KeySet(configuration.jwks_url)
    token = configuration.token
    dynamic = bool(configuration.jwks_url)
    api = GeminiApi(token, configuration.url_or(URL), dynamic) if token else None
    return Gemini(keys, key_set, audience, configuration.tolerance_or(TOLERANCE, name), name, api)


MANIFEST = Manifest(
    open=open_provider,
    configured_by="`TIDINGS_GEMINI_SECRET` for static webhooks; `TIDINGS_GEMINI_JWKS_URL` and `audience` in the table "
    "`[gemini]` of `tidings.toml` for dynamic ones; `_TOKEN` (an API key) to fetch results and to take answers",
    proof="Standard Webhooks, or an RS256 JWT that says the same as the body",
    takes_jwks_url=True,
    options=frozenset({"audience"}),
)
