"""The client's token: where it comes from, and when it has to be renewed."""

import base64
import binascii
import inspect
from collections.abc import Awaitable, Callable

import msgspec
from msgspec import Struct

Token = str | Callable[[], str | Awaitable[str]]
"""A token, or what brings a new one whenever it is asked."""

EARLY = 30.0
"""Seconds before its expiry that a token is renewed on an open connection; a tenth of its life
if that is less."""


class _Claims(Struct):
    exp: float | None = None


class TokenSource:
    """Keeps the newest token and asks for the next one.

    The watches and requests of a client share it.
    """

    def __init__(self, token: Token | None) -> None:
        self._token = token
        self._current = token if isinstance(token, str) else None

    @property
    def renewable(self) -> bool:
        """Whether there is anybody to ask for another token."""
        return callable(self._token)

    async def current(self) -> str | None:
        """The newest token; asks for the first one. None: there is none."""
        if self._current is None:
            await self.renew(None)
        return self._current

    async def renew(self, shown: str | None) -> bool:
        """Have a token in place of the one that was shown; return whether it is another.

        Nobody is asked if another watch or request has had it renewed since.
        """
        if self._current == shown and callable(self._token):
            answer = self._token()
            self._current = await answer if inspect.isawaitable(answer) else answer
        return self._current != shown


def renewal_time(token: str, now: float) -> float | None:
    """When to renew a JWT that the service takes (seconds since the epoch).

    None: it does not say when it expires, or seems to have done so already: then the clock here is
    wrong, and the service says when it is time.
    """
    parts = token.split(".")
    if len(parts) != 3:
        return None
    try:
        claims = msgspec.json.decode(
            base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)), type=_Claims
        )
    except (binascii.Error, ValueError, msgspec.DecodeError):
        return None
    if claims.exp is None or claims.exp <= now:
        return None
    return claims.exp - min(EARLY, (claims.exp - now) / 10)
