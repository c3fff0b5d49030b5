"""Which token gives which rights under which settings: a table of tokens, each with all it gives."""

import base64
import json
from collections.abc import Mapping
from typing import Any

import pytest
from msgspec import Struct

from tests.support.gateway import issuers
from tests.support.gateway.issuers import issued
from tidings.config.loader import load_settings
from tidings.config.settings import SettingsError
from tidings.gateway.auth.permissions import Permissions, TokenRefused
from tidings.runtime.authentication import authenticator_of

SECRET = {"TIDINGS_JWT_SECRET": issuers.SECRET}
JWKS = {"TIDINGS_JWKS_URL": "https://a.example/keys"}
ROLES = SECRET | {
    "TIDINGS_ROLE_CLAIMS": "roles,realm_access.roles,https://app.example/roles",
    "TIDINGS_ROLE_SCOPES": "editor=read:all write,boss=admin,viewer=read:all watch:all,api/read=read:all",
}
TWO = {
    "TIDINGS_ISSUERS": json.dumps(
        [
            {
                "issuer": "https://a.example/",
                "jwks_url": "https://a.example/keys",
                "audience": "tidings",
            },
            {
                "issuer": "https://b.example",
                "jwks_url": "https://b.example/keys",
                "owner_prefix": "b|",
                "owner_claim": "user.id",
                "scope_claims": ["permissions"],
                "tags_claim": "none",
            },
        ]
    )
}
NOTHING = "gives no right"
REALM = {"realm_access": {"roles": ["editor", "offline_access"]}}


class Row(Struct, frozen=True):
    """A token and what it gives."""

    settings: Mapping[str, str]
    claims: Mapping[str, Any]
    gives: Mapping[str, Any] | str
    """Every field of the permissions that is not empty; a text: it is refused, and why."""
    key: str = "secret"


