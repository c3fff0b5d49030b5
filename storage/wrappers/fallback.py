"""A second store for reads while the first is away, itself a store.

The second one is filled from the changes (`write_replicas`), by version. The processor never reads
from it and nothing else writes to it: two stores that both accepted a compare-and-set would drift
apart, and the log is the buffer.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from msgspec import Struct, structs

from tidings.storage.clock import SYSTEM_CLOCK, Clock
from tidings.storage.errors import StorageError, StoreUnavailable
from tidings.storage.loggers import get_logger
from tidings.storage.prediction import Standing
from tidings.storage.resilience.backoff import Backoff
from tidings.storage.resilience.circuit_breaker import CircuitBreaker
from tidings.storage.store import (
    INDEXED,
    Conflict,
    Outcome,
    Ownership,
    Page,
    PredictionStore,
    Query,
    Stored,
    Write,
)
from tidings.storage.usage import UsageSums

T = TypeVar("T")

PATIENCE = 1.0
"""Seconds to wait for one record before it is read from the copy. That is half of what a readiness
check may take, so that a store which hangs does not take the gateways down with it. Pages may take
as long as the store lets them."""
FAILURES, WINDOW = 5, 10.0
"""Failures within so many seconds after which the store is not asked any more."""
REST = Backoff((5.0,), jitter=0)
"""After which one call tries again. Only this process's reads wait for it, so nothing has to be
spread."""

logger = get_logger(__name__)


class FallbackStore(PredictionStore):
    """Outside reads (`get`, `list`) come from the second store if the first is unavailable; all else fails then.

    Args:
        store: The one that counts.
        fallback: The copy.
        patience: Seconds that a record is waited for.
        clock: For the rest after failures.
        written_here: No log fills the copy: what the first store has taken is written there too,
            as far as it answers.
    """

    def __init__(
        self,
        store: PredictionStore,
        fallback: PredictionStore,
        *,
        patience: float = PATIENCE,
        clock: Clock = SYSTEM_CLOCK,
        written_here: bool = False,
    ) -> None:
        self.store = store
        self.fallback = fallback
        self.name = store.name
        # The copy has to list by what is asked for, too. Other filters it refuses itself.
        missing = INDEXED - fallback.capabilities.filters
        self.capabilities = structs.replace(
            store.capabilities, filters=store.capabilities.filters - missing
        )
        self._breaker = CircuitBreaker(FAILURES, REST, window=WINDOW)
        self._clock = clock
        self._patience = patience
        self._written_here = written_here
        self.degraded = False
        """Whether the last outside read came from the fallback: such an answer may be behind."""

    async def claim(self, ownership: Ownership) -> Ownership:
        """As the first store does."""
        return await self.store.claim(ownership)

    async def positions(self) -> dict[int, int]:
        """As the first store does."""
        return await self.store.positions()

    async def get(self, prediction_id: str) -> Stored | None:
        """The record, from the copy if the first store is unavailable, and marked then."""
        stored, degraded = await self._read(lambda store: store.get(prediction_id), self._patience)
        return structs.replace(stored, degraded=True) if degraded and stored is not None else stored

    async def load(self, prediction_ids: Sequence[str]) -> dict[str, Stored]:
        """As the first store does, never from the copy."""
        return await self.store.load(prediction_ids)

    async def write(self, writes: Sequence[Write]) -> list[Outcome]:
        """As the first store does; into the copy only what it took, if no log fills that."""
        outcomes = await self.store.write(writes)
        if self._written_here:
            await self._copy(
                [write for write, outcome in zip(writes, outcomes, strict=True) if outcome is None]
            )
        return outcomes

    async def list(self, query: Query) -> Page:
        """A page, from the copy if the first store is unavailable, and marked then."""
        page, degraded = await self._read(lambda store: store.list(query))
        return structs.replace(page, degraded=True) if degraded else page

    async def count(self, query: Query, most: int) -> dict[str, int] | None:
        """As the first store does; the copy if that is unavailable."""
        counts, _ = await self._read(lambda store: store.count(query, most))
        return counts

    async def find(self, phrase: str, query: Query) -> Page | None:
        """As the first store does; the copy where that is unavailable, and marked then."""
        page, degraded = await self._read(lambda store: store.find(phrase, query))
        return page if page is None or not degraded else structs.replace(page, degraded=True)

    async def unsearchable(self, query: Query) -> int | None:
        """As the first store does; the copy where that is unavailable."""
        number, _ = await self._read(lambda store: store.unsearchable(query))
        return number

    async def usage(self, query: Query, by: Sequence[str]) -> UsageSums | None:
        """As the first store does, never from the copy: nobody is billed by what may be behind."""
        return await self.store.usage(query, by)

    async def index(self) -> int:
        """As both do."""
        return await self.store.index() + await self.fallback.index()

    async def sweep(self, now: int, limit: int) -> int:
        """Sweep both, the first one first."""
        gone = await self.store.sweep(now, limit)
        return gone + await self.fallback.sweep(now, limit - gone) if gone < limit else gone

    async def persist(self) -> None:
        """As the first store does; what the copy lost is filled in from the changes."""
        await self.store.persist()

    async def mark_filled(self) -> None:
        """As the first store does; the copy is filled from the changes."""
        await self.store.mark_filled()

    async def facts(self) -> dict[str, str]:
        """As the first store does."""
        return await self.store.facts()

    async def close(self) -> None:
        """Close both."""
        try:
            await self.store.close()
        finally:
            await self.fallback.close()

    async def _copy(self, writes: Sequence[Write]) -> None:
        """Put these into the copy; the first store has them, so a failure here is none of the call's."""
        copies = [
            ReplicaWrite(write.record, write.encoded, write.expires_at, write.purge_at)
            for write in writes
        ]
        try:
            async with asyncio.timeout(self._patience):
                await write_replicas(self.fallback, copies)
        except (StorageError, TimeoutError) as error:
            logger.warning("storage.fallback.behind", fallback=self.fallback.name, error=str(error))

    async def _read(
        self, read: Callable[[PredictionStore], Awaitable[T]], patience: float | None = None
    ) -> tuple[T, bool]:
        """What was read, and whether it came from the copy."""
        if not self._breaker.allows(self._clock.monotonic()):
            return await self._from_copy(read, None), True
        try:
            answer = await self._in_time(read, patience)
        except StoreUnavailable as error:
            self._breaker.failed(self._clock.monotonic())
            return await self._from_copy(read, error), True
        self._breaker.succeeded()
        if self.degraded:
            self.degraded = False
            logger.info("storage.fallback.ended", store=self.name)
        return answer, False

    async def _in_time(
        self, read: Callable[[PredictionStore], Awaitable[T]], patience: float | None
    ) -> T:
        try:
            async with asyncio.timeout(patience):
                return await read(self.store)
        except TimeoutError:
            raise StoreUnavailable(
                f"{self.name} has not answered for {patience} s; look whether it hangs"
            ) from None

    async def _from_copy(
        self, read: Callable[[PredictionStore], Awaitable[T]], error: StoreUnavailable | None
    ) -> T:
        if not self.degraded:
            self.degraded = True
            logger.warning(
                "storage.fallback.begun",
                store=self.name,
                fallback=self.fallback.name,
                error=str(error),
            )
        try:
            return await read(self.fallback)
        except StoreUnavailable as second:
            raise error or second from second


