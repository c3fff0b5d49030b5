"""From calls that are told to coroutines that wait."""

import asyncio
from typing import Any


def settle(done: asyncio.Future[Any], result: Any) -> None:
    """Give a future its result or its error, unless its caller was cancelled."""
    if done.done():
        return
    if isinstance(result, Exception):
        done.set_exception(result)
    else:
        done.set_result(result)
