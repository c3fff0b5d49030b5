"""Tidings: the state of long-running AI predictions, pushed the moment it changes.

The names below are loaded when they are used, so `import tidings` is quick and loads no driver.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from storage.factory import open_store as open_store
    from storage.prediction import Prediction as Prediction
    from storage.prediction import Status as Status
    from streams.manager import PredictionStatusManager as PredictionStatusManager
    from tidings.client import Client as Client
    from tidings.client import Deleted as Deleted

_HOMES = {
    "Client": "tidings.client",
    "Deleted": "tidings.client",
    "Prediction": "storage.prediction",
    "PredictionStatusManager": "streams.manager",
    "Status": "storage.prediction",
    "open_store": "storage.factory",
}

__all__ = ["Client", "Deleted", "Prediction", "PredictionStatusManager", "Status", "open_store"]


def __getattr__(name: str) -> Any:
    """Load a public name from where it lives (PEP 562)."""
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(home), name)


def __dir__() -> list[str]:
    return sorted(__all__)
