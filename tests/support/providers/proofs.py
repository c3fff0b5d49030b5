"""Every provider with a genuine webhook, proven here by other means than the code's own.

Bodies are those that the providers' documentation shows, with ids and links made up.
"""

import base64
import functools
import hashlib
import hmac
import json
from collections.abc import Callable
from typing import NamedTuple

import jwt
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tests.support.providers.bodies import NOW, REPLICATE, SECRET, signed
from tidings.streams.providers.configuration import Configuration
from tidings.streams.providers.protocol import Provider
from tidings.streams.providers.registry import open_providers

PRIVATE = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
TEXT_SECRET = "whsec_a secret as plain text"

FAL = (
    b'{"error":null,"gateway_request_id":"5057fca7-0000-0000-0000-000000000000","payload":{"has_nsfw_concepts":[false],'
    b'"images":[{"content_type":"image/jpeg","height":1024,"width":1024,"url":"https://v3.fal.media/files/lion/x.jpeg"}],'
    b'"prompt":"dog","seed":17454220438242315174,"timings":{"inference":2.1}},'
    b'"request_id":"5057fca7-0000-0000-0000-000000000000","status":"OK"}'
)
OPENAI = (
    b'{"object":"event","id":"evt_685343a1381c819085d44c354e1b330e","type":"response.completed","created_at":1750287018,'
    b'"data":{"id":"resp_abc123"}}'
)
GEMINI = (
    b'{"type":"batch.failed","version":"v1","timestamp":"2026-01-22T12:00:00Z",'
    b'"data":{"id":"batch_123456","error_code":3,"error_message":"bad input"}}'
)
RUNPOD = (
    b'{"delayTime":4736,"executionTime":157,"id":"e4616554-0000-e1","input":{"prompt":"x"},'
    b'"output":{"image_url":"https://e.com/1.png"},"status":"COMPLETED","webhook":"https://example.com/hook"}'
)
BASETEN = (
    b'{"request_id":"9876","model_id":"abc123","deployment_id":"def456","type":"async_request_completed",'
    b'"time":"2021-02-25T15:02:10.883423Z","data":{"output":"x"},"errors":[]}'
)
ELEVENLABS = (
    b'{"type":"post_call_transcription","event_timestamp":1739537297,"data":{"agent_id":"xyz","conversation_id":"abc",'
    b'"status":"done","transcript":[{"role":"agent","message":"Hey there. How are you?"}]}}'
)
BFL = (
    b'{"id":"task-1","status":"Ready","result":{"sample":"https://delivery-eu1.bfl.ai/results/x/sample.jpeg",'
    b'"prompt":"a cat","seed":42},"progress":1.0}'
)
ASSEMBLYAI = b'{"transcript_id":"5552493-16d8-42d8-8feb-c2a16b56f6e8","status":"completed"}'
LUMA = (
    b'{"id":"123e4567-e89b-12d3-a456-426614174000","state":"completed","failure_reason":null,"model":"ray-2",'
    b'"assets":{"video":"https://storage.cdn-luma.com/x.mp4"},"request":{"prompt":"a tiger in the snow"}}'
)
GENERIC = (
    b'{"job":{"id":"j1","state":"done","results":[{"url":"https://e.com/a.png"}],"share":0.5}}'
)
GENERIC_OPTIONS = {
    "proof": "sha256",
    "header": "X-Acme-Signature",
    "statuses": {"done": "succeeded"},
    "fields": {
        "id": "job.id",
        "status": "job.state",
        "output": "job.results[0].url",
        "progress": "job.share",
    },
}


class Case(NamedTuple):
    """A provider, its settings, a genuine body, and how its sender proves it."""

    provider: str
    configuration: Configuration
    body: bytes
    prove: Callable[[bytes], dict[str, str]]
    changed: tuple[str, ...] = ()
    """Headers that the proof covers or is."""
    token: str | None = None
    """In the address, where that is the proof."""

    def open(self) -> Provider:
        provider = open_providers({self.provider: self.configuration})[self.provider]
        if (key_set := getattr(provider, "key_set", None)) is not None:
            key_set.load(JWKS)
        return provider


def hex_hmac(body: bytes, secret: str = TEXT_SECRET) -> str:
    return hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()


def prove_fal(body: bytes) -> dict[str, str]:
    message = f"req-1\nuser-1\n{NOW}\n{hashlib.sha256(body).hexdigest()}".encode()
    return {
        "x-fal-webhook-request-id": "req-1",
        "x-fal-webhook-user-id": "user-1",
        "x-fal-webhook-timestamp": str(NOW),
        "x-fal-webhook-signature": PRIVATE.sign(message).hex(),
    }


