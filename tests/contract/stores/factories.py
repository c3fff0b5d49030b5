"""The stores that the contract suite runs against. A new one is a function here and a line in `FACTORIES`."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import NamedTuple

from prometheus_client import CollectorRegistry

from tests.support import cloudflare_emulator, servers, workerd
from tests.support import valkey_cluster as valkey_cluster_of_nodes
from tidings.storage.factory import open_store
from tidings.storage.memory import MemoryStore
from tidings.storage.store import PredictionStore
from tidings.storage.wrappers.cache import CachedStore
from tidings.storage.wrappers.fallback import FallbackStore
from tidings.storage.wrappers.instrumented import ObservedStore
from tidings.storage.wrappers.split import SplitStore


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


@asynccontextmanager
async def durable_objects(place: Place) -> AsyncIterator[PredictionStore]:
    async with _worker_store(place, "sharded") as store:
        yield store


@asynccontextmanager
async def one_object_each(place: Place) -> AsyncIterator[PredictionStore]:
    async with _worker_store(place, "one-per-prediction") as store:
        yield store


@asynccontextmanager
async def _worker_store(place: Place, layout: str) -> AsyncIterator[PredictionStore]:
    url, token = workerd.shared(layout)
    store = await open_store(f"durable-objects+{url}/{place.name}", worker_token=token, timeout=60)
    yield store
    await store.close()


@asynccontextmanager
async def kv(place: Place) -> AsyncIterator[PredictionStore]:
    emulator = cloudflare_emulator.shared()
    emulator.namespace(place.name)
    store = await open_store(
        f"cloudflare-kv://{cloudflare_emulator.ACCOUNT}/{place.name}",
        token=cloudflare_emulator.TOKEN,
        base_url=emulator.url,
        write_interval=0.01,
        requests=1_000_000,
    )
    yield store
    await store.close()


@asynccontextmanager
async def kv_worker(place: Place) -> AsyncIterator[PredictionStore]:
    url, token = workerd.shared(kv_port=cloudflare_emulator.shared().binding_port)
    store = await open_store(
        f"cloudflare-kv+worker+{url}/{place.name}", worker_token=token, write_interval=0.01
    )
    yield store
    await store.close()


@asynccontextmanager
async def postgres(place: Place) -> AsyncIterator[PredictionStore]:
    store = await open_store(f"{servers.postgres()}?schema={place.name}&timeout=60&pool=4")
    yield store
    await store.close()


@asynccontextmanager
async def valkey(place: Place) -> AsyncIterator[PredictionStore]:
    store = await open_store(f"{servers.valkey()}?prefix={place.name}&timeout=60")
    yield store
    await store.close()


@asynccontextmanager
async def valkey_cluster(place: Place) -> AsyncIterator[PredictionStore]:
    """A server in cluster mode: it refuses a script whose keys lie in several slots."""
    store = await open_store(f"{servers.valkey_cluster()}?prefix={place.name}&timeout=60&shards=7")
    yield store
    await store.close()


@asynccontextmanager
async def valkey_nodes(place: Place) -> AsyncIterator[PredictionStore]:
    """Three nodes, each with a part of the keys."""
    store = await open_store(
        f"{valkey_cluster_of_nodes.shared().url}?prefix={place.name}&timeout=60"
    )
    yield store
    await store.close()


@asynccontextmanager
async def split(place: Place) -> AsyncIterator[PredictionStore]:
    a = await open_store(f"sqlite:///{place.folder}/a.db")
    b = await open_store(f"sqlite:///{place.folder}/b.db")
    store = SplitStore(a, b, 40)
    yield store
    await store.close()


@asynccontextmanager
async def split_with_kv(place: Place) -> AsyncIterator[PredictionStore]:
    """SQLite decides for one arm, the other is KV."""
    a = await open_store(f"sqlite:///{place.folder}/a.db")
    async with kv(place) as b:
        yield SplitStore(a, b, 40)
    await a.close()


@asynccontextmanager
async def fallback(place: Place) -> AsyncIterator[PredictionStore]:
    async with sqlite(place) as store:
        yield FallbackStore(store, MemoryStore())


@asynccontextmanager
async def observed(place: Place) -> AsyncIterator[PredictionStore]:
    async with sqlite(place) as store:
        yield ObservedStore(store, registry=CollectorRegistry())


FACTORIES: dict[str, Factory] = {
    "memory": memory,
    "sqlite": sqlite,
    "cached-memory": cached_memory,
    "cached-sqlite": cached_sqlite,
    "split": split,
    "fallback": fallback,
    "observed": observed,
    "postgres": postgres,
    "valkey": valkey,
    "valkey-cluster": valkey_cluster,
    "valkey-nodes": valkey_nodes,
    "durable-objects": durable_objects,
    "durable-objects-one-each": one_object_each,
    "kv": kv,
    "kv-worker": kv_worker,
    "split-with-kv": split_with_kv,
}
