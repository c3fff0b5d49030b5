"""`POST /api/predictions`: written down first, then handed to whoever submits it.

The record decides: a create counts as ours when the record carries our create's id. So a repeated
request, a lost answer and two gateways at once all end in one prediction.
"""

import hmac
import uuid
from collections.abc import Awaitable, Callable, Mapping
from hashlib import sha256
from http import HTTPStatus
from typing import Protocol
from urllib.parse import quote

import msgspec
from aiohttp import web
from msgspec import Raw, Struct, structs

from tidings.gateway.api.deadlines import with_deadline
from tidings.gateway.api.long_poll import announced
from tidings.gateway.api.mutations import EventWriter, check_size, read_object
from tidings.gateway.api.outbound_webhooks import seal_webhook
from tidings.gateway.api.predictions import answer_with
from tidings.gateway.auth.permissions import Permissions
from tidings.gateway.auth.request_guard import RequestGuard
from tidings.gateway.http.held_bytes import HeldBytes
from tidings.gateway.http.problems import Handler, Problem, bad_request, forbidden, unprocessable
from tidings.storage.clock import SYSTEM_CLOCK, Clock
from tidings.storage.prediction import Prediction, decode, valid_id
from tidings.storage.store import Stored, hidden
from tidings.storage.wrappers.cache import CachedStore
from tidings.streams.notifications.address import AddressBook
from tidings.streams.rules.decision import Applied
from tidings.streams.rules.event import Event
from tidings.streams.rules.fields import CREATE_WIRE_NAMES
from tidings.streams.rules.retries import policy_of
from tidings.streams.rules.transitions import decide

CREATE_FIELDS = CREATE_WIRE_NAMES | {"predictionId", "timeout"}
MAX_KEY = 255
"""Characters of an `Idempotency-Key`."""
MAX_NAME = 256
"""Characters of an owner, and of a tag."""
MAX_TAGS = 100
FORMER_KEYS = 24 * 3600 * 1000
"""Milliseconds for which a key still matches the id that an earlier release made of it."""

_IN_USE = (
    "A prediction with this id exists already, or did until lately; choose another predictionId."
)
_NULL = b"null"


class Submitter(Protocol):
    """What hands predictions to providers."""

    def refusal(self, provider: str) -> str | None:
        """Why nothing can be submitted to this provider, with the remedy; None: it can."""

    def model_refusal(self, provider: str, model: str) -> str | None:
        """Why no call of this provider can be made of a model's name; None: one can."""

    def stream_refusal(self, provider: str) -> str | None:
        """Why answers of this provider cannot be read while they are written; None: they can."""

    async def submit(self, record: Prediction) -> None:
        """Take charge of a new prediction; does not wait for the provider."""


CreateDefaults = Callable[[Mapping[str, Raw]], Awaitable[dict[str, Raw]]]
"""What a new prediction gets that its order, given by members as JSON, does not say."""


class GroupOrders(Protocol):
    """What makes groups out of orders."""

    def parse(self, fields: Mapping[str, Raw]) -> list[dict[str, Raw]]:
        """The orders in a body; raises a 422."""

    def wanted(self, fields: Mapping[str, Raw]) -> str | None:
        """The id that the group is to have; None: any. Raises a 422."""

    async def event(self, order: "Order", now: int) -> dict[str, Raw]:
        """The members of the event that creates the group; raises a 422."""

    async def refuse_taken(self, order: "Order") -> None:
        """Refuse a group whose members' ids are in use; raises a 409."""


class Order(Struct, frozen=True, kw_only=True):
    """A prediction to be created, or a group of them."""

    prediction_id: str
    create_id: str
    """Of the create event. With an idempotency key it tells the key and the body."""
    key: str | None
    """What every create of the same owner and idempotency key begins with."""
    provider: str
    fields: dict[str, Raw]
    orders: list[dict[str, Raw]] | None = None
    """Of a group."""
    former: "Order | None" = None
    """The same order as an earlier release named it."""


