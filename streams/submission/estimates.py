"""How long a prediction will take, learned from the finished ones of the same model."""

from statistics import median

from msgspec import Struct

from tidings.storage.clock import SYSTEM_CLOCK, Clock
from tidings.storage.prediction import Prediction, Status, decode
from tidings.storage.store import PredictionStore, Query

SAMPLE = 50
"""Finished predictions that an estimate is made of: the newest."""
FRESH = 30.0
"""Seconds for which an estimate is not made again."""
MODELS = 1000
"""Models remembered."""


class _Learned(Struct, frozen=True):
    estimate: int | None
    at: float


class Estimates:
    """The median per model, in ms.

    Args:
        store: Where the finished ones are.
        clock: Tells the time.
    """

    def __init__(self, store: PredictionStore, clock: Clock = SYSTEM_CLOCK) -> None:
        self._store, self._clock = store, clock
        self._learned: dict[str, _Learned] = {}
        capabilities = store.capabilities
        self._can = capabilities.lists and {"status", "model"} <= capabilities.filters

    async def of(self, model: str) -> int | None:
        """How long the next one of this model will take; None if nothing is known yet.

        What was learned stays, should the finished ones have expired meanwhile. Raises
        `StorageError`.
        """
        known = self._learned.get(model)
        if not self._can or (known is not None and self._clock.monotonic() - known.at < FRESH):
            return known.estimate if known is not None else None
        page = await self._store.list(Query(status=Status.SUCCEEDED, model=model, limit=SAMPLE))
        took = [
            span for stored in page.items if (span := duration(decode(stored.encoded))) is not None
        ]
        learned = round(median(took)) if took else (known.estimate if known is not None else None)
        if len(self._learned) >= MODELS and model not in self._learned:
            del self._learned[next(iter(self._learned))]
        self._learned[model] = _Learned(learned, self._clock.monotonic())
        return learned


def duration(record: Prediction) -> float | None:
    """Ms that a finished prediction took.

    As its provider reported, else from its beginning to its end.
    """
    if record.generation_time is not None:
        return record.generation_time
    ended = next((step.at for step in record.transitions if step.to is record.status), None)
    return None if ended is None else max(0, ended - record.created_at)
