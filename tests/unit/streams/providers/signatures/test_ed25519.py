"""Ed25519, against the vectors of RFC 8032 (7.1) and an independent implementation."""

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from tidings.streams.providers.signatures.ed25519 import PublicKey

VECTORS = [
    (
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
        "",
        (
            "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e06522490155"
            "5fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b"
        ),
    ),
    (
        "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
        "72",
        (
            "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da"
            "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00"
        ),
    ),
]


@pytest.mark.parametrize(("key", "message", "signature"), VECTORS)
def test_vectors_of_the_rfc(key: str, message: str, signature: str) -> None:
    """The published signatures are proven, and no other message is."""
    public = PublicKey(bytes.fromhex(key))
    assert public.proves(bytes.fromhex(signature), bytes.fromhex(message))
    assert not public.proves(bytes.fromhex(signature), bytes.fromhex(message) + b"x")


@given(st.binary(min_size=32, max_size=32), st.binary(max_size=100))
def test_it_agrees_with_another_implementation(seed: bytes, message: bytes) -> None:
    """What another library signs is proven by its key, and by no other."""
    private = Ed25519PrivateKey.from_private_bytes(seed)
    signature = private.sign(message)
    assert PublicKey(private.public_key().public_bytes_raw()).proves(signature, message)
    assert not PublicKey(Ed25519PrivateKey.generate().public_key().public_bytes_raw()).proves(
        signature, message
    )


def test_the_boundary_does_not_move() -> None:
    """A signature with another boundary between it and the message proves nothing."""
    private = Ed25519PrivateKey.generate()
    public, signature = PublicKey(private.public_key().public_bytes_raw()), private.sign(b"message")
    assert not public.proves(signature[:60], signature[60:] + b"message")
    assert not public.proves(signature + b"mes", b"sage")
    assert not public.proves(b"", signature + b"message")


def test_a_key_of_small_order_proves_nothing() -> None:
    """The keys under which one signature fits many messages are refused, whatever the signature."""
    for key in (bytes(32), b"\x01" + bytes(31), bytes.fromhex("ec" + "ff" * 30 + "7f")):
        for signature in (bytes(64), key + bytes(32)):
            assert not PublicKey(key).proves(signature, b"message")


@pytest.mark.parametrize("length", [0, 31, 33, 64])
def test_a_key_has_32_bytes(length: int) -> None:
    """A key of another length is refused when it is made."""
    with pytest.raises(ValueError, match="32 bytes"):
        PublicKey(bytes(length))
