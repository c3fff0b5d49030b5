"""`tidings serve --workers N`: gateway processes on one port, and one for the other roles.

Without the role gateway, so many processes of the other roles: they share the log's partitions.

The kernel spreads connections over the sockets that share the port (`SO_REUSEPORT`). The parent
serves nothing itself. It starts the others and asks each for its health on a port of its own. It
replaces one that ends or no longer answers, and stops all of them in order. SIGHUP replaces the
processes one after the other, each only when its successor serves.
"""

import asyncio
import contextlib
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from msgspec import Struct

from tidings.config.settings import Settings
from tidings.runtime.process.signals import cancelled_by, stop_signals
from tidings.storage.loggers import get_logger
from tidings.storage.resilience.backoff import Backoff

START_SECONDS = 30.0
"""For a process to serve."""
STOP_SECONDS = 8.0
"""For a process to end after SIGTERM."""
HEALTH_EVERY = 5.0
HEALTH_SECONDS = 5.0
FAILURES = 3
"""Checks in a row without a good answer, after which a process is killed and started again."""
BACKOFF = Backoff((0.2, 1.0, 5.0))
"""Before starting again what has ended."""

logger = get_logger(__name__)


class WorkerEnded(Exception):
    """A process ended before it served; its own line says why.

    Args:
        code: Its exit code.
    """

    def __init__(self, code: int) -> None:
        super().__init__(f"a process ended with {code} before it served; its own line says why")
        self.code = code


class WorkerPlan(Struct, frozen=True):
    """What is started, and how."""

    name: str
    arguments: tuple[str, ...]
    health_port: int | None
    """0: any. None: it answers for its health on the port that it serves."""
    health_host: str = "127.0.0.1"


def worker_plans(settings: Settings, port: int, arguments: Sequence[str]) -> list[WorkerPlan]:
    """The processes of these settings.

    Args:
        settings: With more than one worker.
        port: The one that the gateways share; those after it are for health.
        arguments: Flags that every process gets.
    """
    host = "127.0.0.1" if settings.host in {"0.0.0.0", "::"} else settings.host  # noqa: S104 - both are reached so

    def plan(name: str, role: str, number: int) -> WorkerPlan:
        """One whose port is its own; it is shared with its successor, which serves before it ends."""
        own = str(port + number if settings.port else 0)
        given = ("--role", role, "--port", own, "--shared-port", *arguments)
        return WorkerPlan(name, given, None, host)

    numbers = range(1, settings.workers + 1)
    rest = ",".join(sorted(settings.roles - {"gateway"}))
    if "gateway" not in settings.roles:
        return [plan(f"worker-{number}", rest, number) for number in numbers]
    gateways = [
        WorkerPlan(
            f"gateway-{number}",
            ("--role", "gateway", "--port", str(port), "--shared-port", *arguments),
            port + number if settings.port else 0,
        )
        for number in numbers
    ]
    return [plan("rest", rest, settings.workers + 1), *gateways] if rest else gateways


class Worker:
    """One process, started again for as long as it is wanted.

    Args:
        plan: What it does.
        folder: For the files in which it says its ports.
        environ: Its environment.
    """

    def __init__(self, plan: WorkerPlan, folder: Path, environ: Mapping[str, str]) -> None:
        self.plan = plan
        self._folder = folder
        self._environ = environ
        self._process: asyncio.subprocess.Process | None = None
        self._starts = 0
        self._health_port = 0
        self._changing = asyncio.Lock()

    @property
    def pid(self) -> int | None:
        """Of the process that runs."""
        return self._process.pid if self._process is not None else None

    async def start(self) -> None:
        """Start it, and return when it serves.

        Raises:
            WorkerEnded: It ended instead.
            TimeoutError: It does not serve in time; it has been killed.
            OSError: The machine does not start it: no memory, or no process or file more.
        """
        self._process, self._health_port = await self._launch()

    async def replace(self) -> None:
        """Start a successor, and stop the process that runs once it serves. Raises as `start`."""
        async with self._changing:
            process, port = await self._launch()
            former, self._process, self._health_port = self._process, process, port
        if former is not None:
            await _end(former)
        logger.info("worker.replaced", worker=self.plan.name, pid=process.pid)

    async def _launch(self) -> tuple[asyncio.subprocess.Process, int]:
        self._starts += 1
        port_file = self._folder / f"{self.plan.name}-{self._starts}"
        own = self.plan.health_port
        health = () if own is None else ("--health-port", str(own))
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tidings", "serve", *self.plan.arguments, *health),
            *("--port-file", str(port_file), "--parent", str(os.getpid())),
            *("--worker", self.plan.name),
            env=self._environ,
            stdin=asyncio.subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C is for the parent, which stops the others in order
        )
        ended = asyncio.create_task(process.wait())
        try:
            async with asyncio.timeout(START_SECONDS):
                while not port_file.exists():
                    if ended.done():
                        raise WorkerEnded(ended.result())
                    await asyncio.sleep(0.02)
        except BaseException:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            raise
        finally:
            ended.cancel()
        return process, int(port_file.read_text().split()[-1])

    async def keep(self) -> None:
        """Start it again whenever it ends, or no longer answers for its health.

        Runs until canceled.
        """
        failures = 0
        while True:
            process = self._process
            assert process is not None
            watching = asyncio.create_task(self._until_stuck(process))
            ending = asyncio.create_task(process.wait())
            try:
                await asyncio.wait([watching, ending], return_when=asyncio.FIRST_COMPLETED)
            finally:
                watching.cancel()
                ending.cancel()
            if process is not self._process:
                continue  # it was replaced
            if process.returncode is None:
                logger.error("worker.stuck", worker=self.plan.name, pid=process.pid)
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
                await process.wait()
            logger.error(
                "worker.ended", worker=self.plan.name, pid=process.pid, code=process.returncode
            )
            while True:
                await asyncio.sleep(BACKOFF.wait(failures + 1))
                try:
                    await self._start_instead_of(process)
                except (WorkerEnded, OSError) as error:  # a TimeoutError is an OSError
                    failures += 1
                    logger.error("worker.not_started", worker=self.plan.name, error=str(error))
                else:
                    failures = 0
                    break

    async def _start_instead_of(self, ended: asyncio.subprocess.Process) -> None:
        async with self._changing:
            if self._process is ended:  # else somebody has replaced it meanwhile
                await self.start()

    async def _until_stuck(self, process: asyncio.subprocess.Process) -> None:
        """Return once it is stuck, or was replaced."""
        failures = 0
        while failures < FAILURES and process is self._process:
            await asyncio.sleep(HEALTH_EVERY)
            failures = (
                0 if await _healthy(self.plan.health_host, self._health_port) else failures + 1
            )

    async def stop(self) -> None:
        """End it in order."""
        if self._process is not None:
            await _end(self._process)


