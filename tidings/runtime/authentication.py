"""What checks clients' tokens, as the settings describe it."""

from typing import TYPE_CHECKING

from tidings.config.issuers import claim_names
from tidings.config.settings import Settings
from tidings.gateway.auth.permissions import Authenticator

if TYPE_CHECKING:
    from tidings.streams.providers.signatures.jwks import Fetch


def authenticator_of(settings: Settings, fetch: "Fetch | None" = None) -> Authenticator | None:
    """What checks tokens; None: everything is allowed.

    Args:
        settings: As checked.
        fetch: How the documents with public keys are had; None: over HTTP.
    """
    if not settings.authenticates:
        return None
    # Imported late: what checks signatures adds a fifth to the memory of a service.
    from tidings.gateway.auth.tokens import (
        ApiKeys,
        Hs256Tokens,
        JwksTokens,
        RequiredClaims,
        TokenAuthenticator,
    )
    from tidings.streams.providers.signatures.jwks import KeySet, fetch_document

    fetch = fetch or fetch_document
    claims = RequiredClaims(
        audience=settings.jwt_audience,
        issuer=settings.jwt_issuer,
        audience_claim=settings.audience_claim,
        names=claim_names(settings),
    )
    found: list[ApiKeys | JwksTokens | Hs256Tokens] = []
    if settings.api_keys:
        found.append(ApiKeys(settings.api_keys))
    if settings.jwt_secret:
        found.append(Hs256Tokens(settings.jwt_secret.encode(), claims))
    if settings.jwks_url:
        found.append(JwksTokens(KeySet(settings.jwks_url, fetch), claims))
    for issuer in settings.issuers:
        required = RequiredClaims(
            audience=issuer.audience,
            issuer=issuer.issuer,
            audience_claim=issuer.audience_claim or settings.audience_claim,
            names=claim_names(settings, issuer),
        )
        found.append(JwksTokens(KeySet(issuer.jwks_url, fetch), required))
    return TokenAuthenticator(found)
