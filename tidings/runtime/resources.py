"""Opens what a process works with: the log, the store and the providers of the settings."""

from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

from msgspec import Struct
from prometheus_client import REGISTRY, CollectorRegistry

from tidings.config.settings import SECRETS, Settings, SettingsError, sqlite_path
from tidings.config.validators import masked_url
from tidings.library.storage import check_arms, credentials
from tidings.storage.errors import StorageError, StoreOwned
from tidings.storage.factory import open_store
from tidings.storage.loggers import get_logger
from tidings.storage.object_storage import ObjectStorage, folder_of
from tidings.storage.private_files import make_folder, open_to_others
from tidings.storage.store import Ownership, PredictionStore
from tidings.storage.wrappers.cache import CachedStore
from tidings.storage.wrappers.compose import open_composed
from tidings.storage.wrappers.fallback import FallbackStore
from tidings.storage.wrappers.replica import Replica
from tidings.storage.wrappers.split import SplitStore
from tidings.streams.changes.projecting import Projecting
from tidings.streams.changes.split_projection import deciding, projecting
from tidings.streams.log.continuity import check_source
from tidings.streams.log.factory import open_log
from tidings.streams.log.protocol import Log
from tidings.streams.processing.processor import GROUP
from tidings.streams.providers.configuration import BadConfiguration
from tidings.streams.providers.protocol import Provider
from tidings.streams.providers.registry import Translators, open_providers
from tidings.streams.replay.rebuild import check_filled
from tidings.streams.rules.reducer import Expiry, StorePolicy

logger = get_logger(__name__)


class Resources(Struct, frozen=True):
    """What is open."""

    log: Log
    store: PredictionStore
    providers: Mapping[str, Provider]
    """The configured ones: who may send webhooks, and is submitted to."""
    translators: Mapping[str, Provider]
    """Of every provider: what webhooks in the log mean, whoever is configured now."""
    policy: StorePolicy
    expiry: Expiry
    objects: ObjectStorage
    """Where files and large fields lie; nothing is opened before it is used."""
    group: str = GROUP

    @property
    def fallback(self) -> FallbackStore | None:
        """The store, if it has a copy for reads."""
        return self.store if isinstance(self.store, FallbackStore) else None

    @property
    def projecting(self) -> Projecting | None:
        """The store, if it or an arm of it is a projection of the changes."""
        return projecting(self.store)

    @property
    def deciding(self) -> PredictionStore | None:
        """What of the store can be asked for what stands now."""
        return deciding(self.store)


def expiry_of(settings: Settings) -> Expiry:
    """When records are hidden and purged."""
    return Expiry(
        int(settings.ttl * 1000), int(settings.ttl_running * 1000), settings.retention * 1000
    )


def providers_of(settings: Settings) -> dict[str, Provider]:
    """The configured providers.

    Raises:
        SettingsError: One of them cannot be opened; the message names the setting.
    """
    try:
        return open_providers(settings.providers)
    except BadConfiguration as error:
        raise SettingsError(str(error)) from None


def data_open_to_others(settings: Settings) -> list[Path]:
    """Files and folders with data or secrets that other users of this machine can read."""
    urls = (settings.log, settings.store)
    places = [sqlite_path(url) for url in urls if url.startswith("sqlite://")]
    if (assets := folder_of(settings.assets)) is not None:
        places.append(assets)
    for name, origin in settings.origins.items():
        file, in_a_file, _ = origin.rpartition(": ")
        if in_a_file and (name in SECRETS or name.endswith(("_secret", "_token"))):
            places.append(Path(file))
    return [
        place
        for place in dict.fromkeys(places)
        if open_to_others(place) and open_to_others(place.parent)
    ]


async def log_of(settings: Settings, *, create: bool = True) -> Log:
    """The log; the folder of a file, and missing topics, are made unless `create` is off.

    Raises `LogError`.
    """
    if create and settings.log.startswith("sqlite://"):
        make_folder(sqlite_path(settings.log).parent)
    longest = (
        max(settings.ttl, settings.ttl_running) if settings.ttl and settings.ttl_running else 0
    )
    return await open_log(
        settings.log,
        topic_prefix=settings.topic_prefix,
        partitions=settings.partitions,
        retention=settings.retention,
        changes_retention=int(longest),
        epoch=settings.log_epoch,
        # A change holds a whole record; if the log did not take it, its partition would stand
        # still.
        max_body=max(settings.max_body, settings.record_max),
        create=create,
        deliveries=bool(settings.notify_secret),
    )


async def store_of(settings: Settings, url: str | None = None) -> PredictionStore:
    """The store of `TIDINGS_STORE` alone, or the one at another URL with the same credentials.

    Raises `StorageError`.
    """
    chosen = url or settings.store
    return await open_store(chosen, **credentials(settings, chosen))


async def whole_store_of(settings: Settings) -> PredictionStore:
    """The store of the service with its A/B arm, if it has one, for commands beside it.

    Raises:
        SettingsError: The two do not go together.
        StorageError: One of them cannot be opened.
    """
    split = _split_of(settings)
    first = await store_of(settings)
    if split is None:
        return first
    try:
        return SplitStore(first, await store_of(settings, split[0]), split[1])
    except BaseException:
        await first.close()
        raise


async def composed_store_of(
    settings: Settings, registry: CollectorRegistry = REGISTRY
) -> PredictionStore:
    """The store of the settings with its A/B arm, its fallback and metrics around each.

    Raises:
        SettingsError: What is asked for does not go together.
        StorageError: One of them cannot be opened.
    """
    check_stores(settings)

    def options(one: str) -> dict[str, Any]:
        # What the processor writes comes again from the log until its offsets are committed, and
        # before it commits them it waits until the store has it on the disk.
        deferred = {"deferred": True} if one.startswith("sqlite:") else {}
        return {**credentials(settings, one), **deferred}

    return await open_composed(
        settings.store,
        split=settings.split_arm,
        fallback=settings.store_fallback,
        registry=registry,
        options=options,
        log_success=settings.log_operations,
    )


