"""A store whose calls are timed and counted, itself a store.

`storage.{store}.{operation}.duration`, `.success` and `.error` are the Prometheus series
`tidings_storage_duration_seconds`, `tidings_storage_success_total` and
`tidings_storage_error_total` with the labels `store`, `operation` and `arm`, and log events of
those names (errors as warnings; the others if `TIDINGS_LOG_OPERATIONS` asks for them).
"""

import time
from collections.abc import Awaitable, Sequence
from functools import lru_cache
from typing import TypeVar

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Histogram

from tidings.storage.errors import StorageError
from tidings.storage.loggers import get_logger
from tidings.storage.store import Outcome, Ownership, Page, PredictionStore, Query, Stored, Write
from tidings.storage.usage import UsageSums

T = TypeVar("T")

OPERATIONS = (
    "claim",
    "positions",
    "get",
    "load",
    "write",
    "list",
    "count",
    "find",
    "usage",
    "sweep",
)
_LABELS = ("store", "operation", "arm")
_BUCKETS = (0.00001, 0.00005, 0.0002, 0.001, 0.005, 0.02, 0.1, 0.5, 2.0, 10.0)
"""From a read in this process (10 µs) to the time limit of a call and beyond."""

logger = get_logger(__name__)


class _Series:
    """The three series, once per registry."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.duration = Histogram(
            "tidings_storage_duration_seconds",
            "Time of a store's call.",
            _LABELS,
            buckets=_BUCKETS,
            registry=registry,
        )
        self.success = Counter(
            "tidings_storage_success",
            "Calls of a store that it answered.",
            _LABELS,
            registry=registry,
        )
        self.error = Counter(
            "tidings_storage_error", "Calls of a store that failed.", _LABELS, registry=registry
        )


@lru_cache
def _series(registry: CollectorRegistry) -> _Series:
    return _Series(registry)


class _Operation:
    """The series and the names of one operation."""

    __slots__ = ("duration", "error", "name", "success")

    def __init__(self, series: _Series, store: str, operation: str, arm: str) -> None:
        labels = (store, operation, arm)
        self.name = f"storage.{store}.{operation}"
        self.duration = series.duration.labels(*labels)
        self.success = series.success.labels(*labels)
        self.error = series.error.labels(*labels)


class ObservedStore(PredictionStore):
    """Times and counts every call of a store.

    Args:
        store: Whose calls.
        registry: Where the series are; one registry may serve many stores.
        arm: `a` or `b` of a split store.
        log_success: Log what went well too.
    """

    def __init__(
        self,
        store: PredictionStore,
        *,
        registry: CollectorRegistry = REGISTRY,
        arm: str = "",
        log_success: bool = False,
    ) -> None:
        self.store = store
        self.name = store.name
        self.capabilities = store.capabilities
        self._arm = arm
        self._log_success = log_success
        series = _series(registry)
        self._operations = {one: _Operation(series, store.name, one, arm) for one in OPERATIONS}

    async def claim(self, ownership: Ownership) -> Ownership:
        """As the store does."""
        return await self._timed("claim", self.store.claim(ownership))

    async def positions(self) -> dict[int, int]:
        """As the store does."""
        return await self._timed("positions", self.store.positions())

    async def get(self, prediction_id: str) -> Stored | None:
        """As the store does."""
        return await self._timed("get", self.store.get(prediction_id))

    async def load(self, prediction_ids: Sequence[str]) -> dict[str, Stored]:
        """As the store does."""
        return await self._timed("load", self.store.load(prediction_ids))

    async def write(self, writes: Sequence[Write]) -> list[Outcome]:
        """As the store does."""
        return await self._timed("write", self.store.write(writes))

    async def list(self, query: Query) -> Page:
        """As the store does."""
        return await self._timed("list", self.store.list(query))

    async def count(self, query: Query, most: int) -> dict[str, int] | None:
        """As the store does."""
        return await self._timed("count", self.store.count(query, most))

    async def find(self, phrase: str, query: Query) -> Page | None:
        """As the store does."""
        return await self._timed("find", self.store.find(phrase, query))

    async def unsearchable(self, query: Query) -> int | None:
        """As the store does."""
        return await self.store.unsearchable(query)

    async def usage(self, query: Query, by: Sequence[str]) -> UsageSums | None:
        """As the store does."""
        return await self._timed("usage", self.store.usage(query, by))

    async def index(self) -> int:
        """As the store does."""
        return await self.store.index()

    async def sweep(self, now: int, limit: int) -> int:
        """As the store does."""
        return await self._timed("sweep", self.store.sweep(now, limit))

    async def persist(self) -> None:
        """As the store does."""
        await self.store.persist()

    async def mark_filled(self) -> None:
        """As the store does."""
        await self.store.mark_filled()

    async def facts(self) -> dict[str, str]:
        """As the store does."""
        return await self.store.facts()

    async def close(self) -> None:
        """Close the store."""
        await self.store.close()

    async def _timed(self, operation: str, call: Awaitable[T]) -> T:
        series = self._operations[operation]
        start = time.perf_counter()
        try:
            answer = await call
        except Exception as error:
            seconds = time.perf_counter() - start
            series.duration.observe(seconds)
            series.error.inc()
            retryable = isinstance(error, StorageError) and error.retryable
            logger.warning(
                f"{series.name}.error",  # noqa: G004 - the name of an event, which is a constant of each store
                error=str(error),
                retryable=retryable,
                arm=self._arm,
                seconds=round(seconds, 4),
            )
            raise
        seconds = time.perf_counter() - start
        series.duration.observe(seconds)
        series.success.inc()
        if self._log_success:
            logger.info(f"{series.name}.success", duration=round(seconds, 6), arm=self._arm)  # noqa: G004
        return answer
