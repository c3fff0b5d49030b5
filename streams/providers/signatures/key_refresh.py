"""Keeps providers' public keys fresh: fetched at the start, once a day, and soon after a webhook that none proves.

The last good keys stay in force while a document cannot be had.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence

import structlog

from tidings.streams.providers.signatures.jwks import MAX_AGE, KeySet

AFTER_MISS = 30.0
"""Seconds at least between two fetches of one document, so that forged webhooks cannot make us flood a provider."""
FIRST_RETRY, LONGEST_RETRY = 1.0, 300.0
TIME_LIMIT = 10.0
MAX_DOCUMENT = 1024 * 1024

Fetch = Callable[[str], Awaitable[bytes]]
"""Gets the document at a URL; raises OSError or ValueError."""

_log = structlog.get_logger()


class KeyRefresh:
    """Fetches the documents of several key sets.

    Args:
        key_sets: As `key_set.key_sets` finds them.
        fetch: How a document is had.
        clock: Seconds since the epoch.
        after_miss: Seconds between two fetches that misses ask for.
    """

    def __init__(
        self,
        key_sets: Sequence[KeySet],
        fetch: Fetch | None = None,
        clock: Callable[[], float] = time.time,
        after_miss: float = AFTER_MISS,
    ) -> None:
        self._key_sets = key_sets
        self._fetch = fetch if fetch is not None else fetch_document
        self._clock = clock
        self._after_miss = after_miss

    async def run(self) -> None:
        """Keep all fresh until cancelled; with nothing to keep, return."""
        async with asyncio.TaskGroup() as group:
            for key_set in self._key_sets:
                group.create_task(self._keep(key_set))

    async def _keep(self, key_set: KeySet) -> None:
        missed = asyncio.Event()
        key_set.on_miss = missed.set
        retry = FIRST_RETRY
        while True:
            missed.clear()
            if await self._refresh(key_set):
                retry = FIRST_RETRY
                await asyncio.sleep(self._after_miss)
                try:
                    async with asyncio.timeout(MAX_AGE - self._after_miss):
                        await missed.wait()
                except TimeoutError:
                    continue
            else:
                await asyncio.sleep(retry)
                retry = min(LONGEST_RETRY, retry * 2)

    async def _refresh(self, key_set: KeySet) -> bool:
        try:
            key_set.load(await self._fetch(key_set.url), self._clock())
        except (OSError, ValueError, TimeoutError) as error:
            _log.warning(
                "keys.not_fetched", url=key_set.url, error=str(error) or type(error).__name__
            )
            return False
        _log.info("keys.fetched", url=key_set.url)
        return True


async def fetch_document(url: str) -> bytes:
    """The document at a URL, within 10 s and 1 MiB; redirects are not followed.

    Raises:
        OSError: It cannot be had.
        ValueError: It is too large, or the answer is no document.
    """
    import httpx

    try:
        async with (
            asyncio.timeout(TIME_LIMIT),
            httpx.AsyncClient() as client,
            client.stream("GET", url) as answer,
        ):
            if answer.status_code != 200:
                raise ValueError(f"{url} answered {answer.status_code}")
            document = bytearray()
            async for chunk in answer.aiter_bytes():
                document += chunk
                if len(document) > MAX_DOCUMENT:
                    raise ValueError(f"{url} gives more than {MAX_DOCUMENT} bytes")
            return bytes(document)
    except (httpx.HTTPError, httpx.InvalidURL, TimeoutError) as error:
        raise OSError(f"{url} cannot be had: {error or type(error).__name__}") from None
