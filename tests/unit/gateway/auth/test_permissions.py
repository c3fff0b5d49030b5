"""The table of permissions, cell by cell, as values and over HTTP."""

import time
from typing import Any

import httpx
import jwt
import pytest

from tests.support.gateway.small_service import prediction, small_service
from tidings.gateway.auth.permissions import OPEN, Permissions, TokenRefused, from_claims
from tidings.gateway.auth.tokens import Hs256Tokens, RequiredClaims

pytestmark = pytest.mark.doors

SECRET = b"a secret of more than thirty-two bytes"

CALLERS: dict[str, dict[str, Any]] = {
    "owner": {"sub": "ann"},
    "stranger": {"sub": "bob"},
    "listed prediction": {"sub": "bob", "predictions": ["p1"]},
    "listed owner": {"owners": ["ann"]},
    "listed tag": {"tags": ["t"]},
    "listed model": {"models": ["m"]},
    "read:all": {"scope": "read:all"},
    "watch:all": {"scope": "watch:all"},
    "write": {"scope": "write"},
    "API key": {"scope": "watch:all read:all write"},
    "admin": {"scope": "admin"},
}

TABLE: dict[str, set[str]] = {
    "watch": {
        "owner",
        "listed prediction",
        "listed owner",
        "listed tag",
        "listed model",
        "watch:all",
        "API key",
        "admin",
    },
    "read": {
        "owner",
        "listed prediction",
        "listed owner",
        "listed tag",
        "listed model",
        "read:all",
        "API key",
        "admin",
    },
    "create own": {"owner", "write", "API key", "admin"},
    "create other": {"write", "API key", "admin"},
    "cancel": {"owner", "write", "API key", "admin"},
    "delete": {"owner", "write", "API key", "admin"},
    "patch": {"write", "API key", "admin"},
    "admin": {"admin"},
}


def permissions(claims: dict[str, Any]) -> Permissions:
    return from_claims({"exp": time.time() + 60, **claims})


def answer(right: str, caller: Permissions) -> bool:
    match right:
        case "watch":
            return caller.may_watch("p1", "ann", "m", ("t",))
        case "read":
            return caller.may_read("p1", "ann", "m", ("t",))
        case "create own":
            return caller.may_create("ann")
        case "create other":
            return caller.may_create("zoe")
        case "cancel":
            return caller.may_cancel("ann")
        case "delete":
            return caller.may_delete("ann")
        case "patch":
            return caller.may_write()
    return caller.is_admin


@pytest.mark.parametrize("right", TABLE)
@pytest.mark.parametrize("caller", CALLERS)
def test_each_cell_of_the_table(right: str, caller: str) -> None:
    """Each right is given to exactly the callers that the table names."""
    assert answer(right, permissions(CALLERS[caller])) == (caller in TABLE[right])


@pytest.mark.parametrize("right", TABLE)
def test_open_allows_everything(right: str) -> None:
    """Without authentication nothing is withheld."""
    assert answer(right, OPEN)


@pytest.mark.parametrize("caller", CALLERS)
def test_a_record_of_nobody_is_seen_by_all_scopes_and_named_ids_alone(caller: str) -> None:
    """A tag or a model that is listed does not give a record without an owner away."""
    holder = permissions(CALLERS[caller])
    assert holder.may_read("p1", None, "m", ("t",)) == (
        caller in {"listed prediction", "read:all", "API key", "admin"}
    )
    assert holder.may_watch("p1", None, "m", ("t",)) == (
        caller in {"listed prediction", "watch:all", "API key", "admin"}
    )
    assert not permissions({}).may_read("p1", None, None, ())


def test_rights_are_the_union_of_the_claims() -> None:
    """A token with several claims has what each of them gives."""
    both = permissions(
        {"sub": "ann", "owners": ["bob"], "tags": ["t"], "scope": "write  watch:all"}
    )
    assert both.may_read("x", "ann", None, ())
    assert both.may_read("x", "bob", None, ())
    assert both.may_read("x", "zoe", None, ["t"])
    assert both.may_write()
    assert both.may_watch_all()
    assert not both.may_read_all()


