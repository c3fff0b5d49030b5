"""What `tidings doctor --token` says of a token, and of the token on each page about an issuer."""

import json
import time
from typing import Any

import pytest

from tests.support.gateway import issuers
from tests.support.gateway.issuers import SECRET, issued
from tests.support.reference import sign_in_pages
from tidings.cli.support import token_check
from tidings.config.loader import load_settings

JWKS = {
    "TIDINGS_JWKS_URL": "https://a.example/keys",
    "TIDINGS_JWT_ISSUER": "https://a.example/",
    "TIDINGS_JWT_AUDIENCE": "tidings",
}
GOOD = {"iss": "https://a.example/", "aud": "tidings", "sub": "ann"}


@pytest.mark.parametrize("name", sign_in_pages.PAGES)
async def test_a_page_about_an_issuer_says_what_the_doctor_says(name: str) -> None:
    """The settings of the page take its token, and give what stands there.

    `python -m tests.support.reference.sign_in_pages` writes it anew.
    """
    page = sign_in_pages.read(name)
    assert await sign_in_pages.said(page) == page.says


async def says(settings: dict[str, str], token: str) -> dict[str, tuple[str, str]]:
    found = await token_check.explained(load_settings(environ=settings), token, issuers.fetch)
    assert all(token not in one.says and "\n" not in one.says for one in found)
    return {one.part: (one.state, one.says) for one in found}


@pytest.mark.parametrize(
    ("claims", "key", "why"),
    [
        (GOOD | {"exp": 5}, "rsa", "it has expired 20"),
        (GOOD | {"exp": None}, "rsa", "it has no `exp`"),
        (GOOD | {"iss": "https://a.example"}, "rsa", "(a slash at the end counts)"),
        (GOOD | {"iss": "https://c.example"}, "rsa", 'its `iss` is "https://c.example", not'),
        (GOOD | {"aud": ["x", "y"]}, "rsa", 'its `aud` is ["x", "y"], not "tidings"'),
        (GOOD, "secret", "TIDINGS_JWT_SECRET is not set"),
        (GOOD, "stranger", "ignature"),
        (GOOD | {"tags": "red"}, "rsa", "the claim tags must be a list"),
    ],
)
async def test_why_a_token_is_refused(claims: dict[str, Any], key: str, why: str) -> None:
    """The line names the claim, what stands there and what was expected."""
    (state, said), *_ = (await says(JWKS, issued(claims, key))).values()
    assert state == "failed"
    assert why in said, said


@pytest.mark.parametrize(
    ("token", "why"),
    [
        ("eyJhbGciOiJkaXIifQ..a.b.c", "encrypted (JWE)"),
        ("opaque-token", "it is no JWT, and TIDINGS_API_KEYS is not set"),
        ("x" * 20_000, "longer than"),
    ],
)
async def test_what_is_no_jwt_is_called_so(token: str, why: str) -> None:
    """An encrypted or opaque token is told apart from a wrong one."""
    assert why in (await says(JWKS, token))["token"][1]


async def test_a_token_that_gives_nothing_is_a_failure_with_the_claims_that_would() -> None:
    """No owner and no scope: which claims were looked for, and which look like rights."""
    token = issued({"user_id": "u1", "permissions": ["read:all"], "roles": ["admin"]}, key="secret")
    found = await says({"TIDINGS_JWT_SECRET": SECRET}, token)
    assert found["token"] == (
        "failed",
        "genuine, but it gives no right at all: it is answered with 403",
    )
    assert 'TIDINGS_OWNER_CLAIM=user_id would take "u1"' in found["token owner"][1]
    assert (
        '`permissions` (["read:all"]) is not read (TIDINGS_SCOPE_CLAIMS)'
        in found["token scopes"][1]
    )
    assert '`roles` (["admin"]) is not read (TIDINGS_ROLE_CLAIMS)' in found["token scopes"][1]


async def test_api_keys_admins_and_lists() -> None:
    """An API key's rights, an admin's and what lists add are told."""
    settings = {"TIDINGS_JWT_SECRET": SECRET, "TIDINGS_API_KEYS": "k" * 24}
    assert (await says(settings, "k" * 24))["token"] == (
        "ok",
        "it is an API key: watch:all, read:all, write",
    )
    found = await says(settings, issued({"scope": "admin", "tags": ["red"]}, key="secret"))
    assert found["token scopes"] == ("ok", "gives admin, which is everything")
    assert found["token lists"] == ("ok", '`tags` adds ["red"]')


async def test_of_several_issuers_the_one_that_the_token_names_counts() -> None:
    """Audience and claims of the issuer's own table are looked at."""
    table = {
        "issuer": "https://b.example",
        "jwks_url": "https://b.example/keys",
        "audience": "app",
        "audience_claim": "azp",
        "owner_claim": "uid",
    }
    settings = {**JWKS, "TIDINGS_ISSUERS": json.dumps([table])}
    token = issued({"iss": "https://b.example", "azp": "app", "uid": "u"}, "ec")
    assert (await says(settings, token))["token owner"][1].startswith('"u" (`uid`)')
    token = issued({"iss": "https://b.example", "azp": "other", "uid": "u"}, "ec")
    assert 'its `azp` is "other", not "app"' in (await says(settings, token))["token"][1]


async def test_an_issuer_that_differs_by_a_slash_is_named() -> None:
    """Beside a shared secret too, what a key pair has signed must come from an issuer that is named."""
    table = {"issuer": "https://a.example/", "jwks_url": "https://a.example/keys"}
    settings = {"TIDINGS_JWT_SECRET": SECRET, "TIDINGS_ISSUERS": json.dumps([table])}
    found = await says(settings, issued({"iss": "https://a.example", "sub": "ann"}))
    assert "(a slash at the end counts)" in found["token"][1]


async def test_without_authentication_no_token_is_looked_at() -> None:
    """A token for a service that asks for none gets one line that says so."""
    found = await says({}, issued({"sub": "ann", "iat": int(time.time())}))
    assert found == {
        "token": ("warning", "no authentication is configured, so no token is looked at")
    }
