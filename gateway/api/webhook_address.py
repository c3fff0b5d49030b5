"""The server that a new prediction's creator wants told: checked, and sealed before it is written."""

import msgspec
from msgspec import Raw

from tidings.gateway.http.problems import Problem, unprocessable
from tidings.storage.prediction import Status
from tidings.streams.notifications.address import AddressBook, BadAddress


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
        fields["webhookEvents"] = Raw(msgspec.json.encode(_statuses(events)))


def _statuses(events: Raw) -> list[Status]:
    """The statuses, each once and in their own order: the same wish has the same bytes."""
    try:
        named = msgspec.json.decode(events, type=frozenset[Status])
    except (msgspec.DecodeError, UnicodeError):
        named = frozenset()
    if not named:
        known = ", ".join(Status)
        raise unprocessable(
            "Invalid field", f"webhookEvents must be a list of one or more of {known}."
        )
    return [status for status in Status if status in named]
