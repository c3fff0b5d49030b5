"""Who may see and do what: a caller's rights as values, and the questions asked of them.

Pure. Rights are the union of the claims. What a caller may not see does not exist for it: code that
asks here and gets False answers as if there were nothing.
"""

from collections.abc import Collection, Mapping
from typing import Protocol

import msgspec
from msgspec import Struct

WATCH_ALL = "watch:all"
READ_ALL = "read:all"
WRITE = "write"
ADMIN = "admin"
API_KEY_SCOPES = frozenset({WATCH_ALL, READ_ALL, WRITE})
"""What an API key may do."""
SCOPES = frozenset({WATCH_ALL, READ_ALL, WRITE, ADMIN})
"""The scopes that give a right; others may stand beside them."""

MAX_TOKEN = 17 * 1024
"""Characters of a token, however it comes; a longer one is refused unread."""
LATEST_EXPIRY = 10**12
"""Seconds since the epoch: beyond it there is no date, and what is longer fits no number."""

GIVES_NOTHING = "the token is genuine but gives no right here; `tidings doctor --token` says why"
"""Fits the reason of a WebSocket's close (RFC 6455, 5.5: 123 bytes)."""

_NONE: frozenset[str] = frozenset()
"""Shared: an empty set of its own is 216 bytes, and most claims are absent."""


class _Attempt(Struct, frozen=True, gc=False, rename="camel"):
    """What a record says of the attempts before it."""

    retry_of: str | None = None
    first_attempt: str | None = None


_attempt = msgspec.json.Decoder(_Attempt)


