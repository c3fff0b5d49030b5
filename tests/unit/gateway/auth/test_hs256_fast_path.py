"""The short way to check a JWT: it takes nothing that the library refuses, and reads the same out of it."""

import base64
import json
import time
from typing import Any

import jwt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.clock import ManualClock
from tidings.gateway.auth.hs256_fast_path import Hs256FastPath
from tidings.gateway.auth.permissions import Permissions, TokenRefused, from_claims
from tidings.gateway.auth.tokens import LEEWAY, Hs256Tokens, RequiredClaims, _decode

SECRET = b"a secret of more than thirty-two bytes"
OTHER = b"another secret of thirty-two bytes"
NOW = int(time.time())
CLAIMS = RequiredClaims(audience="tidings", issuer="idp")


def short() -> Hs256FastPath:
    return Hs256FastPath(SECRET, CLAIMS.audience, CLAIMS.issuer, LEEWAY)


def good(**more: Any) -> dict[str, Any]:
    return {"sub": "ann", "exp": NOW + 3600, "aud": "tidings", "iss": "idp", **more}


def segment(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def sealed(header: str, payload: str, secret: bytes = SECRET) -> str:
    """A token of these segments, with a signature that is right for them."""
    signature = jwt.get_algorithm_by_name("HS256").sign(f"{header}.{payload}".encode(), secret)
    return f"{header}.{payload}.{segment(signature)}"


def by_library(token: str) -> Permissions | str:
    try:
        return from_claims(_decode(token, SECRET, ("HS256",), CLAIMS, time.time()))
    except TokenRefused as refused:
        return refused.reason


def by_service(token: str) -> Permissions | str:
    try:
        return Hs256Tokens(SECRET, CLAIMS).at_once(token)
    except TokenRefused as refused:
        return refused.reason


@pytest.mark.parametrize("headers", [{}, {"kid": "k1"}, {"typ": None}])
def test_the_usual_token_takes_the_short_way(headers: dict[str, Any]) -> None:
    """A genuine token needs no library, whichever of the common headers it has."""
    token = jwt.encode(
        good(scope="write", owners=["bob"]), SECRET, algorithm="HS256", headers=headers
    )
    claims = short().claims(token, NOW)
    assert claims is not None
    assert from_claims(claims) == by_library(token)


FROM_NOW = st.one_of(
    st.sampled_from([-3600, -5, 5, 20, 40, 3600]),
    # Both ask the clock, one after the other: nothing lies within seconds of where the answer changes.
    st.integers(-60, 60)
    .filter(lambda seconds: abs(seconds) > 5 and abs(seconds - LEEWAY) > 5)
    .map(lambda s: s + 0.5),
).map(lambda seconds: ("from now", seconds))
TIMES = st.one_of(FROM_NOW, st.sampled_from([-1e300, 1e300, 2**70, True, None, "soon", [1]]))
NAMES = st.one_of(
    st.none(), st.text(max_size=3), st.integers(), st.lists(st.text(max_size=3), max_size=2)
)
ODD = st.dictionaries(
    st.sampled_from(["sub", "jti", "aud", "iss", "scope", "owners", "tags", "x"]), NAMES, max_size=3
)


@settings(max_examples=400, deadline=None)
@given(claims=ODD, times=st.dictionaries(st.sampled_from(["exp", "nbf", "iat"]), TIMES, max_size=3))
def test_odd_claims_are_judged_as_the_library_judges_them(
    claims: dict[str, Any], times: dict[str, Any]
) -> None:
    """Whatever an issuer writes into a token, the same rights or the same reason come out."""
    now = int(time.time())
    settled = {name: now + at[1] if isinstance(at, tuple) else at for name, at in times.items()}
    payload = json.dumps(good(**claims, **settled)).encode()
    token = sealed(segment(b'{"alg":"HS256","typ":"JWT"}'), segment(payload))
    assert by_service(token) == by_library(token)


@settings(max_examples=400, deadline=None)
@given(
    position=st.integers(0, 400),
    byte=st.integers(0, 127),
    kind=st.sampled_from(["flip", "cut", "put"]),
)
def test_a_token_with_one_character_changed_proves_nothing(
    position: int, byte: int, kind: str
) -> None:
    """No character of a genuine token can be changed, left out or added."""
    token = jwt.encode(good(), SECRET, algorithm="HS256")
    at = position % len(token)
    middle = {"flip": chr(byte), "cut": "", "put": chr(byte) + token[at]}[kind]
    changed = token[:at] + middle + token[at + 1 :]
    if changed != token:
        assert short().claims(changed, NOW) is None
        assert by_service(changed) == by_library(changed)


@settings(max_examples=400, deadline=None)
@given(data=st.data())
def test_what_the_issuer_signs_in_another_shape_is_judged_as_the_library_does(
    data: st.DataObject,
) -> None:
    """Headers and payloads with any byte changed, signed with the right secret, get the library's answer."""
    parts = [b'{"alg":"HS256","typ":"JWT"}', json.dumps(good()).encode()]
    which = data.draw(st.integers(0, 1))
    at = data.draw(st.integers(0, len(parts[which]) - 1))
    new = data.draw(st.binary(max_size=4))
    parts[which] = parts[which][:at] + new + parts[which][at + data.draw(st.integers(0, 2)) :]
    padding = data.draw(st.sampled_from(["", "", "=", "=="]))
    token = sealed(segment(parts[0]), segment(parts[1]) + padding)
    assert by_service(token) == by_library(token)


@pytest.mark.parametrize(
    "header",
    [
        {"alg": "none"},
        {"alg": "HS512"},
        {"alg": ["HS256"]},
        {"alg": "HS256", "crit": ["exp"]},
        {"alg": "HS256", "b64": False, "crit": ["b64"]},
        {"alg": "HS256", "kid": 5},
        {"typ": "JWT"},
    ],
)
def test_other_headers_are_the_librarys_to_judge(header: dict[str, Any]) -> None:
    """An algorithm that is not HS256, and a header that must be understood, never take the short way."""
    token = sealed(segment(json.dumps(header).encode()), segment(json.dumps(good()).encode()))
    assert short().claims(token, NOW) is None
    assert by_service(token) == by_library(token)


@pytest.mark.parametrize("secret", [OTHER, b"", SECRET[:-1]])
def test_another_secret_proves_nothing(secret: bytes) -> None:
    """A token of any other secret is refused for its signature."""
    token = sealed(segment(b'{"alg":"HS256"}'), segment(json.dumps(good()).encode()), secret)
    assert short().claims(token, NOW) is None
    assert "ignature" in str(by_service(token))


def test_a_public_key_is_no_secret() -> None:
    """What the library refuses to take for a secret, because it is published, signs nothing."""
    published = b'{"kty":"RSA","n":"AQAB","e":"AQAB"}' + b" " * 20
    token = sealed(segment(b'{"alg":"HS256"}'), segment(json.dumps(good()).encode()), published)
    with pytest.raises(TokenRefused):
        Hs256Tokens(published, CLAIMS, ManualClock(NOW * 1000)).at_once(token)