async def _end(process: asyncio.subprocess.Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.terminate()
    try:
        await asyncio.wait_for(process.wait(), STOP_SECONDS)
    except TimeoutError:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def _healthy(host: str, port: int) -> bool:
    """Whether a process answers 200 for its health."""
    try:
        async with asyncio.timeout(HEALTH_SECONDS):
            reader, writer = await asyncio.open_connection(host, port)
            try:
                writer.write(
                    b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n"
                )
                return b" 200 " in await reader.readline()
            finally:
                writer.close()
    except (OSError, TimeoutError):
        return False


async def supervise(
    settings: Settings,
    port: int,
    arguments: Sequence[str],
    ready: Callable[[int], None] | None = None,
) -> None:
    """Run the workers until SIGINT or SIGTERM.

    Args:
        settings: With more than one worker, and a webhook key.
        port: The one that the gateways share; the caller holds it.
        arguments: Flags that every process gets.
        ready: Called with the port once all of them serve.

    Raises:
        WorkerEnded, TimeoutError, OSError: One of them did not come up at the start; the others
            have been stopped.
    """
    replace_requested = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGHUP, replace_requested.set)
    environ = {**os.environ, "TIDINGS_WEBHOOK_KEY": settings.webhook_key or ""}
    with stop_signals() as stop, tempfile.TemporaryDirectory(prefix="tidings-workers-") as folder:
        workers = [
            Worker(plan, Path(folder), environ) for plan in worker_plans(settings, port, arguments)
        ]
        keepers: list[asyncio.Task[None]] = []
        try:
            async with cancelled_by(stop):
                await _start_all(workers)
            if stop.is_set():
                return
            keepers = [asyncio.create_task(worker.keep()) for worker in workers]
            if ready is not None:
                ready(port)
            logger.info(
                "workers.started",
                workers={one.plan.name: one.pid for one in workers},
                url=f"http://{settings.host}:{port}",
            )
            while not stop.is_set():
                await _wait_for_any(stop, replace_requested)
                if replace_requested.is_set() and not stop.is_set():
                    replace_requested.clear()
                    await replace_workers(workers, stop)
        finally:
            for task in keepers:
                task.cancel()
            await asyncio.gather(*(worker.stop() for worker in workers))
            loop.remove_signal_handler(signal.SIGHUP)


async def _start_all(workers: Sequence[Worker]) -> None:
    """Start them one after the other.

    The first one makes what is missing, and a wrong setting is reported once.
    """
    for worker in workers:
        await worker.start()


async def replace_workers(workers: Sequence[Worker], stop: asyncio.Event) -> None:
    """Replace one after the other, until `stop` is set.

    What stops the first successor would stop the others too.
    """
    for worker in workers:
        if stop.is_set():
            return
        try:
            await worker.replace()
        except (WorkerEnded, OSError) as error:  # a TimeoutError is an OSError
            logger.error("worker.not_replaced", worker=worker.plan.name, error=str(error))
            return


async def _wait_for_any(*events: asyncio.Event) -> None:
    waiting = [asyncio.create_task(event.wait()) for event in events]
    try:
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in waiting:
            task.cancel()


async def parent_exit(parent: int) -> None:
    """Return once the parent is gone: whoever supervises no more cannot stop anybody either."""
    while os.getppid() == parent:  # noqa: ASYNC110 - the kernel tells nobody
        await asyncio.sleep(1)
