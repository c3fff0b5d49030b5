"""Tidings: the state of long-running AI predictions, pushed the moment it changes.

Every public name is here, and is loaded when it is first used (PEP 562): `import tidings` is quick and
loads no driver. What is not listed in `__all__` may change without notice.
"""

from importlib import import_module
from typing import TYPE_CHECKING

__version__: str
"""The version that is installed, from the distribution's metadata."""

if TYPE_CHECKING:  # as `_HOMES` says it, for type checkers; a test holds the two together
    from tidings.client.client import Client as Client
    from tidings.client.client import PredictionPage as PredictionPage
    from tidings.client.errors import ClientError as ClientError
    from tidings.client.errors import Conflicting as Conflicting
    from tidings.client.errors import Forbidden as Forbidden
    from tidings.client.errors import PredictionNotFound as PredictionNotFound
    from tidings.client.errors import RequestRefused as RequestRefused
    from tidings.client.errors import Unauthorized as Unauthorized
    from tidings.client.errors import Unreachable as Unreachable
    from tidings.client.progress import Deleted as Deleted
    from tidings.client.progress import Update as Update
    from tidings.client.subscription import Watch as Watch
    from tidings.client.text import Text as Text
    from tidings.client.token import Token as Token
    from tidings.config.loader import load_settings as load_settings
    from tidings.config.settings import Settings as Settings
    from tidings.config.settings import SettingsError as SettingsError
    from tidings.gateway.auth.permissions import Permissions as Permissions
    from tidings.library.storage import create_storage as create_storage
    from tidings.runtime.embedded import service as service
    from tidings.runtime.mounted import AsgiApplication as AsgiApplication
    from tidings.runtime.mounted import asgi as asgi
    from tidings.runtime.service import Service as Service
    from tidings.storage.cloudflare.durable_objects import (
        DurableObjectsStore as DurableObjectsStore,
    )
    from tidings.storage.cloudflare.kv_store import CloudflareKvStore as CloudflareKvStore
    from tidings.storage.errors import AlreadyExists as AlreadyExists
    from tidings.storage.errors import InvalidTransition as InvalidTransition
    from tidings.storage.errors import NotFound as NotFound
    from tidings.storage.errors import StorageError as StorageError
    from tidings.storage.errors import StoreMisconfigured as StoreMisconfigured
    from tidings.storage.errors import StoreOwned as StoreOwned
    from tidings.storage.errors import StoreUnavailable as StoreUnavailable
    from tidings.storage.factory import open_store as open_store
    from tidings.storage.legacy_environment import selected_url as selected_url
    from tidings.storage.memory import MemoryStore as MemoryStore
    from tidings.storage.postgres.store import PostgresStore as PostgresStore
    from tidings.storage.prediction import Prediction as Prediction
    from tidings.storage.prediction import Status as Status
    from tidings.storage.prediction import Tombstone as Tombstone
    from tidings.storage.prediction import Transition as Transition
    from tidings.storage.redis.store import RedisStore as RedisStore
    from tidings.storage.sqlite.store import SqliteStore as SqliteStore
    from tidings.storage.store import Capabilities as Capabilities
    from tidings.storage.store import Conflict as Conflict
    from tidings.storage.store import Ownership as Ownership
    from tidings.storage.store import Page as Page
    from tidings.storage.store import PredictionStore as PredictionStore
    from tidings.storage.store import Query as Query
    from tidings.storage.store import Stored as Stored
    from tidings.storage.store import Write as Write
    from tidings.storage.wrappers.cache import CachedStore as CachedStore
    from tidings.storage.wrappers.compose import reset_shared as reset_shared
    from tidings.storage.wrappers.compose import shared_store as shared_store
    from tidings.storage.wrappers.fallback import FallbackStore as FallbackStore
    from tidings.storage.wrappers.instrumented import ObservedStore as ObservedStore
    from tidings.storage.wrappers.split import SplitStore as SplitStore
    from tidings.streams.log.factory import open_log as open_log
    from tidings.streams.log.protocol import Log as Log
    from tidings.streams.log.protocol import LogError as LogError
    from tidings.streams.log.protocol import LogMisconfigured as LogMisconfigured
    from tidings.streams.log.protocol import LogUnavailable as LogUnavailable
    from tidings.streams.manager import PredictionStatusManager as PredictionStatusManager
    from tidings.streams.providers.configuration import BadConfiguration as BadConfiguration
    from tidings.streams.providers.protocol import BadSignature as BadSignature
    from tidings.streams.receiver import WebhookReceiver as WebhookReceiver
    from tidings.streams.results import as_result as as_result
    from tidings.streams.rules.event import Poison as Poison
    from tidings.streams.rules.reducer import Expiry as Expiry
    from tidings.streams.submission.from_library import Submission as Submission
else:
    _HOMES = {
        "client.client": "Client PredictionPage",
        "client.errors": "ClientError Conflicting Forbidden PredictionNotFound RequestRefused "
        "Unauthorized Unreachable",
        "client.progress": "Deleted Update",
        "client.subscription": "Watch",
        "client.text": "Text",
        "client.token": "Token",
        "config.loader": "load_settings",
        "config.settings": "Settings SettingsError",
        "gateway.auth.permissions": "Permissions",
        "library.storage": "create_storage",
        "runtime.embedded": "service",
        "runtime.mounted": "AsgiApplication asgi",
        "runtime.service": "Service",
        "storage.cloudflare.durable_objects": "DurableObjectsStore",
        "storage.cloudflare.kv_store": "CloudflareKvStore",
        "storage.errors": "AlreadyExists InvalidTransition NotFound StorageError "
        "StoreMisconfigured StoreOwned StoreUnavailable",
        "storage.factory": "open_store",
        "storage.legacy_environment": "selected_url",
        "storage.memory": "MemoryStore",
        "storage.postgres.store": "PostgresStore",
        "storage.prediction": "Prediction Status Tombstone Transition",
        "storage.redis.store": "RedisStore",
        "storage.sqlite.store": "SqliteStore",
        "storage.store": "Capabilities Conflict Ownership Page PredictionStore Query Stored Write",
        "storage.wrappers.cache": "CachedStore",
        "storage.wrappers.compose": "reset_shared shared_store",
        "storage.wrappers.fallback": "FallbackStore",
        "storage.wrappers.instrumented": "ObservedStore",
        "storage.wrappers.split": "SplitStore",
        "streams.log.factory": "open_log",
        "streams.log.protocol": "Log LogError LogMisconfigured LogUnavailable",
        "streams.manager": "PredictionStatusManager",
        "streams.rules.event": "Poison",
        "streams.providers.configuration": "BadConfiguration",
        "streams.providers.protocol": "BadSignature",
        "streams.receiver": "WebhookReceiver",
        "streams.results": "as_result",
        "streams.rules.reducer": "Expiry",
        "streams.submission.from_library": "Submission",
    }
    _MODULE_OF = {name: module for module, names in _HOMES.items() for name in names.split()}
    __all__ = sorted(_MODULE_OF)

    # Hidden from type checkers, which would take every misspelled name for `Any`.
    def __getattr__(name):
        """Load a public name from where it lives."""
        if name == "__version__":
            from importlib.metadata import version

            return version(__name__)
        module = _MODULE_OF.get(name)
        if module is None:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        try:
            value = getattr(import_module(f"{__name__}.{module}"), name)
        except ImportError as error:
            extras = import_module(f"{__name__}.storage.extras")
            if (line := extras.missing(f"{__name__}.{name}", error)) is None:
                raise
            raise extras.MissingExtra(line, name=error.name) from None
        globals()[name] = value
        return value

    def __dir__():
        return __all__
