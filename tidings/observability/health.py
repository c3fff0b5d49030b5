"""What watches the parts of a service from outside: lag, stuck readers, floods of poison.

It also collects the sources of the metrics.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable
from importlib.metadata import version

from prometheus_client import CollectorRegistry

from tidings.observability.gateway_metrics import GATEWAY, GatewayParts
from tidings.observability.lag import LagMonitor, Offsets, ReaderLag
from tidings.observability.loop_stalls import LoopStalls
from tidings.observability.metric_tables import (
    ARCHIVER,
    CACHE,
    LOG,
    NOTIFIER,
    PROCESSOR,
    PROJECTION,
    PROVIDERS,
    SERVICE,
    TRACES,
    ProviderSources,
)
from tidings.observability.metrics import Exposition
from tidings.observability.traces import OpenTracing
from tidings.observability.usage_metrics import USAGE
from tidings.storage.loggers import get_logger
from tidings.storage.wrappers.cache import CachedStore
from tidings.streams.archive.worker import Archiver
from tidings.streams.changes.projecting import Projecting
from tidings.streams.log.continuity import LogReplaced, SourceWatch
from tidings.streams.log.protocol import CHANGES, EVENTS, Log
from tidings.streams.notifications.notifier import Notifier
from tidings.streams.processing.processor import Processor

SILENT = 3.0
"""Seconds within which the processor must go round to count as ready; it goes round twice a second
when idle."""
BEHIND = 30.0
"""Seconds of lag from which a part is not ready."""
STUCK = 60.0
"""Seconds without a step, with something to do and nothing in the way, after which only a restart
helps."""

logger = get_logger(__name__)


class HealthMonitor:
    """Watches one service.

    Args:
        log: Of the service.
        cache: In front of its store.
        registry: Where the metrics are shown until `close`.
    """

    def __init__(
        self,
        log: Log,
        cache: CachedStore,
        *,
        registry: CollectorRegistry,
    ) -> None:
        self._changes_log = log
        self.source = SourceWatch(log, cache)
        """Looks whether the log is still the one that the store was built from; if not, nothing
        is applied."""
        self._watch = LagMonitor(ask=lambda: log.bounds(EVENTS))
        self.stalls: LoopStalls = LoopStalls()
        self._rounds: dict[str, Callable[[], float]] = {}
        self._processor: Processor | None = None
        self.registry: CollectorRegistry = registry
        self.exposition = Exposition()
        self.exposition.add(SERVICE, self)
        self.exposition.add(LOG, log)
        self.exposition.add(CACHE, cache)
        self.registry.register(self.exposition)
        self.version: str = version("tidings")
        self.unindexed: int = 0
        """Records that the store's index lags behind."""

    # ---- what is observed ----

    def observe_processor(self, processor: Processor) -> None:
        """Watch a processor, and show its figures."""
        self._processor = processor
        self._watch.add("events", self._measure_processor)
        self.exposition.add(PROCESSOR, self)
        self.exposition.add(USAGE, self)

    def observe_gateway(self, parts: GatewayParts) -> None:
        """Watch a gateway, and show its figures."""

        async def measure() -> tuple[Offsets, Offsets]:
            bounds = await self._changes_log.bounds(CHANGES)
            return {number: end for number, (_, end) in bounds.items()}, parts.reader.positions

        self._watch.add("changes", measure)
        self.exposition.add(GATEWAY, parts)

    def observe_providers(self, sources: ProviderSources) -> None:
        """Show the figures of the work with providers."""
        self.exposition.add(PROVIDERS, sources)

    def observe_projection(self, store: Projecting | None) -> None:
        """Show what a store that takes its time has not taken yet, if it is such a store."""
        if store is not None:
            self.exposition.add(PROJECTION, store)

    def observe_traces(self, traces: OpenTracing | None) -> None:
        """Show what becomes of spans, if there are some."""
        if traces is not None:
            self.exposition.add(TRACES, traces)

    def observe_archiver(self, archiver: Archiver) -> None:
        """Show the figures of an archiver."""
        self.exposition.add(ARCHIVER, archiver)

    def observe_notifier(self, notifier: Notifier) -> None:
        """Show the figures of a notifier."""
        self.exposition.add(NOTIFIER, notifier)

    def observe_rounds(self, who: str, last: Callable[[], float]) -> None:
        """Watch a loop that says when it went round last, on the monotonic clock."""
        self._rounds[who] = last

    async def _measure_processor(self) -> tuple[Offsets, Offsets]:
        assert self._processor is not None
        bounds = await self._changes_log.bounds(EVENTS)
        consumer = self._processor.consumer
        assigned = consumer.assigned() if consumer is not None else frozenset()
        ends = {number: end for number, (_, end) in bounds.items() if number in assigned}
        positions = {
            number: at for number, at in self._processor.positions.items() if number in assigned
        }
        if consumer is not None and len(positions) < len(ends):
            lag = await consumer.lag()
            for number in ends.keys() & lag.keys() - positions.keys():
                positions[number] = max(0, ends[number] - lag[number])
        return ends, positions

    # ---- at work ----

    async def run(self) -> None:
        """Measure until canceled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._watch.run())
            group.create_task(self.stalls.run())
            group.create_task(self._follow_source())

    async def process(self, processor: Processor) -> None:
        """Run the processor.

        If it may not go on, stay, so that the rest of the service goes on and says why.
        """
        with contextlib.suppress(LogReplaced):
            await processor.run()
        if self.source.failure is not None:
            await asyncio.Event().wait()

    async def _follow_source(self) -> None:
        await self.source.run()
        if self._processor is not None:
            self._processor.stop()

    def close(self) -> None:
        """Show no metrics any more."""
        self.registry.unregister(self.exposition)

    # ---- what it says ----

    @property
    def processor(self) -> Processor:
        """The one observed."""
        assert self._processor is not None
        return self._processor

    @property
    def breaker_reason(self) -> str | None:
        """Why the guard against poison holds the processor back; None: it does not."""
        guard = self._processor.guard if self._processor is not None else None
        return guard.reason if guard is not None else None

    @property
    def stopped_because(self) -> str | None:
        """Why the processor may not go on until somebody fixes it; None: it may."""
        if self.breaker_reason is not None:
            return f"stopped by the breaker: {self.breaker_reason}"
        return self.source.failure

    @property
    def progress(self) -> dict[str, ReaderLag]:
        """By reader how far behind it is."""
        return self._watch.progress

    def lags(self) -> dict[str, dict[str, float]]:
        """By reader how many records it is behind, and how many seconds the oldest has waited.

        `events` is what the processor has still to read, `changes` the gateway; each if this process has one.
        """
        return {
            reader: {"records": progress.records, "seconds": round(progress.seconds, 1)}
            for reader, progress in self._watch.progress.items()
        }

    @property
    def loop_delay(self) -> float:
        """Seconds by which the event loop was late the last time it was looked at."""
        return self._watch.loop_delay

    async def log_ready(self) -> str | None:
        """What the log lacks; None: nothing."""
        return self.source.failure or self._watch.log_obstacle or self._changes_log.obstacle()

    async def processor_ready(self) -> str | None:
        """What is in the way of processing; None: nothing."""
        if self.stopped_because is not None:
            return self.stopped_because
        silent = time.monotonic() - self.processor.statistics.last_alive
        if silent > SILENT:
            return f"the processor has not gone round for {silent:.0f} s"
        return self.processor.obstacle or self._behind("events", "the processor")

    async def changes_ready(self) -> str | None:
        """What the reader of the changes lacks; None: nothing."""
        return self._behind("changes", "the reader of the changes")

    def _behind(self, reader: str, who: str) -> str | None:
        progress = self._watch.progress.get(reader)
        if progress is None or progress.seconds < BEHIND:
            return None
        return f"{who} is {progress.records} records and {progress.seconds:.0f} s behind"

    def alive(self) -> str | None:
        """What only a restart fixes; None: nothing.

        Outages of the log and the store are waited out, and are no reason.
        """
        now = time.monotonic()
        if self._processor is not None and self.stopped_because is None:
            silent = now - self._processor.statistics.last_alive
            if silent > STUCK:
                return f"the processor has not gone round for {silent:.0f} s"
        if self._watch.log_obstacle is not None or (
            self._processor is not None and self._processor.obstacle
        ):
            return None
        for who, last in self._rounds.items():
            if now - last() > STUCK:
                return f"the {who} has not gone round for {now - last():.0f} s"
        for reader, progress in self._watch.progress.items():
            if reader == "events" and self.stopped_because is not None:
                continue
            stalled = progress.stalled_seconds(now)
            if stalled > STUCK:
                return f"the reader of the {reader} has stood still for {stalled:.0f} s with {progress.records} to read"
        return None
