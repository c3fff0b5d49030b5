"""The stores that the contract suite runs against. A new one is a function here and a line in `FACTORIES`."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import NamedTuple

from storage.cached import CachedStore
from storage.factory import open_store
from storage.memory import MemoryStore
from storage.store import PredictionStore


class Place(NamedTuple):
    """Where a test's store lies. Opening the same place twice opens the same data (where the store is durable)."""

    folder: Path
    """An empty folder of the test's own."""
    name: str
    """A name that no other test uses: for a schema, a key prefix, a namespace."""


Factory = Callable[[Place], AbstractAsyncContextManager[PredictionStore]]


@asynccontextmanager
async def memory(place: Place) -> AsyncIterator[PredictionStore]:
    store = MemoryStore()
    yield store
    await store.close()


@asynccontextmanager
async def sqlite(place: Place) -> AsyncIterator[PredictionStore]:
    store = await open_store(f"sqlite:///{place.folder}/store.db")
    yield store
    await store.close()


@asynccontextmanager
async def cached_memory(place: Place) -> AsyncIterator[PredictionStore]:
    async with memory(place) as store:
        yield CachedStore(store)


@asynccontextmanager
async def cached_sqlite(place: Place) -> AsyncIterator[PredictionStore]:
    """So small a cache that it evicts all the time."""
    async with sqlite(place) as store:
        yield CachedStore(store, records=3)


FACTORIES: dict[str, Factory] = {
    "memory": memory,
    "sqlite": sqlite,
    "cached-memory": cached_memory,
    "cached-sqlite": cached_sqlite,
}
