"""What a provider's body says of usage. Pure.

A member that is no such number is left out without a word: whatever else the body says counts.
"""

import math
import re
from decimal import Decimal, InvalidOperation

import msgspec
from msgspec import Raw

from tidings.storage.prediction import ABSENT, CURRENCY, DECIMAL, LARGEST, MOST_SECONDS, Usage
from tidings.streams.rules.usage import checked

_number = msgspec.json.Decoder(int | float, strict=False)
_texts = msgspec.json.Decoder(str)
_objects = msgspec.json.Decoder(dict[str, Raw])
_arrays = msgspec.json.Decoder(list[Raw])
_FAILURES = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
_LARGEST_OBJECT = 64 * 1024
"""Bytes of an object that is taken apart; what says usage has few members."""
_LARGEST_LIST = 4 * 1024 * 1024
"""Bytes of an output whose usage is gathered from its items: of a batch."""


_decimal, _code = re.compile(DECIMAL), re.compile(CURRENCY)


def usage(
    *,
    input_tokens: Raw = ABSENT,
    output_tokens: Raw = ABSENT,
    seconds: float | None = None,
    images: Raw | int = ABSENT,
    cost: Raw = ABSENT,
    currency: str | None = None,
) -> Usage | None:
    """The usage of these members of a body; None: they say none."""
    amount = price(cost, currency)
    pictures = images if isinstance(images, int) else count(images)
    return checked(
        Usage(
            input_tokens=count(input_tokens),
            output_tokens=count(output_tokens),
            seconds=time(seconds),
            images=pictures or None,
            cost=amount,
            currency=currency if amount is not None else None,
        )
    )


def count(raw: Raw) -> int | None:
    """A number of things, which may be written as text or with a point."""
    found = _read(raw)
    if found is None or not 0 <= found <= LARGEST or found != int(found):
        return None
    return int(found)


def seconds(raw: Raw, scale: float = 1) -> float | None:
    """A length of time in s, of a number that counts `scale` to a second."""
    found = _read(raw)
    return None if found is None else found / scale if scale != 1 else found


def time(seconds: float | None) -> float | None:
    """A length of time in s; None if it is none."""
    return seconds if seconds is not None and 0 <= seconds <= MOST_SECONDS else None


def price(raw: Raw, currency: str | None) -> str | None:
    """An amount, a number or its text, digit by digit as it came; None without a currency."""
    if not raw or currency is None:
        return None
    data = bytes(raw)
    try:
        text = _texts.decode(data) if data[:1] == b'"' else data.decode()
        amount = Decimal(text)
    except (*_FAILURES, InvalidOperation, ValueError):
        return None
    if not amount.is_finite() or not -13 <= amount.adjusted() <= 12:
        return None
    shown = f"{amount:f}"
    return shown if _decimal.search(shown) and _code.search(currency) else None


def members(raw: Raw) -> dict[str, Raw]:
    """The members of an object; none of anything else."""
    if bytes(raw)[:1] != b"{" or len(bytes(raw)) > _LARGEST_OBJECT:
        return {}
    try:
        return _objects.decode(raw)
    except _FAILURES:
        return {}


def items(raw: Raw) -> list[Raw]:
    """The items of a list; none of anything else."""
    if bytes(raw)[:1] != b"[" or len(bytes(raw)) > _LARGEST_LIST:
        return []
    try:
        return _arrays.decode(raw)
    except _FAILURES:
        return []


def _read(raw: Raw) -> int | float | None:
    try:
        found = _number.decode(raw) if raw else None
    except _FAILURES:
        return None
    return found if found is not None and math.isfinite(found) else None
