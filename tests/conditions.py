"""Waiting for something to hold, with a limit, instead of sleeping."""

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")


async def eventually(condition: Callable[[], T | Awaitable[T]], within: float = 10.0) -> T:
    """Ask until the condition is true, and return what it said; fail after `within` seconds."""
    end = time.monotonic() + within
    while True:
        answer = condition()
        value: T = await answer if inspect.isawaitable(answer) else answer
        if value:
            return value
        assert time.monotonic() < end, f"still not so after {within} s: {condition}"
        await asyncio.sleep(0.01)
