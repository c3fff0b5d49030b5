"""The hub: who gets which change, once, in order."""

from hypothesis import given
from hypothesis import strategies as st

from tidings.gateway.push.hub import Delivery, Hub, Subscriber
from tidings.gateway.push.protocol import change_frame
from tidings.streams.changes.codec import Change


class Kept:
    """A sink that keeps what it gets."""

    def __init__(self) -> None:
        self.deliveries: list[Delivery] = []

    def deliver(self, delivery: Delivery) -> None:
        self.deliveries.append(delivery)

    @property
    def got(self) -> list[tuple[str, int]]:
        return [
            (item.change.prediction_id, item.change.version)
            for delivery in self.deliveries
            for item in delivery.items
        ]


def change(prediction_id: str = "p", version: int = 1, **fields: object) -> Change:
    return Change(prediction_id, version, b'{"x":1}', **fields)  # type: ignore[arg-type]


def test_sinks_that_match_alike_share_one_object() -> None:
    """All sinks of a key get the very same bytes, joined once."""
    hub = Hub()
    sinks = [Kept(), Kept()]
    for sink in sinks:
        hub.subscribe("all", sink)
    hub.publish([change("a"), change("b")])
    first, second = (sink.deliveries[0].joined(change_frame) for sink in sinks)
    assert first is second
    assert first == change_frame(change("a")) + change_frame(change("b"))


def test_sinks_with_the_same_set_of_keys_share_too() -> None:
    """Where several keys match, those who match through the same ones share their merged bytes."""
    hub = Hub()
    sinks = [Kept(), Kept(), Kept()]
    for sink in sinks[:2]:
        hub.subscribe("prediction:a", sink)
        hub.subscribe("owner:o", sink)
    hub.subscribe("prediction:a", sinks[2])
    hub.publish([change("a", owner="o"), change("b", owner="o"), change("c", owner="x")])
    assert [sink.got for sink in sinks] == [[("a", 1), ("b", 1)], [("a", 1), ("b", 1)], [("a", 1)]]
    assert sinks[0].deliveries[0] is sinks[1].deliveries[0]


def test_versions_only_rise() -> None:
    """What went out before, or is older than it, goes out no more; deletions count."""
    hub = Hub()
    sink = Kept()
    hub.subscribe("prediction:p", sink)
    hub.publish([change("p", 2), change("p", 2), change("p", 1)])
    hub.publish([Change("p", 3, b"")])
    hub.publish([change("p", 3), change("p", 4)])
    assert sink.got == [("p", 2), ("p", 3), ("p", 4)]
    assert hub.version("p") == 4


def test_memory_is_bounded() -> None:
    """Of more predictions than may be remembered the ones silent for longest are forgotten."""
    hub = Hub(remembered=2)
    hub.subscribe("all", Kept())
    hub.publish([change("a"), change("b"), change("a", 2), change("c")])
    assert (hub.version("a"), hub.version("b"), hub.version("c")) == (2, 0, 1)


def test_nobody_is_remembered_who_left() -> None:
    """Unsubscribing leaves nothing behind, whatever the order."""
    hub = Hub()
    sinks = [Kept(), Kept(), Kept()]
    for sink in sinks:
        hub.subscribe("tag:t", sink)
        hub.subscribe("tag:t", sink)
    assert hub.watched("tag:t") == 3
    for sink in sinks:
        hub.unsubscribe("tag:t", sink)
        hub.unsubscribe("tag:t", sink)
    assert hub.watched("tag:t") == 0
    hub.publish([change("p", tags=("t",))])
    assert all(not sink.got for sink in sinks)
    assert not hub._subscribers


def test_who_leaves_while_a_change_goes_out_gets_nothing_of_it() -> None:
    """Whoever is taken out by what another one does gets nothing more, and the rest get theirs."""
    hub = Hub()
    rest = [Kept() for _ in range(20)]

    class Takes(Kept):
        """Ends the subscription of all others of its kind as soon as it gets something."""

        def deliver(self, delivery: Delivery) -> None:
            super().deliver(delivery)
            for one in takers:
                if one is not self:
                    hub.unsubscribe("all", one)

    takers = [Takes() for _ in range(20)]
    for one in (*rest, *takers):
        hub.subscribe("all", one)
    hub.publish([change("a"), change("b")])
    assert sum(bool(one.got) for one in takers) == 1
    assert [one.got for one in rest] == [[("a", 1), ("b", 1)]] * 20
    assert hub.deliveries == 42


