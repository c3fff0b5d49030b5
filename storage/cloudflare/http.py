"""HTTP to Cloudflare, be it our Worker or the REST API.

Connections, time limits, repeats, and errors told apart.
"""

import asyncio
import time
from collections.abc import Callable, Mapping
from email.utils import parsedate_to_datetime
from typing import TypeVar

import aiohttp
import msgspec
from msgspec import Struct

from tidings.storage.errors import StorageError, StoreUnavailable
from tidings.storage.proxies import by_way_of, proxy_for
from tidings.storage.resilience.backoff import Backoff

T = TypeVar("T")

ATTEMPTS = 3
"""Tries of one call. A connection that the server has closed meanwhile fails at once, so repeats
cost little."""

BACKOFF = Backoff((0.075, 0.15), jitter=2 / 3)
"""Before the second and the third try: 50 and 100 ms on average."""

CONNECTIONS = 32


class CloudflareAnswer(Struct, frozen=True):
    """What came back.

    The status and the body, and how long to wait if the server named a time.
    """

    status: int
    body: bytes
    retry_after: float | None = None

    @property
    def ok(self) -> bool:
        """Whether the status is a success."""
        return 200 <= self.status < 300


class TooManyRequests(StoreUnavailable):
    """The server asks for a pause (429); `after` is how long, in seconds, if it said so."""

    def __init__(self, message: str, after: float | None) -> None:
        super().__init__(message)
        self.after = after


class CloudflareHttp:
    """Calls to one base URL with a bearer token.

    Args:
        base_url: with scheme, without a trailing slash; calls append their path.
        token: sent as `Authorization: Bearer`; never logged.
        explain: makes the error for an answer that is neither a success nor worth another try.
        timeout: seconds that one call may take, repeats included.
        headers: sent with each call as well.
    """

    def __init__(
        self,
        base_url: str,
        token: str,
        explain: Callable[[CloudflareAnswer], StorageError],
        *,
        timeout: float = 10.0,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self.base_url = base_url.rstrip("/")
        self._headers = {
            "authorization": f"Bearer {token}",
            "content-type": "application/json",
            **(headers or {}),
        }
        self._explain = explain
        self._timeout = timeout
        self._session: aiohttp.ClientSession | None = None
        self._proxy = proxy_for(base_url)
        self._dated: tuple[str, float] | None = None

    @property
    def skew(self) -> dict[str, str]:
        """As a fact of the store.

        Ms that the server's clock is ahead by the last answer's `Date`; nothing without one.

        The header counts whole seconds (RFC 9110, section 5.6.7), so half a second either way means
        nothing.
        """
        if self._dated is None:
            return {}
        text, at = self._dated
        try:
            ahead = parsedate_to_datetime(text).timestamp() + 0.5 - at
        except ValueError:
            return {}
        return {"clock skew (ms)": f"{ahead * 1000:.0f}" if abs(ahead) > 0.5 else "0"}

    async def call(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        params: Mapping[str, str] | None = None,
        again: Callable[[], bytes] | None = None,
    ) -> bytes:
        """Make one call that may be repeated without harm; return the body of its success.

        Args:
            method: of HTTP.
            path: appended to the base URL, percent-encoded.
            body: JSON.
            params: of the query.
            again: makes the body of a repeat if that one says that it is one.

        Raises:
            StoreUnavailable: Nobody answers, not in time, or with a failure that a later try may
                not meet.
            StorageError: As `explain` made it.
        """
        try:
            async with asyncio.timeout(self._timeout):
                return await self._repeat(method, path, body, params, again)
        except TimeoutError:
            raise StoreUnavailable(
                f"{self.base_url} has not answered {method} {path} in {self._timeout:g} s"
            ) from None

    async def _repeat(
        self,
        method: str,
        path: str,
        body: bytes | None,
        params: Mapping[str, str] | None,
        again: Callable[[], bytes] | None,
    ) -> bytes:
        for attempt in range(1, ATTEMPTS + 1):
            try:
                answer = await self._once(method, path, body, params)
            except (aiohttp.ClientError, OSError) as error:
                failure = StoreUnavailable(
                    f"{self.base_url} cannot be reached{by_way_of(self.base_url)}: {type(error).__name__}: {error}"
                )
            else:
                if answer.ok:
                    return answer.body
                refusal = self._explain(answer)
                # A server that is overloaded must not be asked again at once.
                if not isinstance(refusal, StoreUnavailable) or answer.status == 429:
                    raise refusal
                failure = refusal
            if again is not None:
                body = again()
            if attempt < ATTEMPTS:
                await asyncio.sleep(BACKOFF.wait(attempt))
        raise failure

    async def _once(
        self, method: str, path: str, body: bytes | None, params: Mapping[str, str] | None
    ) -> CloudflareAnswer:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                headers=self._headers,
                connector=aiohttp.TCPConnector(limit=CONNECTIONS),
                timeout=aiohttp.ClientTimeout(total=None),
                auto_decompress=True,
            )
        url = f"{self.base_url}{path}"
        async with self._session.request(
            method, url, data=body, params=params, allow_redirects=False, proxy=self._proxy
        ) as response:
            if (date := response.headers.get("date")) is not None:
                self._dated = date, time.time()
            return CloudflareAnswer(
                response.status,
                await response.read(),
                _seconds(response.headers.get("retry-after")),
            )

    async def close(self) -> None:
        """Close the connections. Idempotent."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()


def parse(decoder: msgspec.json.Decoder[T], body: bytes) -> T:
    """The answer in these bytes.

    Raises:
        StoreUnavailable: They are something else: what stands between answered in the server's
            place.
    """
    try:
        return decoder.decode(body)
    except msgspec.DecodeError as error:
        raise StoreUnavailable(
            f"an answer of another shape than Cloudflare's, maybe a proxy's: {error}"
        ) from None


def _seconds(text: str | None) -> float | None:
    try:
        return None if text is None else max(0.0, float(text))
    except ValueError:
        return None  # A date: RFC 9110 allows it, Cloudflare sends seconds.
