"""Turns a token into permissions: JWTs signed with a secret or by keys of a JWKS, and API keys.

`alg: none` and every algorithm that the configuration does not name are refused: otherwise a token
chooses how it is checked (RFC 8725, 3.1). A symmetric algorithm is never taken with keys of a JWKS.
"""

import contextlib
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import jwt
from msgspec import Struct

from tidings.gateway.auth.hs256_fast_path import Hs256FastPath
from tidings.gateway.auth.permissions import (
    API_KEY_SCOPES,
    DEFAULT_NAMES,
    MAX_TOKEN,
    ClaimNames,
    Permissions,
    TokenGivesNothing,
    TokenRefused,
    claim_at,
    from_claims,
)
from tidings.storage.clock import SYSTEM_CLOCK, Clock
from tidings.streams.providers.protocol import KeysUnavailable

if TYPE_CHECKING:
    from tidings.streams.providers.signatures.jwks import KeySet

SYMMETRIC = ("HS256",)
ASYMMETRIC = (
    "RS256",
    "RS384",
    "RS512",
    "PS256",
    "PS384",
    "PS512",
    "ES256",
    "ES384",
    "ES512",
    "EdDSA",
)
LEEWAY = 30.0
"""Seconds that the issuer's clock may be ahead of ours (`nbf`, `iat`); an expired token gets 0."""
REMEMBERED = 10_000
REMEMBERED_CHARACTERS = 4 * 1024 * 1024
"""Of all remembered tokens together: the claims of a long one take several times its length."""
REMEMBER = 60.0
"""Seconds for which a token's signature is not checked again: a withdrawn key counts for longer."""


class RequiredClaims(Struct, frozen=True, kw_only=True):
    """What a JWT must say beside its expiry, and where it says what it gives."""

    audience: str | None = None
    issuer: str | None = None
    audience_claim: str = "aud"
    """Amazon Cognito's access tokens say `client_id` instead, Clerk's `azp`."""
    names: ClaimNames = DEFAULT_NAMES

    @property
    def usual_audience(self) -> str | None:
        """What `aud` must name, as the JWT library checks it."""
        return self.audience if self.audience_claim == "aud" else None


class Hs256Tokens:
    """JWTs signed with HS256.

    Args:
        secret: The shared secret.
        claims: What they must say.
        clock: Tells the time.
    """

    def __init__(self, secret: bytes, claims: RequiredClaims, clock: Clock = SYSTEM_CLOCK) -> None:
        self._secret = secret
        self._claims = claims
        self._clock = clock
        self._usual = None
        with contextlib.suppress(
            jwt.InvalidKeyError
        ):  # e.g. a public key: the library refuses what it signs
            jwt.get_algorithm_by_name("HS256").prepare_key(secret)
            self._usual = Hs256FastPath(secret, claims.usual_audience, claims.issuer, LEEWAY)

    def at_once(self, token: str) -> Permissions:
        """See `Authenticator.at_once`; never None."""
        now = self._clock.ms() / 1000
        claims = None if self._usual is None else self._usual.claims(token, now)
        if claims is None:
            claims = _decode(token, self._secret, SYMMETRIC, self._claims, now)
        return _rights(claims, self._claims)

    async def authenticate(self, token: str) -> Permissions:
        """See `Authenticator.authenticate`."""
        return self.at_once(token)


class JwksTokens:
    """JWTs signed with keys whose public halves are published as a JWKS.

    Args:
        keys: Where those are.
        claims: What the tokens must say.
        clock: Tells the time.
    """

    def __init__(self, keys: "KeySet", claims: RequiredClaims, clock: Clock = SYSTEM_CLOCK) -> None:
        self._keys = keys
        self._claims = claims
        self._clock = clock

    def at_once(self, token: str) -> None:
        """See `Authenticator.at_once`: the keys may have to be fetched first."""

    async def authenticate(self, token: str) -> Permissions:
        """See `Authenticator.authenticate`."""
        header = _header(token)
        self._check_issuer(token)
        algorithm, key_id = header.get("alg"), header.get("kid")
        if algorithm not in ASYMMETRIC:
            raise TokenRefused(f"its algorithm is none of {', '.join(ASYMMETRIC)}")
        refused = TokenRefused("no known key has signed it")
        try:
            keys = await self._keys.find(key_id if isinstance(key_id, str) else None)
        except KeysUnavailable as error:
            raise TokenRefused(str(error), retryable=True) from None
        for key in keys:
            if key.algorithm_name != algorithm and not _suits(key, algorithm):
                continue
            try:
                claims = _decode(
                    token, key.key, (algorithm,), self._claims, self._clock.ms() / 1000
                )
            except TokenRefused as error:
                refused = error
            else:
                return _rights(claims, self._claims)
        raise refused

    def _check_issuer(self, token: str) -> None:
        """Refuse a token of another issuer before anything is fetched; its proof comes later."""
        issuer = self._claims.issuer
        if issuer is not None and unverified_claims(token).get("iss") != issuer:
            raise OtherIssuer("Invalid issuer")


class ApiKeys:
    """Keys of other services: they may watch, read and write everything.

    Args:
        keys: The keys as configured; only their digests are kept.
    """

    def __init__(self, keys: Iterable[str]) -> None:
        self._digests = {sha256(key.encode()).digest() for key in keys if key}
        self._permissions = Permissions(scopes=API_KEY_SCOPES)

    async def authenticate(self, token: str) -> Permissions:
        """See `Authenticator.authenticate`."""
        return self.at_once(token)

    def at_once(self, token: str) -> Permissions:
        """See `Authenticator.at_once`; never None."""
        # Looking a digest up tells nothing about how much of a key was right.
        if sha256(token.encode("utf-8", "surrogateescape")).digest() in self._digests:
            return self._permissions
        raise TokenRefused("it is no API key")


