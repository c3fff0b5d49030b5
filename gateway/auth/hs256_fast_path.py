"""A short way to check the usual JWT: compact, signed with HS256, with nothing odd about it.

Pure. It only ever accepts. What it does not recognize, wrong or merely unusual, is left to the JWT
library. That checks everything again, refuses with a reason, and costs ten times as much.
"""

import binascii
import hmac
import math
from base64 import urlsafe_b64encode
from collections.abc import Mapping
from typing import Literal

import msgspec
from msgspec import Struct

MAX_TIME = 2**53
"""Seconds since the epoch beyond which a number is no time."""

_TO_STANDARD = bytes.maketrans(b"-_+/=", b"+/\0\0\0")
"""From base64url (RFC 4648, 5) to base64; what is not base64url becomes what is not base64."""


class _Header(Struct, frozen=True, forbid_unknown_fields=True):
    alg: Literal["HS256"]
    typ: str = "JWT"
    kid: str = ""


_header = msgspec.json.Decoder(_Header)
_payload = msgspec.json.Decoder(dict[str, object])


class Hs256FastPath:
    """Recognizes genuine tokens of the usual shape.

    Args:
        secret: The shared secret.
        audience: What `aud` must name; None: anything.
        issuer: What `iss` must be; None: anything.
        leeway: Seconds that the issuer's clock may be ahead (`nbf`, `iat`).
    """

    def __init__(
        self, secret: bytes, audience: str | None, issuer: str | None, leeway: float
    ) -> None:
        self._secret = secret
        self._audience = audience
        self._issuer = issuer
        self._leeway = leeway
        self._known_header = b""

    def claims(self, token: str, now: float) -> Mapping[str, object] | None:
        """The claims of a token that is genuine and in force; None: let the library decide.

        Args:
            token: In the compact serialization (RFC 7515, 7.1).
            now: Seconds since the epoch.
        """
        try:
            signed, _, signature = token.encode("ascii").rpartition(b".")
            header, _, payload = signed.partition(b".")
            mac = urlsafe_b64encode(hmac.digest(self._secret, signed, "sha256"))[:-1]
            if not hmac.compare_digest(mac, signature) or not self._is_usual(header):
                return None
            text = _decoded(payload)
            if text is None or not text.isascii():
                return None
            claims = _payload.decode(text)
        except (ValueError, RecursionError):  # msgspec's and binascii's errors are ValueErrors
            return None
        return claims if self._in_force(claims, now) else None

    def _is_usual(self, segment: bytes) -> bool:
        """Whether the header says HS256, and nothing critical (RFC 7515, 4.1.11)."""
        if segment != self._known_header:
            text = _decoded(segment)
            if text is None or not text.isascii():
                return False
            _header.decode(text)
            self._known_header = segment  # an issuer's tokens all have the same
        return True

    def _in_force(self, claims: Mapping[str, object], now: float) -> bool:
        get = claims.get
        if not now < _time(get("exp"), -math.inf):
            return False
        soon = now + self._leeway
        if _time(get("nbf", now), math.inf) > soon or _time(get("iat", now), math.inf) > soon:
            return False
        if type(get("sub", "")) is not str or type(get("jti", "")) is not str:
            return False
        if self._issuer is not None and get("iss") != self._issuer:
            return False
        return self._audience is None or (bool(self._audience) and get("aud") == self._audience)


def _time(value: object, otherwise: float) -> float:
    """A number of seconds; `otherwise` if it is none."""
    if type(value) is int or type(value) is float:
        return value if -MAX_TIME < value < MAX_TIME else otherwise
    return otherwise


def _decoded(segment: bytes) -> bytes | None:
    """A segment's content; None if it is padded or its last bits are not 0 (RFC 7515, 2)."""
    decoded = binascii.a2b_base64(
        segment.translate(_TO_STANDARD) + b"=" * (-len(segment) % 4), strict_mode=True
    )
    return decoded if urlsafe_b64encode(decoded).rstrip(b"=") == segment else None
