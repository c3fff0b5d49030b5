"""Bad days: what a provider does wrong, and how often.

Pure but for its dice, which a seed makes repeatable.
"""

import random
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

Share = Annotated[float, Meta(ge=0, le=1)]
"""From 0 (never) to 1 (always)."""


class BadDays(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The switches; each is the share of webhooks, calls or predictions that it strikes."""

    out_of_order: Share = 0
    """Webhooks that later ones of the same prediction overtake."""
    duplicated: Share = 0
    """Webhooks delivered again, with another timestamp."""
    late: Share = 0
    """Webhooks held back for up to `late_by` seconds."""
    never: Share = 0
    """Webhooks that are never sent."""
    wrong_signature: Share = 0
    """Attempts whose signature is of another secret."""
    throttled: Share = 0
    """Calls answered with 429."""
    broken: Share = 0
    """Calls answered with 500, nothing done."""
    lost_answers: Share = 0
    """Calls that are carried out and whose answer never comes."""
    slow: Share = 0
    """Calls that take up to `slow_by` seconds longer."""
    cut_streams: Share = 0
    """Events of a stream before which it is cut."""
    huge: Share = 0
    """Predictions whose logs are `huge_bytes` long."""
    failing: Share = 0
    """Predictions that fail."""
    late_by: Annotated[float, Meta(ge=0)] = 5.0
    slow_by: Annotated[float, Meta(ge=0)] = 2.0
    huge_bytes: Annotated[int, Meta(ge=0, le=64_000_000)] = 2_000_000

    @staticmethod
    def parse(text: str) -> "BadDays":
        """The switches in `late=0.2,duplicated=0.5`.

        A name alone is always, `all` is every one at 0.1.

        Raises:
            ValueError: A switch that is unknown, or a share that is no number from 0 to 1.
        """
        values: dict[str, str | float] = {}
        for entry in filter(None, (part.strip() for part in text.split(","))):
            name, equals, value = entry.partition("=")
            name = name.strip().replace("-", "_")
            if name == "all":
                values |= dict.fromkeys(SWITCHES, float(value) if equals else 0.1)
            else:
                values[name] = value.strip() if equals else 1.0
        try:
            return msgspec.convert(values, BadDays, strict=False)
        except msgspec.ValidationError as error:
            raise ValueError(
                f"{error}; the switches are {', '.join(SWITCHES)}, each from 0 to 1"
            ) from None


SWITCHES = tuple(
    name for name in BadDays.__struct_fields__ if name not in ("late_by", "slow_by", "huge_bytes")
)


class Dice:
    """Decides what is struck.

    The same seed and the same order of questions give the same answers.
    """

    def __init__(self, seed: int | None = None) -> None:
        self._chance = random.Random(seed)

    def falls(self, share: float) -> bool:
        """Whether it is struck this time."""
        return share > 0 and self._chance.random() < share

    def up_to(self, seconds: float) -> float:
        """A length of time from 0 to `seconds`."""
        return self._chance.uniform(0, seconds)
