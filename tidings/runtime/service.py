"""The service: the parts of each role put together, started, watched and stopped."""

import asyncio
import socket
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from importlib.metadata import version
from typing import Any

from msgspec import Struct, structs

from tidings.client.progress import Deleted, Selection
from tidings.config.settings import Settings
from tidings.gateway.api.health import Health
from tidings.gateway.app import build_health_app
from tidings.gateway.asgi.application import AsgiGateway
from tidings.gateway.auth.request_guard import Rights
from tidings.gateway.push.changes_reader import ChangesReader
from tidings.gateway.push.hub import Hub
from tidings.gateway.websocket.listener import listen
from tidings.observability import gc_tuning
from tidings.observability.health import HealthMonitor
from tidings.observability.metrics import process_registry
from tidings.observability.traces import tracing
from tidings.runtime.archiver_role import ArchiverRole, archiver_role
from tidings.runtime.authentication import authenticator_of
from tidings.runtime.changes import changes
from tidings.runtime.create_defaults import create_defaults_of
from tidings.runtime.gateway_role import GatewayRole, request_guard
from tidings.runtime.notifier_role import NotifierRole, open_notifier
from tidings.runtime.process.ports import serving_health, store_check, write_port
from tidings.runtime.process.signals import cancelled_by, stop_signals
from tidings.runtime.process.supervisor import parent_exit
from tidings.runtime.processor_role import processor_role
from tidings.runtime.reconciler_role import ProviderWork
from tidings.runtime.resources import Resources, cache_of, open_resources
from tidings.runtime.upkeep import forget_hidden, keep_keys_fresh, mirroring, say_ready
from tidings.storage.loggers import get_logger
from tidings.storage.prediction import Prediction
from tidings.storage.wrappers.cache import CachedStore
from tidings.storage.wrappers.replica import Replica
from tidings.streams.log.instrumented import ObservedLog
from tidings.streams.log.traced import traced
from tidings.streams.processing.processor import Processor
from tidings.streams.submission.estimates import Estimates
from tidings.streams.submission.reconcile_policy import Timeouts
from tidings.streams.support.tracing import Step, Tracing

logger = get_logger(__name__)

Ready = Callable[[int], None]
"""Called with the port once requests are served."""

Reached = Callable[[Step], None]
SubmissionReached = Callable[[int, str], None]


async def serve(
    settings: Settings,
    *,
    ready: Ready | None = None,
    settled: Ready | None = None,
    reached: Reached | None = None,
    timeouts: Timeouts | None = None,
    submission_reached: SubmissionReached | None = None,
) -> None:
    """Run the roles of the settings until SIGINT or SIGTERM, which also end a start under way.

    Args:
        settings: Checked, with a webhook key.
        ready: Called with the port once requests are served.
        settled: Called with the port once every part is ready, if clients are served.
        reached: Called with each step of the processor's commit as it ends.
        timeouts: How long the reconciler waits; None: as the settings say.
        submission_reached: Called with the number of each step of a submission as it ends, and the
            prediction's id.

    Raises:
        SettingsError, StorageError, LogError, OSError: It cannot start, or a part failed for good;
            one line says why.
    """
    with stop_signals() as stop:
        async with AsyncExitStack() as stack:
            if settings.parent is not None:
                stack.callback(asyncio.create_task(_end_with_parent(settings.parent, stop)).cancel)
            async with cancelled_by(stop):
                service = await stack.enter_async_context(
                    running(settings, reached, timeouts, submission_reached)
                )
            if stop.is_set():
                logger.info("service.stopping", started=False)
                return
            gc_tuning.freeze_startup_objects()
            if ready is not None:
                ready(service.port)
            if service.gateway is not None and settings.parent is None:
                health, port = service.gateway.health, service.port
                url = f"http://{settings.host}:{port}"
                work = service.provider_work if "reconciler" in settings.roles else None
                surveyed = work.surveyed if work is not None else None
                saying = say_ready(health, url, port, settled, surveyed)
                stack.callback(asyncio.create_task(saying).cancel)
            await service.until(stop)


async def _end_with_parent(parent: int, stop: asyncio.Event) -> None:
    await parent_exit(parent)
    stop.set()


class Mount(Struct, frozen=True, kw_only=True):
    """How an application serves the gateway in its own process."""

    prefix: str = ""
    """Below which it does, beside the `root_path` of a scope."""
    rights: Rights | None = None
    """What it gives its callers."""


