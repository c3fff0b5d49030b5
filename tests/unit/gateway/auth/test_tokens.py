"""Tokens: JWTs with a secret or a key set, and API keys."""

import asyncio
import json
import time
from collections.abc import Callable
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from tests.support.clock import ManualClock
from tests.support.conditions import eventually
from tidings.gateway.auth.permissions import TokenRefused
from tidings.gateway.auth.tokens import (
    REMEMBERED_CHARACTERS,
    ApiKeys,
    Hs256Tokens,
    JwksTokens,
    RequiredClaims,
    TokenAuthenticator,
)
from tidings.streams.providers.signatures.jwks import PAUSE, KeySet

SECRET = b"a secret of more than thirty-two bytes"
RSA = rsa.generate_private_key(public_exponent=65537, key_size=2048)
RSA_NEXT = rsa.generate_private_key(public_exponent=65537, key_size=2048)
EC = ec.generate_private_key(ec.SECP256R1())
ED = ed25519.Ed25519PrivateKey.generate()


def claims(**more: Any) -> dict[str, Any]:
    return {"sub": "ann", "exp": time.time() + 60, **more}


def signed(key: Any = SECRET, algorithm: str = "HS256", kid: str | None = None, **more: Any) -> str:
    return jwt.encode(
        claims(**more), key, algorithm=algorithm, headers={"kid": kid} if kid else None
    )


async def test_a_token_signed_with_the_secret_proves_its_claims() -> None:
    """Subject, scopes and expiry come out of a token as they went in."""
    permissions = await Hs256Tokens(SECRET, RequiredClaims()).authenticate(
        signed(scope="write", owners=["bob"])
    )
    assert permissions.subject == "ann"
    assert permissions.may_write()
    assert permissions.may_watch_owner("bob")
    assert permissions.expires_at is not None
    assert permissions.expires_at > time.time()


def without_signature() -> str:
    return jwt.encode(claims(), "", algorithm="none")


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: signed(b"another secret of thirty-two bytes"), "ignature"),
        (lambda: signed(exp=time.time() - 1), "expired"),
        (lambda: signed(exp=None), "exp"),
        (lambda: signed(SECRET * 2, algorithm="HS512"), "alg"),
        (lambda: signed(nbf=time.time() + 600), "not yet valid"),
        (lambda: signed(sub=7), "ubject"),
        (lambda: signed(owners="ann"), "owners"),
        (without_signature, "alg"),
        (lambda: signed() + "x", "ignature"),
        (lambda: "", "token|segments|JWT"),
        (lambda: "a.b.c", "."),
        (lambda: "\u00e9\udcff", "."),
        (lambda: "x" * 30_000, "longer"),
    ],
)
async def test_what_proves_nothing_is_refused(make: Callable[[], str], reason: str) -> None:
    """A wrong key, an expired token, none or another algorithm, and garbage are refused with the reason."""
    token = (
        make()
    )  # now: a token made when the tests were collected would have expired by the time they run
    with pytest.raises(TokenRefused, match=reason) as refused:
        await TokenAuthenticator([Hs256Tokens(SECRET, RequiredClaims())]).authenticate(token)
    assert not refused.value.retryable
    assert len(token) < 10 or token not in refused.value.reason


async def test_audience_and_issuer_are_held_where_configured() -> None:
    """A token for another service, or of another issuer, or without saying, is refused."""
    strict = Hs256Tokens(SECRET, RequiredClaims(audience="tidings", issuer="idp"))
    assert (await strict.authenticate(signed(aud="tidings", iss="idp"))).subject == "ann"
    assert (await strict.authenticate(signed(aud=["x", "tidings"], iss="idp"))).subject == "ann"
    for token in (
        signed(),
        signed(aud="x", iss="idp"),
        signed(aud="tidings", iss="x"),
        signed(aud="tidings"),
    ):
        with pytest.raises(TokenRefused):
            await strict.authenticate(token)
    assert (
        await Hs256Tokens(SECRET, RequiredClaims()).authenticate(signed(aud="whatever"))
    ).subject == "ann"


