"""Who issues clients' tokens, and in which of their claims their rights stand.

One issuer is described by the flat settings (`TIDINGS_JWKS_URL`, `TIDINGS_OWNER_CLAIM`, ...).
Others are tables of `[[issuers]]` in the file, or a list in JSON in `TIDINGS_ISSUERS`; what such a
table does not say of its claims is as the flat settings say.
"""

from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

import msgspec
from msgspec import Struct

from tidings.config import validators
from tidings.gateway.auth.permissions import SCOPES, ClaimNames

NOT_READ = "none"
"""In place of a claim's name: no claim gives this."""
WRITTEN_BY_USERS = ("user_metadata", "unsafe_metadata", "unsafeMetadata")
"""Claims that users fill themselves (Supabase, Clerk): whoever reads rights there gives them away."""
SHARED_KEYS = ("www.googleapis.com", "login.microsoftonline.com", "appleid.apple.com")
"""Hosts whose keys sign the tokens of everybody's applications: only the issuer or the audience
tells ours from theirs."""

T = TypeVar("T")


class Issuer(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One more issuer of clients' tokens; what is None is as the flat settings say."""

    issuer: str
    """What its tokens' `iss` is, to the letter: a slash at the end counts."""
    jwks_url: str
    """Where its public keys are."""
    audience: str | None = None
    """What its tokens must be meant for; None: whatever `iss` is enough for."""
    audience_claim: str | None = None
    owner_claim: str | None = None
    owner_prefix: str = ""
    """Put before every owner that its tokens name, so that they are nobody else's."""
    scope_claims: tuple[str, ...] | None = None
    role_claims: tuple[str, ...] | None = None
    role_scopes: tuple[str, ...] | None = None
    predictions_claim: str | None = None
    owners_claim: str | None = None
    tags_claim: str | None = None
    models_claim: str | None = None

    def __str__(self) -> str:
        return f"{self.issuer} ({validators.masked_url(self.jwks_url)})"


def claim_name(text: str) -> str:
    """The name of a claim, or the way to one, checked."""
    validators.without_controls(text)
    if any(part in WRITTEN_BY_USERS for part in text.split(".")):
        raise ValueError(
            f"{text!r} is filled by the users themselves, who could give themselves any right; "
            "use a claim that only the issuer writes, such as app_metadata"
        )
    return text


def role_scope(text: str) -> str:
    """A role and the scopes that it gives, checked: `editor=read:all write`."""
    role, _, scopes = text.rpartition("=")
    words = scopes.split()
    if not role.strip() or not words:
        raise ValueError(
            f"{text!r} is not ROLE=SCOPES; say editor=read:all write, with spaces between scopes"
        )
    for word in words:
        if word not in SCOPES:
            raise ValueError(
                f"{text!r} gives {word!r}, which is none of {', '.join(sorted(SCOPES))}"
            )
    return f"{role.strip()}={' '.join(words)}"


def read_issuers(value: Any) -> tuple[Issuer, ...]:
    """The issuers in a setting's value: JSON, or the tables of the file.

    Raises:
        ValueError: With the end of a sentence that begins with the setting's name.
    """
    try:
        tables = msgspec.json.decode(value) if isinstance(value, str) else value
        issuers = tuple(_read_issuer(table) for table in tables)
    except msgspec.ValidationError as error:
        raise ValueError(f"an issuer does not fit: {str(error).partition(' - at ')[0]}") from None
    except (msgspec.DecodeError, TypeError):
        raise ValueError(
            'takes a list in JSON: [{"issuer": "https://...", "jwks_url": "https://..."}]'
        ) from None
    names = [issuer.issuer for issuer in issuers]
    if len(set(names)) < len(names):
        raise ValueError("names an issuer twice")
    return issuers


def _read_issuer(table: Any) -> Issuer:
    if isinstance(table, Issuer):
        return table
    if isinstance(table, Mapping):
        table = {key.replace("-", "_"): value for key, value in table.items()}
    issuer = msgspec.convert(table, Issuer)
    claims = (
        *(issuer.audience_claim, issuer.owner_claim, issuer.predictions_claim),
        *(issuer.owners_claim, issuer.tags_claim, issuer.models_claim),
        *(issuer.scope_claims or ()),
        *(issuer.role_claims or ()),
    )
    for claim in filter(None, claims):
        claim_name(claim)
    for entry in issuer.role_scopes or ():
        role_scope(entry)
    if not issuer.issuer:
        raise ValueError("an issuer has no name; say what its tokens' iss is")
    return msgspec.structs.replace(issuer, jwks_url=validators.http_url(issuer.jwks_url))


def claim_names(settings: Any, issuer: Issuer | None = None) -> ClaimNames:
    """Where the tokens of an issuer say what they give; None: of the one in the flat settings."""

    def said(name: str, otherwise: T) -> T:
        value = None if issuer is None else getattr(issuer, name)
        return otherwise if value is None else value

    entries = said("role_scopes", settings.role_scopes)
    return ClaimNames(
        owner=_one(said("owner_claim", settings.owner_claim)),
        scopes=_several(said("scope_claims", settings.scope_claims)),
        roles=_several(said("role_claims", settings.role_claims)),
        role_scopes=_role_scopes(entries),
        predictions=_one(said("predictions_claim", settings.predictions_claim)),
        owners=_one(said("owners_claim", settings.owners_claim)),
        tags=_one(said("tags_claim", settings.tags_claim)),
        models=_one(said("models_claim", settings.models_claim)),
        owner_prefix="" if issuer is None else issuer.owner_prefix,
    )


def _one(name: str) -> str | None:
    return None if name == NOT_READ else name


def _several(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(name for name in names if name != NOT_READ)


def _role_scopes(entries: Iterable[str]) -> dict[str, frozenset[str]]:
    found: dict[str, frozenset[str]] = {}
    for entry in entries:
        role, _, scopes = entry.rpartition("=")
        found[role] = found.get(role, frozenset()) | frozenset(scopes.split())
    return found