class Service:
    """A running service."""

    def __init__(
        self,
        resources: Resources,
        cache: CachedStore,
        health: HealthMonitor,
        tracing: Tracing | None = None,
    ) -> None:
        self.resources = resources
        self.cache = cache
        self.health = health
        self.tracing = tracing
        self.port = 0
        self.health_port = 0
        """Of this process alone, if it has one beside the shared one."""
        self.processor: Processor | None = None
        self.gateway: GatewayRole | None = None
        self.asgi: AsgiGateway | None = None
        """What a host's server drives, if it is mounted."""
        self.provider_work: ProviderWork | None = None
        self.archiver: ArchiverRole | None = None
        self.ended = False
        """Whether it was stopped."""
        self.notifier: NotifierRole | None = None
        self._tasks: list[asyncio.Task[None]] = []

    def start(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        """Run a part for as long as the service runs; `until` raises what it raises."""
        task = asyncio.create_task(work, name=name)
        self._tasks.append(task)
        return task

    def watch(self, task: asyncio.Task[None]) -> None:
        """Let `until` raise what this task raises, too."""
        self._tasks.append(task)

    def changes(
        self,
        *predictions: str,
        owner: str | None = None,
        tag: str | None = None,
        model: str | None = None,
        all: bool = False,
        limit: int = 1000,
    ) -> AsyncGenerator[Prediction | Deleted]:
        """What stands, newest first, then every change; without a connection, in this process.

        Exactly one thing is named, as for `Client.watch`; ValueError if not, RuntimeError if
        there is no gateway. A reader that lags gets the newest state of each prediction.
        """
        selection = Selection(predictions=predictions, owner=owner, tag=tag, model=model, all=all)
        selection.check()
        if self.gateway is None or self.ended:
            raise RuntimeError(
                "the service has ended" if self.ended else "this service has no gateway role"
            )
        return changes(self.gateway.hub, self.cache, selection, limit)

    async def until(self, stop: asyncio.Event) -> None:
        """Wait for the word to stop, or for a part that fails, whose error is raised."""
        stopped = asyncio.create_task(stop.wait())
        try:
            done, _ = await asyncio.wait(
                [stopped, *self._tasks], return_when=asyncio.FIRST_COMPLETED
            )
        finally:
            stopped.cancel()
        for task in done:
            if task is not stopped:
                task.result()
        logger.info("service.stopping")


@asynccontextmanager
async def running(
    settings: Settings,
    reached: Reached | None = None,
    timeouts: Timeouts | None = None,
    submission_reached: SubmissionReached | None = None,
    mount: Mount | None = None,
) -> AsyncIterator[Service]:
    """A service that has started.

    It is stopped in order when the block ends: webhooks first, then the processor.

    Args:
        settings: Checked, with a webhook key.
        reached: See `serve`.
        timeouts: See `serve`.
        submission_reached: See `serve`.
        mount: How a host's server serves the gateway; None: it listens by itself.
    """
    async with AsyncExitStack() as stack:
        # Taken before anything else is touched: a port in use is the commonest mistake, and must
        # cost nothing.
        listening = None
        if mount is None:
            listening = listen(settings.host, settings.port, reuse_port=settings.shared_port)
            stack.callback(listening.close)
        service = await _open(settings, stack)
        port = settings.port if listening is None else listening.getsockname()[1]
        work = _provider_work(settings, service, port, stack, timeouts, submission_reached)
        await _start_background_roles(settings, service, stack, reached)
        if "gateway" in settings.roles:
            gateway = _gateway(settings, service, work, stack, mount)
            if listening is not None:
                await _serve(settings, service, gateway, stack, listening)
            elif mount is not None:
                service.asgi = await stack.enter_async_context(gateway.mounted(mount.prefix))
        elif listening is not None:
            service.port = await stack.enter_async_context(
                _health_alone(settings, service, listening)
            )
        if "reconciler" in settings.roles:
            await _reconcile(service, work, stack)
        watching = service.start(service.health.run(), "health")
        stack.callback(watching.cancel)
        if settings.port_file is not None:
            write_port(
                settings.port_file,
                service.port,
                *([service.health_port] if service.health_port else []),
            )
            stack.callback(settings.port_file.unlink, missing_ok=True)
        logger.info(
            "service.started",
            url=f"http://{settings.host}:{service.port}" if mount is None else mount.prefix,
            roles=sorted(settings.roles),
            log=settings.shown("log"),
            store=settings.shown("store"),
            providers=sorted(service.resources.providers),
        )
        yield service


async def _open(settings: Settings, stack: AsyncExitStack) -> Service:
    """A service with its log, store and cache open, and no role started."""
    traces = await stack.enter_async_context(tracing(settings))
    registry = process_registry()
    opened = await stack.enter_async_context(open_resources(settings, registry))
    opened = structs.replace(opened, log=ObservedLog(opened.log))
    cache = cache_of(settings, opened)
    health = HealthMonitor(opened.log, cache, registry=registry)
    stack.callback(health.close)
    health.observe_projection(opened.projecting)
    health.observe_traces(traces)
    service = Service(opened, cache, health, traces)
    stack.callback(setattr, service, "ended", True)
    return service


def _provider_work(
    settings: Settings,
    service: Service,
    port: int,
    stack: AsyncExitStack,
    timeouts: Timeouts | None,
    reached: SubmissionReached | None,
) -> ProviderWork:
    """What submits to providers and asks them, for the gateway and for the reconciler."""
    work = service.provider_work = ProviderWork(
        settings,
        _fresh(service),
        port,
        load=_fresh(service).store.load,
        timeouts=timeouts,
        reached=reached,
    )
    stack.push_async_callback(work.close)
    service.health.observe_providers(work.sources())
    return work


def _fresh(service: Service) -> Resources:
    """The resources; a projection is stale: its newest records are in memory alone."""
    if isinstance(service.cache, Replica):
        return structs.replace(service.resources, store=service.cache)
    return service.resources


async def _start_background_roles(
    settings: Settings, service: Service, stack: AsyncExitStack, reached: Reached | None
) -> None:
    """Start the roles that serve no clients and ask no providers."""
    opened, cache, health = service.resources, service.cache, service.health
    if opened.fallback is not None:
        await stack.enter_async_context(mirroring(settings, opened, opened.fallback, service.start))
    if isinstance(cache, Replica):
        stack.callback(service.start(forget_hidden(cache), "replica").cancel)
    if "processor" in settings.roles:
        log, reached = traced(opened.log, service.tracing, reached)
        service.processor = await stack.enter_async_context(
            processor_role(settings, opened, cache, log, health, service.start, reached)
        )
    if "archiver" in settings.roles:
        archiver = service.archiver = await stack.enter_async_context(
            archiver_role(settings, opened, _fresh(service).store.load)
        )
        service.watch(archiver.task)
        health.observe_archiver(archiver.archiver)
        health.observe_rounds("archiver", lambda: archiver.archiver.last_alive)
    service.notifier = await open_notifier(settings, opened, health, service.watch, stack)


async def _reconcile(service: Service, work: ProviderWork, stack: AsyncExitStack) -> None:
    """Start the reconciler, which learns of changes from a gateway of this process, if any."""
    for task in await stack.enter_async_context(
        work.reconciling(watch_changes=service.gateway is None)
    ):
        service.watch(task)
    service.health.observe_rounds("reconciler", work.last_alive)
    if service.gateway is not None:
        service.gateway.health.add_check("reconciler", work.ready)


def _gateway(
    settings: Settings,
    service: Service,
    provider_work: ProviderWork,
    stack: AsyncExitStack,
    mount: Mount | None,
) -> GatewayRole:
    """What serves clients, with what the other roles of this process add."""
    opened, cache, health = service.resources, service.cache, service.health
    keep_keys_fresh(service.resources.providers, service.start, stack)
    gateway = service.gateway = GatewayRole(
        settings,
        opened,
        cache,
        health,
        on_changes=provider_work.notice,
        on_gap=provider_work.missed,
        tracing=service.tracing,
        rights=None if mount is None else mount.rights,
    )
    gateway.submit_by(
        provider_work.submitting(gateway.reader),
        create_defaults_of(settings, Estimates(cache)),
        provider_work.follow_ups,
    )
    gateway.health.add_statistics("tasks", provider_work.figures)
    if service.processor is not None:
        gateway.health.add_check("processor", health.processor_ready)
        gateway.health.add_statistics("processor", service.processor.statistics.snapshot)
    if service.archiver is not None:
        gateway.health.add_check("archiver", service.archiver.ready)
        gateway.health.add_statistics("archiver", service.archiver.archiver.figures)
    if service.notifier is not None:
        gateway.health.add_check("notifier", service.notifier.ready)
        gateway.health.add_statistics("notifier", service.notifier.figures)
    return gateway


async def _serve(
    settings: Settings,
    service: Service,
    gateway: GatewayRole,
    stack: AsyncExitStack,
    listening: socket.socket,
) -> None:
    """Serve clients on the socket until the stack ends."""
    service.port = await stack.enter_async_context(gateway.serving(listening))
    if settings.health_port is not None:
        own = listen("127.0.0.1", settings.health_port, reuse_port=settings.shared_port)
        stack.callback(own.close)
        service.health_port = await stack.enter_async_context(
            serving_health(gateway.health_app(), own)
        )


@asynccontextmanager
async def _health_alone(
    settings: Settings, service: Service, listening: socket.socket
) -> AsyncIterator[int]:
    monitor = service.health
    guard = request_guard(settings, authenticator_of(settings))
    health = Health(
        guard, version=version("tidings"), alive=monitor.alive, registry=monitor.registry
    )
    health.add_check("log", monitor.log_ready)
    if service.processor is not None:
        health.add_check("processor", monitor.processor_ready)
    if "reconciler" in settings.roles and service.provider_work is not None:
        health.add_check("reconciler", service.provider_work.ready)
    if service.archiver is not None:
        health.add_check("archiver", service.archiver.ready)
    if service.notifier is not None:
        health.add_check("notifier", service.notifier.ready)
    if (deciding := service.resources.deciding) is not None:
        health.add_check("store", store_check(deciding))
    async with AsyncExitStack() as stack:
        if isinstance(service.cache, Replica) and settings.roles - {"processor"}:
            # Nobody else here reads the changes, and the other parts look records up.
            reader = ChangesReader(
                service.resources.log, Hub(), service.cache, from_beginning=True, tombstones=True
            )
            stack.push_async_callback(reader.close)
            await reader.start()
            await reader.ready()
        yield await stack.enter_async_context(
            serving_health(build_health_app(health, guard), listening)
        )
