"""When processing is stopped because nearly everything is poison."""

from tidings.streams.processing.poison_guard import PROBE, RETRY, PoisonGuard, poison


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


def opened() -> PoisonGuard:
    guard = PoisonGuard()
    assert guard.note(1, 100, 100)
    return guard


def test_it_lets_a_few_through_and_closes_where_they_are_none() -> None:
    """After a while a few records are tried; one good one among them says that the flood is over."""
    guard = opened()
    assert guard.note(1 + RETRY / 2, 100, 100)
    assert guard.most is None
    assert not guard.note(1 + RETRY, 100, 100)
    assert guard.most == PROBE
    assert guard.reason is not None  # it is not ready before something was found
    assert not guard.note(2 + RETRY, 105, 104)
    assert (guard.reason, guard.most) == (None, None)
    assert not guard.note(3 + RETRY, 205, 104)


def test_it_holds_back_again_where_they_are_poison_too() -> None:
    """A probe that meets nothing but poison moves no more than a few records, and the next one comes later."""
    guard = opened()
    now = 1 + RETRY
    assert not guard.note(now, 100, 100)
    assert guard.note(now + 1, 100 + PROBE, 100 + PROBE)
    assert guard.note(now + 1 + RETRY, 100 + PROBE, 100 + PROBE)
    assert not guard.note(now + 1 + 2 * RETRY, 100 + PROBE, 100 + PROBE)


def test_nothing_left_to_read_ends_it() -> None:
    """A probe that finds the topic read to its end closes the guard: the flood is over, whoever comes next."""
    guard = opened()
    for second in range(100):
        held = guard.note(1 + RETRY + second, 100, 100)
        assert not held
    assert guard.reason is not None
    guard.caught_up(200)
    assert guard.reason is None
    assert not guard.note(201, 100, 100)


def test_nothing_left_to_read_ends_nothing_while_it_holds_back() -> None:
    """A held processor reads nothing, which says nothing about what lies in the topic."""
    guard = opened()
    guard.caught_up(2)
    assert guard.holding


def test_contradictions_are_no_poison() -> None:
    """What contradicts a record is a provider's race, and what is too large one sender's; only the others count."""
    assert (
        poison({"contradiction": 500, "owner": 3, "refused": 9, "not-json": 2, "unknown-status": 1})
        == 3
    )


def test_a_good_record_that_is_counted_late_closes_it() -> None:
    """Batches follow each other: what a probe let through may be counted after it has ended as poison."""
    guard = opened()
    now = 1 + RETRY
    assert not guard.note(now, 100, 100)
    assert guard.note(now + 1, 100 + PROBE, 100 + PROBE)
    assert not guard.note(now + 2, 101 + PROBE, 100 + PROBE)
    assert guard.reason is None
