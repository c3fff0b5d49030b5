"""Waiting for something to hold, with a limit, instead of sleeping."""

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar, overload

T = TypeVar("T")


@overload
async def eventually(condition: Callable[[], Awaitable[T]], within: float = 10.0) -> T: ...


@overload
async def eventually(condition: Callable[[], T], within: float = 10.0) -> T: ...


async def eventually(condition: Callable[[], Any], within: float = 10.0) -> Any:
    """Ask until the condition is true, and return what it said; fail after `within` seconds."""
    end = time.monotonic() + within
    while True:
        answer = condition()
        value = await answer if inspect.isawaitable(answer) else answer
        if value:
            return value
        assert time.monotonic() < end, f"still not so after {within} s: {condition}"
        await asyncio.sleep(0.01)


async def lasting(seconds: float) -> None:
    """Let an outage last: its length is the test's subject, and nothing is waited for."""
    await asyncio.sleep(seconds)
