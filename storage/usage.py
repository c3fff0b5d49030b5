"""Sums of what predictions have used. Pure.

Costs are sums of decimal numbers, and seconds those of whole microseconds, so a sum depends neither
on the order of what is added nor on who adds it.
"""

from collections.abc import Iterable, Mapping, Sequence
from decimal import Context, Decimal

from msgspec import Struct

from tidings.storage.prediction import Prediction

DAY = 86_400_000
"""In ms; days are those of UTC, and a prediction's is that of its creation."""
GROUPS = ("owner", "model", "provider", "day")
"""What sums may be told apart by."""
MOST_GROUPS = 10_000
"""Sums in one answer: 2 MiB."""
MOST_ROWS = 2 * MOST_GROUPS
"""Rows that a database is asked for: a group has one for each of its currencies, and one without."""
DIGITS = 12
"""Behind the point of a cost."""

_exact = Context(prec=60)
"""A million costs of twelve digits before the point and twelve behind it have thirty."""

Key = tuple[str | int | None, ...]
"""The values of the groups, in their order; of a day its number since 1970."""


class UsageSum(Struct, kw_only=True):
    """What some predictions have used."""

    predictions: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    micros: int = 0
    """Microseconds."""
    images: int = 0
    costs: dict[str, Decimal] = {}
    """By currency."""

    def add(self, other: "UsageSum") -> None:
        """Take in another sum."""
        self.predictions += other.predictions
        self.input_tokens += other.input_tokens
        self.output_tokens += other.output_tokens
        self.micros += other.micros
        self.images += other.images
        for currency, cost in other.costs.items():
            self.costs[currency] = _exact.add(self.costs.get(currency, Decimal(0)), cost)


UsageSums = dict[Key, UsageSum]


class TooManyGroups(ValueError):
    """There would be more sums than one answer holds."""

    def __init__(self) -> None:
        super().__init__(
            f"over {MOST_GROUPS} sums; name a shorter time, or an owner, or fewer groups"
        )


def merged(parts: Iterable[Mapping[Key, UsageSum]]) -> UsageSums:
    """The sums of several stores as one. Raises `TooManyGroups`."""
    found: UsageSums = {}
    for part in parts:
        for key, one in part.items():
            found.setdefault(key, UsageSum()).add(one)
    if len(found) > MOST_GROUPS:
        raise TooManyGroups
    return found


def of_record(record: Prediction, by: Sequence[str]) -> tuple[Key, UsageSum]:
    """What one record adds, and to which sum. It has a usage."""
    usage = record.usage
    assert usage is not None
    places = {
        "owner": record.owner,
        "model": record.model,
        "provider": record.provider,
        "day": record.created_at // DAY,
    }
    cost = {} if usage.cost is None else {usage.currency or "": Decimal(usage.cost)}
    return tuple(places[name] for name in by), UsageSum(
        predictions=1,
        input_tokens=usage.input_tokens or 0,
        output_tokens=usage.output_tokens or 0,
        micros=round((usage.seconds or 0) * 1_000_000),
        images=usage.images or 0,
        costs=cost,
    )


def of_rows(rows: Sequence[Sequence[object]], groups: int) -> UsageSums:
    """The sums in the rows of a database.

    A row has the groups' values, the currency, how many predictions, and sums. These are of input
    tokens, output tokens and images (each of the number's upper and of its lower 26 bits), of
    microseconds, and of the costs' whole and fractional parts. So no sum leaves 64 bits, whatever
    was reported.

    Raises:
        TooManyGroups: There are too many, or as many rows as the database was asked for.
    """
    if len(rows) >= MOST_ROWS:
        raise TooManyGroups

    def parts() -> Iterable[UsageSums]:
        for row in rows:
            key: Key = tuple(row[:groups])  # type: ignore[arg-type]
            currency = row[groups]
            figures = [int(one or 0) for one in row[groups + 1 :]]  # type: ignore[call-overload]
            predictions, in_high, in_low, out_high, out_low, high, low, micros, units, fraction = (
                figures
            )
            cost = _exact.add(Decimal(units), Decimal(fraction).scaleb(-DIGITS, _exact))
            yield {
                key: UsageSum(
                    predictions=predictions,
                    input_tokens=(in_high << 26) + in_low,
                    output_tokens=(out_high << 26) + out_low,
                    images=(high << 26) + low,
                    micros=micros,
                    costs={str(currency): cost} if currency is not None else {},
                )
            }

    return merged(parts())


def amount(cost: Decimal) -> str:
    """The decimal number as text, without zeros at its end."""
    text = f"{cost:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
