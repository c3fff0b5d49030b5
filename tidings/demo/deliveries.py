"""Webhooks on their way: signed at each attempt, and retried if they end a prediction."""

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any

import aiohttp
from msgspec import Struct

from tidings.storage.loggers import get_logger
from tidings.storage.resilience.backoff import Backoff

ATTEMPTS = 8
LIMIT = aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=10)
"""Providers give an endpoint 5 to 15 s.

The wait for a free connection here is not the endpoint's fault.
"""

logger = get_logger(__name__)

Sign = Callable[[bytes, float], dict[str, str]]
"""Headers for a body at a time in seconds."""


class Delivery(Struct, frozen=True):
    """One webhook to be sent."""

    url: str
    body: bytes
    sign: Sign
    final: bool
    """It ends its prediction: it is retried."""


class Deliveries:
    """Sends webhooks, each on its own: they do not wait for each other.

    Args:
        first_retry: Seconds before a webhook that ends a prediction is sent again; each further
            wait doubles.
    """

    def __init__(self, first_retry: float) -> None:
        self._backoff = Backoff.doubling(first_retry, first_retry * 2.0**ATTEMPTS)
        self._session: aiohttp.ClientSession | None = None
        self._under_way: set[asyncio.Task[None]] = set()
        self.sent = 0
        """Attempts that got an answer of 2xx."""

    async def start(self) -> None:
        """Open the connections' pool."""
        self._session = aiohttp.ClientSession(
            timeout=LIMIT, connector=aiohttp.TCPConnector(limit=64)
        )

    async def close(self) -> None:
        """Give up what is under way."""
        for task in list(self._under_way):
            task.cancel()
        await asyncio.gather(*self._under_way, return_exceptions=True)
        if self._session is not None:
            await self._session.close()

    def send(self, delivery: Delivery) -> None:
        """Set out to send it; whatever becomes of it is not the caller's concern."""
        self._spawn(self._deliver(delivery))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)

    async def _deliver(self, delivery: Delivery) -> None:
        for attempt in range(ATTEMPTS if delivery.final else 1):
            if attempt:
                await asyncio.sleep(self._backoff.wait(attempt))
            if await self._attempt(delivery):
                self.sent += 1
                return
        if delivery.final:
            logger.warning("demo.webhook_given_up", url=_shown(delivery.url), attempts=ATTEMPTS)

    async def _attempt(self, delivery: Delivery) -> bool:
        assert self._session is not None
        headers = {"Content-Type": "application/json"} | delivery.sign(delivery.body, time.time())
        try:
            async with self._session.post(
                delivery.url, data=delivery.body, headers=headers, allow_redirects=False
            ) as answer:
                return 200 <= answer.status < 300
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            logger.debug(
                "demo.webhook_failed", url=_shown(delivery.url), error=type(error).__name__
            )
            return False


def _shown(url: str) -> str:
    """The URL without its token."""
    return url.partition("?")[0]
