"""Names and when each is due: a heap with one entry per name that counts."""

import asyncio
from heapq import heappop, heappush

from tidings.storage.clock import SYSTEM_CLOCK, Clock


class Schedule:
    """What is to be looked at, and when.

    Args:
        clock: Tells the time.
    """

    def __init__(self, clock: Clock = SYSTEM_CLOCK) -> None:
        self._clock = clock
        self._due: dict[str, int] = {}
        self._heap: list[tuple[int, str]] = []
        self._wake = asyncio.Event()

    def __len__(self) -> int:
        return len(self._due)

    def put(self, name: str, due: int) -> None:
        """Let it be due at this time (ms), or earlier if it is by now."""
        known = self._due.get(name)
        if known is not None and known <= due:
            return
        self._due[name] = due
        heappush(self._heap, (due, name))
        if self._heap[0][1] == name:
            self._wake.set()

    def forget(self, name: str) -> None:
        """It is not due any more."""
        self._due.pop(name, None)

    def take(self, limit: int) -> list[str]:
        """At most so many that are due by now; they are not any more."""
        now = self._clock.ms()
        taken: list[str] = []
        while self._heap and len(taken) < limit and self._heap[0][0] <= now:
            due, name = heappop(self._heap)
            if self._due.get(name) == due:
                del self._due[name]
                taken.append(name)
        return taken

    async def wait(self) -> None:
        """Wait until something may be due."""
        self._wake.clear()
        left = (self._heap[0][0] - self._clock.ms()) / 1000 if self._heap else None
        if left is not None and left <= 0:
            return
        try:
            async with asyncio.timeout(left):
                await self._wake.wait()
        except TimeoutError:
            return
