"""What a wrapper leaves to the store behind it."""

from collections.abc import Sequence

from tidings.storage.store import Page, PredictionStore, Query
from tidings.storage.usage import UsageSums


class PassThrough(PredictionStore):
    """Counts, finds and sums as the store behind does."""

    store: PredictionStore

    async def count(self, query: Query, most: int) -> dict[str, int] | None:
        """As the store does."""
        return await self.store.count(query, most)

    async def find(self, phrase: str, query: Query) -> Page | None:
        """As the store does."""
        return await self.store.find(phrase, query)

    async def unsearchable(self, query: Query) -> int | None:
        """As the store does."""
        return await self.store.unsearchable(query)

    async def usage(self, query: Query, by: Sequence[str]) -> UsageSums | None:
        """As the store does."""
        return await self.store.usage(query, by)

    async def index(self) -> int:
        """As the store does."""
        return await self.store.index()