@pytest.mark.parametrize(
    ("kind", "callers"),
    [
        ("owner", {"owner", "listed owner", "watch:all", "API key", "admin"}),
        ("tag", {"listed tag", "watch:all", "API key", "admin"}),
        ("model", {"listed model", "watch:all", "API key", "admin"}),
        ("all", {"watch:all", "API key", "admin"}),
    ],
)
def test_wide_subscriptions(kind: str, callers: set[str]) -> None:
    """An owner, a tag, a model and everything may be watched by those whom a claim or a scope names."""
    for name, claims in CALLERS.items():
        holder = permissions(claims)
        allowed = {
            "owner": holder.may_watch_owner("ann"),
            "tag": holder.may_watch_tag("t"),
            "model": holder.may_watch_model("m"),
            "all": holder.may_watch_all(),
        }
        assert allowed[kind] == (name in callers), name


@pytest.mark.parametrize(
    "claims",
    [
        {},
        {"exp": "soon"},
        {"exp": True},
        {"exp": 1, "sub": 7},
        {"exp": 1, "sub": ""},
        {"exp": 1, "owners": "ann"},
        {"exp": 1, "tags": [1]},
        {"exp": 1, "scope": ["admin", 1]},
        {"exp": 1, "scp": {"admin": True}},
    ],
)
def test_claims_of_a_wrong_type_refuse_the_token(claims: dict[str, Any]) -> None:
    """Half of a token's rights is not what its issuer meant, so none of them count."""
    with pytest.raises(TokenRefused):
        from_claims(claims)


REQUESTS = {
    "read": ("GET", "/api/predictions/p1", 200),
    "watch": ("HEAD", "/api/predictions/p1/events", 200),
    "patch": ("PATCH", "/api/predictions/p1", 200),
    "cancel": ("POST", "/api/predictions/p1/cancel", 202),
    "delete": ("DELETE", "/api/predictions/p1", 204),
    "admin": ("GET", "/api/stats", 200),
}


@pytest.mark.parametrize("caller", CALLERS)
async def test_each_cell_over_http(caller: str) -> None:
    """Over HTTP the same holds; what one may not even see is a 404, and what one may see and not do a 403."""
    token = jwt.encode({"exp": time.time() + 60, **CALLERS[caller]}, SECRET, algorithm="HS256")
    authenticator = Hs256Tokens(SECRET, RequiredClaims())
    async with (
        small_service(authenticator=authenticator) as service,
        httpx.AsyncClient(timeout=20) as client,
    ):
        await service.put(
            prediction("p1", owner="ann", model="m", tags=["t"], prompt="secret prompt")
        )
        for right, (method, path, good) in REQUESTS.items():
            answered = await client.request(
                method,
                service.url + path,
                headers={"Authorization": f"Bearer {token}"},
                json={"status": "processing"} if method == "PATCH" else None,
            )
            allowed = caller in TABLE[right]
            if right == "watch":
                # The stream says `unknown` to those who may not watch, so its status tells nothing.
                assert answered.status_code == 200
            elif allowed:
                assert answered.status_code == good, (right, answered.text)
            else:
                sees = caller in TABLE["read"]
                assert answered.status_code == (403 if sees or right == "admin" else 404), (
                    right,
                    answered.text,
                )
            if caller not in TABLE["read"]:
                assert "secret prompt" not in answered.text


@pytest.mark.parametrize(
    "claims",
    [
        {"scope": "read:all watch:all"},
        {"scope": ["read:all", "watch:all"]},
        {"scp": ["read:all", "watch:all"]},
        {"scp": "watch:all  read:all"},
        {"scope": "read:all", "scp": ["watch:all"]},
        {"scope": None, "scp": ["read:all", "watch:all"]},
    ],
)
def test_scopes_as_issuers_send_them(claims: dict[str, object]) -> None:
    """Scopes are words or a list, as `scope` or as `scp`; both together are their union."""
    assert from_claims({"exp": 1, **claims}).scopes == {"read:all", "watch:all"}
