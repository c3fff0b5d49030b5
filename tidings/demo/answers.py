"""Answers of the stand-in, and the bad days that come over them."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from aiohttp import web

from tidings.demo.bad_days import BadDays, Dice

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def answer(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    """A JSON answer."""
    return web.Response(
        body=msgspec.json.encode(value),
        status=status,
        headers=headers,
        content_type="application/json",
    )


def problem(status: int, title: str, detail: str) -> web.Response:
    """A refusal, in the shape that Replicate gives it."""
    return answer({"title": title, "detail": detail, "status": status}, status)


def struck(handler: Handler, dice: Dice, switches: Callable[[], BadDays]) -> Handler:
    """The handler as it behaves on the days that the switches describe."""

    async def handle(request: web.Request) -> web.StreamResponse:
        bad = switches()
        if dice.falls(bad.slow):
            await asyncio.sleep(dice.up_to(bad.slow_by))
        if dice.falls(bad.throttled):
            detail = "Request was throttled. Your rate limit resets in ~1s."
            return answer({"detail": detail, "status": 429}, 429, {"Retry-After": "1"})
        if dice.falls(bad.broken):
            return problem(500, "Internal server error", "Something went wrong")
        response = await handler(request)
        if dice.falls(bad.lost_answers) and request.transport is not None:
            request.transport.abort()
        return response

    return handle
