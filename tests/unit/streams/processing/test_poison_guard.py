"""When processing is stopped because nearly everything is poison."""

from tidings.streams.processing.poison_guard import PoisonGuard, poison


def test_a_minute_of_poison_opens_it() -> None:
    """Nearly all records of the last minute being poison opens the breaker, whatever was processed before."""
    breaker = PoisonGuard()
    assert not breaker.note(0, 10_000, 0)
    assert not breaker.note(30, 10_090, 90)
    assert not breaker.note(59, 10_190, 190)  # the window still holds what went well
    assert breaker.note(61, 10_290, 290)
    assert breaker.reason is not None
    assert "290 of" in breaker.reason
    assert "--no-breaker" in breaker.reason


def test_some_poison_among_the_rest_leaves_it_closed() -> None:
    """One good record in ten keeps the breaker closed for ever."""
    breaker = PoisonGuard()
    assert not any(breaker.note(second, 100 * second, 90 * second) for second in range(200))


def test_few_records_say_nothing() -> None:
    """Fewer than a hundred records in a minute never open the breaker."""
    breaker = PoisonGuard()
    assert not any(breaker.note(second, second, second) for second in range(0, 300, 1))


def test_it_stays_open() -> None:
    """Once open it stays so, and what comes later does not close it."""
    breaker = PoisonGuard()
    assert breaker.note(1, 100, 100)
    assert breaker.note(500, 100_000, 100)


def test_contradictions_are_no_poison() -> None:
    """What contradicts a record is a provider's race; only the other dead letters count."""
    assert poison({"contradiction": 500, "owner": 3, "not-json": 2, "unknown-status": 1}) == 3
