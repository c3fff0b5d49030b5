"""A TCP proxy that misbehaves on demand: what lies between a program and its server on a bad day."""

import asyncio
import contextlib
from types import TracebackType
from typing import Self

CHUNK = 65536


class FaultyProxy:
    """Forwards loopback connections to a port of the same machine.

    Attributes:
        port: where it listens, once entered.
        latency: seconds that each answer's piece is held back.
        cut_answers: number of answers still to be cut after their first bytes, with the connection.
        lose_answers: number of answers still to be lost whole, with the connection: the server has done the work.
        frozen: nothing passes either way, and no connection ends (half-open).
        refusing: new connections are closed at once, standing ones too.
    """

    def __init__(self, target: int) -> None:
        self.port = 0
        self.latency = 0.0
        self.cut_answers = 0
        self.lose_answers = 0
        self.refusing = False
        self._target = target
        self._moving = asyncio.Event()
        self._moving.set()
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accepted, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._server is not None:
            self._server.close()
        self.cut()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    def freeze(self) -> None:
        self._moving.clear()

    def thaw(self) -> None:
        self._moving.set()

    def cut(self) -> None:
        """End all connections on the spot."""
        for writer in list(self._open):
            writer.transport.abort()

    async def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        self._open.add(writer)
        try:
            if self.refusing:
                return
            with contextlib.suppress(OSError):
                server_reader, server_writer = await asyncio.open_connection(
                    "127.0.0.1", self._target
                )
                self._open.add(server_writer)
                try:
                    async with asyncio.TaskGroup() as group:
                        group.create_task(self._requests(reader, server_writer))
                        group.create_task(self._answers(server_reader, writer))
                except* (OSError, EOFError):
                    pass  # Either side ended it: so does the proxy.
                finally:
                    self._open.discard(server_writer)
                    server_writer.transport.abort()
        finally:
            self._open.discard(writer)
            writer.transport.abort()

    async def _requests(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(CHUNK):
            await self._moving.wait()
            writer.write(data)
            await writer.drain()
        raise EOFError

    async def _answers(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(CHUNK):
            await self._moving.wait()
            if self.latency:
                await asyncio.sleep(self.latency)
            if self.lose_answers > 0:
                self.lose_answers -= 1
                raise EOFError
            if self.cut_answers > 0:
                self.cut_answers -= 1
                writer.write(data[: len(data) // 2])
                await writer.drain()
                raise EOFError
            writer.write(data)
            await writer.drain()
        raise EOFError
