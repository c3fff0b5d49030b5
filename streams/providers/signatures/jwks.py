"""A provider's public keys as a JWKS (RFC 7517) gives them, kept between fetches. Pure: somebody else fetches.

The last good keys go on proving webhooks while the provider's document cannot be had.
"""

import binascii
from collections.abc import Callable, Iterable, Mapping

import msgspec
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey, RSAPublicNumbers
from msgspec import Struct

from tidings.streams.providers.protocol import KeysUnavailable, Provider
from tidings.streams.providers.signatures import ed25519

MAX_AGE = 24 * 3600.0
"""Seconds after which keys are fetched again; fal's documentation allows no longer."""

MIN_RSA_BITS = 2048

PublicKey = ed25519.PublicKey | RSAPublicKey


class _Key(Struct, frozen=True):
    kty: str
    kid: str | None = None
    crv: str | None = None
    x: str | None = None
    n: str | None = None
    e: str | None = None
    use: str | None = None


class _Document(Struct, frozen=True):
    keys: tuple[_Key, ...]


_document = msgspec.json.Decoder(_Document)


class KeySet:
    """The keys of one provider, replaced as a whole by each fetch."""

    def __init__(self, url: str) -> None:
        self.url = url
        """Where the document is."""
        self.fetched_at: float | None = None
        """When these keys were fetched, in seconds since the epoch; None: never."""
        self.on_miss: Callable[[], None] | None = None
        """Called where a webhook is proven by none of the keys: they may have been rotated."""
        self._keys: tuple[tuple[str | None, PublicKey], ...] = ()

    def load(self, document: bytes, now: float) -> None:
        """Take the keys out of a fetched document; keys of kinds that nobody here uses are left out.

        Raises:
            ValueError: It is no JWKS, or has no key that can be used; the keys stay as they were.
        """
        try:
            found = [
                (key.kid, public)
                for key in _document.decode(document).keys
                if (public := _public(key))
            ]
        except (msgspec.DecodeError, RecursionError) as error:
            raise ValueError(f"{self.url} gives no key set: {error}") from None
        if not found:
            raise ValueError(
                f"{self.url} gives no Ed25519 or RSA key of {MIN_RSA_BITS} bits or more"
            )
        self._keys = tuple(found)
        self.fetched_at = now

    def ed25519(self) -> list[ed25519.PublicKey]:
        """The Ed25519 keys. Raises `KeysUnavailable` where nothing was fetched yet."""
        return [key for _, key in self._all() if isinstance(key, ed25519.PublicKey)]

    def rsa(self, kid: str | None) -> RSAPublicKey | None:
        """The RSA key of this id, or the only one where none is named. Raises `KeysUnavailable`."""
        keys = [(name, key) for name, key in self._all() if isinstance(key, RSAPublicKey)]
        if kid is None:
            return keys[0][1] if len(keys) == 1 else None
        return next((key for name, key in keys if name == kid), None)

    def missed(self) -> None:
        """Say that no key proved a webhook."""
        if self.on_miss is not None:
            self.on_miss()

    def _all(self) -> Iterable[tuple[str | None, PublicKey]]:
        if not self._keys:
            self.missed()
            raise KeysUnavailable(f"the public keys at {self.url} have not been fetched yet")
        return self._keys


def key_sets(providers: Mapping[str, Provider]) -> list[KeySet]:
    """The key sets that these providers need kept fresh."""
    found = (getattr(provider, "key_set", None) for provider in providers.values())
    return [one for one in found if isinstance(one, KeySet)]


def _public(key: _Key) -> PublicKey | None:
    if key.use not in (None, "sig"):
        return None
    try:
        if key.kty == "OKP" and key.crv == "Ed25519" and key.x is not None:
            return ed25519.PublicKey(base64url(key.x))
        if key.kty == "RSA" and key.n is not None and key.e is not None:
            n, e = int.from_bytes(base64url(key.n)), int.from_bytes(base64url(key.e))
            return RSAPublicNumbers(e, n).public_key() if n.bit_length() >= MIN_RSA_BITS else None
    except ValueError:
        return None
    return None


def base64url(text: str) -> bytes:
    """Decode base64url, padded or not (RFC 7515, appendix C). Raises ValueError."""
    bare = text.rstrip("=").replace("-", "+").replace("_", "/")
    return binascii.a2b_base64((bare + "=" * (-len(bare) % 4)).encode("ascii"), strict_mode=True)
