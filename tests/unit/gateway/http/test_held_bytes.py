"""The budget for what is held on behalf of clients."""

from hypothesis import given
from hypothesis import strategies as st

from tidings.gateway.http.held_bytes import HeldAccount, HeldBytes, HeldLimits, Kind

LIMITS = HeldLimits(connection=100, owner=250, process=1_000)


def test_a_connection_an_owner_and_the_process_each_have_a_limit() -> None:
    """Whichever limit is met first refuses, and what others gave back may be taken again."""
    budget = HeldBytes(LIMITS)
    first = budget.account("ann")
    assert first.take(Kind.PAGES, 100)
    assert not first.take(Kind.PAGES, 1)
    second, third = budget.account("ann"), budget.account("ann")
    assert second.take(Kind.SNAPSHOTS, 100)
    assert third.room() == 50
    assert not third.take(Kind.PENDING, 51)
    assert not third.within_own_limits(51)
    first.close()
    assert third.take(Kind.PENDING, 100)
    strangers = [budget.account() for _ in range(9)]
    assert [one.take(Kind.BODIES, 100) for one in strangers] == [True] * 8 + [False]
    assert strangers[-1].within_own_limits(100)


def test_unproven_bodies_leave_room_for_the_others() -> None:
    """Bodies without a verified signature take half of the process's budget at most."""
    budget = HeldBytes(LIMITS)
    accounts = [budget.account(f"192.0.2.{number}") for number in range(6)]
    assert [one.take(Kind.UNPROVEN, 100) for one in accounts] == [True] * 5 + [False]
    accounts[0].change(Kind.UNPROVEN, Kind.BODIES)
    assert accounts[5].take(Kind.UNPROVEN, 100)
    assert budget.by_kind[Kind.BODIES] == 100
    assert budget.account("ann").take(Kind.PAGES, 100)


@given(
    st.lists(
        st.tuples(st.integers(0, 3), st.sampled_from(Kind), st.integers(1, 60), st.booleans()),
        max_size=60,
    )
)
def test_what_is_counted_is_what_is_held(
    steps: list[tuple[int, Kind, int, bool]],
) -> None:
    """The totals are the sum of the accounts at every moment, no limit is passed, and none is left."""
    budget = HeldBytes(LIMITS)
    accounts = [budget.account(owner) for owner in ("ann", "ann", "bob", None)]
    held: dict[tuple[int, Kind], int] = {}
    for number, kind, size, taking in steps:
        account = accounts[number]
        if taking and account.take(kind, size):
            held[number, kind] = held.get((number, kind), 0) + size
        elif not taking and held.get((number, kind), 0) >= size:
            account.give_back(kind, size)
            held[number, kind] -= size
        assert budget.total == sum(held.values()) <= LIMITS.process
        assert [one.held for one in accounts] == [
            sum(size for (owner, _), size in held.items() if owner == number) for number in range(4)
        ]
        assert budget.owner_holds("ann") == accounts[0].held + accounts[1].held <= LIMITS.owner
    assert_closed(budget, accounts)


def assert_closed(budget: HeldBytes, accounts: list[HeldAccount]) -> None:
    for account in accounts:
        account.close()
    assert budget.total == 0
    assert not any(budget.by_kind.values())
    assert not budget.owner_holds("ann")
