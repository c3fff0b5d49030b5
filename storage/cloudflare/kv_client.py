"""One namespace of Cloudflare KV, by its REST API or by our Worker, which speaks the same shapes.

Limits are those of Cloudflare's pages "Workers KV: Limits", "KV: bulk writes" and "API: rate
limits".
"""

import asyncio
from collections.abc import Callable, Sequence
from urllib.parse import quote

import msgspec
from msgspec import Struct

from tidings.storage.clock import SYSTEM_CLOCK
from tidings.storage.cloudflare.http import CloudflareAnswer, CloudflareHttp, TooManyRequests, parse
from tidings.storage.cloudflare.worker_api import explainer, health
from tidings.storage.errors import StorageError, StoreMisconfigured, StoreUnavailable
from tidings.storage.resilience.rate_limit import TokenBucket

REST = "https://api.cloudflare.com/client/v4"
KEYS_A_READ = 100
"""Keys in one bulk read."""


class Metadata(Struct, frozen=True, gc=False, omit_defaults=True):
    """What lies beside a value, at most 1,024 bytes: all that a listing needs.

    Short names, as they count.
    """

    v: str
    """Version (64 bits, which numbers of JavaScript do not have)."""
    s: str | None = None
    """Status; absent: a tombstone."""
    c: int | None = None
    """Created at, in ms."""
    u: int | None = None
    """Updated at, in ms."""
    x: int | None = None
    """Expires at, in ms."""
    o: str | None = None
    """Owner, percent-encoded: a KV binding carries metadata in a header."""
    m: str | None = None
    """Model, percent-encoded for the same reason."""
    cut: bool = False
    """Owner and model had no room; they are in the value alone."""


class Pair(Struct, frozen=True, gc=False, omit_defaults=True):
    """A key with its value, as a bulk write takes it."""

    key: str
    value: str
    metadata: Metadata | None = None
    expiration: int | None = None
    """Seconds since the epoch, at least 60 s ahead."""


class Value(Struct, frozen=True, gc=False):
    """A value as read."""

    value: str
    metadata: Metadata | None = None


class Key(Struct, frozen=True, gc=False):
    """A key as listed."""

    name: str
    metadata: Metadata | None = None


class _Values(Struct, frozen=True):
    values: dict[str, Value | None]


class _Read(Struct, frozen=True):
    result: _Values


class _Written(Struct, frozen=True):
    unsuccessful_keys: list[str] = []


class _Bulk(Struct, frozen=True):
    result: _Written | None = None


class _Info(Struct, frozen=True):
    cursor: str = ""


class _Keys(Struct, frozen=True):
    result: list[Key]
    result_info: _Info = _Info()


class _Error(Struct, frozen=True):
    code: int = 0
    message: str = ""


class _Errors(Struct, frozen=True):
    errors: list[_Error] = []


_read = msgspec.json.Decoder(_Read)
_bulk = msgspec.json.Decoder(_Bulk)
_keys = msgspec.json.Decoder(_Keys)


