"""A few connections to Postgres, taken and given back without a round trip or a task.

asyncpg's own pool makes a task at every release, which doubled the time of a single read.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeVar

import asyncpg

from tidings.storage.errors import StorageError

if TYPE_CHECKING:
    Connection = asyncpg.Connection[asyncpg.Record]

T = TypeVar("T")


class Connections:
    """At most so many connections, made when they are needed.

    Args:
        connect: Makes one.
        most: How many calls may run at once; others wait for their turn.
        patience: Seconds that they wait at most.
    """

    def __init__(
        self, connect: "Callable[[], Awaitable[Connection]]", most: int, patience: float
    ) -> None:
        self._connect = connect
        self._patience = patience
        self._turns = asyncio.Semaphore(most)
        self._free: list[Connection] = []
        self._closed = False

    async def run(self, work: "Callable[[Connection], Awaitable[T]]") -> T:
        """Do `work` on a connection; one that it failed on, for another reason than the server's word, is dropped.

        Raises:
            TimeoutError: It was not its turn in time.
        """
        if self._turns.locked():  # a limit costs as much as everything else here
            async with asyncio.timeout(self._patience):
                await self._turns.acquire()
        else:
            await self._turns.acquire()
        try:
            connection = await self._take()
            try:
                answer = await work(connection)
            except asyncpg.PostgresError:
                self._give(connection)
                raise
            except BaseException:
                connection.terminate()
                raise
            self._give(connection)
            return answer
        finally:
            self._turns.release()

    async def close(self) -> None:
        """Close those that are free; those in use are closed when they are given back. Idempotent."""
        self._closed = True
        free, self._free = self._free, []
        for connection in free:
            try:
                await connection.close(timeout=self._patience)
            except (TimeoutError, OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
                connection.terminate()

    async def _take(self) -> "Connection":
        if self._closed:
            raise StorageError("the store is closed; open it again")
        while self._free:
            connection = self._free.pop()  # the one used last: the others may rest
            if not connection.is_closed():
                return connection
        return await self._connect()

    def _give(self, connection: "Connection") -> None:
        if self._closed:
            connection.terminate()
        elif not connection.is_closed():
            self._free.append(connection)
