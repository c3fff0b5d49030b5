"""What a client's token gives here, and why not more, for `tidings doctor --token`."""

import json
import time
from collections.abc import Iterator, Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import Struct

from tidings.config.issuers import Issuer, claim_names
from tidings.config.settings import Settings
from tidings.gateway.auth.permissions import (
    MAX_TOKEN,
    SCOPES,
    ClaimNames,
    Permissions,
    TokenGivesNothing,
    TokenRefused,
    claim_at,
    from_claims,
)

if TYPE_CHECKING:
    from tidings.streams.providers.signatures.jwks import Fetch

RIGHTS = ("watch:all", "read:all", "write", "admin")
"""In the order in which they are told."""
LIKELY_OWNERS = ("sub", "user_id", "uid", "username", "client_id", "email")
LIKELY_RIGHTS = (
    *("permissions", "roles", "role", "groups", "cognito:groups", "realm_access.roles"),
    *("app_metadata.roles", "app_metadata.role", "metadata.role"),
)
"""Claims in which issuers write what somebody may do, when they are told to."""
SHOWN = 200
"""Characters of a claim's value."""


class Said(Struct, frozen=True):
    """One line about a token."""

    part: str
    state: str
    """`ok`, `warning` or `failed`."""
    says: str


async def explained(
    settings: Settings, token: str, fetch: "Fetch | None" = None, now: float | None = None
) -> list[Said]:
    """What is to be said of a token.

    Args:
        settings: Of the service that it is shown to.
        token: As it would be sent; it is never repeated.
        fetch: How public keys are had; None: over HTTP.
        now: From when its time is counted, in seconds since the epoch; None: from now.
    """
    from tidings.runtime.authentication import authenticator_of

    authenticator = authenticator_of(settings, fetch)
    if authenticator is None:
        return [
            Said("token", "warning", "no authentication is configured, so no token is looked at")
        ]
    try:
        permissions: Permissions | None = await authenticator.authenticate(token)
    except TokenGivesNothing:  # its claims are proven by then
        permissions = None
    except TokenRefused as refused:
        why = _why_refused(settings, token, refused)
        return [Said("token", "failed", f"refused: {why}")]
    if token in settings.api_keys:
        return [Said("token", "ok", "it is an API key: watch:all, read:all, write")]
    claims = _unverified(token)
    names = claim_names(settings, _issuer_of(settings, claims))
    permissions = permissions or from_claims(claims, names)
    left = (permissions.expires_at or 0) - (time.time() if now is None else now)
    return list(_rights(permissions, claims, names, round(left)))


def _rights(
    permissions: Permissions, claims: Mapping[str, object], names: ClaimNames, left: int
) -> Iterator[Said]:
    if permissions.is_empty:
        yield Said(
            "token", "failed", "genuine, but it gives no right at all: it is answered with 403"
        )
    else:
        yield Said("token", "ok", f"genuine, good for {timedelta(seconds=left)}")
    yield _owner(permissions, claims, names)
    yield _scopes(permissions, claims, names)
    for claim, found in (
        (names.predictions, permissions.predictions),
        (names.owners, permissions.owners),
        (names.tags, permissions.tags),
        (names.models, permissions.models),
    ):
        if claim is not None and found:
            yield Said("token lists", "ok", f"`{claim}` adds {_shown(sorted(found))}")
    if not any((permissions.predictions, permissions.owners, permissions.tags, permissions.models)):
        listed = ", ".join(f"`{name}`" for name in names.listed) or "no claim"
        yield Said("token lists", "ok", f"nothing more is listed: {listed} would")


def _owner(permissions: Permissions, claims: Mapping[str, object], names: ClaimNames) -> Said:
    if permissions.subject is not None:
        return Said(
            "token owner",
            "ok",
            f"{_shown(permissions.subject)} (`{names.owner}`): may watch, read, create, cancel and "
            "delete what has this owner",
        )
    if names.owner is None:
        return Said("token owner", "warning", "nobody: TIDINGS_OWNER_CLAIM is none")
    others = [name for name in LIKELY_OWNERS if name != names.owner and claim_at(claims, name)]
    hint = (
        f"; TIDINGS_OWNER_CLAIM={others[0]} would take {_shown(claim_at(claims, others[0]))}"
        if others
        else ""
    )
    return Said("token owner", "warning", f"nobody: there is no claim `{names.owner}`{hint}")


def _scopes(permissions: Permissions, claims: Mapping[str, object], names: ClaimNames) -> Said:
    held = [scope for scope in RIGHTS if scope in permissions.scopes]
    given = f"gives {', '.join(held)}" if held else "gives none"
    if permissions.is_admin:
        return Said("token scopes", "ok", f"{given}, which is everything")
    missing = ", ".join(scope for scope in RIGHTS if scope not in held)
    reasons = [f"`{claim}` {_held(claims, claim)}" for claim in names.scopes]
    reasons += [f"role claim `{claim}` {_held(claims, claim)}" for claim in names.roles]
    unmapped = sorted(_words(claims, (*names.scopes, *names.roles)) - SCOPES - {*names.role_scopes})
    if unmapped and names.role_scopes:
        reasons.append(f"TIDINGS_ROLE_SCOPES does not name {_shown(unmapped)}")
    reasons += _unread(claims, names)
    return Said("token scopes", "ok", f"{given}; not {missing}: {'; '.join(reasons)}")


