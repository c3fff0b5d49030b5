"""Public keys from a JWKS (RFC 7517).

Fetched, kept, fetched again for a new one, and still good in an outage.

One `KeySet` serves both floors. A token of a client may wait for its key (`find`). A webhook is
proven at once, with the keys that are there (`ed25519`, `rsa`), and `keep_fresh` fetches in the
background.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping

import jwt
import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from tidings.storage.clock import SYSTEM_CLOCK, Clock
from tidings.storage.loggers import get_logger
from tidings.storage.proxies import by_way_of, calls_this_machine
from tidings.storage.redaction import error_text, redact
from tidings.storage.resilience.backoff import Backoff, Failures
from tidings.streams.providers.protocol import KeysUnavailable, Provider
from tidings.streams.providers.signatures.ed25519 import PublicKey

FRESH = 600.0
"""Seconds that a key set is taken as it is if a token asks for a key."""
PAUSE = 10.0
"""Seconds between two fetches that tokens ask for: made-up key ids must not turn into requests to
the issuer."""
MAX_AGE = 24 * 3600.0
"""Seconds after which the keys of webhooks are fetched again; fal's documentation allows no
longer."""
AFTER_MISS = 30.0
"""Seconds between two fetches that webhooks ask for, so that forged ones cannot make us flood a
provider."""
RETRY = Backoff.doubling(1.0, 300.0, jitter=0)
TIME_LIMIT = 5.0
MAX_DOCUMENT = 1024 * 1024
MAX_KEYS = 100
MIN_RSA_BITS = 2048
"""For webhooks (RFC 7518, 3.3)."""

Fetch = Callable[[str], Awaitable[bytes]]
"""Gets the document at a URL; raises OSError or ValueError."""

logger = get_logger(__name__)


async def fetch_document(url: str) -> bytes:
    """The document at a URL, within `TIME_LIMIT` and `MAX_DOCUMENT`; redirects are not followed.

    Raises:
        OSError: It cannot be had.
        ValueError: It is too large, or the answer is no document.
    """
    import httpx  # a tenth of a service's start, for those alone who fetch keys

    shown = redact(url)
    try:
        async with (
            asyncio.timeout(TIME_LIMIT),
            httpx.AsyncClient(trust_env=not calls_this_machine(url)) as client,
            client.stream("GET", url, headers={"Accept": "application/json"}) as answer,
        ):
            if answer.status_code != 200:
                raise ValueError(f"{shown} answered {answer.status_code}")
            document = bytearray()
            async for chunk in answer.aiter_bytes():
                document += chunk
                if len(document) > MAX_DOCUMENT:
                    raise ValueError(f"{shown} gives more than {MAX_DOCUMENT} bytes")
            return bytes(document)
    except (httpx.HTTPError, httpx.InvalidURL, TimeoutError) as error:
        raise OSError(f"{shown} cannot be had{by_way_of(url)}: {error_text(error)}") from None


class KeySet:
    """The keys at a JWKS URL, replaced as a whole by each fetch.

    Args:
        url: Where the document is.
        fetch: How it is had.
        clock: For the age of the keys.
    """

    def __init__(
        self, url: str, fetch: Fetch = fetch_document, clock: Clock = SYSTEM_CLOCK
    ) -> None:
        self.url = url
        self.fetched_at: float | None = None
        """When the keys were fetched, on the monotonic clock; None: never."""
        self._fetch, self._clock = fetch, clock
        self._keys: tuple[jwt.PyJWK, ...] = ()
        self._ed25519: tuple[PublicKey, ...] = ()
        self._tried_at = float("-inf")
        self._failed = False
        """Whether the last fetch did: a key that is not known may have been published since."""
        self._lock = asyncio.Lock()
        self._refreshing: asyncio.Task[None] | None = None
        self._missed = asyncio.Event()

    def load(self, document: bytes) -> None:
        """Take the keys out of a fetched document.

        Raises:
            ValueError: It is no JWKS, or has no key that can be used; the keys stay as they were.
        """
        self._keys = _parse(self.url, document)
        self._ed25519 = tuple(
            PublicKey(key.key.public_bytes_raw())
            for key in self._keys
            if isinstance(key.key, Ed25519PublicKey)
        )
        self.fetched_at = self._clock.monotonic()

    # ---- for tokens, which may wait ----

    async def find(self, key_id: str | None) -> list[jwt.PyJWK]:
        """The keys that a token may be signed with.

        The one of this id, or all if the token names none.

        Raises:
            KeysUnavailable: They cannot be had.
        """
        if self.fetched_at is None:
            await self._refresh_if_allowed()
        elif self._clock.monotonic() - self.fetched_at > FRESH and not self._under_way():
            # Nobody waits for it: known keys go on working, whatever has become of the issuer.
            self._refreshing = asyncio.create_task(self._refresh_if_allowed())
        found = self._matching(key_id)
        if not found:
            # A key that came with a rotation: with this fetch, or with one that is under way.
            await self._refresh_if_allowed()
            found = self._matching(key_id)
        if self.fetched_at is None or (self._failed and not found):
            raise KeysUnavailable("the issuer's keys cannot be fetched")
        return found

    def _matching(self, key_id: str | None) -> list[jwt.PyJWK]:
        return [key for key in self._keys if key_id is None or key.key_id == key_id]

    def _under_way(self) -> bool:
        return self._refreshing is not None and not self._refreshing.done()

    async def _refresh_if_allowed(self) -> None:
        async with self._lock:
            # Somebody else may have tried while this one waited for the lock, or a moment ago.
            if self._clock.monotonic() - self._tried_at >= PAUSE:
                await self._refresh()

    # ---- for webhooks, which are proven at once ----

    def ed25519(self) -> tuple[PublicKey, ...]:
        """The Ed25519 keys. Raises `KeysUnavailable` if nothing was fetched yet."""
        self._check_fetched()
        return self._ed25519

    def rsa(self, kid: str | None) -> RSAPublicKey | None:
        """The RSA key of this id, or the only one if none is named. Raises `KeysUnavailable`."""
        self._check_fetched()
        keys = [
            key.key
            for key in self._matching(kid)
            if isinstance(key.key, RSAPublicKey) and key.key.key_size >= MIN_RSA_BITS
        ]
        return keys[0] if len(keys) == 1 or (keys and kid is not None) else None

    def missed(self) -> None:
        """Say that no key proved a webhook: they may have been rotated."""
        self._missed.set()

    def _check_fetched(self) -> None:
        if self.fetched_at is None:
            self.missed()
            raise KeysUnavailable("the provider's public keys have not been fetched yet")

    async def keep_fresh(self, after_miss: float = AFTER_MISS) -> None:
        """Fetch the keys now, once a day, and soon after a miss, until cancelled.

        Args:
            after_miss: Seconds between two fetches at least.
        """
        failures = Failures(RETRY)
        while True:
            self._missed.clear()
            if not await self._refresh():
                await asyncio.sleep(failures.next_wait())
                continue
            failures.clear()
            await asyncio.sleep(after_miss)
            try:
                async with asyncio.timeout(MAX_AGE - after_miss):
                    await self._missed.wait()
            except TimeoutError:
                continue

    async def _refresh(self) -> bool:
        """Fetch the document and load it; False: the keys stay as they were."""
        self._tried_at = self._clock.monotonic()
        self._failed = True
        try:
            async with asyncio.timeout(TIME_LIMIT):
                document = await self._fetch(self.url)
            self.load(document)
        except (OSError, ValueError, TimeoutError) as error:
            logger.warning("jwks.unavailable", url=redact(self.url), error=error_text(error))
            return False
        self._failed = False
        logger.info("jwks.fetched", url=redact(self.url), keys=len(self._keys))
        return True


def key_sets(providers: Mapping[str, Provider]) -> list[KeySet]:
    """The key sets that these providers need kept fresh."""
    found = (getattr(provider, "key_set", None) for provider in providers.values())
    return [one for one in found if isinstance(one, KeySet)]


async def keep_all_fresh(sets: Iterable[KeySet]) -> None:
    """Keep several key sets fresh until cancelled."""
    async with asyncio.TaskGroup() as group:
        for key_set in sets:
            group.create_task(key_set.keep_fresh())


def _parse(url: str, data: bytes) -> tuple[jwt.PyJWK, ...]:
    if len(data) > MAX_DOCUMENT:
        raise ValueError(f"{redact(url)} gives more than {MAX_DOCUMENT} bytes")
    try:
        document = msgspec.json.decode(data)
    except (msgspec.DecodeError, RecursionError) as error:
        raise ValueError(f"{redact(url)} gives no key set: {error}") from None
    members = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(members, list):
        raise ValueError(f"{redact(url)} gives no key set: it has no list `keys`")
    keys: list[jwt.PyJWK] = []
    for member in members[:MAX_KEYS]:
        # Not those for encryption, nor a symmetric one: a secret has no business in public.
        if not isinstance(member, dict) or member.get("use", "sig") != "sig":
            continue
        if member.get("kty") == "oct":
            continue
        try:
            keys.append(jwt.PyJWK(member))
        except (jwt.PyJWTError, ValueError, TypeError, AttributeError, KeyError):
            logger.warning("jwks.key_skipped", kid=str(member.get("kid"))[:64])
    if not keys:
        raise ValueError(f"{redact(url)} gives no key that can be used")
    return tuple(keys)