def cache_of(settings: Settings, opened: Resources) -> CachedStore:
    """The cache that answers reads: all records of a projection, the newest of any other store."""
    if opened.projecting is not None:
        return Replica(opened.store)
    return CachedStore(
        opened.store,
        ttl=settings.cache_ttl,
        records=settings.cache_records,
        bytes_=settings.cache_bytes,
    )


def check_stores(settings: Settings) -> None:
    """Raise `SettingsError` if the stores of the settings do not go together."""
    split = _split_of(settings)
    if settings.store_fallback is not None and settings.store_fallback in (
        settings.store,
        split[0] if split else settings.store,
    ):
        raise SettingsError(
            "TIDINGS_STORE_FALLBACK: is the store itself, and is away when it is; name another one"
        )


def _split_of(settings: Settings) -> tuple[str, float] | None:
    """URL and per cent of the B arm; raises `SettingsError` if an arm cannot be one."""
    split = settings.split_arm
    check_arms(settings.store, split[0] if split else None)
    return split


def unshared_store(settings: Settings) -> str | None:
    """What is wrong with a store in memory if several processes work together, with the remedy.

    None: nothing.
    """
    if settings.workers == 1 and settings.roles >= {"gateway", "processor"}:
        return None
    split = settings.split_arm
    for name, url in (
        ("TIDINGS_STORE", settings.store),
        ("TIDINGS_STORE_SPLIT", split[0] if split else ""),
    ):
        if url.startswith("memory://"):
            return (
                f"{name}: memory:// is seen by one process alone, so a gateway beside the processor's process lists "
                "nothing and answers 404 for what it has not just heard of; name a store that all of them reach: "
                "sqlite:// on one machine, postgresql:// or valkey:// on several"
            )
    return None


async def claim(
    log: Log,
    store: PredictionStore,
    settings: Settings,
    name: str = "store",
    *,
    into: str | None = None,
) -> StorePolicy:
    """Make sure that the store belongs to this log, and was opened with the same rules.

    Args:
        log: The log of the settings.
        store: Is claimed for it.
        settings: What the rules are.
        name: The setting that names the store.
        into: Its URL, if the flag `--into` names it instead.

    Raises:
        StoreOwned: It belongs to another log, or to none.
        SettingsError: What is fixed for a store's life is set otherwise now.
    """
    identity = await log.identity()
    mine = Ownership(log=identity, strict=settings.strict, record_max=settings.record_max)
    standing = await store.claim(mine)
    if standing.log != identity:
        owner = (
            f"the log {standing.log}" if standing.log else "programs that write it without a log"
        )
        shown, said = (
            (settings.shown(name), f"TIDINGS_{name.upper()}")
            if into is None
            else (masked_url(into), "--into")
        )
        raise StoreOwned(
            f"the store {shown} belongs to {owner}, not to {identity}; "
            f"name another {said} and fill it with tidings replay, or the log it belongs to"
        )
    if standing.strict != settings.strict:
        raise SettingsError(
            f"TIDINGS_STRICT: the store was first opened with {int(standing.strict)}, now it is {int(settings.strict)}; "
            "set it back, or replay into a new store"
        )
    if standing.record_max != settings.record_max:
        raise SettingsError(
            f"TIDINGS_RECORD_MAX: the store was first opened with {standing.record_max}, now it is "
            f"{settings.record_max}; set it back, or replay into a new store"
        )
    await check_source(log, store)
    return StorePolicy(identity, settings.strict, settings.record_max)


async def claim_to_serve(log: Log, store: PredictionStore, settings: Settings) -> StorePolicy:
    """Everything that must hold of a log and a store before they are served.

    The doctor asks here too.

    Raises:
        SettingsError, StorageError, LogError: It does not; one line says what to fix.
    """
    policy = await claim(log, store, settings)
    if "processor" in settings.roles and projecting(store) is None:
        await _check_filled(log, store, settings)
    return policy


async def _check_filled(log: Log, store: PredictionStore, settings: Settings) -> None:
    """A processor of its own does not begin in the middle.

    If one process does all, it serves what comes, and says so.

    Without a gateway nothing is lost by waiting: webhooks are taken elsewhere meanwhile.
    """
    try:
        await check_filled(log, store)
    except StorageError as error:
        if "gateway" not in settings.roles:
            raise
        logger.warning("store.empty", warning=str(error))


@asynccontextmanager
async def open_resources(
    settings: Settings, registry: CollectorRegistry = REGISTRY
) -> AsyncIterator[Resources]:
    """Everything open, and closed again at the end of the block.

    Args:
        settings: Checked.
        registry: If the metrics of the stores are.

    Raises:
        SettingsError, StorageError, LogError: With one line that says what to fix.
    """
    providers = providers_of(settings)
    async with AsyncExitStack() as stack:
        log = await log_of(settings)
        stack.push_async_callback(log.close)
        store = await composed_store_of(settings, registry)
        stack.push_async_callback(store.close)
        policy = await claim_to_serve(log, store, settings)
        if isinstance(store, FallbackStore):
            await claim(log, store.fallback, settings, "store_fallback")
        yield Resources(
            log,
            store,
            providers,
            Translators(providers),
            policy,
            expiry_of(settings),
            ObjectStorage(settings.assets),
        )
