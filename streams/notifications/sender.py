"""Sends one webhook as Standard Webhooks describes it, and says what became of it.

No redirect is followed: the address that was named is the one that is told (Standard Webhooks,
"Operational considerations": 3xx counts as a failure).
"""

import time
from collections.abc import Collection, Sequence
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING

import aiohttp
from aiohttp.abc import AbstractResolver
from msgspec import Struct

from tidings.streams.archive.guarded_http import (
    Forbidden,
    GuardedSessions,
    forbidden_within,
    parse_url,
)
from tidings.streams.providers.signatures.standard_webhooks import sign

if TYPE_CHECKING:
    import ssl

TIMEOUT = 15.0
"""Seconds for the whole answer; Standard Webhooks recommends 15 to 30."""
CONNECT = 10.0
LONGEST_WAIT = 24 * 3600.0
"""Seconds that `Retry-After` may ask for."""
_GONE = 410
_LATER = frozenset({429, 503})


class Sent(Struct, frozen=True):
    """What became of a try."""

    status: int | None = None
    """Of the answer; None: there was none."""
    error: str | None = None
    """Why it failed; None: it was taken (2xx)."""
    final: bool = False
    """No later try can work: the address is gone, or none that may be told."""
    retry_after: float | None = None
    """Seconds, if the answer says so."""


class WebhookSender:
    """Posts signed bodies; one for the life of a process, opened in its event loop.

    Args:
        secrets: Each signs every body, so a receiver may know the old one or the new one.
        allow: `host:port` that may be reached although private, and by http.
        timeout: Seconds for an answer.
        resolver: Instead of the system's.
        tls: Instead of the system's certificates.
    """

    def __init__(
        self,
        secrets: Sequence[bytes],
        allow: Collection[str] = (),
        *,
        timeout: float = TIMEOUT,
        resolver: AbstractResolver | None = None,
        tls: "ssl.SSLContext | None" = None,
    ) -> None:
        self._secrets = tuple(secrets)
        self._timeout = timeout
        self._sessions = GuardedSessions(
            allow,
            timeout=aiohttp.ClientTimeout(total=timeout, sock_connect=min(CONNECT, timeout)),
            concurrency=0,  # the dispatcher bounds them, by address
            headers={"User-Agent": "tidings", "Content-Type": "application/json"},
            resolver=resolver,
            tls=tls,
        )

    async def close(self) -> None:
        """Close all connections."""
        await self._sessions.close()

    async def send(self, url: str, message_id: str, body: bytes) -> Sent:
        """Post a body once."""
        try:
            target = parse_url(url)
            session = self._sessions.session_for(target)
            async with session.post(
                target, data=body, headers=self._proof(message_id, body), allow_redirects=False
            ) as response:
                return _judged(response)
        except Forbidden as error:
            return Sent(error=str(error), final=True)
        except TimeoutError:
            return Sent(error=f"no answer within {self._timeout:g} s")
        except (aiohttp.ClientError, OSError, ValueError) as error:
            if (forbidden := forbidden_within(error)) is not None:
                return Sent(error=str(forbidden), final=True)
            reason = " ".join(str(error).replace(" ssl:default", "").split())[:200]
            reason = reason or type(error).__name__
            return Sent(error=f"it cannot be reached: {reason}")

    def _proof(self, message_id: str, body: bytes) -> dict[str, str]:
        now = int(time.time())
        signed = b"%b.%d.%b" % (message_id.encode(), now, body)
        signatures = (f"v1,{sign(secret, signed).decode()}" for secret in self._secrets)
        return {
            "webhook-id": message_id,
            "webhook-timestamp": str(now),
            "webhook-signature": " ".join(signatures),
        }


def _judged(response: aiohttp.ClientResponse) -> Sent:
    status = response.status
    if 200 <= status < 300:
        return Sent(status)
    if status == _GONE:
        return Sent(status, "it answers 410: it is gone", final=True)
    wait = retry_after(response.headers.get("Retry-After")) if status in _LATER else None
    return Sent(status, f"it answers {status}", retry_after=wait)


def retry_after(text: str | None) -> float | None:
    """Seconds to wait, from a header in seconds or as a date (RFC 9110, 10.2.3)."""
    if text is None:
        return None
    text = text.strip()
    if text.isascii() and text.isdigit():
        return min(float(text[:9]), LONGEST_WAIT)
    try:
        seconds = parsedate_to_datetime(text).timestamp() - time.time()
    except (ValueError, TypeError, OverflowError):
        return None
    return min(max(seconds, 0.0), LONGEST_WAIT)
