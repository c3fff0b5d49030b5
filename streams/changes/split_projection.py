"""A split store of which one arm is a projection (Cloudflare KV), as the processor keeps it.

The other arm decides by itself: what stands there is never taken from the topic. Anything
else in the topic belongs to the projection, whichever arm its hash names. The percentage may have
been another one when the prediction began, and nothing else remembers it.
"""

from collections.abc import Iterable, Sequence

from tidings.storage.clock import SYSTEM_CLOCK, Clock
from tidings.storage.store import PredictionStore, Stored, Write
from tidings.storage.wrappers.split import SplitStore
from tidings.streams.changes.projecting import Projecting

STRIDE = 1000
"""Predictions that the other arm is asked for at once."""


class SplitProjection(Projecting):
    """Decides by both arms, and keeps the copy of one.

    Args:
        split: Both.
        projection: The arm that is one, within what wraps it.
        other: The arm that decides by itself.
        clock: Tells what has been purged.
    """

    def __init__(
        self,
        split: SplitStore,
        projection: Projecting,
        other: PredictionStore,
        *,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._split, self._projection, self._other = split, projection, other
        self._clock = clock

    @property
    def buffered(self) -> int:
        """Of the arm that is a projection."""
        return self._projection.buffered

    async def load(self, prediction_ids: Sequence[str]) -> dict[str, Stored]:
        """What stands in either arm."""
        return await self._split.load(prediction_ids)

    async def restore(self, writes: Iterable[Write]) -> None:
        """Take what the other arm does not have; a prediction must never stand in both.

        What its row was purged for there, by its own time, does not come back here.
        """
        given = list(writes)
        await self._projection.restore(())  # even if nothing follows, its copy alone counts now
        for start in range(0, len(given), STRIDE):
            part = given[start : start + STRIDE]
            elsewhere = await self._other.load([one.record.prediction_id for one in part])
            now = self._clock.ms()
            await self._projection.restore(
                one
                for one in part
                if one.record.prediction_id not in elsewhere
                and (one.purge_at is None or one.purge_at > now)
            )

    def refresh(self, prediction_ids: Iterable[str]) -> None:
        """As the projection does, which leaves out what it does not have."""
        self._projection.refresh(prediction_ids)

    def forget(self, prediction_ids: Iterable[str]) -> None:
        """As the projection does, which leaves out what it does not have."""
        self._projection.forget(prediction_ids)


def projecting(store: PredictionStore) -> Projecting | None:
    """What decides by a copy of its own among a store, what it wraps, and its arms; None: nothing.

    Raises:
        ValueError: Both arms are projections; nothing would say in which of them a prediction is.
    """
    inner: object = store
    while inner is not None:
        if isinstance(inner, SplitStore):
            first, second = (projecting(arm) for arm in inner.arms)
            if first is not None and second is not None:
                raise ValueError("both arms of a split are projections; one of them has to decide")
            if first is not None:
                return SplitProjection(inner, first, inner.arms[1])
            return None if second is None else SplitProjection(inner, second, inner.arms[0])
        if isinstance(inner, Projecting):
            return inner
        inner = getattr(inner, "store", None)
    return None


def deciding(store: PredictionStore) -> PredictionStore | None:
    """The part of a store that can be asked what stands now: all of it, one arm of it, or nothing."""
    if projecting(store) is None:
        return store
    inner: object = store
    while inner is not None:
        if isinstance(inner, SplitStore):
            return next((arm for arm in inner.arms if projecting(arm) is None), None)
        inner = getattr(inner, "store", None)
    return None
