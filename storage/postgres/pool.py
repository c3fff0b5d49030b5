"""A few connections to Postgres, taken and given back without a round trip or a task.

asyncpg's own pool makes a task at every release, which doubled the time of a single read.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeVar

import asyncpg

from tidings.storage.clock import SYSTEM_CLOCK, Clock
from tidings.storage.errors import StorageError

if TYPE_CHECKING:
    Connection = asyncpg.Connection[asyncpg.Record]

T = TypeVar("T")

MAX_AGE = 300.0
"""Seconds after which a connection that rests is not used again: a process that only reads would
never notice that the address leads to another server by now."""
_GOING = ("25006", "57P")
"""SQLSTATEs of a server that is read-only, or stops: another one may have taken its place."""


class Connections:
    """At most so many connections, made when they are needed.

    Args:
        connect: Makes one.
        most: How many calls may run at once; others wait for their turn.
        patience: Seconds that they wait at most.
        clock: For the age of connections.
    """

    def __init__(
        self,
        connect: "Callable[[], Awaitable[Connection]]",
        most: int,
        patience: float,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._clock = clock
        self._connect = connect
        self._patience = patience
        self._turns = asyncio.Semaphore(most)
        self._free: list[tuple[Connection, float]] = []
        """The connections that rest, and when each was made."""
        self._closed = False

    async def run(self, work: "Callable[[Connection], Awaitable[T]]") -> T:
        """Do `work` on a connection.

        One that it failed on, for another reason than the server's word, is dropped.

        Raises:
            TimeoutError: It was not its turn in time.
        """
        if self._turns.locked():  # a limit costs as much as everything else here
            async with asyncio.timeout(self._patience):
                await self._turns.acquire()
        else:
            await self._turns.acquire()
        try:
            connection, made = await self._take()
            try:
                answer = await work(connection)
            except asyncpg.PostgresError as error:
                if str(error.sqlstate).startswith(_GOING):
                    # The address may lead elsewhere by now. Whoever keeps connections to a server
                    # that was demoted meets it again and again, although the primary is there.
                    connection.terminate()
                    self.drop_free()
                else:
                    self._give(connection, made)
                raise
            except BaseException:
                connection.terminate()
                raise
            self._give(connection, made)
            return answer
        finally:
            self._turns.release()

    async def close(self) -> None:
        """Close those that are free; those in use are closed when they are given back.

        Idempotent.
        """
        self._closed = True
        free, self._free = self._free, []
        for connection, _ in free:
            await _end(connection, self._patience)

    def drop_free(self) -> None:
        """Use none of the resting connections again."""
        free, self._free = self._free, []
        for connection, _ in free:
            connection.terminate()

    async def _take(self) -> "tuple[Connection, float]":
        if self._closed:
            raise StorageError("the store is closed; open it again")
        while self._free:
            connection, made = self._free.pop()  # the one used last: the others may rest
            if connection.is_closed():
                continue
            if self._clock.monotonic() - made < MAX_AGE:
                return connection, made
            await _end(connection, 1.0)
        return await self._connect(), self._clock.monotonic()

    def _give(self, connection: "Connection", made: float) -> None:
        if self._closed:
            connection.terminate()
        elif not connection.is_closed():
            self._free.append((connection, made))


async def _end(connection: "Connection", within: float) -> None:
    try:
        await connection.close(timeout=within)
    except (TimeoutError, OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
        connection.terminate()