def create_handler(
    guard: RequestGuard,
    store: CachedStore,
    writer: EventWriter,
    held: HeldBytes,
    *,
    max_body: int,
    strict: bool = False,
    record_max: int,
    groups: GroupOrders,
    key: bytes = b"",
    submitter: Submitter | None = None,
    defaults: CreateDefaults | None = None,
    addresses: AddressBook | None = None,
    clock: Clock = SYSTEM_CLOCK,
) -> Handler:
    """The handler of `POST /api/predictions`.

    Args:
        guard: Who may come in.
        store: What stands.
        writer: Appends the events.
        held: The budget for bodies under way.
        max_body: Bytes of a request's body.
        strict: Whether the rules allow no implied steps.
        record_max: Bytes of a record.
        groups: Makes groups.
        key: What the ids of orders with an `Idempotency-Key` are made with: without it nobody can
            tell, or take, the id of another's order.
        submitter: Takes charge of new predictions; None: none can be created.
        defaults: Completes an order.
        addresses: Seals the addresses of webhooks; None: none are sent.
        clock: Tells the time.
    """

    async def create(request: web.Request) -> web.StreamResponse:
        permissions = await guard.authenticate(request)
        with held.account(permissions.subject) as account:
            fields = await read_object(request, max_body, account)
            order = _order(request, permissions, fields, key, groups, addresses)
            return await carry_out(request, order, clock.ms())

    async def carry_out(request: web.Request, order: Order, now: int) -> web.StreamResponse:
        taking_charge = None if order.orders is not None else _able(submitter, order)
        former = order.former or order
        standing = await store.load_fresh(list({order.prediction_id, former.prediction_id}))
        there, before = standing.get(order.prediction_id), standing.get(former.prediction_id)
        if order.former is not None and before is not None and _made_lately(before, former, now):
            order, there = former, before
        if there is not None and not hidden(there, now):
            return _created(there, _ours(there, order))
        # After the fingerprint: an estimate changes with time, and the same order stays the same.
        if order.orders is None:
            more = {} if defaults is None else await defaults(order.fields)
            fields = with_deadline({**order.fields, **more}, now)
        else:
            fields = await groups.event(order, now)
            await groups.refuse_taken(order)
        draft = writer.draft(order.prediction_id, fields, now)
        _admit(there, order, draft.event, strict=strict, record_max=record_max)
        change = await writer.write(request, draft)
        stored = await store.get_fresh(order.prediction_id) if change is None else announced(change)
        if stored is None:
            return _accepted(order.prediction_id)
        record = _ours(stored, order)
        if taking_charge is not None:  # of a group the reconciler has the members
            await taking_charge.submit(record)
        return _created(stored, record)

    return create


def _able(submitter: Submitter | None, order: Order) -> Submitter:
    """The submitter, which can submit this order to its provider; a problem if it cannot."""
    able = refuse_unable(submitter, order.provider, text_of(order.fields, "model") or "")
    check_retries(able, order.fields)
    check_stream(able, order.fields)
    return able


def check_retries(submitter: Submitter, fields: Mapping[str, Raw]) -> None:
    """Refuse a policy of retries that is none, or that names who cannot be submitted to; 422."""
    if "retries" not in fields:
        return
    try:
        policy = policy_of(fields["retries"])
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise unprocessable("Invalid field", f"retries is no policy: {error}.") from None
    for one in policy.then:
        provider, model = one.provider or text_of(fields, "provider"), one.model
        refuse_unable(submitter, provider or "", model or text_of(fields, "model") or "")


def check_stream(submitter: Submitter, fields: Mapping[str, Raw]) -> None:
    """Refuse to read an answer while it is written where its provider has no stream; 422."""
    if bytes(fields.get("stream", b"")) == b"true":
        refusal = submitter.stream_refusal(text_of(fields, "provider") or "")
        if refusal is not None:
            raise unprocessable("Invalid field", refusal)


def refuse_unable(submitter: Submitter | None, provider: str, model: str) -> Submitter:
    """The submitter, if it can submit such a prediction; a problem (422) if it cannot."""
    name = f"TIDINGS_{provider[:64].upper().replace('-', '_')}_TOKEN"
    refusal = (
        f"Set {name} and TIDINGS_PUBLIC_URL." if submitter is None else submitter.refusal(provider)
    )
    if submitter is None or refusal is not None:
        raise Problem(422, "provider-not-configured", "Provider not configured", refusal or "")
    if (unfit := submitter.model_refusal(provider, model)) is not None:
        raise unprocessable("Invalid field", f"{provider} can never take this order: {unfit}.")
    return submitter


