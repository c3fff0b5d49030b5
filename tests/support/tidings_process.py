"""A `tidings serve` of the test's own, as a real process on a real port."""

import asyncio
import json
import os
import sys
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from signal import SIGINT, SIGKILL, Signals
from typing import Any

from tests.support.conditions import eventually
from tests.support.root import ROOT

WATCHED: tuple[str, ...] = (sys.executable, "-m", "tests.support.watched_tidings")
"""`tidings` that logs the stalls of its event loop; benchmarks replace it by the plain one."""

_FROM_OUTSIDE = ("PATH", "HOME", "LANG", "VIRTUAL_ENV", "SYSTEMROOT")


def environment(settings: Mapping[str, str]) -> dict[str, str]:
    """The environment of a process: the settings given, and none of the developer's."""
    return {name: os.environ[name] for name in _FROM_OUTSIDE if name in os.environ} | dict(settings)


class TidingsProcess:
    """A running `tidings` command.

    Args:
        folder: Its working folder: embedded data goes to `data` there.
        settings: Its environment (`TIDINGS_...`).
        arguments: Of the command; the port is added.
        program: Another program to run in its place, given the same arguments; None: `WATCHED`.
        port: To serve; 0: any.
    """

    def __init__(
        self,
        folder: Path,
        settings: Mapping[str, str] | None = None,
        arguments: tuple[str, ...] = ("serve",),
        program: tuple[str, ...] | None = None,
        port: int = 0,
    ) -> None:
        self.folder = folder
        self.settings = dict(settings or {})
        self._command = (*(program or WATCHED), *arguments)
        self._port_file = folder / f"port-{id(self):x}"
        self._output = folder / f"output-{id(self):x}.txt"
        self._port = port
        self.process: asyncio.subprocess.Process | None = None

    @property
    def port(self) -> int:
        """The port that it serves, the same over restarts."""
        return self._port

    @property
    def url(self) -> str:
        """The address of its HTTP side."""
        return f"http://127.0.0.1:{self._port}"

    @property
    def ws_url(self) -> str:
        """The address of its WebSocket."""
        return f"ws://127.0.0.1:{self._port}/api/ws"

    @property
    def output(self) -> str:
        """What it wrote to standard output and error."""
        return self._output.read_text(errors="replace") if self._output.exists() else ""

    @property
    def stalls(self) -> list[dict[str, Any]]:
        """Each stall of its event loop that it has logged, with the work that caused it as `stack`."""
        lines = (line for line in self.output.splitlines() if '"loop.stalled"' in line)
        return [json.loads(line) for line in lines]

    async def launch(self) -> None:
        """Start it without waiting for it."""
        self._port_file.unlink(missing_ok=True)
        with self._output.open("ab") as output:
            self.process = await asyncio.create_subprocess_exec(
                *self._command,
                "--port",
                str(self._port),
                "--port-file",
                str(self._port_file),
                cwd=self.folder,
                env=environment({"PYTHONPATH": str(ROOT), **self.settings}),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )

    async def start(self, within: float = 30) -> "TidingsProcess":
        """Start it, and return when it serves."""
        await self.launch()
        await self.wait_ready(within)
        return self

    async def wait_ready(self, within: float = 30) -> None:
        """Return when it serves; fail with what it wrote where it ends instead."""

        def serving() -> bool:
            assert self.process is not None
            assert self.process.returncode is None, self.output
            return self._port_file.exists()

        await eventually(serving, within)
        self._port = int(self._port_file.read_text())

    def signal(self, number: Signals) -> None:
        """Send it a signal."""
        assert self.process is not None
        self.process.send_signal(number)

    async def stop(self, within: float = 15) -> int:
        """End it in order, as Ctrl-C does; returns its exit code."""
        return await self._end(SIGINT, within)

    async def kill(self) -> None:
        """End it on the spot."""
        await self._end(SIGKILL, 15)

    async def _end(self, number: Signals, within: float) -> int:
        process = self.process
        if process is None:
            return 0
        if process.returncode is None:
            process.send_signal(number)
        try:
            return await asyncio.wait_for(process.wait(), within)
        except TimeoutError:
            process.kill()
            await process.wait()
            raise AssertionError(f"it did not end within {within} s:\n{self.output}") from None
        finally:
            self.process = None

    async def ended(self, within: float = 20) -> int:
        """Wait until it ends by itself; returns its exit code. One that does not is killed."""
        assert self.process is not None
        started = time.monotonic()
        try:
            code = await asyncio.wait_for(self.process.wait(), within)
        except TimeoutError:
            await self.kill()
            raise AssertionError(f"it did not end within {within} s:\n{self.output}") from None
        assert time.monotonic() - started < within
        self.process = None
        return code


@asynccontextmanager
async def serving(
    folder: Path,
    settings: Mapping[str, str] | None = None,
    *,
    arguments: tuple[str, ...] = ("serve",),
    port: int = 0,
) -> AsyncIterator[TidingsProcess]:
    """A running service, ended in order when the block ends."""
    service = TidingsProcess(folder, settings, arguments, port=port)
    await service.start()
    try:
        yield service
    finally:
        if service.process is not None:
            await service.stop()
