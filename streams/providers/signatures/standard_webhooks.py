"""Standard Webhooks: the signature that Replicate, OpenAI, Gemini, Svix and many others share.

Pure. The signed bytes are `{id}.{timestamp}.{body}`; `v1` is HMAC-SHA256, `v1a` Ed25519. Rules: the
Standard Webhooks specification, "Signature scheme" and "Verifying signatures".
"""

import binascii
import hashlib
import hmac
from base64 import b64encode
from collections.abc import Mapping, Sequence
from functools import lru_cache

from msgspec import Struct

from tidings.streams.providers.configuration import BadConfiguration, Configuration, setting_name
from tidings.streams.providers.manifest import Unsigned
from tidings.streams.providers.protocol import BadSignature, UnprovenByHeaders
from tidings.streams.providers.signatures.ed25519 import PublicKey

TOLERANCE = 300.0
"""Seconds, past and future: what the reference libraries use."""

MAX_SIGNATURES = 32
"""Signatures of a known version tried per webhook: each costs a comparison or 100 microseconds of
Ed25519."""

MAX_TIMESTAMP_DIGITS = 12

MIN_SECRET = 24
"""Bytes of a secret at least (Standard Webhooks, "Signature scheme": between 24 and 64)."""

_BLOCK = 64
"""Bytes of a block of SHA-256."""

_SECRET = "whsec_"  # noqa: S105 - the prefix of a secret
_PUBLIC = "whpk_"


class StandardWebhooks(Struct, frozen=True):
    """The keys that prove a webhook, several while they rotate."""

    secrets: tuple[bytes, ...]
    """For `v1`."""
    public_keys: tuple[PublicKey, ...] = ()
    """For `v1a`."""
    tolerance: float = TOLERANCE

    def __repr__(self) -> str:
        """Count the keys and show none."""
        return f"StandardWebhooks({len(self.secrets)} secrets, {len(self.public_keys)} public keys)"

    def verify(self, headers: Mapping[str, str], body: bytes, now: float) -> str:
        """Prove the webhook; returns its id, which stays the same over retries.

        Args:
            headers: Names in lower case.
            body: As received.
            now: Seconds since the epoch.

        Raises:
            BadSignature: A header is missing or cannot be read, the time is out of tolerance, or no
                signature matches.
        """
        get = headers.get
        signatures = get("webhook-signature")
        if signatures is not None:
            identity, timestamp = get("webhook-id"), get("webhook-timestamp")
        else:
            identity, timestamp, signatures = (
                get("svix-id"),
                get("svix-timestamp"),
                get("svix-signature"),
            )
        if not identity or not timestamp or not signatures:
            raise UnprovenByHeaders("webhook-id, webhook-timestamp or webhook-signature is missing")
        check_timestamp(timestamp, now, self.tolerance)
        signed = b".".join((header_bytes(identity), timestamp.encode("ascii"), body))
        if not self._any_matches(header_bytes(signatures), signed):
            raise BadSignature("no signature matches; compare the secret with the provider's")
        return identity

    def _any_matches(self, signatures: bytes, signed: bytes) -> bool:
        # The ordinary header is one signature by the first secret: compared as a whole, without
        # taking it apart.
        expected = [sign(secret, signed) for secret in self.secrets[:1]]
        if expected and hmac.compare_digest(signatures, b"v1," + expected[0]):
            return True
        tried = 0
        for entry in signatures.split(b" "):
            version, _, signature = entry.partition(b",")
            if version not in (b"v1", b"v1a"):
                continue
            tried += 1
            if tried > MAX_SIGNATURES:
                raise BadSignature(f"more than {MAX_SIGNATURES} signatures in one header")
            if version == b"v1":
                if len(expected) < len(self.secrets):
                    expected += [sign(secret, signed) for secret in self.secrets[1:]]
                if _is_one_of(signature, expected):
                    return True
            elif self._signed_by_public_key(signature, signed):
                return True
        return False

    def _signed_by_public_key(self, signature: bytes, signed: bytes) -> bool:
        raw = _strict_base64(signature)
        return raw is not None and any(key.proves(raw, signed) for key in self.public_keys)


def sign(secret: bytes, signed: bytes) -> bytes:
    """The `v1` signature in base64, without its version."""
    inner, outer = (begun.copy() for begun in _begun(secret))
    inner.update(signed)
    outer.update(inner.digest())
    return binascii.b2a_base64(outer.digest(), newline=False)


@lru_cache(maxsize=64)
def _begun(secret: bytes) -> tuple["hashlib._Hash", "hashlib._Hash"]:
    """Both hashes of an HMAC with the key in them (RFC 2104).

    To begin them for each webhook takes as long again as all the rest, and 20 us if caches are cold.
    """
    key = (hashlib.sha256(secret).digest() if len(secret) > _BLOCK else secret).ljust(_BLOCK, b"\0")
    inner, outer = bytes(one ^ 0x36 for one in key), bytes(one ^ 0x5C for one in key)
    return hashlib.sha256(inner), hashlib.sha256(outer)


