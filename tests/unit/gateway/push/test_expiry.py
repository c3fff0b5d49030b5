"""Those who watch a prediction are told when it is hidden, at the version that they have, and nobody else is."""

from collections.abc import Sequence

from tests.support.clock import ManualClock
from tidings.gateway.push.expiry import Expiries
from tidings.gateway.push.hub import Delivery, Hub
from tidings.gateway.push.protocol import change_message
from tidings.storage.prediction import Prediction, Status, encode
from tidings.storage.store import Stored
from tidings.streams.changes.codec import Change

T0 = 1_764_000_000_000


class Listener:
    def __init__(self) -> None:
        self.got: list[bytes] = []

    def deliver(self, delivery: Delivery) -> None:
        self.got += [change_message(item.change) for item in delivery.items]


class Bench:
    """A hub, records of which each is hidden at some time, and a clock of the test's own."""

    def __init__(self) -> None:
        self.clock = ManualClock(T0)
        self.hub = Hub()
        self.records: dict[str, Stored] = {}
        self.expiries = Expiries(self.hub, self.load, self.clock)

    async def load(self, ids: Sequence[str]) -> dict[str, Stored]:
        return {one: self.records[one] for one in ids if one in self.records}

    def change(self, name: str, version: int, expires_at: int, owner: str = "ada") -> None:
        record = Prediction(
            prediction_id=name,
            status=Status.SUCCEEDED,
            version=version,
            created_at=T0,
            updated_at=T0,
            owner=owner,
        )
        encoded = encode(record)
        self.records[name] = Stored(version, record.status, encoded, expires_at, owner)
        changes = [Change(name, version, encoded, "succeeded", owner, expires_at=expires_at)]
        self.hub.publish(changes)
        self.expiries.notice(changes)

    def listen(self, key: str) -> Listener:
        listener = Listener()
        self.hub.subscribe(key, listener)
        return listener


EXPIRED = b'{"type":"deleted","predictionId":"p","version":3,"reason":"expired"}'


async def test_each_watcher_is_told_once_at_the_version_it_has() -> None:
    """By its id, its owner or through everything; not before the time, and not whoever watches another."""
    bench = Bench()
    told = [bench.listen(key) for key in ("prediction:p", "owner:ada", "all")]
    other = bench.listen("prediction:q")
    bench.change("p", 3, T0 + 1_000)
    bench.clock.now_ms += 999
    await bench.expiries.once()
    assert all(len(one.got) == 1 for one in told)
    bench.clock.now_ms += 1
    await bench.expiries.once()
    await bench.expiries.once()
    assert all(one.got[1:] == [EXPIRED] for one in told)
    assert other.got == []


async def test_what_goes_on_expires_later() -> None:
    """A later change puts it off, also one that this gateway has not seen."""
    bench = Bench()
    told = bench.listen("prediction:p")
    bench.change("p", 1, T0 + 1_000)
    bench.change("p", 2, T0 + 5_000)
    bench.clock.now_ms += 1_000
    await bench.expiries.once()
    stored = bench.records["p"]
    bench.records["p"] = Stored(3, stored.status, stored.encoded, T0 + 9_000, "ada")
    bench.clock.now_ms += 4_000
    await bench.expiries.once()
    assert len(told.got) == 2
    bench.clock.now_ms += 4_000
    await bench.expiries.once()
    assert told.got[2:] == [EXPIRED]


async def test_what_was_shown_in_a_snapshot_expires_too() -> None:
    """It need not change while it is watched."""
    bench = Bench()
    bench.change("p", 3, T0 + 1_000)
    told = bench.listen("prediction:p")
    bench.hub.expect_expiry("p", T0 + 1_000)
    bench.clock.now_ms += 1_000
    await bench.expiries.once()
    assert told.got == [EXPIRED]


async def test_nobody_watches() -> None:
    """Then nothing is kept, nor read."""
    bench = Bench()
    bench.change("p", 3, T0 + 1_000)
    assert len(bench.expiries) == 0


async def test_what_is_left_out_is_not_kept_until_its_hour() -> None:
    """However many predictions come, memory is bounded, and those that are remembered are told."""
    bench = Bench()
    bench.expiries = Expiries(bench.hub, bench.load, bench.clock, remembered=10)
    everything = bench.listen("all")
    for number in range(100):
        bench.change(f"p{number}", 1, T0 + 100_000 - number)
    assert len(bench.expiries) == 10
    assert len(bench.expiries._heap) <= 20
    everything.got.clear()
    bench.clock.now_ms += 100_000
    await bench.expiries.once()
    assert len(everything.got) == 10
