"""A TCP proxy that misbehaves on command: late, cut in the middle of an answer, half-open, or refusing."""

import asyncio
from contextlib import suppress
from enum import StrEnum
from urllib.parse import urlsplit, urlunsplit


class Fault(StrEnum):
    """What the proxy does to what comes back from the server."""

    NONE = "none"
    LATE = "late"
    """Each piece is held for `latency` seconds."""
    CUT = "cut"
    """The connection is reset after `cut_after` bytes of an answer."""
    HALF_OPEN = "half-open"
    """Nothing passes any more, in either direction, and no connection is closed."""
    LOST = "lost"
    """What goes to the server passes, the answer does not, and the connection is closed in its place."""
    REFUSE = "refuse"
    """New connections are closed at once, standing ones too."""


class FaultProxy:
    """Listens on a free port of loopback and passes on to a server.

    Args:
        url: Of the server; `url` of the proxy is the same with another host and port.
    """

    def __init__(self, url: str) -> None:
        self._target = urlsplit(url)
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._fault = Fault.NONE
        self.latency = 0.05
        self.cut_after = 10
        self.connections = 0

    @property
    def port(self) -> int:
        """Where it listens."""
        assert self._server is not None
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    @property
    def url(self) -> str:
        """The server's URL by way of the proxy."""
        user, at, _ = self._target.netloc.rpartition("@")
        return urlunsplit(self._target._replace(netloc=f"{user}{at}127.0.0.1:{self.port}"))

    @property
    def fault(self) -> Fault:
        """What it does at the moment."""
        return self._fault

    @fault.setter
    def fault(self, fault: Fault) -> None:
        healed = self._fault is Fault.HALF_OPEN
        self._fault = fault
        if fault is Fault.REFUSE or healed:
            # What was held back is lost, as after a network that was gone for long.
            self._cut_all()

    async def __aenter__(self) -> "FaultProxy":
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        self._cut_all()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _cut_all(self) -> None:
        for writer in list(self._writers):
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        if self._fault is Fault.REFUSE:
            writer.transport.abort()
            return
        try:
            up_reader, up_writer = await asyncio.open_connection(
                self._target.hostname, self._target.port
            )
        except OSError:
            writer.transport.abort()
            return
        pair = (writer, up_writer)
        self._writers.update(pair)
        for source, sink, back in ((reader, up_writer, False), (up_reader, writer, True)):
            task = asyncio.create_task(self._pump(source, sink, pair, back=back))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _pump(
        self,
        source: asyncio.StreamReader,
        sink: asyncio.StreamWriter,
        pair: tuple[asyncio.StreamWriter, asyncio.StreamWriter],
        *,
        back: bool,
    ) -> None:
        with suppress(OSError):
            while data := await source.read(65_536):
                fault = self._fault
                if fault is Fault.HALF_OPEN:
                    continue
                if back and fault is Fault.LATE:
                    await asyncio.sleep(self.latency)
                if back and fault in {Fault.CUT, Fault.LOST}:
                    if fault is Fault.CUT:
                        sink.write(data[: self.cut_after])
                        await sink.drain()
                    break
                sink.write(data)
                await sink.drain()
        for writer in pair:
            if back and self._fault is Fault.CUT:
                writer.close()
            else:
                writer.transport.abort()
            self._writers.discard(writer)
