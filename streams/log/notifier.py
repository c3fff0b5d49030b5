"""Wakes coroutines that wait for new records, without a task, a queue or a lost wake-up."""

import asyncio


def _expire(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)


class Notifier:
    """Told by whoever appended; wakes the waiters of one event loop.

    A waiter notes `sequence` *before* it looks for records and hands it to `wait`. A record that is appended between
    the look and the wait has raised the sequence by then, so the wait returns at once instead of missing it.
    """

    __slots__ = ("_waiters", "sequence")

    def __init__(self) -> None:
        self.sequence = 0
        self._waiters: set[asyncio.Future[None]] = set()

    def __bool__(self) -> bool:
        """Whether somebody waits."""
        return bool(self._waiters)

    def notify(self) -> None:
        """Wake everybody; to be called in the event loop's thread."""
        self.sequence += 1
        for waiter in self._waiters:
            _expire(waiter)

    async def wait(self, seen: int, seconds: float | None = None) -> None:
        """Return once `sequence` differs from `seen`, or after `seconds`."""
        if self.sequence != seen or (seconds is not None and seconds <= 0):
            return
        loop = asyncio.get_running_loop()
        waiter = loop.create_future()
        self._waiters.add(waiter)
        timer = None if seconds is None else loop.call_later(seconds, _expire, waiter)
        try:
            await waiter
        finally:
            self._waiters.discard(waiter)
            if timer is not None:
                timer.cancel()