def _order(
    request: web.Request,
    permissions: Permissions,
    fields: dict[str, Raw],
    key: bytes,
    groups: GroupOrders,
    addresses: AddressBook | None,
) -> Order:
    fields = without_nulls(fields)
    orders: list[dict[str, Raw]] | None = None
    if "orders" in fields:
        provider, orders, wanted = "", groups.parse(fields), groups.wanted(fields)
    else:
        refuse_unknown(fields, CREATE_FIELDS)
        provider, _ = who_makes(fields)
        wanted = text_of(fields, "predictionId")
    owner = text_of(fields, "owner")
    if owner is not None and len(owner) > MAX_NAME:
        raise unprocessable("Invalid field", f"owner may have {MAX_NAME} characters.")
    if owner is None and permissions.subject is not None:
        owner = permissions.subject
        fields["owner"] = Raw(msgspec.json.encode(owner))
    if not permissions.may_create(owner):
        raise forbidden(
            "You may create predictions for yourself alone; leave owner out, or ask for the scope "
            "write."
        )
    if wanted is not None and not valid_id(wanted):
        raise unprocessable(
            "Bad id",
            "predictionId has 1 to 256 bytes without spaces, commas and control characters.",
        )
    check_tags(fields)
    if orders is not None and "webhook" not in fields:
        fields.pop("webhookEvents", None)  # its orders have it, and name their own webhooks
    for one in (fields, *(orders or ())):
        seal_webhook(one, addresses)
    fields["type"] = Raw(b'"create"')
    given = _idempotency_key(request)
    if given is None:
        return structs.replace(_made(fields, provider, wanted, None), orders=orders)
    named = f"{owner or ''}\0{given}".encode("utf-8", "surrogateescape")
    own = hmac.new(key, b"tidings order\0" + named, sha256).hexdigest()[:32]
    former = _made(dict(fields), provider, wanted, sha256(named).hexdigest()[:32])
    made = _made(fields, provider, wanted, own)
    return structs.replace(made, orders=orders, former=former if orders is None else None)


def without_nulls(fields: Mapping[str, Raw]) -> dict[str, Raw]:
    """The members that say something."""
    return {name: value for name, value in fields.items() if bytes(value) != _NULL}


def refuse_unknown(fields: Mapping[str, Raw], known: frozenset[str]) -> None:
    """Refuse members that an order does not have; raises a 422."""
    for name in fields:
        if name not in known:
            raise unprocessable(
                "Unknown field",
                f"{name[:64]!r} is no field of a new prediction; use {', '.join(sorted(known))}.",
            )


def who_makes(fields: Mapping[str, Raw]) -> tuple[str, str]:
    """The provider and the model of an order; raises a 422."""
    provider, model = text_of(fields, "provider"), text_of(fields, "model")
    if provider is None or model is None:
        raise unprocessable(
            "Missing field", "A new prediction needs provider and model; name both."
        )
    return provider, model


def _made(fields: dict[str, Raw], provider: str, wanted: str | None, key: str | None) -> Order:
    """The order under this key; `fields` get the create event's id."""
    if key is None:
        create_id = f"create-{uuid.uuid4().hex}"
    else:
        create_id = f"create-{key}-{_fingerprint(fields)}"
    fields["id"] = Raw(msgspec.json.encode(create_id))
    return Order(
        prediction_id=wanted or key or uuid.uuid4().hex,
        create_id=create_id,
        key=None if key is None else f"create-{key}-",
        provider=provider,
        fields=fields,
    )


def _made_lately(there: Stored, former: Order, now: int) -> bool:
    """Whether a former order made this record, within a day."""
    record = there.standing()
    return (
        isinstance(record, Prediction)
        and (record.create_id or "").startswith(former.key or "-")
        and record.created_at > now - FORMER_KEYS
    )


