"""What is known about a prediction, and where it rests.

`open_store` and the wrappers are loaded when they are used, so that importing this package costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from storage.cached import CachedStore
    from storage.composed import reset_shared, shared_store
    from storage.errors import StorageError, StoreMisconfigured, StoreOwned, StoreUnavailable
    from storage.factory import open_store
    from storage.prediction import Prediction, Status, Tombstone
    from storage.selection import selected_url
    from storage.store import PredictionStore, Query, Stored, Write

_HOMES = {
    "CachedStore": "storage.cached",
    "StorageError": "storage.errors",
    "StoreMisconfigured": "storage.errors",
    "StoreOwned": "storage.errors",
    "StoreUnavailable": "storage.errors",
    "open_store": "storage.factory",
    "selected_url": "storage.selection",
    "shared_store": "storage.composed",
    "reset_shared": "storage.composed",
    "Prediction": "storage.prediction",
    "Status": "storage.prediction",
    "Tombstone": "storage.prediction",
    "PredictionStore": "storage.store",
    "Query": "storage.store",
    "Stored": "storage.store",
    "Write": "storage.store",
}

__all__ = [
    "CachedStore",
    "Prediction",
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


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'storage' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
