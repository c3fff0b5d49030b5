"""The outbox of a backed-up subscriber: the newest of each prediction, within bounds, never losing the last."""

from hypothesis import given
from hypothesis import strategies as st

from tidings.gateway.push.conflation import Outbox
from tidings.gateway.push.hub import Announced
from tidings.streams.changes.codec import Change


def render(change: Change) -> bytes:
    return f"{change.prediction_id}{change.version} ".encode()


def item(prediction_id: str, version: int, size: int = 10) -> Announced:
    return Announced(Change(prediction_id, version, b"x" * size))


def test_only_the_newest_of_a_prediction_is_kept() -> None:
    """A newer change replaces the one that waits; an older one is dropped."""
    outbox = Outbox(render)
    for one in (item("a", 1), item("b", 1), item("a", 3), item("a", 2)):
        outbox.put(one)
    assert outbox.take(1000) == b"b1 a3 "
    assert outbox.conflated == 2
    assert not outbox


def test_replies_go_first() -> None:
    """Answers to the client are not held up by changes, and keep their order."""
    outbox = Outbox(render)
    outbox.put(item("a", 1))
    outbox.send(b"one ")
    outbox.send(b"two ")
    assert outbox.take(1000) == b"one two "
    assert outbox.take(1000) == b"a1 "
    assert outbox.take(1000) == b""


def test_a_take_is_about_as_large_as_asked() -> None:
    """What is taken at once ends with the message that reaches the limit."""
    outbox = Outbox(render)
    for number in range(5):
        outbox.put(item(f"p{number}", 1))
    assert outbox.take(6) == b"p01 p11 "
    assert outbox.take(1) == b"p21 "


def test_beyond_the_bounds_only_versions_are_kept() -> None:
    """A change over either bound is read again later; a newer version that comes meanwhile counts."""
    outbox = Outbox(render, max_records=2, max_bytes=100)
    outbox.put(item("a", 1))
    outbox.put(item("huge", 1, size=200))
    outbox.put(item("b", 1))
    outbox.put(item("c", 1))
    outbox.put(item("c", 2))
    assert outbox.take(1000) == b"a1 b1 "
    assert outbox
    assert outbox.missing(10) == {"huge": 1, "c": 2}
    outbox.restore(Change("c", 1, b"old"))
    assert outbox.missing(10) == {"huge": 1, "c": 2}
    outbox.restore(Change("c", 5, b"new"))
    outbox.put(item("huge", 2))
    outbox.restore(Change("huge", 1, b"late"))
    assert outbox.take(1000) == b"c5 huge2 "
    assert not outbox


def test_what_is_not_wanted_any_more_goes() -> None:
    """After an unsubscription or a narrower token nothing of what it covered waits."""
    outbox = Outbox(render, max_records=2)
    for name in "abcd":
        outbox.put(item(name, 1))
    outbox.keep(
        lambda change: change.prediction_id != "a", lambda prediction_id: prediction_id != "c"
    )
    assert outbox.take(1000) == b"b1 "
    assert outbox.missing(10) == {"d": 1}
    outbox.forget("d", 0)
    assert outbox
    outbox.forget("d", 1)
    assert not outbox


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
    outbox = Outbox(render, max_records, max_bytes)
    store: dict[str, Change] = {}
    out: dict[str, int] = {}

    def drain() -> None:
        for text in outbox.take(50).decode().split():
            prediction_id, version = text[0], int(text[1:])
            assert version > out.get(prediction_id, 0)
            out[prediction_id] = version

    for number, (prediction_id, size) in enumerate(puts, 1):
        change = Change(prediction_id, number, b"x" * size)
        store[prediction_id] = change
        outbox.put(Announced(change))
        assert len(outbox._pending) <= max_records
        assert (
            sum(len(one.change.value) for one in outbox._pending.values())
            == outbox._bytes
            <= max_bytes
        )
        if number <= len(drains) and drains[number - 1]:
            drain()
    while outbox:
        for missing in outbox.missing(2):
            outbox.restore(store[missing])
        drain()
    assert out == {prediction_id: change.version for prediction_id, change in store.items()}
