"""Tidings: the state of long-running AI predictions, pushed the moment it changes.

The names below are loaded when they are used (PEP 562), so `import tidings` is quick and loads no driver.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tidings.client.client import Client as Client
    from tidings.client.client import Deleted as Deleted
    from tidings.storage.errors import StorageError as StorageError
    from tidings.storage.errors import StoreMisconfigured as StoreMisconfigured
    from tidings.storage.errors import StoreOwned as StoreOwned
    from tidings.storage.errors import StoreUnavailable as StoreUnavailable
    from tidings.storage.factory import open_store as open_store
    from tidings.storage.legacy_environment import selected_url as selected_url
    from tidings.storage.prediction import Prediction as Prediction
    from tidings.storage.prediction import Status as Status
    from tidings.storage.prediction import Tombstone as Tombstone
    from tidings.storage.store import PredictionStore as PredictionStore
    from tidings.storage.store import Query as Query
    from tidings.storage.store import Stored as Stored
    from tidings.storage.store import Write as Write
    from tidings.storage.wrappers.cache import CachedStore as CachedStore
    from tidings.storage.wrappers.compose import reset_shared as reset_shared
    from tidings.storage.wrappers.compose import shared_store as shared_store
    from tidings.streams.manager import PredictionStatusManager as PredictionStatusManager
else:
    _HOMES = {
        "CachedStore": "tidings.storage.wrappers.cache",
        "Client": "tidings.client.client",
        "Deleted": "tidings.client.client",
        "Prediction": "tidings.storage.prediction",
        "PredictionStatusManager": "tidings.streams.manager",
        "PredictionStore": "tidings.storage.store",
        "Query": "tidings.storage.store",
        "Status": "tidings.storage.prediction",
        "StorageError": "tidings.storage.errors",
        "StoreMisconfigured": "tidings.storage.errors",
        "StoreOwned": "tidings.storage.errors",
        "StoreUnavailable": "tidings.storage.errors",
        "Stored": "tidings.storage.store",
        "Tombstone": "tidings.storage.prediction",
        "Write": "tidings.storage.store",
        "open_store": "tidings.storage.factory",
        "reset_shared": "tidings.storage.wrappers.compose",
        "selected_url": "tidings.storage.legacy_environment",
        "shared_store": "tidings.storage.wrappers.compose",
    }

    # Hidden from type checkers, which would take every misspelled name for `Any`.
    def __getattr__(name):
        """Load a public name from where it lives."""
        home = _HOMES.get(name)
        if home is None:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(home), name)


__all__ = [
    "CachedStore",
    "Client",
    "Deleted",
    "Prediction",
    "PredictionStatusManager",
    "PredictionStore",
    "Query",
    "Status",
    "StorageError",
    "StoreMisconfigured",
    "StoreOwned",
    "StoreUnavailable",
    "Stored",
    "Tombstone",
    "Write",
    "open_store",
    "reset_shared",
    "selected_url",
    "shared_store",
]


def __dir__() -> list[str]:
    return sorted(__all__)
