"""Webhooks to other servers: an order's address, checked and sealed, and what waits, for admins."""

import msgspec
from aiohttp import web
from msgspec import Raw

from tidings.gateway.auth.request_guard import RequestGuard
from tidings.gateway.http.problems import Problem, bad_request, unprocessable
from tidings.streams.log.protocol import Log
from tidings.streams.notifications.address import AddressBook, BadAddress
from tidings.streams.notifications.delivery import EVENTS
from tidings.streams.notifications.delivery_index import DeliveryIndex

DEFAULT_LIMIT = 50
MAX_LIMIT = 1000
LOOKED = 1.0
"""Seconds for which a look at the topic is good."""


def seal_webhook(fields: dict[str, Raw], book: AddressBook | None) -> None:
    """Put the sealed address into the place of the one that was given.

    Args:
        fields: Of an order; `webhook` and `webhookEvents` may be among them.
        book: Seals addresses; None: no webhooks are sent.

    Raises:
        Problem: 422 for an address or statuses that cannot be, or if none are sent.
    """
    given, events = fields.get("webhook"), fields.get("webhookEvents")
    if given is None:
        if events is not None:
            raise unprocessable(
                "Missing field", "webhookEvents says what webhook is told of; name that too."
            )
        return
    if book is None:
        raise Problem(
            422,
            "webhooks-not-configured",
            "Webhooks not configured",
            "This service tells no other servers; set TIDINGS_NOTIFY_SECRET.",
        )
    try:
        url = msgspec.json.decode(given, type=str)
    except (msgspec.DecodeError, UnicodeError):
        raise unprocessable("Invalid field", "webhook must be a string, a URL.") from None
    try:
        fields["webhook"] = Raw(msgspec.json.encode(book.seal(url)))
    except BadAddress as error:
        raise unprocessable("Invalid field", f"webhook: {error}.") from None
    if events is not None:
        fields["webhookEvents"] = Raw(msgspec.json.encode(_wanted(events)))


def _wanted(events: Raw) -> list[str]:
    """What is wanted, each once and in one order: the same wish has the same bytes."""
    try:
        named = msgspec.json.decode(events, type=frozenset[str])
    except (msgspec.DecodeError, UnicodeError):
        named = frozenset()
    if not named or not named <= set(EVENTS):
        known = ", ".join(EVENTS)
        raise unprocessable(
            "Invalid field", f"webhookEvents must be a list of one or more of {known}."
        )
    return [name for name in EVENTS if name in named]


class Deliveries:
    """`GET /api/deliveries`: what waits, and the addresses that are switched off.

    Args:
        guard: Who may come in: admins.
        log: The log that the deliveries are in.
        configured: Whether webhooks are sent at all; else there is no such topic.
    """

    def __init__(self, guard: RequestGuard, log: Log, *, configured: bool) -> None:
        self._guard = guard
        self._index = DeliveryIndex(log)
        self._configured = configured

    async def list(self, request: web.Request) -> web.StreamResponse:
        """The newest that wait, of one prediction or of all, and how many there are by host."""
        await self._guard.require_admin(request)
        limit = _limit(request.query.get("limit"))
        if self._configured:
            await self._index.refresh(within=LOOKED)
        content = {
            "success": True,
            "data": self._index.newest(limit, request.query.get("prediction")),
            "waiting": self._index.waiting,
            "switchedOff": self._index.switched_off,
        }
        return web.Response(
            body=msgspec.json.encode(content),
            headers={"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"},
            content_type="application/json",
        )


def _limit(text: str | None) -> int:
    if text is None:
        return DEFAULT_LIMIT
    if not (text.isascii() and text.isdecimal() and len(text) <= 6 and 1 <= int(text) <= MAX_LIMIT):
        raise bad_request(
            "Bad limit", f"The limit is {text[:20]!r}; give a number from 1 to {MAX_LIMIT}."
        )
    return int(text)
