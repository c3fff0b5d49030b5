"""What a prediction has used: how reports of it join, and which are refused."""

import random
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.streams.events import T0, event, judge, record, usages
from tidings.storage.prediction import Prediction, Usage, encode
from tidings.streams.log.protocol import StoredRecord
from tidings.streams.processing.decoder import decode_event
from tidings.streams.rules.decision import Applied
from tidings.streams.rules.event import Event, Poison
from tidings.streams.rules.usage import checked, usage_of


def after(reports: Sequence[Usage | None]) -> Prediction:
    """The record after a success and these reports of usage."""
    stands = record(event("succeeded"))
    for position, usage in enumerate(reports, start=1):
        decision = judge(stands, event("succeeded", usage=usage), position)
        if isinstance(decision, Applied):
            assert isinstance(decision.record, Prediction)
            stands = decision.record
    return stands


@given(st.lists(usages, max_size=6), st.randoms(use_true_random=False))
def test_neither_order_nor_repeats_change_the_usage(
    said: list[Usage], chance: random.Random
) -> None:
    """Reports that come again and in another order leave the same bytes of usage."""
    reports = [checked(usage) for usage in said]
    again = [*reports, *chance.sample(reports, len(reports) // 2)]
    chance.shuffle(again)
    assert msgspec.json.encode(after(again).usage) == msgspec.json.encode(after(reports).usage)


@given(st.lists(usages, max_size=6))
def test_what_has_been_said_already_is_no_news(said: list[Usage]) -> None:
    """A redelivery of everything, in its order, leaves the record as it is, version included."""
    reports = [checked(usage) for usage in said]
    assert encode(after([*reports, *reports])) == encode(after(reports))


def test_each_number_grows_by_itself() -> None:
    """Of two reports the greater of each member counts, also after the end."""
    stands = after([Usage(input_tokens=5, seconds=2), Usage(input_tokens=4, seconds=3, images=1)])
    assert stands.usage == Usage(input_tokens=5, seconds=3, images=1)


def test_the_greater_cost_brings_its_currency() -> None:
    """Costs compare as decimal numbers: 10 is more than 9.5."""
    stands = after([Usage(cost="9.5", currency="USD"), Usage(cost="10", currency="EUR")])
    assert stands.usage == Usage(cost="10", currency="EUR")


def test_a_success_after_the_deadline_brings_its_usage() -> None:
    """The provider bills what came too late; the record says so beside `lateStatus`."""
    stands = record(event("processing", deadline=T0 + 1000))
    failed = judge(stands, event(type="deadline", deadline=T0 + 1000, recorded_at=T0 + 2000), 1)
    assert isinstance(failed, Applied)
    late = judge(failed.record, event("succeeded", usage=Usage(seconds=4)), 2)
    assert isinstance(late, Applied)
    assert isinstance(late.record, Prediction)
    assert (late.record.late_status, late.record.usage) == ("succeeded", Usage(seconds=4))


def decoded(usage: str) -> Event:
    value = b'{"status":"succeeded","usage":%s}' % usage.encode()
    return decode_event(StoredRecord("t", 0, 0, T0, b"p1", value, []), {})


@pytest.mark.parametrize(
    "usage",
    [
        '{"cost":"-1","currency":"USD"}', '{"cost":"1,5","currency":"USD"}', '{"cost":"1e3","currency":"USD"}',
        '{"cost":"1.5\\n","currency":"USD"}', '{"cost":1.5,"currency":"USD"}', '{"cost":"","currency":"USD"}',
        '{"cost":"007","currency":"USD"}', '{"cost":"1.0000000000001","currency":"USD"}',
        '{"cost":"NaN","currency":"USD"}', '{"cost":"1","currency":"usd"}', '{"cost":"1","currency":"US$"}',
        '{"cost":"1","currency":"DOLLARS"}', '{"cost":"1"}', '{"currency":"USD"}',
        '{"seconds":-1}', '{"seconds":1e400}', '{"seconds":1e300}', '{"seconds":"5"}', '{"inputTokens":1.5}',
        '{"inputTokens":-1}', '{"images":9007199254740993}', '{"outputTokens":true}', "5", '"x"', "[]",
    ],
)  # fmt: skip
def test_a_usage_that_makes_no_sense_is_a_dead_letter(usage: str) -> None:
    """A negative, unbounded or non-decimal amount, and a cost without a currency, are refused."""
    with pytest.raises(Poison) as refused:
        decoded(usage)
    assert refused.value.code in {"wrong-type", "not-json"}


def test_a_usage_has_one_encoding() -> None:
    """5.0 s and 5 s are the same bytes, and members that nobody knows are left out."""
    assert decoded('{"seconds":5.0,"odd":1}') == decoded('{"seconds":5}')
    assert decoded("{}").usage is decoded("null").usage is None


@pytest.mark.parametrize(
    "given",
    [{"tokens": 1}, {"cost": 1.5, "currency": "USD"}, {"cost": "1"}, {}, {"seconds": float("nan")}, 7],
)  # fmt: skip
def test_the_library_refuses_what_the_log_would(given: Any) -> None:
    """Unknown members, a number for a cost, nothing at all."""
    with pytest.raises(ValueError, match="usage"):
        usage_of(given)


def test_the_library_takes_both_spellings() -> None:
    """The names in Python and those on the wire."""
    wanted = Usage(input_tokens=1, cost="0.10", currency="EUR")
    assert usage_of({"input_tokens": 1, "cost": "0.10", "currency": "EUR"}) == wanted
    assert usage_of({"inputTokens": 1, "cost": "0.10", "currency": "EUR"}) == usage_of(wanted)
