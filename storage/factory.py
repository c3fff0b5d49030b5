"""Opens a store from its URL.

A store's module, and the driver it needs, is imported only when it is asked for.
"""

from importlib import import_module
from typing import Any, NamedTuple, Protocol, cast

from tidings.storage.errors import StoreMisconfigured
from tidings.storage.extras import missing
from tidings.storage.store import PredictionStore


class _Kind(NamedTuple):
    path: str
    """`module:class`."""
    extra: str | None = None
    """The extra of the distribution that installs its driver."""


class _Openable(Protocol):
    async def open(self, url: str, **options: Any) -> PredictionStore: ...


STORES: dict[str, _Kind] = {
    "memory": _Kind("tidings.storage.memory:MemoryStore"),
    "sqlite": _Kind("tidings.storage.sqlite.store:SqliteStore"),
    "postgresql": _Kind("tidings.storage.postgres.store:PostgresStore", "postgres"),
    "postgres": _Kind("tidings.storage.postgres.store:PostgresStore", "postgres"),
    "redis": _Kind("tidings.storage.redis.store:RedisStore", "redis"),
    "rediss": _Kind("tidings.storage.redis.store:RedisStore", "redis"),
    "valkey": _Kind("tidings.storage.redis.store:RedisStore", "redis"),
    "valkeys": _Kind("tidings.storage.redis.store:RedisStore", "redis"),
    "cloudflare-kv": _Kind("tidings.storage.cloudflare.kv_store:CloudflareKvStore", "cloudflare"),
    "durable-objects": _Kind(
        "tidings.storage.cloudflare.durable_objects:DurableObjectsStore", "cloudflare"
    ),
}
"""Per scheme of a URL (without what follows a `+`) the class that opens it."""


def scheme_of(url: str) -> str:
    """The scheme before `://`, without a `+variant`, in lower case.

    Raises:
        StoreMisconfigured: The text has no scheme, or one that no store goes by.
    """
    scheme, separator, _ = url.partition("://")
    scheme = scheme.partition("+")[0].lower()
    if not separator or scheme not in STORES:
        known = ", ".join(f"{name}://" for name in STORES)
        shown = f"{scheme}://" if separator else "a URL without a scheme"
        raise StoreMisconfigured(f"no store goes by {shown}; use one of {known}")
    return scheme


async def open_store(url: str, **options: Any) -> PredictionStore:
    """Open the store that a URL names; the caller closes it.

    Args:
        url: For example `sqlite:///data/store.db` (relative), `memory://`,
            `postgresql://user:password@host/name`.
        options: What the store's own `open` takes beside the URL (every one takes `clock`).

    Raises:
        StoreMisconfigured: The URL is not one of a store, its driver is not installed, or the store
            refuses the settings (schema of another version, missing rights).
        StoreUnavailable: The store cannot be reached now.
    """
    kind = STORES[scheme_of(url)]
    module, _, name = kind.path.partition(":")
    try:
        opener = cast("_Openable", getattr(import_module(module), name))
    except ImportError as error:
        line = missing(f"{scheme_of(url)}://", error, kind.extra)
        raise StoreMisconfigured(
            line or f"{scheme_of(url)}:// cannot be loaded: {error}"
        ) from error
    return await opener.open(url, **options)
