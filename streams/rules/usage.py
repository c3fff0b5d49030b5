"""What a prediction has used: how two reports of it join, and what such a report must look like. Pure.

Each number only grows, and of two costs the greater counts. So a repeat changes nothing, and reports
that come in another order leave the same record.
"""

import math
from decimal import Decimal
from typing import Any

import msgspec

from tidings.storage.prediction import Usage

NUMBERS = ("input_tokens", "output_tokens", "seconds", "images")
"""The members that join each by itself."""
MEMBERS = tuple(one.encode_name for one in msgspec.structs.fields(Usage))
"""All of them, as on the wire."""
_NOTHING = Usage()


def checked(usage: Usage) -> Usage | None:
    """The usage in its one form; None: it says nothing.

    Raises:
        ValueError: A cost without a currency or the other way round, or a time that is no number.
    """
    if (usage.cost is None) is not (usage.currency is None):
        raise ValueError(
            "usage has a cost with a currency, such as "
            '"cost": "0.0123", "currency": "USD"; give both or neither'
        )
    seconds = usage.seconds
    if isinstance(seconds, float):
        if not math.isfinite(seconds):
            raise ValueError("usage.seconds is no number")
        if seconds.is_integer():  # 5.0 and 5 are one value, which has one encoding
            usage = msgspec.structs.replace(usage, seconds=int(seconds))
    return None if usage == _NOTHING else usage


def usage_of(given: Any) -> Usage:
    """The usage in plain Python values, by the names in Python or on the wire.

    Raises:
        ValueError: A member is unknown, or not of its type.
    """
    if isinstance(given, Usage):
        given = msgspec.to_builtins(given)
    if not isinstance(given, dict):
        raise ValueError(f"usage is a mapping of {', '.join(MEMBERS)}")
    wire = {one.name: one.encode_name for one in msgspec.structs.fields(Usage)}
    members = {wire.get(name, name): value for name, value in given.items()}
    if unknown := [name for name in members if name not in MEMBERS]:
        raise ValueError(f"usage has no {str(unknown[0])[:64]!r}; it has {', '.join(MEMBERS)}")
    try:
        found = checked(msgspec.convert(members, Usage))
    except msgspec.ValidationError as error:
        raise ValueError(f"usage: {error}") from None
    if found is None:
        raise ValueError(f"usage says nothing; give one of {', '.join(MEMBERS)}")
    return found


def joined(old: Usage | None, new: Usage) -> Usage | None:
    """What both say together; None: the new one says nothing that the old one does not."""
    if old is None:
        return new
    changes: dict[str, Any] = {}
    for name in NUMBERS:
        value, stands = getattr(new, name), getattr(old, name)
        if value is not None and (stands is None or value > stands):
            changes[name] = value
    if new.cost is not None and (old.cost is None or _rank(new) > _rank(old)):
        changes |= {"cost": new.cost, "currency": new.currency}
    return msgspec.structs.replace(old, **changes) if changes else None


def _rank(usage: Usage) -> tuple[Decimal, str, str]:
    """An order in which no two costs are alike: of equal amounts in two currencies one must stay, whichever came first."""
    return Decimal(usage.cost or 0), usage.currency or "", usage.cost or ""
