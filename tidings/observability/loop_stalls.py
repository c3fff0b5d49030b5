"""How long the event loop is held up by one piece of work, and in tests by which.

While a piece of work runs, nothing else does: no frame leaves, no webhook is answered. A beat is
due every `BEAT` seconds; by how much it comes late is how long the loop was held up, within one
beat. A loop with little to do is looked at every `IDLE_BEAT`. What holds it up for longer than that
is seen for certain, and hardly anybody waits for it.
"""

import asyncio
import sys
import threading
import time
import traceback

from tidings.storage.loggers import get_logger
from tidings.streams.support.histogram import Histogram

BEAT = 0.025
"""Seconds between two beats."""
IDLE_BEAT = 0.25
"""The same while there is little to do: forty wake-ups a second were most of an idle gateway's CPU,
0.6% of a core, since each wakes a processor that sleeps."""
IDLE = 0.1
"""Share of a core below which a loop has little to do."""
STALL = 0.05
"""Seconds from which lateness is a stall: at sixty frames a second a page has missed three by then."""
LOGGED = 1.0
"""Seconds from which a stall is worth a line if nobody looks for its cause."""
BOUNDS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)

logger = get_logger(__name__)


class LoopStalls:
    """Counts the stalls of the running loop.

    Args:
        stacks: Catch what the loop does while it is held up, by a thread that looks every 10 ms,
            and log each stall with it. For tests: the thread takes the interpreter's lock that
            often.
    """

    stacks = False
    """What holds if `stacks` is not given; the program that tests run as a service turns it on."""

    def __init__(self, *, stacks: bool | None = None) -> None:
        self.seconds = Histogram(BOUNDS)
        if stacks is not None:
            self.stacks = stacks
        self._thread_id = 0
        self._beat = (0.0, 0.0)
        self._every = BEAT
        self._stack: str | None = None

    async def run(self) -> None:
        """Beat until canceled."""
        stopped = threading.Event()
        self._thread_id = threading.get_ident()
        self._note()
        if self.stacks:
            threading.Thread(
                target=self._watch, args=(stopped,), name="loop-stalls", daemon=True
            ).start()
        try:
            while True:
                due = time.monotonic() + self._every
                await asyncio.sleep(self._every)
                self._came(time.monotonic() - due)
        finally:
            stopped.set()

    def _note(self) -> None:
        self._beat = (time.monotonic(), time.thread_time())

    def _came(self, late: float) -> None:
        busy = time.thread_time() - self._beat[1]
        self._every = BEAT if self.stacks or busy > IDLE * self._every else IDLE_BEAT
        stack, self._stack = self._stack, None
        self._note()
        if late < STALL:
            return
        self.seconds.observe(late)
        # Of a loop that waits for its turn on a busy machine the processor time tells.
        if stack is not None or late >= LOGGED:
            logger.warning(
                "loop.stalled", seconds=round(late, 3), cpu_seconds=round(busy, 3), stack=stack
            )

    def _watch(self, stopped: threading.Event) -> None:
        clock = time.pthread_getcpuclockid(self._thread_id)  # on Linux alone, where the tests run
        while not stopped.wait(0.01):
            at, busy = self._beat
            if self._stack is not None or time.monotonic() - at < BEAT + STALL:
                continue
            if time.clock_gettime(clock) - busy < STALL:
                continue  # it waits for a processor or a file; the next look may find more
            frame = sys._current_frames().get(self._thread_id)  # noqa: SLF001 - documented for debugging
            if frame is not None:
                self._stack = "".join(traceback.format_stack(frame)[-12:])
