"""Brings a writer's own copy to Cloudflare KV.

Each key at most once a second, many keys in one request.

What is queued is a key; its value is looked up when it goes. So a key that changes ten times in a
second is written once, with the newest value, and a queue is never longer than there are keys.
"""

import asyncio
from collections.abc import Callable, Iterable

from tidings.storage.clock import Clock
from tidings.storage.cloudflare.http import TooManyRequests
from tidings.storage.cloudflare.kv_client import KvNamespace, Pair
from tidings.storage.errors import StorageError, StoreMisconfigured, StoreUnavailable
from tidings.storage.loggers import get_logger
from tidings.storage.resilience.backoff import Backoff

BACKOFF = Backoff.doubling(0.5, 30.0)
"""Between tries while KV takes nothing."""

logger = get_logger(__name__)


class _Waiter:
    """Somebody who waits until a number of keys have gone."""

    def __init__(self, left: int) -> None:
        self.left = left
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def one_went(self) -> None:
        self.left -= 1
        if self.left == 0 and not self.done.done():
            self.done.set_result(None)

    def failed(self, error: StorageError) -> None:
        if not self.done.done():
            self.done.set_exception(error)
            self.done.exception()  # Whoever waited may have given up meanwhile: not "never retrieved".


class KvWriteQueue:
    """The queue and the one task that empties it, which lives while there is something in it.

    Args:
        namespace: where it goes.
        pair: the key's pair as of now; None: the key is to be deleted.
        interval: seconds between two writes of this key.
        clock: for the intervals.
    """

    def __init__(
        self,
        namespace: KvNamespace,
        pair: Callable[[str], Pair | None],
        interval: Callable[[str], float],
        clock: Clock,
    ) -> None:
        self._clock = clock
        self._namespace = namespace
        self._pair = pair
        self._interval = interval
        self._queue: dict[str, None] = {}
        self._tickets: dict[str, list[_Waiter]] = {}
        self._free_at: dict[str, float] = {}
        self._more = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._flying: asyncio.Future[list[None]] | None = None
        self._failures = 0

    @property
    def pending(self) -> int:
        """Keys that wait."""
        return len(self._queue)

    def add(self, keys: Iterable[str]) -> None:
        """Let these keys be written when it is their time."""
        self._queue.update(dict.fromkeys(keys))
        self._more.set()
        if self._queue and (self._task is None or self._task.done()):
            self._task = asyncio.get_running_loop().create_task(self._run(), name="kv-write-queue")

    def discard(self, key: str) -> None:
        """Do not write this key after all."""
        self._queue.pop(key, None)
        for ticket in self._tickets.pop(key, ()):
            ticket.one_went()

    async def add_and_wait(self, keys: Iterable[str], timeout: float) -> None:
        """Let these keys be written, and return when KV has taken them all.

        Raises:
            StoreUnavailable: It has not within `timeout` seconds; they stay in the queue.
            StorageError: It never will.
        """
        wanted = list(dict.fromkeys(keys))
        if not wanted:
            return
        ticket = _Waiter(len(wanted))
        for key in wanted:
            self._tickets.setdefault(key, []).append(ticket)
        self.add(wanted)
        try:
            async with asyncio.timeout(timeout):
                await ticket.done
        except TimeoutError:
            raise StoreUnavailable(
                f"Cloudflare KV has not taken the write in {timeout:g} s; it stays queued"
            ) from None

    async def drain(self, timeout: float) -> None:
        """Return when all that is queued now has gone; raises as `add_and_wait`."""
        await self.add_and_wait(list(self._queue), timeout)
        flying = self._flying
        if flying is not None:
            await asyncio.wait([flying], timeout=timeout)
            if not flying.done():
                raise StoreUnavailable(f"Cloudflare KV has not answered in {timeout:g} s")

    async def close(self, timeout: float) -> None:
        """Write what is queued, as long as that takes no longer than this, and stop. Idempotent."""
        try:
            if self._queue or (self._task is not None and not self._task.done()):
                await self.drain(timeout)
        except StorageError as error:
            logger.warning("kv.left_unwritten", keys=len(self._queue), error=str(error))
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
            self._task = None

    async def _run(self) -> None:
        while self._queue:
            due, wait = self._due()
            if due:
                self._flying = asyncio.gather(*(self._send(chunk) for chunk in due))
                await self._flying
                self._flying = None
                if self._failures:
                    await asyncio.sleep(BACKOFF.wait(self._failures))
                continue
            self._more.clear()
            try:
                async with asyncio.timeout(wait):
                    await self._more.wait()
            except TimeoutError:
                continue  # The first of them is due.

    def _due(self) -> tuple[list[list[tuple[str, Pair | None]]], float]:
        """Requests' worth of keys whose time has come, taken off the queue.

        Or how long until the first one's has.
        """
        now = self._clock.monotonic()
        self._free_at = {key: at for key, at in self._free_at.items() if at > now}
        chunks: list[list[tuple[str, Pair | None]]] = []
        size = 0
        soonest = float("inf")
        for key in list(self._queue):
            if (at := self._free_at.get(key)) is not None:
                soonest = min(soonest, at)
                continue
            pair = self._pair(key)
            size += 0 if pair is None else len(pair.value) + 512
            if (
                not chunks
                or len(chunks[-1]) == self._namespace.pairs
                or size > self._namespace.size
            ):
                if len(chunks) == self._namespace.at_once:
                    break
                chunks.append([])
                size = 0 if pair is None else len(pair.value) + 512
            del self._queue[key]
            chunks[-1].append((key, pair))
        return chunks, soonest - now

    async def _send(self, chunk: list[tuple[str, Pair | None]]) -> None:
        keys = [key for key, _ in chunk]
        tickets = {key: self._tickets.pop(key) for key in keys if key in self._tickets}
        pairs = [pair for _, pair in chunk if pair is not None]
        gone = [key for key, pair in chunk if pair is None]
        try:
            refused = set(await self._namespace.put(pairs) if pairs else ())
            refused.update(await self._namespace.delete(gone) if gone else ())
        except StorageError as error:
            await self._failed(chunk, tickets, error)
            return
        except asyncio.CancelledError:
            self._again(keys, tickets)
            raise
        self._failures = 0
        now = self._clock.monotonic()
        for key in keys:
            self._free_at[key] = now + self._interval(key)
            if key not in refused:
                for ticket in tickets.pop(key, ()):
                    ticket.one_went()
        self._again(refused, tickets)

    async def _failed(
        self,
        chunk: list[tuple[str, Pair | None]],
        tickets: dict[str, list[_Waiter]],
        error: StorageError,
    ) -> None:
        keys = [key for key, _ in chunk]
        if not error.retryable and not isinstance(error, StoreMisconfigured):
            self._again(keys, tickets, queue=False)
            if len(chunk) > 1:
                # Something in it is never taken: halves find it, and the others go.
                await self._send(chunk[: len(chunk) // 2])
                await self._send(chunk[len(chunk) // 2 :])
                return
            logger.error("kv.refused", key=keys[0], error=str(error))
            for ticket in self._tickets.pop(keys[0], ()):
                ticket.failed(error)
            return
        self._failures += 1
        logger.warning("kv.flush_failed", keys=len(keys), failures=self._failures, error=str(error))
        self._again(keys, tickets)
        if isinstance(error, TooManyRequests) and error.after:
            await asyncio.sleep(error.after)

    def _again(
        self, keys: Iterable[str], tickets: dict[str, list[_Waiter]], *, queue: bool = True
    ) -> None:
        for key in keys:
            if queue:
                self._queue.setdefault(key)
            if key in tickets:
                self._tickets[key] = tickets.pop(key) + self._tickets.get(key, [])
