"""Who may see and do what: a caller's rights as values, and the questions asked of them.

Pure. Rights are the union of the claims. What a caller may not see does not exist for it: code that
asks here and gets False answers as if there were nothing.
"""

from collections.abc import Collection, Mapping
from typing import Protocol

from msgspec import Struct

WATCH_ALL = "watch:all"
READ_ALL = "read:all"
WRITE = "write"
ADMIN = "admin"
API_KEY_SCOPES = frozenset({WATCH_ALL, READ_ALL, WRITE})
"""What an API key may do."""

MAX_TOKEN = 17 * 1024
"""Characters of a token, however it comes; a longer one is refused unread."""
LATEST_EXPIRY = 10**12
"""Seconds since the epoch: beyond it there is no date, and what is longer fits no number."""

_NONE: frozenset[str] = frozenset()
"""Shared: an empty set of its own is 216 bytes, and most claims are absent."""


class TokenRefused(Exception):
    """The token proves nothing: malformed, wrongly signed, expired or meant for somebody else."""

    def __init__(self, reason: str, *, retryable: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.retryable = retryable
        """Whether the same token may pass later: its keys cannot be fetched at the moment."""


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
"""Nothing is allowed: no token was given where one is needed."""


class Authenticator(Protocol):
    """What turns a token into permissions."""

    def at_once(self, token: str) -> Permissions | None:
        """The rights that the token proves; None where only `authenticate` can tell, by waiting.

        Raises:
            TokenRefused: As `authenticate` does.
        """

    async def authenticate(self, token: str) -> Permissions:
        """The rights that the token proves.

        Raises:
            TokenRefused: It proves nothing; the reason never repeats the token.
        """


def from_claims(claims: Mapping[str, object]) -> Permissions:
    """The rights in a verified JWT's claims.

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
    subject = claims.get("sub")
    if subject is not None and (not isinstance(subject, str) or not subject):
        raise TokenRefused("the claim sub must be a non-empty string: the owner that the caller is")
    return Permissions(
        subject=subject,
        expires_at=float(expires),
        predictions=_names(claims, "predictions"),
        owners=_names(claims, "owners"),
        tags=_names(claims, "tags"),
        models=_names(claims, "models"),
        scopes=_union(_scopes(claims, "scope"), _scopes(claims, "scp")),
    )


def _union(some: frozenset[str], more: frozenset[str]) -> frozenset[str]:
    """Both, without a set of its own where one of them is empty."""
    return some | more if some and more else some or more


def _scopes(claims: Mapping[str, object], claim: str) -> frozenset[str]:
    """Words separated by spaces (RFC 9068, 2.2.3), or a list as some issuers send it; `scp` alike."""
    scopes = claims.get(claim)
    if scopes is None:
        return _NONE
    if isinstance(scopes, str):
        scopes = scopes.split()
    if not isinstance(scopes, list) or not all(isinstance(scope, str) for scope in scopes):
        raise TokenRefused(
            f"the claim {claim} must be words separated by spaces, or a list of strings"
        )
    return frozenset(scopes) if scopes else _NONE


def _names(claims: Mapping[str, object], claim: str) -> frozenset[str]:
    names = claims.get(claim)
    if names is None:
        return _NONE
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise TokenRefused(f"the claim {claim} must be a list of strings")
    return frozenset(names)