MATRIX: dict[str, Row] = {
    # what is set by default
    "an owner": Row(SECRET, {"sub": "ann"}, {"subject": "ann"}),
    "nothing": Row(SECRET, {}, NOTHING),
    "scope in words": Row(SECRET, {"scope": "read:all write"}, {"scopes": {"read:all", "write"}}),
    "scope in a list": Row(SECRET, {"scope": ["write"]}, {"scopes": {"write"}}),
    "scp": Row(SECRET, {"scp": "watch:all"}, {"scopes": {"watch:all"}}),
    "scope and scp": Row(
        SECRET, {"scope": "write", "scp": ["admin"]}, {"scopes": {"write", "admin"}}
    ),
    "scopes of others": Row(SECRET, {"scope": "openid email"}, NOTHING),
    "permissions unasked": Row(SECRET, {"sub": "a", "permissions": ["admin"]}, {"subject": "a"}),
    "roles unasked": Row(SECRET, {"sub": "a", "roles": ["admin"]}, {"subject": "a"}),
    "lists": Row(
        SECRET,
        {"predictions": ["p"], "owners": ["o"], "tags": ["t"], "models": ["m"]},
        {"predictions": {"p"}, "owners": {"o"}, "tags": {"t"}, "models": {"m"}},
    ),
    "a list in words": Row(SECRET, {"owners": "ann bob"}, "owners must be a list"),
    "a number as sub": Row(SECRET, {"sub": 7}, "ubject"),
    "scope as an object": Row(SECRET, {"scope": {"admin": True}}, "scope must be words"),
    # names of claims
    "owner elsewhere": Row(
        SECRET | {"TIDINGS_OWNER_CLAIM": "user_id"}, {"sub": "x", "user_id": "u"}, {"subject": "u"}
    ),
    "owner as a number": Row(
        SECRET | {"TIDINGS_OWNER_CLAIM": "user_id"}, {"user_id": 17}, {"subject": "17"}
    ),
    "owner as a truth": Row(
        SECRET | {"TIDINGS_OWNER_CLAIM": "user_id"}, {"user_id": True}, "user_id must be"
    ),
    "owner missing there": Row(SECRET | {"TIDINGS_OWNER_CLAIM": "user_id"}, {"sub": "x"}, NOTHING),
    "owner in a member": Row(
        SECRET | {"TIDINGS_OWNER_CLAIM": "app.user.id"},
        {"app": {"user": {"id": "u"}}},
        {"subject": "u"},
    ),
    "owner in a namespace": Row(
        SECRET | {"TIDINGS_OWNER_CLAIM": "https://app.example/claims.id"},
        {"https://app.example/claims": {"id": "u"}},
        {"subject": "u"},
    ),
    "the whole name first": Row(
        SECRET | {"TIDINGS_OWNER_CLAIM": "app.id"},
        {"app.id": "whole", "app": {"id": "member"}},
        {"subject": "whole"},
    ),
    "no owner claim": Row(SECRET | {"TIDINGS_OWNER_CLAIM": "none"}, {"sub": "ann"}, NOTHING),
    "permissions asked": Row(
        SECRET | {"TIDINGS_SCOPE_CLAIMS": "permissions"},
        {"permissions": ["write"], "scope": "admin"},
        {"scopes": {"write"}},
    ),
    "no scope claims": Row(
        SECRET | {"TIDINGS_SCOPE_CLAIMS": "none"}, {"sub": "a", "scope": "admin"}, {"subject": "a"}
    ),
    "a list of another name": Row(
        SECRET | {"TIDINGS_OWNERS_CLAIM": "https://app.example/teams"},
        {"https://app.example/teams": ["red"], "owners": ["blue"]},
        {"owners": {"red"}},
    ),
    "no list of tags": Row(
        SECRET | {"TIDINGS_TAGS_CLAIM": "none"}, {"sub": "a", "tags": ["t"]}, {"subject": "a"}
    ),
    # roles
    "a role": Row(ROLES, {"roles": "editor"}, {"scopes": {"read:all", "write"}}),
    "roles of a realm": Row(ROLES, REALM, {"scopes": {"read:all", "write"}}),
    "roles in a namespace": Row(
        ROLES, {"https://app.example/roles": ["boss"]}, {"scopes": {"admin"}}
    ),
    "roles together": Row(
        ROLES,
        {"roles": ["viewer"], **REALM},
        {"scopes": {"read:all", "write", "watch:all"}},
    ),
    "a role that is in none of the settings": Row(ROLES, {"roles": ["owner"]}, NOTHING),
    "a role is no scope": Row(ROLES, {"roles": ["admin", "write"]}, NOTHING),
    "a role in words is one role": Row(ROLES, {"roles": "boss editor"}, NOTHING),
    "a scope of another name": Row(
        ROLES, {"scope": "api/read"}, {"scopes": {"api/read", "read:all"}}
    ),
    "roles as an object": Row(ROLES, {"roles": {"boss": True}}, "roles must be"),
    # audiences, issuers and keys
    "client_id as audience": Row(
        SECRET | {"TIDINGS_JWT_AUDIENCE": "app", "TIDINGS_AUDIENCE_CLAIM": "client_id"},
        {"sub": "a", "client_id": "app", "aud": "whatever"},
        {"subject": "a"},
    ),
    "another client_id": Row(
        SECRET | {"TIDINGS_JWT_AUDIENCE": "app", "TIDINGS_AUDIENCE_CLAIM": "client_id"},
        {"sub": "a", "client_id": "other", "aud": "app"},
        "client_id names another audience",
    ),
    "no client_id": Row(
        SECRET | {"TIDINGS_JWT_AUDIENCE": "app", "TIDINGS_AUDIENCE_CLAIM": "client_id"},
        {"sub": "a"},
        "client_id names another audience",
    ),
    "a key pair": Row(JWKS, {"sub": "a"}, {"subject": "a"}, "ec"),
    "a secret where keys are asked for": Row(JWKS, {"sub": "a"}, "algorithm"),
    "a stranger's key": Row(JWKS, {"sub": "a"}, "ignature", "stranger"),
    "the first issuer": Row(
        TWO,
        {"iss": "https://a.example/", "aud": ["tidings", "x"], "sub": "ann", "scope": "write"},
        {"subject": "ann", "scopes": {"write"}},
        "rsa",
    ),
    "the first issuer for others": Row(
        TWO, {"iss": "https://a.example/", "aud": "x", "sub": "ann"}, "udience", "rsa"
    ),
    "the first issuer without its slash": Row(
        TWO, {"iss": "https://a.example", "aud": "tidings", "sub": "ann"}, "Invalid issuer", "rsa"
    ),
    "the second issuer": Row(
        TWO,
        {
            "iss": "https://b.example",
            "sub": "ann",
            "user": {"id": 7},
            "scope": "admin",
            "permissions": ["read:all"],
            "owners": ["ann"],
            "tags": ["t"],
        },
        {"subject": "b|7", "scopes": {"read:all"}, "owners": {"b|ann"}},
        "ec",
    ),
    "a third issuer": Row(TWO, {"iss": "https://c.example", "sub": "a"}, "Invalid issuer", "rsa"),
    "no issuer": Row(TWO, {"sub": "a"}, "Invalid issuer", "rsa"),
    "an issuer by a stranger's key": Row(
        TWO, {"iss": "https://b.example", "user": {"id": "7"}}, "ignature", "stranger"
    ),
    "an end long ago": Row(SECRET, {"sub": "a", "exp": 1}, "xpired"),
    "no end": Row(SECRET, {"sub": "a", "exp": None}, "exp"),
}


