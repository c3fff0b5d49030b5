"""A store for a program of its own, as the settings say: `tidings.create_storage`."""

import os
from typing import TYPE_CHECKING, Any

from tidings.config.loader import load_settings
from tidings.config.settings import Settings, SettingsError, sqlite_path
from tidings.storage.private_files import make_folder
from tidings.storage.store import PredictionStore
from tidings.storage.wrappers.cache import CachedStore
from tidings.storage.wrappers.compose import open_composed
from tidings.storage.wrappers.retrying import RETRIES, RetryingStore

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry


async def create_storage(
    settings: Settings | None = None,
    *,
    retries: int = RETRIES,
    registry: "CollectorRegistry | None" = None,
) -> PredictionStore:
    """Open the store of the settings with all that they put around it, for a program without a log.

    ```python
    store = await tidings.create_storage()
    manager = tidings.PredictionStatusManager(store)
    ```

    From the inside: metrics per store (if the extra `server` is installed), retries, and the A/B
    split (`TIDINGS_STORE_SPLIT`). Then the copy for reads (`TIDINGS_STORE_FALLBACK`, written with
    each write), and a cache for reads (`TIDINGS_CACHE_TTL` seconds, `TIDINGS_CACHE_RECORDS`; 0
    turns it off). What the manager decides by is read past the cache.

    Args:
        settings: What `tidings serve` would read; None: the environment and `tidings.toml` in the
            working folder.
        retries: How often a call is made again that fails for the moment.
        registry: Where the metrics are; None: the process's own.

    Returns:
        The store; the caller closes it.

    Raises:
        SettingsError: A setting is wrong, or stores do not go together.
        StoreMisconfigured, StoreUnavailable: As `open_store` does.
    """
    chosen = settings if settings is not None else load_settings(environ=os.environ)
    if retries < 0:
        raise ValueError(f"{retries} is no number of retries; give 0 or more")
    split = chosen.split_arm
    _check(chosen.store, split[0] if split else None, chosen.store_fallback)
    for url in (chosen.store, split[0] if split else "", chosen.store_fallback or ""):
        if url.startswith("sqlite://"):
            make_folder(sqlite_path(url).parent)
    store = await open_composed(
        chosen.store,
        split=split,
        fallback=chosen.store_fallback,
        registry=registry,
        options=lambda url: credentials(chosen, url),
        log_success=chosen.log_operations,
        around=lambda store: RetryingStore(store, retries=retries),
        written_here=True,
    )
    if not chosen.cache_ttl or not chosen.cache_records:
        return store
    return CachedStore(
        store,
        ttl=chosen.cache_ttl,
        records=chosen.cache_records,
        bytes_=chosen.cache_bytes,
    )


def credentials(settings: Settings, url: str) -> dict[str, Any]:
    """What a store needs beside its URL, which carries no secret of Cloudflare's."""
    scheme = url.partition("://")[0]
    if scheme.startswith(("durable-objects", "cloudflare-kv+worker")):
        return {"worker_token": settings.worker_token}
    if scheme.startswith("cloudflare-kv"):
        options = {"token": settings.cloudflare_token, "base_url": settings.cloudflare_url}
        return {name: value for name, value in options.items() if value}
    return {}


def check_arms(store: str, arm: str | None) -> None:
    """Raise `SettingsError` where a store and the arm beside it cannot be the two of a split."""
    if arm is None:
        return
    if all(url.startswith("cloudflare-kv") for url in (store, arm)):
        raise SettingsError(
            "TIDINGS_STORE_SPLIT: Cloudflare KV has no compare-and-set, so the other arm has to decide; "
            "name a store that has it, such as durable-objects:// or postgresql://"
        )


def _check(store: str, arm: str | None, fallback: str | None) -> None:
    check_arms(store, arm)
    if arm == store and not store.startswith("memory:"):
        raise SettingsError(
            "TIDINGS_STORE_SPLIT: is the store itself; name another one, or leave it out"
        )
    if fallback is not None and fallback in (store, arm):
        raise SettingsError(
            "TIDINGS_STORE_FALLBACK: is the store itself, and is away when it is; name another one"
        )