async def test_api_keys_may_watch_read_and_write() -> None:
    """Each configured key is taken, another text is not, and none is an admin."""
    keys = TokenAuthenticator(
        [ApiKeys(["first-key", "second-key"]), Hs256Tokens(SECRET, RequiredClaims())]
    )
    for key in ("first-key", "second-key"):
        permissions = await keys.authenticate(key)
        assert permissions.may_watch_all()
        assert permissions.may_read_all()
        assert permissions.may_write()
        assert not permissions.is_admin
    assert (await keys.authenticate(signed())).subject == "ann"
    with pytest.raises(TokenRefused):
        await keys.authenticate("first-ke")
    with pytest.raises(TokenRefused, match="expired"):
        await keys.authenticate(signed(exp=time.time() - 1))


async def test_a_remembered_token_still_expires() -> None:
    """A token that was taken a moment ago is refused once its time is over."""
    clock = ManualClock(time.time_ns() // 1_000_000)
    tokens = TokenAuthenticator([Hs256Tokens(SECRET, RequiredClaims(), clock)], clock)
    token = signed(exp=clock.ms() / 1000 + 10)
    await tokens.authenticate(token)
    clock.advance(11)
    with pytest.raises(TokenRefused):
        await tokens.authenticate(token)


class Issuer:
    """Publishes keys, as long as it is up."""

    def __init__(self, **keys: Any) -> None:
        self.keys = keys
        self.up = True
        self.fetches = 0
        self.clock = ManualClock()
        self.answering = asyncio.Event()
        self.answering.set()

    async def fetch(self, _url: str) -> bytes:
        self.fetches += 1
        await self.answering.wait()
        if not self.up:
            raise ConnectionRefusedError("refused")
        return json.dumps({"keys": [public(key, kid) for kid, key in self.keys.items()]}).encode()

    def tokens(self) -> JwksTokens:
        return JwksTokens(KeySet("https://issuer/jwks", self.fetch, self.clock), RequiredClaims())


def public(key: Any, kid: str) -> dict[str, Any]:
    if key == "oct":
        return {"kty": "oct", "k": "c2VjcmV0", "kid": kid}
    kinds: dict[type, Any] = {
        rsa.RSAPrivateKey: jwt.algorithms.RSAAlgorithm,
        ec.EllipticCurvePrivateKey: jwt.algorithms.ECAlgorithm,
    }
    algorithm = next(
        (one for kind, one in kinds.items() if isinstance(key, kind)), jwt.algorithms.OKPAlgorithm
    )
    return {**algorithm.to_jwk(key.public_key(), as_dict=True), "kid": kid, "use": "sig"}


async def test_keys_of_every_kind_in_a_key_set() -> None:
    """RSA, elliptic curve and Ed25519 keys are found by their id, and by trying all where a token names none."""
    tokens = Issuer(r=RSA, e=EC, d=ED).tokens()
    for key, algorithm, kid in (
        (RSA, "RS256", "r"),
        (RSA, "PS256", "r"),
        (EC, "ES256", "e"),
        (ED, "EdDSA", "d"),
    ):
        assert (await tokens.authenticate(signed(key, algorithm, kid))).subject == "ann"
        assert (await tokens.authenticate(signed(key, algorithm))).subject == "ann"


async def test_a_key_set_takes_no_secret() -> None:
    """HS256 with a published key, `none`, and a symmetric key in the set prove nothing."""
    tokens = Issuer(r=RSA, o="oct").tokens()
    for token in (
        signed(b"secret" * 8, "HS256", "o"),
        signed(SECRET, "HS256", "r"),
        without_signature(),
    ):
        with pytest.raises(TokenRefused):
            await tokens.authenticate(token)


async def test_a_rotated_key_is_fetched_and_the_old_one_refused() -> None:
    """A token of a new key makes the set be read again; what the issuer has withdrawn is no longer taken."""
    issuer = Issuer(a=RSA)
    tokens = issuer.tokens()
    old, new = signed(RSA, "RS256", "a"), signed(RSA_NEXT, "RS256", "b")
    await tokens.authenticate(old)
    issuer.keys = {"b": RSA_NEXT}
    issuer.clock.advance(PAUSE)
    assert (await tokens.authenticate(new)).subject == "ann"
    with pytest.raises(TokenRefused):
        await tokens.authenticate(old)


async def test_made_up_key_ids_are_not_made_into_requests() -> None:
    """Tokens with unknown key ids cause one fetch in a while, not one each."""
    issuer = Issuer(a=RSA)
    tokens = issuer.tokens()
    await tokens.authenticate(signed(RSA, "RS256", "a"))
    for number in range(20):
        with pytest.raises(TokenRefused):
            await tokens.authenticate(signed(RSA_NEXT, "RS256", f"x{number}"))
    assert issuer.fetches == 1
    issuer.clock.advance(PAUSE)
    for number in range(20):
        with pytest.raises(TokenRefused):
            await tokens.authenticate(signed(RSA_NEXT, "RS256", f"y{number}"))
    assert issuer.fetches == 2


async def test_known_keys_go_on_working_while_the_issuer_is_down() -> None:
    """An outage stops nobody whose key is known; without any key the token is neither taken nor held against its owner."""
    issuer = Issuer(a=RSA)
    tokens = issuer.tokens()
    token = signed(RSA, "RS256", "a")
    issuer.up = False
    with pytest.raises(TokenRefused) as refused:
        await tokens.authenticate(token)
    assert refused.value.retryable
    issuer.up = True
    issuer.clock.advance(PAUSE)
    await tokens.authenticate(token)
    issuer.up = False
    issuer.clock.advance(100_000)
    assert (await tokens.authenticate(token)).subject == "ann"


async def test_a_rotation_refuses_nobody_who_comes_while_the_keys_are_fetched() -> None:
    """Tokens of a new key that come together wait for one fetch, and all are taken."""
    issuer = Issuer(a=RSA)
    tokens = issuer.tokens()
    await tokens.authenticate(signed(RSA, "RS256", "a"))
    issuer.keys = {"a": RSA, "b": RSA_NEXT}
    issuer.clock.advance(PAUSE)
    issuer.answering.clear()
    first, second = (
        asyncio.create_task(tokens.authenticate(signed(RSA_NEXT, "RS256", "b"))) for _ in range(2)
    )
    await eventually(lambda: issuer.fetches == 2)
    issuer.clock.advance(1)
    third = asyncio.create_task(tokens.authenticate(signed(RSA_NEXT, "RS256", "b")))
    made_up = asyncio.create_task(tokens.authenticate(signed(RSA_NEXT, "RS256", "x")))
    assert (
        await tokens.authenticate(signed(RSA, "RS256", "a"))
    ).subject == "ann"  # which waits for nothing
    issuer.answering.set()
    assert [(await one).subject for one in (first, second, third)] == ["ann"] * 3
    with pytest.raises(TokenRefused) as refused:
        await made_up
    assert not refused.value.retryable
    assert issuer.fetches == 2


async def test_an_unknown_key_is_not_held_against_a_token_while_the_issuer_is_down() -> None:
    """Where the keys could not be fetched again, the token may come back, and is taken once they can."""
    issuer = Issuer(a=RSA)
    tokens = issuer.tokens()
    await tokens.authenticate(signed(RSA, "RS256", "a"))
    issuer.keys = {"b": RSA_NEXT}
    issuer.up = False
    issuer.clock.advance(PAUSE)
    new = signed(RSA_NEXT, "RS256", "b")
    for _ in range(2):
        with pytest.raises(TokenRefused) as refused:
            await tokens.authenticate(new)
        assert refused.value.retryable
    assert issuer.fetches == 2
    issuer.up = True
    issuer.clock.advance(PAUSE)
    assert (await tokens.authenticate(new)).subject == "ann"


def test_long_tokens_are_remembered_within_bounds() -> None:
    """What remembered tokens take is bounded by their length together, not by their number alone."""
    authenticator = TokenAuthenticator([Hs256Tokens(SECRET, RequiredClaims())])
    for number in range(REMEMBERED_CHARACTERS // 15_000 + 50):
        long = signed(predictions=[f"{number}-{n}-{'x' * 90}" for n in range(120)])
        assert authenticator.at_once(long) is not None
    sizes = [size for _, _, size in authenticator._seen.values()]
    assert len(sizes) < REMEMBERED_CHARACTERS // 15_000 + 50
    assert sum(sizes) == authenticator._characters <= REMEMBERED_CHARACTERS
