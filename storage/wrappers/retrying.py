"""A store whose calls are made again if they fail for the moment, itself a store.

For programs without a log: a service waits at its log instead, and nothing is lost meanwhile.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from tidings.storage.errors import StorageError
from tidings.storage.loggers import get_logger
from tidings.storage.resilience.backoff import Backoff
from tidings.storage.store import (
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

RETRIES = 3
"""Further tries of a call; with the waits below at most 2 s are spent waiting."""
WAITS = Backoff((0.1, 0.4, 1.5))

logger = get_logger(__name__)


class RetryingStore(PredictionStore):
    """Tries again, within a limit, what fails with an error that says a retry helps.

    Args:
        store: Whose calls.
        retries: How often a call is made again after its first failure; the last error is raised.
        waits: Before each of them.
    """

    def __init__(
        self, store: PredictionStore, *, retries: int = RETRIES, waits: Backoff = WAITS
    ) -> None:
        if retries < 0:
            raise ValueError(f"{retries} is no number of retries; give 0 or more")
        self.store = store
        self.name = store.name
        self.capabilities = store.capabilities
        self._retries = retries
        self._waits = waits

    async def claim(self, ownership: Ownership) -> Ownership:
        """As the store does."""
        return await self._again(lambda: self.store.claim(ownership))

    async def positions(self) -> dict[int, int]:
        """As the store does."""
        return await self._again(self.store.positions)

    async def get(self, prediction_id: str) -> Stored | None:
        """As the store does."""
        return await self._again(lambda: self.store.get(prediction_id))

    async def load(self, prediction_ids: Sequence[str]) -> dict[str, Stored]:
        """As the store does."""
        return await self._again(lambda: self.store.load(prediction_ids))

    async def write(self, writes: Sequence[Write]) -> list[Outcome]:
        """As the store does; what a try without an answer has written counts as written."""
        tries = 0

        async def attempt() -> list[Outcome]:
            nonlocal tries
            tries += 1
            outcomes = await self.store.write(writes)
            return outcomes if tries == 1 else await _own(self.store, writes, outcomes)

        return await self._again(attempt)

    async def list(self, query: Query) -> Page:
        """As the store does."""
        return await self._again(lambda: self.store.list(query))

    async def count(self, query: Query, most: int) -> dict[str, int] | None:
        """As the store does."""
        return await self._again(lambda: self.store.count(query, most))

    async def find(self, phrase: str, query: Query) -> Page | None:
        """As the store does."""
        return await self._again(lambda: self.store.find(phrase, query))

    async def unsearchable(self, query: Query) -> int | None:
        """As the store does."""
        return await self._again(lambda: self.store.unsearchable(query))

    async def usage(self, query: Query, by: Sequence[str]) -> UsageSums | None:
        """As the store does."""
        return await self._again(lambda: self.store.usage(query, by))

    async def index(self) -> int:
        """As the store does."""
        return await self._again(lambda: self.store.index())

    async def sweep(self, now: int, limit: int) -> int:
        """As the store does."""
        return await self._again(lambda: self.store.sweep(now, limit))

    async def persist(self) -> None:
        """As the store does."""
        await self._again(self.store.persist)

    async def mark_filled(self) -> None:
        """As the store does."""
        await self._again(self.store.mark_filled)

    async def facts(self) -> dict[str, str]:
        """As the store does."""
        return await self.store.facts()

    async def close(self) -> None:
        """Close the store."""
        await self.store.close()

    async def _again(self, call: Callable[[], Awaitable[T]]) -> T:
        failures = 0
        while True:
            try:
                return await call()
            except StorageError as error:
                failures += 1
                if not error.retryable or failures > self._retries:
                    raise
                logger.debug("storage.retry", store=self.name, tries=failures, error=str(error))
            await asyncio.sleep(self._waits.wait(failures))


async def _own(
    store: PredictionStore, writes: Sequence[Write], outcomes: list[Outcome]
) -> list[Outcome]:
    """The outcomes, if a conflict with what an earlier try wrote is none.

    A write whose answer was lost stands already: its bytes at its version say so.
    """
    suspects = [
        write.record.prediction_id
        for write, outcome in zip(writes, outcomes, strict=True)
        if outcome == Conflict(write.record.version)
    ]
    standing = await store.load(suspects) if suspects else {}
    return [
        None
        if (stored := standing.get(write.record.prediction_id)) is not None
        and isinstance(outcome, Conflict)
        and stored.version == write.record.version
        and bytes(stored.encoded) == bytes(write.encoded)
        else outcome
        for write, outcome in zip(writes, outcomes, strict=True)
    ]