class TokenRefused(Exception):
    """The token proves nothing: malformed, wrongly signed, expired or meant for somebody else."""

    def __init__(self, reason: str, *, retryable: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.retryable = retryable
        """Whether the same token may pass later: its keys cannot be fetched at the moment."""


class TokenGivesNothing(TokenRefused):
    """The token is genuine, and gives no right at all: its claims have other names, for example."""

    def __init__(self) -> None:
        super().__init__(GIVES_NOTHING)


class Permissions(Struct, frozen=True, kw_only=True):
    """What one caller may see and do, until `expires_at`."""

    subject: str | None = None
    """The owner that the caller is; None: nobody in particular."""
    expires_at: float | None = None
    """Seconds since the epoch; None: never."""
    predictions: frozenset[str] = frozenset()
    owners: frozenset[str] = frozenset()
    tags: frozenset[str] = frozenset()
    models: frozenset[str] = frozenset()
    scopes: frozenset[str] = frozenset()

    @property
    def is_admin(self) -> bool:
        """Whether every right is given, those over dead letters and statistics included."""
        return ADMIN in self.scopes

    @property
    def is_empty(self) -> bool:
        """Whether there is no right in it at all."""
        return self.subject is None and not (
            self.predictions
            or self.owners
            or self.tags
            or self.models
            or not self.scopes.isdisjoint(SCOPES)
        )

    def grants_like(self, other: "Permissions") -> bool:
        """Whether both grant the same; they may end at different times."""
        return (
            self.subject == other.subject
            and self.predictions == other.predictions
            and self.owners == other.owners
            and self.tags == other.tags
            and self.models == other.models
            and self.scopes == other.scopes
        )

    def may_watch_all(self) -> bool:
        """Whether every record may be watched."""
        return WATCH_ALL in self.scopes or ADMIN in self.scopes

    def may_read_all(self) -> bool:
        """Whether every record may be read and listed."""
        return READ_ALL in self.scopes or ADMIN in self.scopes

    def may_watch(
        self, prediction_id: str, owner: str | None, model: str | None, tags: Collection[str]
    ) -> bool:
        """Whether changes of this record may be sent to the caller."""
        return self.may_watch_all() or self._listed(prediction_id, owner, model, tags)

    def may_read(
        self, prediction_id: str, owner: str | None, model: str | None, tags: Collection[str]
    ) -> bool:
        """Whether this record may be read."""
        return self.may_read_all() or self._listed(prediction_id, owner, model, tags)

    def covers_attempt(self, encoded: bytes) -> bool:
        """Whether this record tries again a prediction that is named in `predictions`.

        So a right to one prediction goes on with whatever tries it again.
        """
        if not self.predictions or b'"retryOf":' not in encoded:
            return False
        record = _attempt.decode(encoded)
        return record.retry_of in self.predictions or record.first_attempt in self.predictions

    def may_watch_owner(self, owner: str) -> bool:
        """Whether all records of this owner may be watched."""
        return self._is(owner) or owner in self.owners or self.may_watch_all()

    def may_watch_tag(self, tag: str) -> bool:
        """Whether records with this tag may be watched."""
        return tag in self.tags or self.may_watch_all()

    def may_watch_model(self, model: str) -> bool:
        """Whether records of this model may be watched."""
        return model in self.models or self.may_watch_all()

    def may_watch_key(self, key: str) -> bool:
        """Whether all records of one of the hub's wide keys may be watched."""
        kind, _, name = key.partition(":")
        if kind == "owner":
            return self.may_watch_owner(name)
        if kind == "tag":
            return self.may_watch_tag(name)
        if kind == "model":
            return self.may_watch_model(name)
        return self.may_watch_all()

    def may_create(self, owner: str | None) -> bool:
        """Whether a prediction may be created for this owner (None: for nobody)."""
        return self._is(owner) or self.may_write()

    def may_cancel(self, owner: str | None) -> bool:
        """Whether a prediction of this owner may be canceled."""
        return self._is(owner) or self.may_write()

    def may_delete(self, owner: str | None) -> bool:
        """Whether a prediction of this owner may be deleted."""
        return self._is(owner) or self.may_write()

    def may_write(self) -> bool:
        """Whether any prediction may be created, changed, canceled and deleted."""
        return WRITE in self.scopes or ADMIN in self.scopes

    @property
    def needs_record(self) -> bool:
        """Whether a right may depend on a record's tags or model, beside its owner."""
        return bool(self.tags or self.models)

    def _is(self, owner: str | None) -> bool:
        return owner is not None and owner == self.subject

    def _listed(
        self, prediction_id: str, owner: str | None, model: str | None, tags: Collection[str]
    ) -> bool:
        if prediction_id in self.predictions:
            return True
        if owner is None:  # nobody's record: a shared tag or model must not give it away
            return False
        return (
            owner == self.subject
            or owner in self.owners
            or (model is not None and model in self.models)
            or (bool(self.tags) and not self.tags.isdisjoint(tags))
        )


OPEN = Permissions(scopes=frozenset({ADMIN, WATCH_ALL, READ_ALL, WRITE}))
"""Everything is allowed: no authentication is configured, and the service is on loopback."""

NOBODY = Permissions()
"""Nothing is allowed: no token was given if one is needed."""


class Authenticator(Protocol):
    """What turns a token into permissions."""

    def at_once(self, token: str) -> Permissions | None:
        """The rights that the token proves; None if only `authenticate` can tell, by waiting.

        Raises:
            TokenRefused: As `authenticate` does.
        """

    async def authenticate(self, token: str) -> Permissions:
        """The rights that the token proves.

        Raises:
            TokenRefused: It proves nothing; the reason never repeats the token.
        """


class NoTokens:
    """The authenticator of a service whose host application alone says who a caller is."""

    def at_once(self, token: str) -> Permissions | None:  # noqa: ARG002 - the protocol's signature
        """Nothing.

        Raises:
            TokenRefused: Always.
        """
        raise TokenRefused("no tokens are taken here; the application around says who you are")

    async def authenticate(self, token: str) -> Permissions:
        """As `at_once`."""
        self.at_once(token)
        raise AssertionError


class ClaimNames(Struct, frozen=True, kw_only=True):
    """Where an issuer's tokens say what: names of claims, or ways to them.

    `realm_access.roles` is the member `roles` of the claim `realm_access`. A claim whose own name
    has dots (`https://app.example/roles`) is found by its whole name first. None: not read.
    """

    owner: str | None = "sub"
    scopes: tuple[str, ...] = ("scope", "scp")
    roles: tuple[str, ...] = ()
    role_scopes: Mapping[str, frozenset[str]] = {}
    """The scopes that a role gives, or a scope of another name."""
    predictions: str | None = "predictions"
    owners: str | None = "owners"
    tags: str | None = "tags"
    models: str | None = "models"
    owner_prefix: str = ""
    """Put before every owner that a token names: two issuers may give the same id to two people."""

    @property
    def listed(self) -> tuple[str, ...]:
        """The claims that list more, those that are read."""
        return tuple(filter(None, (self.predictions, self.owners, self.tags, self.models)))


DEFAULT_NAMES = ClaimNames()
LARGEST_ID = 2**63
"""A number beyond it is no id of anybody."""


def from_claims(claims: Mapping[str, object], names: ClaimNames = DEFAULT_NAMES) -> Permissions:
    """The rights in a verified JWT's claims.

    Args:
        claims: What the token says.
        names: Where it says it.

    Raises:
        TokenRefused: A claim has the wrong type; its issuer did not mean half of the rights.
    """
    expires = claims.get("exp")
    if (
        isinstance(expires, bool)
        or not isinstance(expires, int | float)
        or not 0 <= expires <= LATEST_EXPIRY
    ):
        raise TokenRefused("the claim exp is required and is a number of seconds since the epoch")
    owners = _names(claims, names.owners)
    return Permissions(
        subject=_owner(claims, names),
        expires_at=float(expires),
        predictions=_names(claims, names.predictions),
        owners=frozenset(names.owner_prefix + owner for owner in owners) if owners else _NONE,
        tags=_names(claims, names.tags),
        models=_names(claims, names.models),
        scopes=_all_scopes(claims, names),
    )


def claim_at(claims: Mapping[str, object], name: str) -> object:
    """The claim of this name, or the one that its dots lead to; None: there is none."""
    found = claims.get(name)
    if found is not None or "." not in name:
        return found
    at = name.rfind(".")
    while at > 0:  # the longest beginning first: `https://app.example/claims.roles`
        inner = claims.get(name[:at])
        if isinstance(inner, Mapping):
            return claim_at(inner, name[at + 1 :])
        at = name.rfind(".", 0, at)
    return None


def _owner(claims: Mapping[str, object], names: ClaimNames) -> str | None:
    owner = None if names.owner is None else claim_at(claims, names.owner)
    if owner is None:
        return None
    if names.owner != "sub" and type(owner) is int and abs(owner) < LARGEST_ID:
        owner = str(owner)  # RFC 7519 wants a text of `sub` alone
    if not isinstance(owner, str) or not owner:
        raise TokenRefused(
            f"the claim {names.owner} must be a non-empty string: the owner that the caller is"
        )
    return names.owner_prefix + owner


def _all_scopes(claims: Mapping[str, object], names: ClaimNames) -> frozenset[str]:
    found = _NONE
    for claim in names.scopes:
        found = _union(found, _scopes(claims, claim))
    if not names.role_scopes:
        return found
    held = found
    for claim in names.roles:
        held = _union(held, _roles(claims, claim))
    for word in held:
        found = _union(found, names.role_scopes.get(word, _NONE))
    return found


def _union(some: frozenset[str], more: frozenset[str]) -> frozenset[str]:
    """Both, without a set of its own if one of them is empty."""
    return some | more if some and more else some or more


def _scopes(claims: Mapping[str, object], claim: str) -> frozenset[str]:
    """Words separated by spaces (RFC 9068, 2.2.3), or a list as some issuers send it."""
    scopes = claim_at(claims, claim)
    if scopes is None:
        return _NONE
    if isinstance(scopes, str):
        scopes = scopes.split()
    if not isinstance(scopes, list) or not all(isinstance(scope, str) for scope in scopes):
        raise TokenRefused(
            f"the claim {claim} must be words separated by spaces, or a list of strings"
        )
    return frozenset(scopes) if scopes else _NONE


def _roles(claims: Mapping[str, object], claim: str) -> frozenset[str]:
    """A role, or a list of roles. A text is one role: `not admin` is not `admin`."""
    roles = claim_at(claims, claim)
    if roles is None:
        return _NONE
    if isinstance(roles, str):
        roles = [roles]
    if not isinstance(roles, list) or not all(isinstance(role, str) for role in roles):
        raise TokenRefused(f"the claim {claim} must be a string or a list of strings")
    return frozenset(roles) if roles else _NONE


def _names(claims: Mapping[str, object], claim: str | None) -> frozenset[str]:
    names = None if claim is None else claim_at(claims, claim)
    if names is None:
        return _NONE
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise TokenRefused(f"the claim {claim} must be a list of strings")
    return frozenset(names)
