"""Standard Webhooks' signature, against vectors, a reference library and plain `hmac`."""

import base64
import hashlib
import hmac
from datetime import UTC, datetime

import pytest
import standardwebhooks
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from tests.support.providers.bodies import KEY, NOW, SECRET, signature, signed
from tidings.streams.providers.configuration import BadConfiguration, Configuration
from tidings.streams.providers.protocol import BadSignature
from tidings.streams.providers.signatures.standard_webhooks import StandardWebhooks, open_keys

BODY = b'{"test": 2432232314}'
VECTOR = {
    "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
    "webhook-timestamp": "1614265330",
    "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
}
PRIVATE = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))


def opened(*secrets: str, tolerance: float | None = None) -> StandardWebhooks:
    keys = open_keys("standard", Configuration(secret=secrets, tolerance=tolerance))
    assert keys is not None
    return keys


def public_key(private: Ed25519PrivateKey = PRIVATE) -> str:
    return "whpk_" + base64.b64encode(private.public_key().public_bytes_raw()).decode()


def signed_v1a(body: bytes, private: Ed25519PrivateKey = PRIVATE) -> dict[str, str]:
    value = base64.b64encode(private.sign(f"msg_1.{NOW}.".encode() + body)).decode()
    return signed(body) | {"webhook-signature": f"v1a,{value}"}


def test_the_reference_vector_is_accepted() -> None:
    """The reference implementations' vector is accepted, and its id is the delivery's."""
    assert opened(SECRET).verify(VECTOR, BODY, NOW) == "msg_p5jXN8AQM9LWM0D4loKWxJek"


def test_svix_header_names_are_accepted() -> None:
    """Svix's names of the three headers are as good."""
    headers = {name.replace("webhook", "svix"): value for name, value in VECTOR.items()}
    assert opened(SECRET).verify(headers, BODY, NOW) == "msg_p5jXN8AQM9LWM0D4loKWxJek"


@given(
    st.binary(max_size=200),
    st.binary(min_size=24, max_size=80),
    st.text("abc_-0", min_size=1, max_size=20),
)
def test_what_the_reference_library_signs_is_accepted(
    body: bytes, key: bytes, identity: str
) -> None:
    """Whatever the `standardwebhooks` library signs with any key is accepted."""
    secret = "whsec_" + base64.b64encode(key).decode()
    text = body.hex()
    moment = datetime.fromtimestamp(NOW, tz=UTC)
    headers = {
        "webhook-id": identity,
        "webhook-timestamp": str(NOW),
        "webhook-signature": standardwebhooks.Webhook(secret).sign(identity, moment, text),
    }
    assert opened(secret).verify(headers, text.encode(), NOW) == identity


def test_ed25519_is_accepted() -> None:
    """A `v1a` signature passes with the sender's `whpk_` key."""
    assert opened(public_key()).verify(signed_v1a(BODY), BODY, NOW) == "msg_1"


def test_a_hmac_secret_does_not_prove_v1a_nor_the_other_way_round() -> None:
    """Each version is proven by its own kind of key alone."""
    with pytest.raises(BadSignature):
        opened(SECRET).verify(signed_v1a(BODY), BODY, NOW)
    with pytest.raises(BadSignature):
        opened(public_key()).verify(signed(BODY), BODY, NOW)


def test_other_versions_are_skipped_and_any_match_passes() -> None:
    """A list with unknown versions and a foreign signature passes by its one good entry."""
    foreign = signature(BODY, key=b"another key")
    headers = signed(BODY) | {"webhook-signature": f"v2,AAAA {foreign} v1a,x  v9 {signature(BODY)}"}
    assert opened(SECRET, public_key()).verify(headers, BODY, NOW) == "msg_1"


def test_every_secret_in_force_is_tried() -> None:
    """While secrets rotate, the old and the new one both prove a webhook."""
    other = "whsec_" + base64.b64encode(b"k" * 24).decode()
    keys = opened(other, SECRET)
    assert keys.verify(signed(BODY), BODY, NOW)
    assert keys.verify(signed(BODY, key=b"k" * 24), BODY, NOW)


def test_unpadded_base64_is_a_secret() -> None:
    """A secret that lost its padding is the same key; so is one without its prefix."""
    key = b"25 bytes of a secret key!"
    text = base64.b64encode(key).decode()
    assert text.endswith("=")
    for secret in (text, "whsec_" + text, "whsec_" + text.rstrip("=")):
        assert opened(secret).verify(signed(BODY, key=key), BODY, NOW)


@pytest.mark.parametrize("offset", [-300, 0, 300])
def test_the_tolerance_reaches_both_ways(offset: int) -> None:
    """A webhook up to 300 s old or early passes."""
    assert opened(SECRET).verify(signed(BODY), BODY, NOW + offset)


@pytest.mark.parametrize("offset", [-301, 301, 10**9, float("nan"), float("inf")])
def test_outside_the_tolerance_is_refused(offset: float) -> None:
    """A replay after the tolerance, or a time further ahead, is refused."""
    with pytest.raises(BadSignature, match="300 s"):
        opened(SECRET).verify(signed(BODY), BODY, NOW + offset)


def test_the_tolerance_can_be_set() -> None:
    """A configured tolerance replaces the default."""
    assert opened(SECRET, tolerance=1000).verify(signed(BODY), BODY, NOW + 999)
    with pytest.raises(BadSignature):
        opened(SECRET, tolerance=10).verify(signed(BODY), BODY, NOW + 11)


