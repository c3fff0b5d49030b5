"""What holds for every provider.

Only what is proven passes, and nothing else than the two refusals is ever raised.
"""

from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.providers.bodies import AT, NOW
from tests.support.providers.proofs import CASES, NAMES, Case
from tidings.streams.providers.protocol import BadSignature, Provider, Webhook
from tidings.streams.providers.signatures.hmac_signatures import ProvenByAddress
from tidings.streams.providers.translation import translate
from tidings.streams.rules.event import Event, EventType, OtherResource, Poison

every = pytest.mark.parametrize("case", CASES, ids=NAMES)
by_headers = pytest.mark.parametrize(
    "case",
    [case for case in CASES if case.token is None],
    ids=[name for name, case in zip(NAMES, CASES, strict=True) if case.token is None],
)
covers_body = [case for case in CASES if case.token is None and case.provider != "assemblyai"]


def flips(data: bytes) -> Iterator[bytes]:
    for bit in range(len(data) * 8):
        copy = bytearray(data)
        copy[bit // 8] ^= 1 << (bit % 8)
        yield bytes(copy)


@by_headers
def test_a_genuine_webhook_is_proven(case: Case) -> None:
    """A webhook proven as its sender documents it passes."""
    case.open().verify(case.prove(case.body), case.body, NOW)


@every
def test_without_its_proof_it_is_refused(case: Case) -> None:
    """The same webhook without any proof is refused."""
    with pytest.raises(BadSignature):
        case.open().verify({}, case.body, NOW)


@every
def test_an_address_proves_only_where_nothing_is_signed(case: Case) -> None:
    """A token in the address is the proof for those who sign nothing, and for nobody else."""
    provider = case.open()
    assert isinstance(provider, ProvenByAddress) == (case.token is not None)
    if isinstance(provider, ProvenByAddress):
        provider.verify_address(case.token, proven=False)
        provider.verify_address(None, proven=True)
        for wrong in (None, "", "wor", "worde", "Word", "\ud800", "é", "word,word"):
            with pytest.raises(BadSignature):
                provider.verify_address(wrong, proven=False)


@pytest.mark.parametrize("case", covers_body, ids=[case.provider for case in covers_body])
def test_each_single_bit_of_the_body_counts(case: Case) -> None:
    """One changed bit in the body is refused."""
    provider, headers = case.open(), case.prove(case.body)
    bodies = list(flips(case.body))
    for body in bodies[:: max(1, len(bodies) // 400)]:
        with pytest.raises(BadSignature):
            provider.verify(headers, body, NOW)


@by_headers
def test_each_single_bit_of_the_headers_counts(case: Case) -> None:
    """One changed bit in any header that proves or is proven is refused."""
    provider, headers = case.open(), case.prove(case.body)
    for name in case.changed:
        for changed in flips(headers[name].encode()):
            for text in {changed.decode("utf-8", "surrogateescape"), changed.decode("latin-1")}:
                with pytest.raises(BadSignature):
                    provider.verify(headers | {name: text}, case.body, NOW)


@by_headers
def test_missing_and_doubled_headers_are_refused(case: Case) -> None:
    """A webhook with one of its headers missing, empty or doubled is refused."""
    provider, headers = case.open(), case.prove(case.body)
    for name in case.changed:
        for value in ("", f"{headers[name]}x", " ", "\ud800", "ü", "," * 100, "1" * 100_000):
            with pytest.raises(BadSignature):
                provider.verify(headers | {name: value}, case.body, NOW)
        with pytest.raises(BadSignature):
            provider.verify(
                {key: text for key, text in headers.items() if key != name}, case.body, NOW
            )


TIMED = {
    "standard": 300,
    "replicate": 300,
    "fal": 300,
    "openai": 300,
    "gemini": 300,
    "baseten": 300,
    "elevenlabs": 1800,
}


@by_headers
def test_a_replay_outside_the_tolerance_is_refused(case: Case) -> None:
    """A captured webhook is worth nothing outside the provider's tolerance, before or after."""
    tolerance = TIMED.get(case.provider)
    provider, headers = case.open(), case.prove(case.body)
    for late in (-1, 1):
        if tolerance is None:
            provider.verify(headers, case.body, NOW + late * 10**6)  # nothing of it is timed
        else:
            provider.verify(headers, case.body, NOW + late * (tolerance - 1))
            with pytest.raises(BadSignature):
                provider.verify(headers, case.body, NOW + late * (tolerance + 2))


odd = (
    st.text()
    | st.text("v1,=t0. \ud800\udcff")
    | st.sampled_from(["v1=", "t=,v0=", f"t={NOW},v0=", "sha256=", "a.b.c"])
)


@every
@settings(
    max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None
)
@given(data=st.data())
def test_no_webhook_however_odd_raises_anything_else(case: Case, data: st.DataObject) -> None:
    """Any headers are refused as a bad signature, and any body is an event or poison."""
    provider = opened(case)
    names = [*case.prove(case.body), "webhook-signature", "webhook-id", "webhook-timestamp"]
    headers = case.prove(case.body) | data.draw(
        st.dictionaries(st.sampled_from(names), odd, min_size=1)
    )
    body = data.draw(
        st.binary()
        | st.text().map(str.encode)
        | st.sampled_from([b"{}", b"null", b"[" * 10_000, b'{"data":1}'])
    )
    with pytest.raises(BadSignature):
        provider.verify(headers | {"x-tidings-secret": "no"}, body, NOW)
    provider.prediction_id(body)
    try:
        translate(provider, Webhook(body, None, AT))
    except (OtherResource, Poison):
        return
    pytest.fail("a body of chance made sense")


_opened: dict[int, Provider] = {}


def opened(case: Case) -> Provider:
    return _opened.setdefault(id(case), case.open())


@every
@settings(max_examples=60, deadline=None)
@given(
    position=st.integers(0, 2000),
    piece=st.sampled_from([b"null", b"1e999", b'"\\ud800"', b"[]", b"{}", b"-1", b'"x"', b"\xff"]),
)
def test_a_mangled_body_is_an_event_or_poison(case: Case, position: int, piece: bytes) -> None:
    """A genuine body with a piece replaced by anything is an event or poison."""
    start = position % len(case.body)
    body = case.body[:start] + piece + case.body[start + len(piece) :]
    colon = case.body.find(b":", start)
    values = case.body[: colon + 1] + piece + case.body[colon + 1 :]
    ends = [end for end in (case.body.find(b",", colon), case.body.find(b"}", colon)) if end > 0]
    swapped = (
        case.body[: colon + 1] + piece + case.body[min(ends) :] if ends and colon > 0 else values
    )
    for text in (body, values, swapped):
        opened(case).prediction_id(text)
        try:
            event = translate(opened(case), Webhook(text, None, AT))
        except (OtherResource, Poison):
            continue
        assert isinstance(event, Event)


@every
def test_the_common_fields(case: Case) -> None:
    """Each event reports, under the provider's name, at the record's time."""
    provider = case.open()
    event = provider.translate(Webhook(case.body, None, AT, None))
    assert event.type is EventType.REPORT
    assert (event.source, event.provider, event.at, event.recorded_at) == (
        case.provider,
        case.provider,
        AT,
        AT,
    )
    assert event.prediction_id == event.provider_id == provider.prediction_id(case.body)
    assert event.id
    if case.provider == "standard":  # its reports name our own ids, so another one is refused
        return
    ours = provider.translate(Webhook(case.body, "ours", AT, "d1"))
    assert (ours.prediction_id, ours.provider_id, ours.id) == ("ours", event.provider_id, "d1")


@every
def test_no_secret_is_shown(case: Case) -> None:
    """Printing a provider shows none of its secrets."""
    shown = repr(case.open())
    assert "plain text" not in shown
    assert "MfKQ9" not in shown
    assert "b'word'" not in shown
