"""What waits for a slow subscriber: the newest of each prediction, bounded, the last never lost."""

from hypothesis import given
from hypothesis import strategies as st

from tidings.gateway.http.held_bytes import HeldBytes, HeldLimits, Kind
from tidings.gateway.push.conflation import ENTRY, ConflationQueue
from tidings.gateway.push.hub import RoutedChange
from tidings.streams.changes.codec import Change


def render(change: Change) -> bytes:
    return f"{change.prediction_id}{change.version} ".encode()


def item(prediction_id: str, version: int, size: int = 10) -> RoutedChange:
    return RoutedChange(Change(prediction_id, version, b"x" * size))


def test_only_the_newest_of_a_prediction_is_kept() -> None:
    """A newer change replaces the one that waits; an older one is dropped."""
    queue = ConflationQueue(render)
    for one in (item("a", 1), item("b", 1), item("a", 3), item("a", 2)):
        queue.put(one)
    assert queue.take(1000) == b"b1 a3 "
    assert queue.conflated == 2
    assert not queue


def test_replies_go_first() -> None:
    """Answers to the client are not held up by changes, and keep their order."""
    queue = ConflationQueue(render)
    queue.put(item("a", 1))
    queue.put_reply(b"one ")
    queue.put_reply(b"two ")
    assert queue.take(1000) == b"one two "
    assert queue.take(1000) == b"a1 "
    assert queue.take(1000) == b""


def test_a_take_is_about_as_large_as_asked() -> None:
    """What is taken at once ends with the message that reaches the limit."""
    queue = ConflationQueue(render)
    for number in range(5):
        queue.put(item(f"p{number}", 1))
    assert queue.take(6) == b"p01 p11 "
    assert queue.take(1) == b"p21 "


def test_beyond_the_bounds_only_versions_are_kept() -> None:
    """A change over either bound is read again later; a newer version that comes meanwhile counts."""
    queue = ConflationQueue(render, max_records=2, max_bytes=100)
    queue.put(item("a", 1))
    queue.put(item("huge", 1, size=200))
    queue.put(item("b", 1))
    queue.put(item("c", 1))
    queue.put(item("c", 2))
    assert queue.take(1000) == b"a1 b1 "
    assert queue
    assert queue.missing(10) == {"huge": 1, "c": 2}
    queue.restore(Change("c", 1, b"old"))
    assert queue.missing(10) == {"huge": 1, "c": 2}
    queue.restore(Change("c", 5, b"new"))
    queue.put(item("huge", 2))
    queue.restore(Change("huge", 1, b"late"))
    assert queue.take(1000) == b"c5 huge2 "
    assert not queue


def test_what_is_not_wanted_any_more_goes() -> None:
    """After an unsubscription or a narrower token nothing of what it covered waits."""
    queue = ConflationQueue(render, max_records=2)
    for name in "abcd":
        queue.put(item(name, 1))
    queue.retain(
        lambda change: change.prediction_id != "a", lambda prediction_id: prediction_id != "c"
    )
    assert queue.take(1000) == b"b1 "
    assert queue.missing(10) == {"d": 1}
    queue.forget("d", 0)
    assert queue
    queue.forget("d", 1)
    assert not queue


@given(
    st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(0, 60)), max_size=60),
    st.integers(1, 4),
    st.integers(1, 120),
    st.lists(st.booleans(), max_size=60),
)
def test_the_last_version_always_arrives(
    puts: list[tuple[str, int]], max_records: int, max_bytes: int, drains: list[bool]
) -> None:
    """However puts and takes interleave, versions rise, bounds hold, and each prediction's last version comes out."""
    queue = ConflationQueue(render, max_records, max_bytes)
    store: dict[str, Change] = {}
    out: dict[str, int] = {}

    def drain() -> None:
        for text in queue.take(50).decode().split():
            prediction_id, version = text[0], int(text[1:])
            assert version > out.get(prediction_id, 0)
            out[prediction_id] = version

    for number, (prediction_id, size) in enumerate(puts, 1):
        change = Change(prediction_id, number, b"x" * size)
        store[prediction_id] = change
        queue.put(RoutedChange(change))
        assert len(queue._pending) <= max_records
        assert (
            sum(len(one.change.value) for one in queue._pending.values())
            == queue._bytes
            <= max_bytes
        )
        if number <= len(drains) and drains[number - 1]:
            drain()
    while queue:
        for missing in queue.missing(2):
            queue.restore(store[missing])
        drain()
    assert out == {prediction_id: change.version for prediction_id, change in store.items()}


def test_what_waits_is_counted_and_bounded() -> None:
    """Without room for bytes ids are kept, without room for ids the subscriber has to begin anew."""
    held = HeldBytes(HeldLimits(connection=3 * ENTRY))
    queue = ConflationQueue(render, account=held.account("ann"))
    assert queue.put(item("a", 1))
    assert queue.put(item("b", 1))
    assert held.by_kind[Kind.PENDING] == held.owner_holds("ann")
    assert held.total >= 2 * ENTRY
    assert not all(queue.put(item(name, 1)) for name in "cdef")
    while queue.take(1000):
        pass
    queue.retain(lambda change: False, lambda prediction_id: False)
    assert held.total == 0
    queue.put(item("a", 2))
    queue.close()
    assert held.total == 0


def test_what_is_read_again_keeps_to_the_bounds() -> None:
    """Records that were read for a queue that has no room for them wait until others are sent."""
    queue = ConflationQueue(render, max_bytes=10)
    for name in "abc":
        queue.put(item(name, 1, 8))
    assert queue.take(1) == b"a1 "
    assert queue.restore(item("b", 1, 8).change)
    assert queue.restore(item("c", 1, 8).change)
    assert queue.take(100) == b"b1 "
    assert queue.missing(5) == {"c": 1}


def test_what_is_read_for_a_closed_queue_is_counted_nowhere() -> None:
    """A client that goes while its records are read again leaves the budget as it found it."""
    held = HeldBytes()
    queue = ConflationQueue(render, max_records=0, account=held.account("ann"))
    for name in "ab":
        queue.put(item(name, 1))
    assert set(queue.missing(5)) == {"a", "b"}
    queue.close()
    queue.restore(item("a", 1).change)
    queue.forget("b", 1)
    assert (held.total, held.by_kind[Kind.PENDING], held.owner_holds("ann")) == (0, 0, 0)
    assert not queue


def test_what_others_hold_cuts_nobody_off() -> None:
    """With the process's budget full, who holds nothing still gets what comes, by its id."""
    held = HeldBytes(HeldLimits(process=ENTRY))
    held.account("mallory").count(Kind.BODIES, ENTRY)
    queue = ConflationQueue(render, account=held.account("ann"))
    assert queue.put(item("a", 1))
    assert queue.missing(5) == {"a": 1}
    assert queue.restore(item("a", 1).change)
    assert queue.take(100) == b"a1 "
    assert held.owner_holds("ann") == 0