def flips(data: bytes) -> list[bytes]:
    """The data with each single bit changed."""
    changed = []
    for bit in range(len(data) * 8):
        copy = bytearray(data)
        copy[bit // 8] ^= 1 << (bit % 8)
        changed.append(bytes(copy))
    return changed


@pytest.mark.parametrize("proof", ["v1", "v1a"])
def test_each_single_bit_counts(proof: str) -> None:
    """One changed bit in the body or in any of the three headers is refused."""
    good = signed(BODY) if proof == "v1" else signed_v1a(BODY)
    keys = opened(SECRET, public_key())
    assert keys.verify(good, BODY, NOW)
    for body in flips(BODY):
        with pytest.raises(BadSignature):
            keys.verify(good, body, NOW)
    for name, value in good.items():
        for changed in flips(value.encode()):
            for text in (changed.decode("utf-8", "surrogateescape"), changed.decode("latin-1")):
                with pytest.raises(BadSignature):
                    keys.verify(good | {name: text}, BODY, NOW)


def test_each_single_bit_of_the_key_counts() -> None:
    """A key that differs in one bit proves nothing."""
    for key in flips(KEY):
        with pytest.raises(BadSignature):
            StandardWebhooks((key,)).verify(signed(BODY), BODY, NOW)


@pytest.mark.parametrize("name", list(VECTOR))
@pytest.mark.parametrize(
    "value", [None, "", " ", "\udc80", "é", "1" * 100_000, ",", "v1,", "v1a,", "\u0661", "1_0"]
)
def test_missing_and_odd_headers_are_bad_signatures(name: str, value: str | None) -> None:
    """A header that is missing, empty, huge or no text at all is refused like a wrong signature."""
    headers = {key: text for key, text in VECTOR.items() if key != name}
    if value is not None:
        headers[name] = value
    with pytest.raises(BadSignature):
        opened(SECRET, public_key()).verify(headers, BODY, NOW)


@pytest.mark.parametrize("name", ["webhook-id", "webhook-timestamp"])
def test_doubled_headers_are_refused(name: str) -> None:
    """A header sent twice, and joined by a comma on the way, is not what was signed."""
    with pytest.raises(BadSignature):
        opened(SECRET).verify(VECTOR | {name: f"{VECTOR[name]}, {VECTOR[name]}"}, BODY, NOW)


def test_too_many_signatures_are_refused() -> None:
    """A header cannot make the gateway try signatures without end."""
    headers = signed(BODY) | {"webhook-signature": "v1a," + " v1a,".join(["AAAA"] * 40)}
    with pytest.raises(BadSignature, match="more than 32"):
        opened(public_key()).verify(headers, BODY, NOW)


odd = (
    st.text()
    | st.text("v1a,= +/\ud800\udcff\x00")
    | st.just("v1,")
    | st.binary().map(lambda b: b.decode("latin-1"))
)


@given(
    st.dictionaries(st.sampled_from([*VECTOR, "svix-id", "svix-timestamp", "svix-signature"]), odd),
    st.binary(),
)
def test_no_header_however_odd_raises_anything_else(headers: dict[str, str], body: bytes) -> None:
    """Any headers and body are refused as a bad signature and by no other exception."""
    with pytest.raises(BadSignature):
        opened(SECRET, public_key()).verify(VECTOR | headers, body + b"x", NOW)


@given(odd)
def test_a_signed_odd_id_is_compared_as_its_bytes(identity: str) -> None:
    """An id of any characters is either proven by its bytes or refused."""
    keys = opened(SECRET)
    try:
        raw = identity.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        raw = b""
    digest = hmac.new(KEY, raw + f".{NOW}.".encode() + BODY, hashlib.sha256).digest()
    headers = VECTOR | {
        "webhook-id": identity,
        "webhook-signature": "v1," + base64.b64encode(digest).decode(),
    }
    if raw:
        assert keys.verify(headers, BODY, NOW) == identity
    else:
        with pytest.raises(BadSignature):
            keys.verify(headers, BODY, NOW)


@pytest.mark.parametrize(
    "secret",
    ["whsec_", "", "whsec_====", "whsec_!!!!", "whsec_ä", "whsec_A", "whpk_", "whpk_AAAA", "%%%%"],
)
def test_a_bad_secret_is_named_by_its_setting_and_not_shown(secret: str) -> None:
    """A secret that cannot be used is refused by the setting's name, without the value."""
    with pytest.raises(BadConfiguration, match="TIDINGS_REPLICATE_SECRET") as caught:
        open_keys("replicate", Configuration(secret=(SECRET, secret)))
    shown = secret.partition("_")[2].strip("=")
    assert not shown or shown not in str(caught.value).replace("TIDINGS_REPLICATE_SECRET", "")


def test_no_secret_is_no_configuration() -> None:
    """Without a secret there are no keys, so nothing can pass."""
    assert open_keys("replicate", Configuration(token="r8_x")) is None


def test_secrets_are_not_in_a_repr() -> None:
    """Neither the configuration nor the keys show a secret when printed."""
    configuration = Configuration(secret=(SECRET,), token="r8_token")
    text = repr(configuration) + repr(opened(SECRET))
    assert "MfKQ9" not in text
    assert "r8_token" not in text
    assert KEY.hex() not in text
    assert repr(KEY) not in text


@pytest.mark.parametrize("tolerance", [0, -1, 1e9, float("nan")])
def test_a_tolerance_out_of_range_is_refused(tolerance: float) -> None:
    """A tolerance that would let nothing or everything pass is refused by its setting's name."""
    with pytest.raises(BadConfiguration, match="TIDINGS_STANDARD_TOLERANCE"):
        opened(SECRET, tolerance=tolerance)
