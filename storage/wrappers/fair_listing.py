"""Listing for many callers.

They take turns, and those who wait for the same page share one read.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Protocol

from tidings.storage.resilience.fair_semaphore import FairSemaphore
from tidings.storage.store import Page, Query

READS = 2
"""Pages read at once: more would only wait for the store, each with its records in memory."""


class Lister(Protocol):
    """What lists records."""

    async def list(self, query: Query) -> Page:
        """A page of what `get` would show."""


class FairListing:
    """Lists from one store in turns.

    Args:
        records: Where they are read.
        most: How many reads at once.
    """

    def __init__(self, records: Lister, most: int = READS) -> None:
        self._records = records
        self._turns = FairSemaphore(most)
        self._next: dict[Query, asyncio.Task[Page]] = {}
        """Reads that have not begun yet, which others may share."""

    @asynccontextmanager
    async def turn(self, caller: str | None) -> AsyncIterator[None]:
        """Wait for a read of another kind to be this caller's turn."""
        async with self._turns.turn(caller or ""):
            yield

    async def list(self, query: Query, caller: str | None) -> Page:
        """A page, when it is the caller's turn, or that of somebody who waits for the same one.

        Args:
            query: What is asked for.
            caller: Whose turn it takes; None: all that have no name take turns as one.

        Raises:
            StorageError: As the store does.
        """
        task = self._next.get(query)
        if task is None:
            task = asyncio.get_running_loop().create_task(self._list_in_turn(query, caller or ""))
            self._next[query] = task
        return await asyncio.shield(task)

    async def _list_in_turn(self, query: Query, caller: str) -> Page:
        async with self._turns.turn(caller):
            # From here on nobody may join: what is written now may be missing in this page, and was
            # announced before whoever comes later had subscribed.
            del self._next[query]
            return await self._records.list(query)