def test_the_table_has_forty_tokens_and_more() -> None:
    """As many as were asked for."""
    assert len(MATRIX) >= 40


@pytest.mark.parametrize("name", MATRIX)
async def test_a_token_gives_exactly_this(name: str) -> None:
    """Each token of the table gives what stands beside it and nothing else, or is refused."""
    row = MATRIX[name]
    settings = load_settings(environ=dict(row.settings))
    authenticator = authenticator_of(settings, issuers.fetch)
    assert authenticator is not None
    token = issued(dict(row.claims), row.key)
    if isinstance(row.gives, str):
        with pytest.raises(TokenRefused, match=row.gives):
            await authenticator.authenticate(token)
        return
    found = await authenticator.authenticate(token)
    fields: dict[str, Any] = {
        name: frozenset(value) if isinstance(value, set) else value
        for name, value in row.gives.items()
    }
    expected = Permissions(**fields)
    assert found.grants_like(expected), found


async def test_nobody_is_asked_for_the_keys_of_another_issuer() -> None:
    """A token that names another issuer costs no request to any."""
    issuers.ASKED.clear()
    authenticator = authenticator_of(load_settings(environ=TWO), issuers.fetch)
    assert authenticator is not None
    with pytest.raises(TokenRefused):
        await authenticator.authenticate(issued({"iss": "https://c.example"}))
    assert issuers.ASKED == []
    await authenticator.authenticate(issued({"iss": "https://b.example", "user": {"id": 1}}))
    assert issuers.ASKED == ["https://b.example/keys"]


async def test_a_changed_token_gives_nothing_of_its_change() -> None:
    """Claims are read after the proof alone: whoever writes another role into a token loses it."""
    authenticator = authenticator_of(load_settings(environ=ROLES), issuers.fetch)
    assert authenticator is not None
    header, _, signature = issued({"roles": ["viewer"]}, "secret").split(".")
    body = base64.urlsafe_b64encode(b'{"exp":99999999999,"roles":["boss"]}').rstrip(b"=").decode()
    with pytest.raises(TokenRefused):
        await authenticator.authenticate(f"{header}.{body}.{signature}")


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"TIDINGS_OWNER_CLAIM": "user_metadata.team"}, "filled by the users themselves"),
        ({"TIDINGS_ROLE_CLAIMS": "unsafe_metadata.role"}, "filled by the users themselves"),
        ({"TIDINGS_ROLE_SCOPES": "editor"}, "not ROLE=SCOPES"),
        ({"TIDINGS_ROLE_SCOPES": "editor=wirte"}, "'wirte', which is none of"),
        ({"TIDINGS_ISSUERS": "https://a.example"}, "takes a list in JSON"),
        ({"TIDINGS_ISSUERS": '[{"issuer": "https://a.example"}]'}, "jwks_url"),
        ({"TIDINGS_ISSUERS": '[{"issuer": "a", "jwks_url": "ftp://a"}]'}, "ftp"),
        (
            {"TIDINGS_ISSUERS": '[{"issuer": "a", "jwks_url": "https://a", "audeince": "x"}]'},
            "audeince",
        ),
        (
            {
                "TIDINGS_ISSUERS": '[{"issuer": "a", "jwks_url": "https://a", "role_claims": ["user_metadata.x"]}]'
            },
            "filled by the users themselves",
        ),
        (
            {"TIDINGS_JWKS_URL": "https://www.googleapis.com/service_accounts/v1/jwk/x"},
            "everybody's applications",
        ),
    ],
)
def test_settings_that_would_give_too_much_stop_the_start(
    settings: dict[str, str], says: str
) -> None:
    """What users could fill themselves, and what cannot be meant, is one line that names the setting."""
    with pytest.raises(SettingsError, match=says) as raised:
        load_settings(environ=settings)
    assert str(raised.value).startswith("TIDINGS_")
    assert "\n" not in str(raised.value)


def test_issuers_stand_as_tables_in_the_file(tmp_path: Any) -> None:
    """`[[issuers]]` in `tidings.toml` says the same as JSON in the environment."""
    (tmp_path / "tidings.toml").write_text(
        '[[issuers]]\nissuer = "https://a.example/"\njwks-url = "https://a.example/keys"\n'
        'role_scopes = ["boss=admin"]\n'
    )
    (issuer,) = load_settings(environ={}, folder=tmp_path).issuers
    assert (issuer.issuer, issuer.jwks_url) == ("https://a.example/", "https://a.example/keys")
    assert issuer.role_scopes == ("boss=admin",)