def test_a_fan_out_pauses_and_respects_who_left_meanwhile() -> None:
    """A long fan-out yields; whoever unsubscribes during the pause gets nothing of what it left."""
    hub = Hub()
    sinks = [Kept() for _ in range(5)]
    for sink in sinks:
        hub.subscribe("prediction:p", sink)
        hub.subscribe("owner:o", sink)
    steps = hub.fan_out([change("p", owner="o"), change("q", owner="o")], slice=2)
    next(steps)
    waiting = [sink for sink in sinks if not sink.got]
    hub.unsubscribe("prediction:p", waiting[0])
    hub.unsubscribe("owner:o", waiting[0])
    hub.unsubscribe("owner:o", waiting[1])
    # Sinks are in no order: whether the last slice is full depends on whose turn it is.
    assert len(list(steps)) <= 1
    assert waiting[0].got == []
    assert waiting[1].got == [("p", 1)]
    assert waiting[2].got == [("p", 1), ("q", 1)]


def test_one_sinks_failure_is_not_the_others() -> None:
    """A sink that raises is taken out and reported; the others get their change."""

    class Broken(Kept):
        def deliver(self, delivery: Delivery) -> None:
            raise OSError("broken")

    failed: list[Subscriber] = []
    hub = Hub(on_error=lambda sink, error: failed.append(sink))
    broken, whole = Broken(), Kept()
    for sink in (broken, whole):
        hub.subscribe("all", sink)
        hub.subscribe("prediction:p", sink)
    hub.publish([change("p", 1)])
    hub.publish([change("p", 2)])
    assert failed == [broken]
    assert whole.got == [("p", 1), ("p", 2)]


names = st.sampled_from("abc")
changes = st.lists(
    st.builds(
        change,
        names,
        st.integers(1, 4),
        owner=st.none() | names,
        model=st.none() | names,
        tags=st.lists(names, max_size=2).map(tuple),
    ),
    max_size=8,
)
keys = st.sets(
    st.one_of(
        st.just("all"), st.tuples(st.sampled_from(["prediction", "owner", "tag", "model"]), names)
    )
)


@given(st.lists(changes, max_size=4), st.lists(keys, max_size=4))
def test_against_a_plain_model(
    batches: list[list[Change]], watches: list[set[str | tuple[str, str]]]
) -> None:
    """Every sink gets just what it matches, once, in order, and never a version that went out before."""
    hub = Hub()
    sinks = [Kept() for _ in watches]
    wanted = [
        {key if isinstance(key, str) else ":".join(key) for key in watch} for watch in watches
    ]
    for sink, watch in zip(sinks, wanted, strict=True):
        for key in watch:
            hub.subscribe(key, sink)
    sent: dict[str, int] = {}
    expected: list[list[tuple[str, int]]] = [[] for _ in sinks]
    for batch in batches:
        for one in batch:
            marks = {
                "all",
                f"prediction:{one.prediction_id}",
                f"owner:{one.owner}",
                f"model:{one.model}",
            }
            marks |= {f"tag:{tag}" for tag in one.tags}
            matching = [number for number, watch in enumerate(wanted) if watch & marks]
            if matching and one.version > sent.get(one.prediction_id, 0):
                sent[one.prediction_id] = one.version
                for number in matching:
                    expected[number].append((one.prediction_id, one.version))
        hub.publish(batch)
    assert [sink.got for sink in sinks] == expected


def test_a_version_counts_as_sent_when_everybody_has_it() -> None:
    """While a fan-out pauses, what it still has to hand over is not yet known to have gone out."""
    hub = Hub()
    hub.publish([change("p", 1)])
    for sink in (Kept(), Kept(), Kept()):
        hub.subscribe("all", sink)
    hub.publish([change("p", 2), change("q", 2)])
    steps = hub.fan_out([change("p", 3)], slice=1)
    next(steps)
    assert (hub.version("p"), hub.version("q")) == (0, 2)
    for _ in steps:
        assert hub.version("p") == 0
    assert hub.version("p") == 3
    steps = hub.fan_out([change("p", 4)], slice=1)
    next(steps)
    steps.close()  # type: ignore[attr-defined]  # it is a generator
    assert hub.version("p") == 4
