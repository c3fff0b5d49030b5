"""Asking for the interpreter's lock more often while a thread has something to hand over.

A thread that comes back from C waits for the lock up to the switch interval, 5 ms by default,
whenever the event loop is busy; a transaction comes back about ten times.
"""

import sys
from threading import Lock

INTERVAL = 0.0002
"""Seconds: a busy loop then gives the lock away 25 times sooner."""


class SwitchInterval:
    """Shortens the switch interval from the first `lower` to the last `restore` of all threads that use it.

    Not a context manager: the loop lowers it before it wakes a thread, and the thread restores it when it is done.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._users = 0
        self._before = 0.0
        self.allowed = False
        """Whether the process is ours to set: in another program's nothing is changed."""

    def lower(self) -> None:
        """Something is about to be handed over between threads."""
        if not self.allowed:
            return
        with self._lock:
            self._users += 1
            if self._users == 1:
                self._before = sys.getswitchinterval()
                if self._before > INTERVAL:
                    sys.setswitchinterval(INTERVAL)

    def restore(self) -> None:
        """It was handed over."""
        with self._lock:
            if not self._users:
                return
            self._users -= 1
            if self._users == 0:
                sys.setswitchinterval(self._before)


switch_interval = SwitchInterval()
"""One for the whole process, because the interval is."""
