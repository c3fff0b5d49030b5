"""The processor's role, put together as the settings say."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial

from tidings.config.settings import Settings
from tidings.observability.health import HealthMonitor
from tidings.runtime.resources import Resources
from tidings.runtime.upkeep import Start, index, sweep
from tidings.storage.errors import StorageError
from tidings.storage.wrappers.cache import CachedStore
from tidings.streams.changes.projection import Projection
from tidings.streams.log.protocol import Log
from tidings.streams.processing.poison_guard import PoisonGuard
from tidings.streams.processing.processor import Processor
from tidings.streams.support.tracing import Step

END_LIMIT = 4.0
"""Seconds that the batch under way may take to end, of the five that Ctrl-C may take."""


@asynccontextmanager
async def processor_role(
    settings: Settings,
    resources: Resources,
    cache: CachedStore,
    log: Log,
    health: HealthMonitor,
    start: Start,
    reached: Callable[[Step], None] | None,
) -> AsyncIterator[Processor]:
    """Apply events, and sweep the store, until the block ends.

    Args:
        settings: As checked.
        resources: What is open.
        cache: In front of the store; left out if the store is a projection, which is stale.
        log: That of the resources, traced if traces are wanted.
        health: Watches the processor, and remembers which log the store was built from.
        start: Runs a part for as long as the service runs.
        reached: Called with each step of a commit as it ends.
    """
    projection = None
    if (kv := resources.projecting) is not None:
        projection = Projection(
            resources.log, kv, owner=resources.policy.log, retention=resources.expiry.retention
        )

    async def assigned(partitions: frozenset[int]) -> None:
        await health.source.check()
        if projection is not None:
            await projection.assign(partitions)

    processor = Processor(
        log,
        cache if projection is None else resources.store,
        resources.translators,
        resources.policy,
        expiry=resources.expiry,
        objects=resources.objects,
        group=resources.group,
        assigned=assigned,
        done=health.source.applied,
        reached=reached,
        guard=None if settings.no_breaker else PoisonGuard(),
        text_flush=settings.text_flush,
    )
    health.observe_processor(processor)
    task = start(health.process(processor), "processor")
    sweeper = start(sweep(resources.store), "sweeper")
    indexer = start(index(resources.store, partial(setattr, health, "unindexed")), "indexer")
    try:
        yield processor
    finally:
        sweeper.cancel()
        indexer.cancel()
        processor.stop()
        if health.source.failure is not None:
            task.cancel()
        try:
            await asyncio.wait([task, sweeper, indexer], timeout=END_LIMIT)
        finally:
            with contextlib.suppress(StorageError):
                await health.source.keep()
            if projection is not None:
                await projection.close()