def signed_headers(
    provider: str, keys: StandardWebhooks | None, body: bytes, now: int
) -> dict[str, str]:
    """The headers that prove a body by the first secret, as the provider would send them.

    Raises:
        Unsigned: There is no secret, only public keys.
    """
    if keys is None or not keys.secrets:
        raise Unsigned(f"{provider} is configured by public keys, and signs with private ones")
    identity = f"msg_{hmac.digest(keys.secrets[0], body, 'sha256').hex()[:24]}"
    signature = sign(keys.secrets[0], b"%b.%d.%b" % (identity.encode(), now, body)).decode()
    return {
        "webhook-id": identity,
        "webhook-timestamp": str(now),
        "webhook-signature": f"v1,{signature}",
    }


def header_bytes(value: str) -> bytes:
    """A header's bytes as they came.

    Servers decode what is not UTF-8 to lone surrogates, or take it for Latin-1.

    Raises:
        BadSignature: No bytes on the wire read like this.
    """
    try:
        return value.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        raise BadSignature("a header has characters that no encoding gives") from None


def check_timestamp(timestamp: str, now: float, tolerance: float) -> None:
    """See that a timestamp in whole seconds is near enough to `now`.

    Raises:
        BadSignature: It is no plain number, or too old, or too far ahead.
    """
    if not timestamp.isascii() or not timestamp.isdigit() or len(timestamp) > MAX_TIMESTAMP_DIGITS:
        raise UnprovenByHeaders("the webhook's timestamp is not in whole seconds")
    if not abs(now - int(timestamp)) <= tolerance:
        raise UnprovenByHeaders(
            f"the webhook's timestamp is more than {tolerance:g} s from this machine's clock"
        )


def open_keys(
    provider: str, configuration: Configuration, *, plain: bool = False
) -> StandardWebhooks | None:
    """The keys that the settings name; None if they name none.

    Args:
        provider: As in the settings' names.
        configuration: `secret` holds `whsec_...`, `whpk_...` or bare base64.
        plain: A secret without prefix is not base64 but the key's bytes themselves.

    Raises:
        BadConfiguration: A secret is empty or cannot be decoded.
    """
    secrets: list[bytes] = []
    public_keys: list[PublicKey] = []
    for text in configuration.secret:
        if text.startswith(_PUBLIC):
            public_keys.append(_public_key(provider, text))
        else:
            secrets.append(_secret(provider, text, plain))
    if not secrets and not public_keys:
        return None
    tolerance = configuration.tolerance_or(TOLERANCE, provider)
    return StandardWebhooks(tuple(secrets), tuple(public_keys), tolerance)


def _secret(provider: str, text: str, plain: bool) -> bytes:
    name = setting_name(provider, "SECRET")
    if plain and text and not text.startswith(_SECRET):
        return text.encode()
    secret = _base64(text.removeprefix(_SECRET))
    if secret is None:
        raise BadConfiguration(
            f"{name} is not base64 behind `whsec_`; copy the signing secret again, whole"
        )
    if not secret:
        raise BadConfiguration(
            f"{name} is empty or has nothing behind `whsec_`; copy the signing secret, or unset it"
        )
    if len(secret) < MIN_SECRET:
        raise BadConfiguration(
            f"{name} is too short ({len(secret)} bytes); signing secrets have {MIN_SECRET} or more: copy it again, whole"
        )
    return secret


def _public_key(provider: str, text: str) -> PublicKey:
    raw = _base64(text.removeprefix(_PUBLIC))
    try:
        return PublicKey(raw or b"")
    except ValueError:
        name = setting_name(provider, "SECRET")
        raise BadConfiguration(
            f"{name} has a `whpk_` key that is not 32 bytes in base64; copy it again"
        ) from None


def _base64(text: str) -> bytes | None:
    """Base64, padded or not; None if it is none."""
    bare = text.rstrip("=")
    try:
        return binascii.a2b_base64(
            (bare + "=" * (-len(bare) % 4)).encode("ascii"), strict_mode=True
        )
    except (binascii.Error, UnicodeEncodeError):
        return None


def _strict_base64(text: bytes) -> bytes | None:
    """As above, for a signature: only the one right spelling, so that no other bits pass for it."""
    try:
        raw = binascii.a2b_base64(text + b"=" * (-len(text) % 4), strict_mode=True)
    except binascii.Error:
        return None
    right = b64encode(raw)
    return raw if text in (right, right.rstrip(b"=")) else None


def _is_one_of(signature: bytes, expected: Sequence[bytes]) -> bool:
    """Compare texts in constant time; decoded bytes would let some changed last characters pass."""
    padded = signature if len(signature) % 4 == 0 else signature + b"="
    return any([hmac.compare_digest(padded, one) for one in expected])  # noqa: C419 - all are compared