class TokenAuthenticator:
    """Everything that is configured, tried in turn, with the tokens seen lately remembered.

    Args:
        authenticators: Of JWTs and API keys.
        clock: Tells the time.
    """

    def __init__(
        self,
        authenticators: "Iterable[ApiKeys | JwksTokens | Hs256Tokens]",
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._authenticators = tuple(authenticators)
        self._clock = clock
        self._seen: OrderedDict[bytes, tuple[Permissions, float, int]] = OrderedDict()
        self._characters = 0

    def at_once(self, token: str) -> Permissions | None:
        """See `Authenticator.at_once`."""
        if len(token) > MAX_TOKEN:
            raise TokenRefused(f"it is longer than {MAX_TOKEN} characters")
        now = self._clock.ms() / 1000
        digest = sha256(token.encode("utf-8", "surrogateescape")).digest()
        seen = self._seen.get(digest)
        if seen is not None and now < seen[1]:
            return seen[0]
        refused: TokenRefused | None = None
        for authenticator in self._authenticators:
            try:
                permissions = authenticator.at_once(token)
            except TokenRefused as error:
                refused = _telling(refused, error, authenticator)
                continue
            if permissions is not None:
                _check_not_empty(permissions)
                self._remember(digest, permissions, now, len(token))
            return permissions
        raise refused or TokenRefused("no kind of token is configured")

    async def authenticate(self, token: str) -> Permissions:
        """See `Authenticator.authenticate`."""
        permissions = self.at_once(token)
        if permissions is None:
            permissions = await self._check(token)
            _check_not_empty(permissions)
            digest = sha256(token.encode("utf-8", "surrogateescape")).digest()
            self._remember(digest, permissions, self._clock.ms() / 1000, len(token))
        return permissions

    def _remember(self, digest: bytes, permissions: Permissions, now: float, size: int) -> None:
        until = (
            now + REMEMBER
            if permissions.expires_at is None
            else min(now + REMEMBER, permissions.expires_at)
        )
        before = self._seen.pop(digest, None)
        self._seen[digest] = (permissions, until, size)
        self._characters += size - (0 if before is None else before[2])
        while len(self._seen) > REMEMBERED or self._characters > REMEMBERED_CHARACTERS:
            self._characters -= self._seen.popitem(last=False)[1][2]

    async def _check(self, token: str) -> Permissions:
        refused: TokenRefused | None = None
        for authenticator in self._authenticators:
            try:
                return await authenticator.authenticate(token)
            except TokenRefused as error:
                refused = _telling(refused, error, authenticator)
        raise refused or TokenRefused("no kind of token is configured")


def _telling(
    refused: TokenRefused | None,
    error: TokenRefused,
    authenticator: ApiKeys | JwksTokens | Hs256Tokens,
) -> TokenRefused | None:
    """Of two refusals the one that says more.

    An outage first, then the reason about a JWT, above all of the one that has issued it.
    """
    if refused is None:
        return error
    if refused.retryable:
        return refused
    of_jwt = isinstance(authenticator, Hs256Tokens | JwksTokens)
    return error if error.retryable or (of_jwt and not isinstance(error, OtherIssuer)) else refused


class OtherIssuer(TokenRefused):
    """Somebody else has issued the token."""


def unverified_claims(token: str) -> Mapping[str, Any]:
    """What a token says of itself, unproven: to choose who may prove it, never to grant anything.

    Raises:
        TokenRefused: It is no JWT.
    """
    try:
        claims = jwt.decode(token, options={"verify_signature": False})
    except (jwt.PyJWTError, ValueError, RecursionError, TypeError):
        raise TokenRefused("it is no JWT") from None
    return claims


def _rights(claims: Mapping[str, object], required: RequiredClaims) -> Permissions:
    """The rights in proven claims, if they are for us.

    Raises:
        TokenRefused: They are for somebody else, or a claim has the wrong type.
    """
    if required.audience is not None and required.usual_audience is None:
        named = claim_at(claims, required.audience_claim)
        if required.audience not in (named if isinstance(named, list) else [named]):
            raise TokenRefused(f"the claim {required.audience_claim} names another audience")
    return from_claims(claims, required.names)


def _check_not_empty(permissions: Permissions) -> None:
    """Tell whoever has a token without any right, who would wonder why nothing is there."""
    if permissions.is_empty:
        raise TokenGivesNothing


def _header(token: str) -> Mapping[str, Any]:
    try:
        return jwt.get_unverified_header(token)
    except (jwt.PyJWTError, ValueError, RecursionError, TypeError):
        raise TokenRefused("it is no JWT") from None


def _suits(key: jwt.PyJWK, algorithm: str) -> bool:
    """An RSA key that names no algorithm of its own may sign with any of RSA's."""
    return key.key_type == "RSA" and algorithm[:2] in {"RS", "PS"} and key.algorithm_name == "RS256"


def _decode(
    token: str, key: Any, algorithms: tuple[str, ...], claims: RequiredClaims, now: float
) -> Mapping[str, object]:
    try:
        decoded: Mapping[str, object] = jwt.decode(
            token,
            key,
            algorithms=list(algorithms),
            audience=claims.usual_audience,
            issuer=claims.issuer,
            leeway=LEEWAY,
            options={"require": ["exp"], "verify_aud": claims.usual_audience is not None},
        )
    except jwt.PyJWTError as error:
        raise TokenRefused(str(error) or type(error).__name__) from None
    except (ValueError, TypeError, RecursionError, OverflowError):
        raise TokenRefused("it is no JWT") from None
    expires = decoded.get("exp")
    if not isinstance(expires, int | float) or expires <= now:
        raise TokenRefused("it has expired")
    return decoded
