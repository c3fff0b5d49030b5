"""Public keys from a JWKS URL: kept for a while, fetched again for a key that is new, and still good in an outage."""

import asyncio
import time
from collections.abc import Awaitable, Callable

import jwt
import msgspec
import structlog

from tidings.gateway.auth.permissions import KeysUnavailable

FRESH = 600.0
"""Seconds that a key set is taken as it is."""
PAUSE = 10.0
"""Seconds between two fetches: tokens with made-up key ids must not turn into requests to the issuer."""
FETCH_TIME = 5.0
MAX_BYTES = 1024 * 1024
MAX_KEYS = 100

_log = structlog.get_logger()

Fetch = Callable[[], Awaitable[bytes]]


def fetch_from(url: str) -> Fetch:
    """What fetches the JWKS at this URL; raises OSError where that does not work."""

    async def fetch() -> bytes:
        import httpx  # a tenth of a service's start, for those alone who fetch keys

        try:
            async with httpx.AsyncClient(timeout=FETCH_TIME, follow_redirects=False) as client:
                response = await client.get(url, headers={"Accept": "application/json"})
                response.raise_for_status()
                return response.content
        except httpx.HTTPError as error:
            raise OSError(f"{type(error).__name__}: {error}") from error

    return fetch


class KeySet:
    """The keys at a JWKS URL.

    Args:
        fetch: Gives the JWKS' bytes, as from `fetch_from`.
        clock: Seconds that only go forward.
    """

    def __init__(self, fetch: Fetch, clock: Callable[[], float] = time.monotonic) -> None:
        self._fetch = fetch
        self._clock = clock
        self._keys: list[jwt.PyJWK] | None = None
        self._fetched = self._tried = float("-inf")
        self._failed = False
        """Whether the last fetch has: a key that is not known may have been published since."""
        self._lock = asyncio.Lock()
        self._refreshing: asyncio.Task[None] | None = None

    async def find(self, key_id: str | None) -> list[jwt.PyJWK]:
        """See `gateway.tokens.Keys.find`."""
        if self._keys is None:
            await self._refresh()
        elif self._clock() - self._fetched > FRESH and self._refreshing is None and self._may_try():
            # Nobody waits for it: the keys that are known go on working, whatever has become of the issuer.
            self._refreshing = asyncio.create_task(self._refresh())
            self._refreshing.add_done_callback(self._refreshed)
        found = self._matching(key_id)
        if not found and (self._lock.locked() or self._may_try()):
            await (
                self._refresh()
            )  # a key that came with a rotation: with this fetch, or with one that is under way
            found = self._matching(key_id)
        if self._keys is None or (self._failed and not found):
            raise KeysUnavailable("the issuer's keys cannot be fetched")
        return found

    def _matching(self, key_id: str | None) -> list[jwt.PyJWK]:
        keys = self._keys or []
        return list(keys) if key_id is None else [key for key in keys if key.key_id == key_id]

    def _may_try(self) -> bool:
        return self._clock() - self._tried >= PAUSE

    def _refreshed(self, task: asyncio.Task[None]) -> None:
        self._refreshing = None
        if not task.cancelled() and task.exception() is not None:
            _log.error("jwks.refresh_failed", exc_info=task.exception())

    async def _refresh(self) -> None:
        async with self._lock:
            if not self._may_try():
                return  # somebody else has tried while we waited, or a moment ago
            self._tried = self._clock()
            self._failed = True
            try:
                async with asyncio.timeout(FETCH_TIME):
                    self._keys = _parse(await self._fetch())
            except (TimeoutError, OSError, ValueError, jwt.PyJWTError) as error:
                _log.warning("jwks.unavailable", error=str(error)[:200], kind=type(error).__name__)
                return
            self._fetched = self._clock()
            self._failed = False


def _parse(data: bytes) -> list[jwt.PyJWK]:
    if len(data) > MAX_BYTES:
        raise ValueError(f"the key set has {len(data)} bytes; at most {MAX_BYTES} are read")
    document = msgspec.json.decode(data)
    members = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(members, list):
        raise ValueError("the key set has no list `keys`")
    keys: list[jwt.PyJWK] = []
    for member in members[:MAX_KEYS]:
        if (
            not isinstance(member, dict)
            or member.get("use", "sig") != "sig"
            or member.get("kty") == "oct"
        ):
            continue  # for encryption, or a secret that has no business in public
        try:
            keys.append(jwt.PyJWK(member))
        except jwt.PyJWTError:
            _log.warning("jwks.key_skipped", kid=str(member.get("kid"))[:64])
    if not keys:
        raise ValueError("the key set holds no key that can be used")
    return keys
