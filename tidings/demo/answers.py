"""Answers of the stand-in."""

from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from aiohttp import web

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