def check_tags(fields: Mapping[str, Raw]) -> None:
    """Refuse too many tags, and what are none; raises a 422."""
    try:
        tags = msgspec.json.decode(fields.get("tags", b"[]"), type=list[str])
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        raise unprocessable("Invalid field", "tags must be a list of strings.") from None
    if len(tags) > MAX_TAGS or any(len(tag) > MAX_NAME for tag in tags):
        raise unprocessable(
            "Too many tags", f"There may be {MAX_TAGS} tags of {MAX_NAME} characters; send fewer."
        )


def _fingerprint(fields: dict[str, Raw]) -> str:
    """The same for bodies that say the same, whatever their white space and order."""
    try:
        canonical = {name: msgspec.json.decode(value) for name, value in fields.items()}
    except (msgspec.DecodeError, RecursionError, UnicodeError):
        raise bad_request("Not JSON", "A field cannot be read; send plain JSON in UTF-8.") from None
    return sha256(msgspec.json.encode(canonical, order="deterministic")).hexdigest()[:32]


def _idempotency_key(request: web.Request) -> str | None:
    given = request.headers.get("Idempotency-Key")
    if given is not None and not 0 < len(given) <= MAX_KEY:
        raise bad_request(
            "Bad Idempotency-Key", f"The key has {len(given)} characters; give 1 to {MAX_KEY}."
        )
    return given


def text_of(fields: Mapping[str, Raw], name: str) -> str | None:
    """A member that must be a string of some length; None: it is not there. Raises a 422."""
    if name not in fields:
        return None
    try:
        text = msgspec.json.decode(fields[name], type=str)
    except (msgspec.DecodeError, UnicodeError):
        raise unprocessable("Invalid field", f"{name} must be a string.") from None
    if not text:
        raise unprocessable("Invalid field", f"{name} is empty; leave it out or give it a value.")
    return text


def _ours(stored: Stored, order: Order) -> Prediction:
    """The record, if our create made it; a problem if another one did."""
    record = decode(stored.encoded)
    if record.create_id == order.create_id:
        return record
    if order.key is not None and (record.create_id or "").startswith(order.key):
        raise unprocessable(
            "Idempotency-Key used",
            "This key was used with another body; send that body again, or take a new key.",
        )
    raise taken(_IN_USE)


def _admit(
    there: Stored | None, order: Order, event: Event, *, strict: bool, record_max: int
) -> None:
    """Let an order pass of which the rules will make a prediction.

    Otherwise it would be written down, and nothing would ever come of it: its id may be that of a
    deleted or expired prediction, or its record be too large. What another owner has, or had, is
    answered like what stands.

    Raises:
        Problem: 409, 413, or 422 if its key came with another body.
    """
    current = None if there is None else there.standing()
    decision = decide(current, event, None, strict=strict)
    made = decision.record if isinstance(decision, Applied) else None
    if isinstance(made, Prediction) and not made.status.terminal:  # what has finished stays hidden
        check_size(made, record_max)
        return
    if there is not None and isinstance(current, Prediction):
        _ours(there, order)
        raise taken(
            "This order was carried out before, and its prediction has expired; for another one send "
            "a new Idempotency-Key, and a new predictionId if the order has one."
        )
    raise taken(_IN_USE)


def taken(detail: str) -> Problem:
    """The id is in use."""
    return Problem(409, "exists", "Prediction exists", detail)


def _created(stored: Stored, record: Prediction) -> web.Response:
    response = answer_with(stored.encoded, stored.version, status=HTTPStatus.CREATED)
    response.headers["Location"] = _location(record.prediction_id)
    return response


def _accepted(prediction_id: str) -> web.Response:
    """Written down, and not seen yet: whoever submits it will find it in the log."""
    body = msgspec.json.encode({"success": True, "data": {"predictionId": prediction_id}})
    headers = {
        "Location": _location(prediction_id),
        "Cache-Control": "no-store",
        "X-Content-Type-Options": "nosniff",
    }
    return web.Response(
        status=HTTPStatus.ACCEPTED, body=body, headers=headers, content_type="application/json"
    )


def _location(prediction_id: str) -> str:
    return f"/api/predictions/{quote(prediction_id, safe='')}"
