"""Putting stores together: the one that counts, an A/B arm, a fallback, and metrics around each."""

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

from prometheus_client import REGISTRY, CollectorRegistry

from tidings.storage.factory import open_store
from tidings.storage.store import PredictionStore
from tidings.storage.wrappers.fallback import FallbackStore
from tidings.storage.wrappers.instrumented import ObservedStore
from tidings.storage.wrappers.split import SplitStore


def no_options(url: str) -> Mapping[str, Any]:
    """Nothing beside the URL."""
    del url
    return {}


async def open_composed(
    url: str,
    *,
    split: tuple[str, float] | None = None,
    fallback: str | None = None,
    registry: CollectorRegistry = REGISTRY,
    options: Callable[[str], Mapping[str, Any]] = no_options,
) -> PredictionStore:
    """Open the stores of the settings as one.

    Each is timed and counted by itself, the arms of a split as `a` and `b`.

    Args:
        url: The store.
        split: A second store's URL, and the per cent of predictions that lie there.
        fallback: The URL of a copy for reads; the caller fills it from the changes.
        registry: Where the metrics are.
        options: What opening a URL takes beside it (credentials).

    Raises:
        StoreMisconfigured, StoreUnavailable: As `open_store` does; what was opened by then is
            closed.
    """
    opened: list[PredictionStore] = []

    async def one(address: str, arm: str = "") -> PredictionStore:
        opened.append(await open_store(address, **options(address)))
        return ObservedStore(opened[-1], registry=registry, arm=arm)

    try:
        store = await one(url, "a" if split else "")
        if split is not None:
            store = SplitStore(store, await one(split[0], "b"), split[1])
        if fallback is not None:
            store = FallbackStore(store, await one(fallback, "fallback"))
    except BaseException:
        for part in opened:
            await part.close()
        raise
    return store


_shared: dict[str, "asyncio.Task[PredictionStore]"] = {}


async def shared_store(url: str, **options: Any) -> PredictionStore:
    """The process's one store of this URL, opened by whoever asks first.

    Nobody but `reset_shared` closes it.

    Raises:
        StoreMisconfigured, StoreUnavailable: As `open_store` does; the next to ask tries again.
    """
    task = _shared.get(url)
    if task is None:
        task = _shared[url] = asyncio.create_task(open_store(url, **options))
    try:
        return await asyncio.shield(task)
    except Exception:
        if _shared.get(url) is task:
            del _shared[url]
        raise


async def reset_shared() -> None:
    """Close every shared store, so that the next to ask opens it anew.

    For tests and for a change of settings.
    """
    tasks = list(_shared.values())
    _shared.clear()
    for store in await asyncio.gather(*tasks, return_exceptions=True):
        if not isinstance(store, BaseException):
            await store.close()
