"""Being told to stop: by a signal, and in the middle of a start."""

import asyncio
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

AGAIN = 1.5
"""Seconds after which a cancellation is repeated. A driver may lose the first one while it
connects, and a closing part may wait for the same silent server."""


@contextmanager
def stop_signals() -> Iterator[asyncio.Event]:
    """An event that SIGINT and SIGTERM set while the block runs."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    try:
        yield stop
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)


@asynccontextmanager
async def cancelled_by(stop: asyncio.Event) -> AsyncIterator[None]:
    """Run the block; if `stop` is set meanwhile, it is cancelled and left without an error.

    What waits for somebody who may never answer is not ended otherwise: nobody looks at the event
    while it waits.
    """
    task = asyncio.current_task()
    assert task is not None
    before = task.cancelling()
    cancels = 0

    async def watch() -> None:
        nonlocal cancels
        await stop.wait()
        while True:
            cancels += 1
            task.cancel()
            await asyncio.sleep(AGAIN)

    watching = asyncio.create_task(watch())
    try:
        yield
    except asyncio.CancelledError:
        if task.cancelling() - cancels > before or not cancels:
            raise  # somebody else cancels, too
    finally:
        watching.cancel()
        for _ in range(cancels):
            task.uncancel()


def host_is_stopping() -> bool:
    """Whether the server that drives a mounted service was told to stop: uvicorn, or one like it.

    ASGI tells an application so only after all connections are gone, and an event stream does not go
    by itself. Servers keep the word in an object whose method handles the signal; nothing is changed
    here, the handler in place is looked at.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        handler = signal.getsignal(number)
        if getattr(getattr(handler, "__self__", None), "should_exit", False) is True:
            return True
    return False