class KvNamespace:
    """Bulk reads, writes and listings of one namespace.

    Args:
        http: to the REST API's namespace, or to the Worker.
        path: what comes before each route.
        bucket: what keeps within the limit of requests; None: there is none.
        pairs: keys that one bulk write takes.
        size: bytes that one bulk write takes.
        at_once: bulk writes that may be under way at once.
        patience: seconds that a call may wait for its turn.
    """

    def __init__(
        self,
        http: CloudflareHttp,
        path: str,
        *,
        bucket: TokenBucket | None,
        pairs: int,
        size: int,
        at_once: int,
        patience: float = 10.0,
    ) -> None:
        self._http = http
        self._path = path
        self._bucket = bucket
        self.pairs = pairs
        self.size = size
        self.at_once = at_once
        self._patience = patience
        self._closed_until = 0.0

    @classmethod
    async def by_rest(
        cls,
        account: str,
        namespace: str,
        token: str,
        base_url: str,
        *,
        requests: int,
        timeout: float,
    ) -> "KvNamespace":
        """A namespace by the REST API, made sure of by one request.

        Raises as `CloudflareKvStore.open`.
        """
        url = f"{base_url.rstrip('/')}/accounts/{quote(account, safe='')}/storage/kv/namespaces/{quote(namespace, safe='')}"
        http = CloudflareHttp(url, token, _rest_explainer(account, namespace), timeout=timeout)
        # A bulk write takes 10,000 pairs and 100 MB; JSON escapes make values longer.
        bucket = TokenBucket.within(requests, 300.0, SYSTEM_CLOCK.monotonic())
        found = cls(
            http, "", bucket=bucket, pairs=10_000, size=40_000_000, at_once=1, patience=timeout
        )
        try:
            await found._call("GET", "")
        except StorageError:
            await http.close()
            raise
        return found

    @classmethod
    async def by_worker(cls, url: str, token: str, *, timeout: float) -> "KvNamespace":
        """The namespace bound to our Worker; raises as `CloudflareKvStore.open`."""
        http = CloudflareHttp(url, token, explainer(url), timeout=timeout)
        try:
            if not (await health(http)).kv:
                raise StoreMisconfigured(
                    f"the Worker at {url} has no KV namespace: bind one as KV in wrangler.jsonc"
                )
        except StorageError:
            await http.close()
            raise
        # A Worker may make 1,000 calls for one request, and writes pair by pair.
        return cls(
            http, "/v1/kv", bucket=None, pairs=500, size=16_000_000, at_once=4, patience=timeout
        )

    @property
    def way(self) -> str:
        """How it is reached, for people."""
        return (
            "Cloudflare's REST API"
            if self._bucket is not None
            else f"the Worker at {self._http.base_url}"
        )

    @property
    def skew(self) -> dict[str, str]:
        """See `CloudflareHttp.skew`."""
        return self._http.skew

    async def read(self, keys: Sequence[str]) -> dict[str, Value]:
        """The values that are there, with their metadata."""
        found: dict[str, Value] = {}
        for start in range(0, len(keys), KEYS_A_READ):
            body = msgspec.json.encode(
                {"keys": keys[start : start + KEYS_A_READ], "withMetadata": True}
            )
            answer = parse(_read, await self._call("POST", "/bulk/get", body))
            found.update(
                (key, value) for key, value in answer.result.values.items() if value is not None
            )
        return found

    async def put(self, pairs: Sequence[Pair]) -> list[str]:
        """Write at most `pairs` pairs.

        Return the keys that were not taken (written too often, mostly).
        """
        return _unsuccessful(await self._call("PUT", "/bulk", msgspec.json.encode(pairs)))

    async def delete(self, keys: Sequence[str]) -> list[str]:
        """Delete at most `pairs` keys; return those that were not deleted."""
        return _unsuccessful(await self._call("POST", "/bulk/delete", msgspec.json.encode(keys)))

    async def keys(self, prefix: str, cursor: str) -> tuple[list[Key], str]:
        """A page of at most 1,000 keys in the order of their bytes, and the cursor of the next (empty: the last)."""
        params = {"prefix": prefix, "limit": "1000"} | ({"cursor": cursor} if cursor else {})
        answer = parse(_keys, await self._call("GET", "/keys", params=params))
        return answer.result, answer.result_info.cursor

    async def close(self) -> None:
        """Close the connections. Idempotent."""
        await self._http.close()

    async def _call(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        params: dict[str, str] | None = None,
    ) -> bytes:
        await self._turn()
        try:
            return await self._http.call(method, self._path + path, body, params)
        except TooManyRequests as refusal:
            # Cloudflare's answers are refusals for all of its pause; each further request may
            # prolong it.
            self._closed_until = SYSTEM_CLOCK.monotonic() + (refusal.after or 1.0)
            raise

    async def _turn(self) -> None:
        closed = self._closed_until - SYSTEM_CLOCK.monotonic()
        if closed > 0:
            raise TooManyRequests(
                f"Cloudflare refuses requests for another {closed:.0f} s (429)", closed
            )
        if self._bucket is None:
            return
        wait = self._bucket.reserve(SYSTEM_CLOCK.monotonic())
        if wait > self._patience:
            self._bucket.give_back()
            raise StoreUnavailable(
                f"the limit of requests to Cloudflare is used up; the next is free in {wait:.0f} s"
            )
        await asyncio.sleep(wait)


def _unsuccessful(answer: bytes) -> list[str]:
    result = parse(_bulk, answer).result
    return [] if result is None else result.unsuccessful_keys


def _rest_explainer(account: str, namespace: str) -> Callable[[CloudflareAnswer], StorageError]:
    def explain(answer: CloudflareAnswer) -> StorageError:
        try:
            errors = msgspec.json.decode(answer.body, type=_Errors).errors
        except msgspec.DecodeError:
            errors = []
        reasons = (
            "; ".join(f"{error.message} ({error.code})" for error in errors) or "no reason given"
        )
        text = f"Cloudflare KV answers {answer.status}: {reasons}"
        if answer.status in (401, 403):
            return StoreMisconfigured(
                f"{text}; set TIDINGS_CLOUDFLARE_TOKEN to a token with the permission Workers KV Storage: Edit"
            )
        if answer.status == 404:
            return StoreMisconfigured(
                f"{text}; is {namespace!r} a namespace of the account {account!r}?"
            )
        if answer.status == 429:
            return TooManyRequests(text, answer.retry_after)
        return StoreUnavailable(text) if answer.status >= 500 else StorageError(text)

    return explain
