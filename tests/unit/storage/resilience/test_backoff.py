"""Waits grow as the schedule says, are spread, and never exceed it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidings.storage.resilience.backoff import Backoff, Failures


def test_doubling() -> None:
    """Waits double from the first to the longest, and stay there."""
    backoff = Backoff.doubling(0.5, 3.0)
    assert backoff.steps == (0.5, 1.0, 2.0, 3.0)
    bounds = [backoff.bound(failures) for failures in (0, 1, 2, 3, 4, 5, 10**6)]
    assert bounds == [0.0, 0.5, 1.0, 2.0, 3.0, 3.0, 3.0]
    assert backoff.longest == 3.0


@given(
    steps=st.lists(st.floats(0, 1000), min_size=1, max_size=8),
    jitter=st.floats(0, 1),
    failures=st.integers(1, 12),
)
def test_waits_are_spread_below_their_bound(
    steps: list[float], jitter: float, failures: int
) -> None:
    """A wait lies between its bound less the jitter and its bound."""
    backoff = Backoff(steps, jitter=jitter)
    bound = backoff.bound(failures)
    assert bound == steps[min(failures, len(steps)) - 1]
    assert bound * (1 - jitter) - 1e-9 <= backoff.wait(failures) <= bound + 1e-9


def test_jitter_differs() -> None:
    """Two processes cut off together do not come back together.

    Without jitter a wait is its step.
    """
    assert len({Backoff((1.0,)).wait(1) for _ in range(50)}) > 40
    assert Backoff((5.0,), jitter=0).wait(3) == 5.0


def test_failures_in_a_row() -> None:
    """Each failure waits longer, and a success begins the schedule anew."""
    failures = Failures(Backoff((1.0, 2.0, 4.0), jitter=0))
    assert [failures.next_wait() for _ in range(4)] == [1.0, 2.0, 4.0, 4.0]
    failures.clear()
    assert (failures.count, failures.next_wait()) == (0, 1.0)


@pytest.mark.parametrize(
    ("steps", "jitter"), [((), 0.5), ((1.0, -1.0), 0.5), ((1.0,), 1.5), ((1.0,), -0.1)]
)
def test_no_schedule(steps: tuple[float, ...], jitter: float) -> None:
    """What cannot be waited for is refused where it is written down."""
    with pytest.raises(ValueError, match="no schedule"):
        Backoff(steps, jitter=jitter)


@pytest.mark.parametrize(("first", "longest"), [(0.0, 1.0), (2.0, 1.0)])
def test_no_doubling(first: float, longest: float) -> None:
    """Nothing doubled stays nothing, and a schedule does not begin above its end."""
    with pytest.raises(ValueError, match="no schedule"):
        Backoff.doubling(first, longest)
