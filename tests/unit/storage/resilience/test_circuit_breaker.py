"""Failures open a circuit, one call at a time tries again, and a success closes it."""

from tidings.storage.resilience.backoff import Backoff
from tidings.storage.resilience.circuit_breaker import CircuitBreaker

REST = Backoff((5.0,), jitter=0)


def test_opens_after_failures_in_a_row() -> None:
    """A success in between forgets what failed before it."""
    breaker = CircuitBreaker(3, REST)
    assert not breaker.failed(0)
    assert not breaker.failed(1)
    breaker.succeeded()
    assert [breaker.failed(2), breaker.failed(3), breaker.failed(4)] == [False, False, True]
    assert (breaker.open, breaker.allows(8.9), breaker.allows(9)) == (True, False, True)


def test_one_trial_a_rest() -> None:
    """Open, one call per rest is let through until one succeeds, even where no trial is told."""
    breaker = CircuitBreaker(1, REST)
    breaker.failed(0)
    assert [breaker.allows(at) for at in (5, 5, 6, 10, 10)] == [True, False, False, True, False]
    breaker.succeeded()
    assert not breaker.open
    assert breaker.allows(10)


def test_rests_follow_the_schedule() -> None:
    """Each trial that fails makes the next rest longer, and a success begins anew."""
    breaker = CircuitBreaker(2, Backoff.doubling(1.0, 4.0, jitter=0))
    now = 0.0
    breaker.failed(now)
    rests = []
    for _ in range(4):
        breaker.failed(now)
        rests.append(breaker.open_until - now)
        now = breaker.open_until
    assert rests == [1.0, 2.0, 4.0, 4.0]
    breaker.succeeded()
    breaker.failed(now)
    breaker.failed(now)
    assert breaker.open_until - now == 1.0


def test_rare_failures_leave_it_closed() -> None:
    """Failures spread over more than the window do not open it."""
    breaker = CircuitBreaker(5, REST, window=10.0)
    for at in range(0, 60, 3):
        assert not breaker.failed(at)
        assert breaker.allows(at)
