"""Whether the server that drives us was told to stop.

ASGI tells an application so only after all connections are gone, and an event stream does not go by
itself. Servers keep the word in an object whose method handles the signal; nothing is changed here,
the handler in place is looked at.
"""

import signal


def host_is_stopping() -> bool:
    """Whether uvicorn, or a server that keeps its word likewise, is about to end."""
    for number in (signal.SIGINT, signal.SIGTERM):
        handler = signal.getsignal(number)
        if getattr(getattr(handler, "__self__", None), "should_exit", False) is True:
            return True
    return False