class ReplicaWrite(Struct, frozen=True, gc=False):
    """A state to put into the copy."""

    record: Standing
    encoded: bytes
    expires_at: int | None = None
    purge_at: int | None = None


async def write_replicas(
    fallback: PredictionStore, copies: Sequence[ReplicaWrite], *, attempts: int = 10
) -> int:
    """Bring the copy up to these states, wherever it has an older one.

    Args:
        fallback: The copy.
        copies: One per prediction at most.
        attempts: How often others may come between reading a version and writing the next.

    Returns:
        How many were written.

    Raises:
        StoreUnavailable: It cannot be written now, or others keep writing the same records.
    """
    written = 0
    for _ in range(attempts):
        standing = await fallback.load([copy.record.prediction_id for copy in copies])
        writes = []
        for copy in copies:
            stored = standing.get(copy.record.prediction_id)
            version = 0 if stored is None else stored.version
            if copy.record.version > version:
                writes.append(
                    Write(copy.record, copy.encoded, version, copy.expires_at, copy.purge_at)
                )
        if not writes:
            return written
        outcomes = await fallback.write(writes)
        written += outcomes.count(None)
        if not any(isinstance(outcome, Conflict) for outcome in outcomes):
            return written
    raise StoreUnavailable(
        f"others write the fallback store in {fallback.name}; let one process fill it"
    )
