"""What a service does beside its work: removing what is past its time, and filling a copy for reads."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from tidings.config.settings import Settings
from tidings.gateway.api.health import Health
from tidings.runtime.resources import Resources
from tidings.storage.errors import StorageError
from tidings.storage.loggers import get_logger
from tidings.storage.store import PredictionStore
from tidings.storage.wrappers.fallback import FallbackStore
from tidings.storage.wrappers.replica import Replica
from tidings.streams.changes.fallback_sync import FallbackSync
from tidings.streams.changes.split_projection import projecting
from tidings.streams.providers.protocol import Provider
from tidings.streams.rules.reducer import DAY

SWEEP_EVERY = 60.0
"""Seconds between removals of what is past its time."""
SWEEP_ROWS = 500
INDEX_EVERY = 2.0
"""Seconds between two looks at what is to be indexed."""
INDEX_SHARE = 30
READY_SECONDS, READY_EVERY = 30.0, 0.1
"""How long the parts may take until the address is not logged again, and seconds between two looks."""

Start = Callable[[Coroutine[Any, Any, None], str], "asyncio.Task[None]"]
"""Runs a part, by its name, for as long as the service runs."""

logger = get_logger(__name__)


async def say_ready(
    health: Health,
    url: str,
    port: int,
    settled: Callable[[int], None] | None,
    surveyed: asyncio.Event | None = None,
) -> None:
    """Log the address once every part is ready, below whatever their starts have logged.

    The first survey of a reconciler, if there is one, is waited for too. If a part is not ready in
    time, nothing is said: `/readyz` and the part's own lines say what it waits for.
    """
    deadline = time.monotonic() + READY_SECONDS
    while await health.not_ready() or not (surveyed is None or surveyed.is_set()):
        if time.monotonic() > deadline:
            return
        await asyncio.sleep(READY_EVERY)
    logger.info("service.ready", url=url)
    if settled is not None:
        settled(port)


@asynccontextmanager
async def mirroring(
    settings: Settings, opened: Resources, store: FallbackStore, start: Start
) -> AsyncIterator[None]:
    """The copy is filled beside the processor.

    One that lies in memory, in every process that reads it.
    """
    copy = store.fallback
    if ("processor" if copy.capabilities.durable else "gateway") not in settings.roles:
        yield
        return
    if (kv := projecting(copy)) is not None:
        # Cloudflare shows a write late and charges for each look, so what the copy holds is known
        # from what this process has written.
        await kv.restore(())
    tasks = [
        start(
            FallbackSync(opened.log, copy, keep=opened.expiry.retention + DAY).run(),
            "fallback-sync",
        )
    ]
    if "processor" not in settings.roles:  # the processor sweeps both
        tasks.append(start(sweep(copy), "copy-sweeper"))
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


async def sweep(store: PredictionStore) -> None:
    """Remove what is past its time, until canceled."""
    while True:
        await asyncio.sleep(SWEEP_EVERY)
        now = time.time_ns() // 1_000_000
        try:
            while await store.sweep(now, SWEEP_ROWS) == SWEEP_ROWS:
                pass
        except StorageError as error:
            logger.warning("service.sweep_failed", error=str(error))


async def index(store: PredictionStore, told: Callable[[int], None] = lambda _: None) -> None:
    """Keep what records are found and summed by up to date, until canceled.

    While events come faster than it follows, it takes one part in thirty of the time: whoever needs
    the index meanwhile brings it up to date.

    Args:
        store: Whose index.
        told: How many records it lags behind, at each look.
    """
    before = 0
    while True:
        began = time.monotonic()
        try:
            left = await store.index()
        except StorageError as error:
            logger.warning("service.index_failed", error=str(error))
            left = 0
        took = time.monotonic() - began
        told(left)
        pause = took if left < before else took * INDEX_SHARE
        await asyncio.sleep(pause if left else INDEX_EVERY)
        before = left


async def forget_hidden(replica: Replica) -> None:
    """Let go of what nobody may see any more, until canceled."""
    while True:
        await asyncio.sleep(SWEEP_EVERY)
        replica.forget_hidden(time.time_ns() // 1_000_000)


def keep_keys_fresh(providers: Mapping[str, Provider], start: Start, stack: AsyncExitStack) -> None:
    """Fetch the public keys of providers that have some, until the stack ends."""
    if all(getattr(provider, "key_set", None) is None for provider in providers.values()):
        return
    from tidings.streams.providers.signatures.jwks import (
        keep_all_fresh,  # with the libraries for signatures and for fetching
        key_sets,
    )

    fetching = start(keep_all_fresh(key_sets(providers)), "provider-keys")
    stack.callback(fetching.cancel)
