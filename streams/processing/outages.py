"""Waiting for a store or a log that is down, with the partitions paused meanwhile."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from time import monotonic
from typing import ParamSpec, TypeVar

from tidings.storage.errors import StorageError, StoreMisconfigured
from tidings.storage.loggers import get_logger
from tidings.storage.resilience.backoff import Backoff, Failures
from tidings.streams.log.consumer_loop import ConsumerLoop
from tidings.streams.log.protocol import LogError, LogMisconfigured
from tidings.streams.processing.statistics import Statistics

T = TypeVar("T")
P = ParamSpec("P")

BACKOFF = Backoff.doubling(0.05, 1.0)
"""Between attempts at a store or log that is down: it goes on within two seconds of its return."""

logger = get_logger(__name__)


class Abandoned(Exception):
    """The batch's partitions went to another member, or the processor stops; whoever has them next reads it again."""


class Outages:
    """Does what needs a store or a log, again and again while they are down.

    Args:
        stopping: Set when the processor stops: nothing is waited for then.
        statistics: Counts.
        waiting: Called as an operation begins to wait, or fails for a reason that no record has.
    """

    def __init__(
        self,
        stopping: asyncio.Event,
        statistics: Statistics,
        waiting: Callable[[], Awaitable[None]],
    ) -> None:
        self._told = waiting
        self._stopping = stopping
        self._statistics = statistics
        self.loop: ConsumerLoop | None = None
        """The membership that is paused while something is waited for."""
        self.waiting = 0
        """Operations that wait for the end of an outage."""
        self._poll: Callable[[], Awaitable[None]] | None = None
        self._polled = False
        """Whether whoever fetches waits at the moment, so that others poll for it."""
        self.obstacle: str | None = None
        """What is being waited out at the moment, for readiness."""

    @contextlib.contextmanager
    def polling(self, poll: Callable[[], Awaitable[None]]) -> Iterator[None]:
        """Whoever fetches waits for an operation itself meanwhile: between attempts keep polling for it."""
        self._poll, self._polled = poll, True
        try:
            yield
        finally:
            self._poll, self._polled = None, False

    async def retry_until_available(
        self, operation: Callable[P, Awaitable[T]], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """The result of the operation with these arguments.

        Raises:
            Abandoned: It was waited for, and its partitions are no longer ours, or the processor stops.
            StorageError, LogError: No retry fixes it.
        """
        try:
            result = await operation(*args, **kwargs)
        except (StorageError, LogError) as error:
            return await self._wait_out(partial(operation, *args, **kwargs), error)
        self._statistics.last_alive = monotonic()  # a batch may have many of them
        return result

    async def _wait_out(
        self, operation: Callable[[], Awaitable[T]], error: StorageError | LogError
    ) -> T:
        failures = Failures(BACKOFF)
        assert self.loop is not None
        waiting = False
        try:
            while True:
                if not error.retryable:
                    if isinstance(error, StoreMisconfigured | LogMisconfigured):
                        await self._told()  # whatever is under way, this is what ends the process
                    raise error
                if self._stopping.is_set() or not self.loop.current:
                    raise Abandoned from None
                self.obstacle = str(error)
                if not waiting:
                    waiting = True
                    self._pause(self.loop, str(error))
                    await self._told()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(failures.next_wait()):
                        await self._stopping.wait()
                await self._poll_once()
                try:
                    result = await operation()
                except (StorageError, LogError) as again:
                    error = again
                else:
                    self._statistics.alive()
                    return result
        finally:
            if waiting:
                self._resume()

    async def _poll_once(self) -> None:
        """Poll, unless another operation that waits, too, does so already: a consumer has one reader."""
        poll, self._poll = self._poll, None
        if poll is not None:
            try:
                await poll()
            finally:
                self._poll = poll if self._polled else None

    def _pause(self, loop: ConsumerLoop, reason: str) -> None:
        self.waiting += 1
        if self.waiting == 1:
            loop.hold(True, "outage")
            self._statistics.pauses += 1
            logger.warning("processor.paused", error=reason)

    def _resume(self) -> None:
        self.waiting -= 1
        if not self.waiting:
            assert self.loop is not None
            self.obstacle = None
            self.loop.hold(False, "outage")
            logger.info("processor.resumed")
