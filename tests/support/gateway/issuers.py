"""Issuers of tokens with keys of their own: what they sign, and what stands at their JWKS address."""

import json
import time
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, rsa

SECRET = "a shared secret of more than thirty-two bytes"
RSA = rsa.generate_private_key(public_exponent=65537, key_size=2048)
EC = ec.generate_private_key(ec.SECP256R1())
STRANGER = rsa.generate_private_key(public_exponent=65537, key_size=2048)
KEYS: dict[str, tuple[str, Any]] = {"rsa": ("RS256", RSA), "ec": ("ES256", EC)}
ASKED: list[str] = []
"""The addresses whose keys were fetched, in turn."""


async def fetch(url: str) -> bytes:
    """The document at a JWKS address: every issuer here signs with the same two keys."""
    ASKED.append(url)
    keys = []
    for name, (algorithm, key) in KEYS.items():
        public = jwt.get_algorithm_by_name(algorithm).to_jwk(key.public_key())
        keys.append(json.loads(public) | {"kid": name, "use": "sig", "alg": algorithm})
    return json.dumps({"keys": keys}).encode()


def issued(claims: dict[str, Any], key: str = "rsa", ttl: float = 60) -> str:
    """A token with these claims that is good from now on; `key` is `rsa`, `ec`, `secret` or `stranger`."""
    body = {"iat": int(time.time()), "exp": int(time.time() + ttl)} | claims
    body = {name: value for name, value in body.items() if value is not None}
    if key == "secret":
        return jwt.encode(body, SECRET, algorithm="HS256")
    if key == "stranger":
        return jwt.encode(body, STRANGER, algorithm="RS256", headers={"kid": "rsa"})
    algorithm, private = KEYS[key]
    return jwt.encode(body, private, algorithm=algorithm, headers={"kid": key})
