"""No window has more than a bucket lets through, and nothing is held back longer than that takes."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidings.storage.resilience.rate_limit import TokenBucket


@settings(max_examples=50)
@given(limit=st.integers(6, 1200), gaps=st.lists(st.floats(0, 30), max_size=300))
def test_within(limit: int, gaps: list[float]) -> None:
    """Whatever the rhythm of calls, no window has more than the limit."""
    now = 0.0
    bucket = TokenBucket.within(limit, 300.0, now)
    sent: list[float] = []
    for gap in gaps + [0.0] * (limit + 10):
        now += gap
        sent.append(now + bucket.reserve(now))
    for start in range(len(sent) - limit):
        assert sent[start + limit] - sent[start] >= 300.0 - 1e-6


@given(rate=st.floats(0.1, 100), burst=st.integers(1, 20), gaps=st.lists(st.floats(0, 5)))
def test_take(rate: float, burst: int, gaps: list[float]) -> None:
    """A refusal names the time after which it succeeds, and takes nothing."""
    bucket, now = TokenBucket(rate, burst, 0.0), 0.0
    assert [bucket.take(now) for _ in range(burst)] == [0.0] * burst
    for gap in gaps:
        now += gap
        wait = bucket.take(now)
        if wait:
            assert bucket.take(now) == wait
            now += wait + 1e-6
            assert bucket.take(now) == 0.0


def test_reserve_queues() -> None:
    """Who takes more than there is waits its turn behind the others, and who gives back shortens it."""
    bucket = TokenBucket(2.0, 1, 0.0)
    assert [bucket.reserve(0.0) for _ in range(4)] == [0.0, 0.5, 1.0, 1.5]
    bucket.give_back()
    assert bucket.reserve(0.0) == 1.5
    assert bucket.reserve(10.0, 3) == pytest.approx(1.0)


def test_never_fuller_than_its_burst() -> None:
    """Neither time nor what is given back fills it beyond its burst."""
    bucket = TokenBucket(100.0, 2, 0.0)
    bucket.give_back(50)
    assert [bucket.take(1000.0) for _ in range(3)] == [0.0, 0.0, pytest.approx(0.01)]
