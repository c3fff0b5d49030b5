"""Deadlines and timeouts as requests give them."""

from collections.abc import Mapping

import msgspec
from msgspec import Raw

from tidings.gateway.http.problems import unprocessable
from tidings.streams.rules.event import LATEST


def with_deadline(fields: Mapping[str, Raw], now: int) -> dict[str, Raw]:
    """An order's members with a deadline instead of its timeout.

    Args:
        fields: Of the order, by name.
        now: When the request came, ms since the epoch.

    Raises:
        Problem: 422 if it has both, or its deadline is not in the future.
    """
    members = dict(fields)
    timeout = members.pop("timeout", None)
    if "deadline" in members:
        if "timeout" in fields:
            raise unprocessable("Invalid field", "Give a deadline or a timeout, not both.")
        check_deadline(members["deadline"], now)
    elif timeout is not None:
        try:
            given = msgspec.json.decode(timeout, type=float)
        except (msgspec.DecodeError, UnicodeError):
            given = 0.0
        if not 0 < given <= LATEST - now:
            raise unprocessable("Invalid field", "timeout must be a number of ms above 0.")
        members["deadline"] = Raw(b"%d" % (now + max(1, round(given))))
    return members


def check_deadline(value: Raw, now: int) -> None:
    """Refuse a deadline that is no time in the future, in ms since the epoch; raises a 422."""
    try:
        deadline = msgspec.json.decode(value, type=int)
    except (msgspec.DecodeError, UnicodeError):
        raise unprocessable("Invalid field", "deadline must be a whole number of ms.") from None
    if not now < deadline <= LATEST:
        raise unprocessable(
            "Invalid field",
            f"deadline {deadline} is not in the future; give ms since the epoch after {now}.",
        )
