"""Refused webhooks in the service's log: enough to find the cause, and no more than a flood of strangers may cause."""

import time
from collections.abc import Callable

import structlog
from aiohttp import web

from tidings.gateway.http.problems import Problem
from tidings.storage.prediction import valid_id
from tidings.streams.log.headers import TRACE_HEADER
from tidings.streams.log.log_fields import fields

EVERY = 1.0
"""Seconds between two lines about one provider; the next one says how many were left out."""

_log = structlog.get_logger("tidings.webhooks")


class RefusalLog:
    """Writes the lines.

    Args:
        clock: Seconds that only go forward.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._last: dict[str, float] = {}
        self._left_out: dict[str, int] = {}

    def note(self, request: web.Request, provider: str, refused: Problem) -> None:
        """A webhook was refused.

        Args:
            request: Of it; its body and its proof are not repeated.
            provider: The configured one, or an empty name.
            refused: What it is answered.
        """
        now = self._clock()
        if now - self._last.get(provider, -EVERY) < EVERY:
            self._left_out[provider] = self._left_out.get(provider, 0) + 1
            return
        self._last[provider] = now
        named = request.match_info.get("id", "")
        about = fields(named if valid_id(named) else None, request.headers.get(TRACE_HEADER))
        left_out = self._left_out.pop(provider, 0)
        more = {"left_out": left_out} if left_out else {}
        _log.warning(
            "webhook.refused",
            provider=provider or "unknown",
            status=refused.status,
            code=refused.code,
            **about,
            **more,
        )