def _held(claims: Mapping[str, object], claim: str) -> str:
    found = claim_at(claims, claim)
    return "is not there" if found is None else f"is {_shown(found)}"


def _words(claims: Mapping[str, object], names: tuple[str, ...]) -> frozenset[str]:
    found: set[str] = set()
    for name in names:
        value = claim_at(claims, name)
        found.update(
            value.split() if isinstance(value, str) else value if isinstance(value, list) else ()
        )
    return frozenset(found)


def _unread(claims: Mapping[str, object], names: ClaimNames) -> Iterator[str]:
    """Claims that look like rights, and which setting would read them."""
    ways = [*LIKELY_RIGHTS]
    ways += [name for name in claims if name.endswith(("/roles", "/permissions", "/scopes"))]
    clients = claims.get("resource_access")
    if isinstance(clients, Mapping):
        ways += [f"resource_access.{client}.roles" for client in clients]
    for way in ways:
        found = claim_at(claims, way)
        if not found or way in names.scopes or way in names.roles:
            continue
        # `read:all` is ours; a role called `admin` is somebody's, and may be of something small.
        ours = any(word in SCOPES and ":" in word for word in _words(claims, (way,)))
        setting = "TIDINGS_SCOPE_CLAIMS" if ours else "TIDINGS_ROLE_CLAIMS"
        yield f"`{way}` ({_shown(found)}) is not read ({setting})"


# ---- why a token is refused ----


def _why_refused(settings: Settings, token: str, refused: TokenRefused) -> str:
    if len(token) > MAX_TOKEN or refused.retryable:
        return refused.reason
    parts = token.count(".") + 1
    if parts == 5:
        return (
            "it is encrypted (JWE), and nobody but its issuer can read it; ask for a signed access "
            "token (Auth0: by naming your API as the audience)"
        )
    claims = _unverified(token)
    if parts != 3 or not claims:
        kinds = "none of TIDINGS_API_KEYS" if settings.api_keys else "TIDINGS_API_KEYS is not set"
        return f"it is no JWT, and {kinds}"
    return "; ".join([*_faults(settings, token, claims)] or [refused.reason])


def _faults(settings: Settings, token: str, claims: Mapping[str, object]) -> Iterator[str]:
    """What is wrong with a JWT, as far as it says so itself."""
    import jwt

    issuer = _issuer_of(settings, claims)
    algorithm = jwt.get_unverified_header(token).get("alg")
    by_secret = algorithm == "HS256"
    if by_secret and not settings.jwt_secret:
        yield "it is signed with a secret (HS256), and TIDINGS_JWT_SECRET is not set"
    elif not by_secret and settings.jwks_url is None and issuer is None:
        yield f"it is signed with a key pair ({algorithm}), and neither TIDINGS_JWKS_URL nor an issuer's is set for it"
    names = {one.issuer for one in settings.issuers}
    if settings.jwt_issuer is not None:
        names.add(settings.jwt_issuer)
    said = claims.get("iss")
    unnamed = settings.jwt_secret if by_secret else settings.jwks_url
    only_named = settings.jwt_issuer is not None or not unnamed
    if said not in names and names and only_named:
        slash = " (a slash at the end counts)" if _slashless(said) in map(_slashless, names) else ""
        yield f"its `iss` is {_shown(said)}, not {' or '.join(map(_shown, sorted(names)))}{slash}"
    audience = settings.jwt_audience if issuer is None else issuer.audience
    claim = (issuer and issuer.audience_claim) or settings.audience_claim
    named = claim_at(claims, claim)
    if audience is not None and audience not in (named if isinstance(named, list) else [named]):
        yield f"its `{claim}` is {_shown(named)}, not {_shown(audience)}"
    expires, now = claims.get("exp"), time.time()
    if not isinstance(expires, int | float):
        yield "it has no `exp`, and every token must end"
    elif expires <= now:
        yield f"it has expired {timedelta(seconds=int(now - expires))} ago"


def _slashless(text: object) -> str:
    return str(text).rstrip("/")


def _issuer_of(settings: Settings, claims: Mapping[str, object]) -> Issuer | None:
    return next((one for one in settings.issuers if one.issuer == claims.get("iss")), None)


def _unverified(token: str) -> Mapping[str, object]:
    from tidings.gateway.auth.tokens import unverified_claims

    try:
        return unverified_claims(token)
    except TokenRefused:
        return {}


def _shown(value: Any) -> str:
    """A value as JSON, cut if it is long; control characters are escapes there."""
    text = json.dumps(value, default=msgspec.to_builtins)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."
