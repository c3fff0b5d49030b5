"""Orders that wait, of several owners."""

import pytest

from tidings.streams.submission.fair_queue import FairQueue


def test_owners_are_served_in_turn() -> None:
    """Owners are served in turn, each one's orders in the order they came."""
    queue = FairQueue(100, 50)
    for number in range(3):
        assert queue.put("ann", f"a{number}")
    assert queue.put("bob", "b0")
    assert queue.put(None, "n0")
    assert queue.put("bob", "b1")
    assert [queue.pop() for _ in range(len(queue))] == ["a0", "b0", "n0", "a1", "b1", "a2"]
    with pytest.raises(IndexError):
        queue.pop()


def test_one_owner_takes_no_room_from_the_rest() -> None:
    """An owner has a limit of its own; all together have one too."""
    queue = FairQueue(5, 2)
    assert [queue.put("ann", str(number)) for number in range(3)] == [True, True, False]
    assert [queue.put(None, str(number)) for number in range(4)] == [True, True, True, False]
    assert not queue.put("bob", "b")
    queue.pop()
    assert queue.put("bob", "b")
    assert len(queue) == 5