@functools.cache
def rsa_key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, 2048)


def token(body: bytes, **claims: object) -> str:
    said = json.loads(body) | {"aud": "tidings", "exp": NOW + 60} | claims
    return jwt.encode(said, rsa_key(), "RS256", headers={"kid": "g1"})


def prove_gemini_dynamic(body: bytes) -> dict[str, str]:
    return {"webhook-id": "msg_1", "webhook-timestamp": str(NOW), "webhook-signature": token(body)}


def _jwks() -> bytes:
    x = base64.urlsafe_b64encode(PRIVATE.public_key().public_bytes_raw()).rstrip(b"=").decode()
    google = json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(rsa_key().public_key())) | {
        "kid": "g1",
        "use": "sig",
    }
    odd = {"kty": "EC", "crv": "P-256", "x": "AAAA", "y": "AAAA"}
    return json.dumps({"keys": [odd, {"kty": "OKP", "crv": "Ed25519", "x": x}, google]}).encode()


JWKS = _jwks()

STANDARD_HEADERS = ("webhook-id", "webhook-timestamp", "webhook-signature")
STANDARD = (
    b'{"predictionId":"p1","status":"succeeded","at":1764000000000,"model":"m","owner":"o","tags":["a"],"progress":1.0,'
    b'"payload":{"seed":17454220438242315174},"output":["https://e.com/a.png"],"error":null,"logs":"l","assets":[],'
    b'"providerUrls":{"get":"u"},"generationTime":5,"estimatedTime":6,"imagePath":"p","prompt":"a","provider":"standard",'
    b'"providerId":"p1"}'
)
CASES = [
    Case("standard", Configuration(secret=(SECRET,)), STANDARD, signed, STANDARD_HEADERS),
    Case("replicate", Configuration(secret=(SECRET,)), REPLICATE, signed, STANDARD_HEADERS),
    Case(
        "fal",
        Configuration(jwks_url="https://e.com/jwks"),
        FAL,
        prove_fal,
        tuple(prove_fal(b"")),
    ),
    Case("openai", Configuration(secret=(SECRET,)), OPENAI, signed, STANDARD_HEADERS),
    Case("gemini", Configuration(secret=(SECRET,)), GEMINI, signed, STANDARD_HEADERS),
    Case(
        "gemini",
        Configuration(jwks_url="https://e.com/jwks", options={"audience": "tidings"}),
        GEMINI,
        prove_gemini_dynamic,
        ("webhook-signature",),
    ),
    Case("runpod", Configuration(secret=("word",)), RUNPOD, lambda _: {}, token="word"),
    Case(
        "baseten",
        Configuration(secret=(TEXT_SECRET,)),
        BASETEN,
        lambda body: {"x-baseten-signature": f"v1={hex_hmac(body)}"},
        ("x-baseten-signature",),
    ),
    Case(
        "elevenlabs",
        Configuration(secret=(TEXT_SECRET,)),
        ELEVENLABS,
        lambda body: {"elevenlabs-signature": f"t={NOW},v0={hex_hmac(f'{NOW}.'.encode() + body)}"},
        ("elevenlabs-signature",),
    ),
    Case(
        "bfl",
        Configuration(secret=(TEXT_SECRET,)),
        BFL,
        lambda body: {"x-bfl-signature": f"sha256={hex_hmac(body)}"},
        ("x-bfl-signature",),
    ),
    Case(
        "assemblyai",
        Configuration(secret=(TEXT_SECRET,)),
        ASSEMBLYAI,
        lambda _: {"x-tidings-secret": TEXT_SECRET},
        ("x-tidings-secret",),
    ),
    Case("luma", Configuration(secret=("word",)), LUMA, lambda _: {}, token="word"),
    Case(
        "acme",
        Configuration(kind="generic", secret=(TEXT_SECRET,), options=GENERIC_OPTIONS),
        GENERIC,
        lambda body: {"x-acme-signature": f"sha256={hex_hmac(body)}"},
        ("x-acme-signature",),
    ),
    Case(
        "acme",
        Configuration(
            kind="generic", secret=("word",), options=GENERIC_OPTIONS | {"proof": "address"}
        ),
        GENERIC,
        lambda _: {},
        token="word",
    ),
]
NAMES = [
    f"{case.provider}-{'address' if case.token else 'headers'}-{number}"
    for number, case in enumerate(CASES)
]
