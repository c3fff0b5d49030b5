"""Putting stores together: the one that counts, an A/B arm, a fallback, and metrics around each."""

import asyncio
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from tidings.storage.factory import open_store
from tidings.storage.store import PredictionStore
from tidings.storage.wrappers.fallback import FallbackStore
from tidings.storage.wrappers.split import SplitStore

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry


def no_options(url: str) -> Mapping[str, Any]:
    """Nothing beside the URL."""
    del url
    return {}


async def open_composed(
    url: str,
    *,
    split: tuple[str, float] | None = None,
    fallback: str | None = None,
    registry: "CollectorRegistry | None" = None,
    options: Callable[[str], Mapping[str, Any]] = no_options,
    log_success: bool = False,
    around: Callable[[PredictionStore], PredictionStore] = lambda store: store,
    written_here: bool = False,
) -> PredictionStore:
    """Open the stores of the settings as one.

    Each is timed and counted by itself, the arms of a split as `a` and `b`.

    Args:
        url: The store.
        split: A second store's URL, and the per cent of predictions that lie there.
        fallback: The URL of a copy for reads; the caller fills it from the changes.
        registry: Where the metrics are; None: the process's own.
        options: What opening a URL takes beside it (credentials).
        log_success: Log what went well too.
        around: Wraps each store, outside its metrics.
        written_here: No log fills the copy for reads; each write goes there as well.

    Raises:
        StoreMisconfigured, StoreUnavailable: As `open_store` does; what was opened by then is
            closed.
    """
    opened: list[PredictionStore] = []

    async def one(address: str, arm: str = "") -> PredictionStore:
        opened.append(await open_store(address, **options(address)))
        return around(_observed(opened[-1], registry, arm, log_success))

    try:
        store = await one(url, "a" if split else "")
        if split is not None:
            store = SplitStore(store, await one(split[0], "b"), split[1])
        if fallback is not None:
            copy = await one(fallback, "fallback")
            store = FallbackStore(store, copy, written_here=written_here)
    except BaseException:
        for part in opened:
            await part.close()
        raise
    return store


def _observed(
    store: PredictionStore, registry: "CollectorRegistry | None", arm: str, log_success: bool
) -> PredictionStore:
    """The store with its metrics; without the metrics' library, which not every program installs, as it is."""
    if find_spec("prometheus_client") is None:
        return store
    from prometheus_client import REGISTRY

    from tidings.storage.wrappers.instrumented import ObservedStore

    return ObservedStore(store, registry=registry or REGISTRY, arm=arm, log_success=log_success)


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
    """Close every shared store, so that the next to ask opens it again.

    For tests and for a change of settings.
    """
    tasks = list(_shared.values())
    _shared.clear()
    for store in await asyncio.gather(*tasks, return_exceptions=True):
        if not isinstance(store, BaseException):
            await store.close()
