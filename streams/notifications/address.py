"""The addresses that are told, sealed: a record shows the host, and only the notifier can read the rest.

The path and the query of a webhook's address are often a secret. They are encrypted before they
enter the log, so no store, no topic and no reader of a record holds them in clear. The encryption
is deterministic (AES-SIV, RFC 5297): the same order has the same bytes, so a repeated request stays
the same order and a replay gives the same record.
"""

import hmac
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Collection
from hashlib import sha512

from msgspec import Struct
from yarl import URL

from tidings.streams.archive.guarded_http import Forbidden, check_url, parse_url

MAX_URL = 2048
"""Characters of an address, as most servers and proxies take them."""
_TARGET_DIGITS = 16


class BadAddress(ValueError):
    """No webhook can be sent to this address; the message says why, and holds no secret of it."""


class Sealed(Struct, frozen=True):
    """An address in a record, and in the deliveries."""

    host: str
    """What is shown: the host, and the port if it is not the scheme's own."""
    sealed: str
    """The whole address, encrypted; URL-safe base64."""


class AddressBook:
    """Seals addresses and opens them again.

    Args:
        key: `TIDINGS_WEBHOOK_KEY`.
        allow: `host:port` that may be told although private, and by http.
    """

    def __init__(self, key: bytes, allow: Collection[str] = ()) -> None:
        from cryptography.hazmat.primitives.ciphers.aead import AESSIV

        self._cipher = AESSIV(hmac.digest(key, b"tidings webhook addresses", sha512))
        self._names = hmac.digest(key, b"tidings webhook targets", sha512)
        self._allow = frozenset(place.lower() for place in allow)

    def seal(self, url: str) -> Sealed:
        """The address as a record holds it.

        Raises:
            BadAddress: It is none that a webhook is sent to.
        """
        if not 0 < len(url) <= MAX_URL:
            raise BadAddress(f"an address has 1 to {MAX_URL} characters, this one {len(url)}")
        try:
            parsed = parse_url(url)
            check_url(parsed, self._allow)
        except Forbidden as error:
            raise BadAddress(str(error)) from None
        sealed = self._cipher.encrypt(url.encode(), None)
        return Sealed(_shown(parsed), urlsafe_b64encode(sealed).rstrip(b"=").decode())

    def open(self, address: Sealed) -> str:
        """The whole address.

        Raises:
            BadAddress: It was sealed with another key, or by nobody.
        """
        from cryptography.exceptions import InvalidTag

        try:
            data = urlsafe_b64decode(address.sealed + "=" * (-len(address.sealed) % 4))
            return self._cipher.decrypt(data, None).decode()
        except (InvalidTag, ValueError):
            raise BadAddress(
                f"the address at {address.host[:64]} cannot be read: it was sealed with another "
                "TIDINGS_WEBHOOK_KEY"
            ) from None

    def target(self, address: Sealed) -> str:
        """A short name of the address, which tells nothing about it."""
        return hmac.digest(self._names, address.sealed.encode(), "sha256").hex()[:_TARGET_DIGITS]


def _shown(url: URL) -> str:
    host = url.raw_host or ""
    return host if url.is_default_port() else f"{host}:{url.port}"
