"""What predictions have used since the process started, by provider and model. For metrics."""

from collections import Counter

from tidings.storage.prediction import Prediction, Standing, Usage
from tidings.storage.store import Stored
from tidings.streams.rules.usage import NUMBERS

MOST_NAMES = 200
"""Providers with a model and a unit that are counted by name; those met after that count as `other`."""
_OTHER = "other"


class UsageCounts:
    """Counts by what records gain: reports that come again add nothing."""

    def __init__(self) -> None:
        self.used: Counter[tuple[str, str, str]] = Counter()
        """By provider, model and unit: tokens, seconds, images."""
        self.costs: Counter[tuple[str, str, str]] = Counter()
        """By provider, model and currency, rounded as metrics are."""

    def add(self, before: Stored | None, record: Standing | None) -> None:
        """Count what the record says more than what stood before it."""
        if not isinstance(record, Prediction) or record.usage is None:
            return
        old = _usage(before)
        if old == record.usage:
            return
        names = (record.provider or "", record.model or "")
        for unit in NUMBERS:
            grown = (getattr(record.usage, unit) or 0) - (getattr(old, unit) or 0)
            if grown > 0:
                _add(self.used, (*names, unit), grown)
        if record.usage.cost is not None and record.usage.currency is not None:
            paid = float(old.cost or 0) if old.currency == record.usage.currency else 0.0
            _add(self.costs, (*names, record.usage.currency), float(record.usage.cost) - paid)


def _usage(before: Stored | None) -> Usage:
    if before is None or b'"usage":' not in before.encoded:
        return Usage()
    standing = before.standing()
    return (standing.usage if isinstance(standing, Prediction) else None) or Usage()


def _add(total: Counter[tuple[str, str, str]], key: tuple[str, str, str], number: float) -> None:
    """Senders choose the names of models, so there is an end to how many are kept."""
    if key not in total and len(total) >= MOST_NAMES:
        key = (_OTHER, _OTHER, key[2] if any(one[2] == key[2] for one in total) else _OTHER)
    total[key] += number  # type: ignore[assignment]
