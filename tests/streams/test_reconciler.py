"""The reconciler's heap: nothing is read before it is due, and each need is met in its time."""

from collections.abc import Sequence
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st
from msgspec import Raw

from storage.prediction import Prediction, Status, encode
from storage.store import Stored
from streams.changes import Change
from streams.due import LONGEST_ESTIMATE, Need, Patience, need_of, wait_for
from streams.lookup import LookUps, Sought
from streams.memory_log import MemoryLog
from streams.reconciler import Reconciler
from streams.reports import Reports


class Bench:
    """A reconciler on a clock of the test's own, over records that nobody can be asked about."""

    def __init__(self) -> None:
        self.now = 1_764_000_000_000
        self.loaded: list[str] = []
        self.records: dict[str, Prediction] = {}
        look_ups = LookUps({}, {}, Reports(MemoryLog()), None)
        self.reconciler = Reconciler(self.load, look_ups, None, clock=lambda: self.now / 1000)

    async def load(self, ids: Sequence[str]) -> dict[str, Stored]:
        self.loaded += ids
        found = {name: self.records[name] for name in ids if name in self.records}
        return {name: Stored(one.version, one.status, encode(one)) for name, one in found.items()}

    def change(self, name: str, status: Status = Status.PROCESSING, **fields: object) -> None:
        record = prediction(name, status=status, updated_at=self.now, **fields)
        self.records[name] = record
        self.reconciler.notice([Change(name, 2, encode(record), status.value)])


def prediction(name: str = "p", **fields: Any) -> Prediction:
    given: dict[str, Any] = {
        "status": Status.PROCESSING,
        "version": 2,
        "created_at": 1,
        "updated_at": 1,
        "provider": "replicate",
    }
    return Prediction(**{"prediction_id": name, "provider_id": "x", **given, **fields})


async def test_ten_thousand_cost_nothing_until_one_is_overdue() -> None:
    """Of 10,000 predictions in flight none is read until one has been silent for too long, and then that one alone."""
    bench = Bench()
    bench.change("silent")
    bench.now += 30_000
    for number in range(10_000):
        bench.change(f"p{number}")
    bench.now += 29_999
    await bench.reconciler.once()
    assert bench.loaded == []
    bench.now += 1
    await bench.reconciler.once()
    assert bench.loaded == ["silent"]


async def test_news_put_it_off() -> None:
    """Each change of a prediction begins the wait anew; the end of one ends the watch."""
    bench = Bench()
    bench.change("p1")
    bench.change("p2")
    bench.now += 50_000
    bench.change("p1")
    bench.change("p2", Status.SUCCEEDED)
    assert len(bench.reconciler) == 1
    bench.now += 50_000
    await bench.reconciler.once()
    assert set(bench.loaded) <= {"p1"}
    assert bench.reconciler.done["look"] == 0


async def test_what_nobody_can_be_asked_about_is_not_watched() -> None:
    """A prediction of a provider without a token is let go when it comes due."""
    bench = Bench()
    bench.change("p1")
    bench.now += 60_000
    await bench.reconciler.once()
    assert (bench.loaded, len(bench.reconciler)) == (["p1"], 0)


def test_what_a_record_needs() -> None:
    """The record alone says what is to be done about it."""
    starting: dict[str, Any] = {"status": Status.STARTING, "provider_id": None, "create_id": "c", "model": "m"}
    assert need_of(prediction()) is Need.LOOK
    assert need_of(prediction(cancel_requested_at=1)) is Need.CANCEL
    assert need_of(prediction(**starting)) is Need.SUBMIT
    assert need_of(prediction(**starting | {"attempt": "a"})) is Need.FIND
    assert need_of(prediction(**starting | {"attempt": "a", "cancel_requested_at": 1})) is Need.FIND
    nothing: list[dict[str, Any]] = [
        {"status": Status.SUCCEEDED},
        {"status": Status.PROCESSING, "pending": Status.SUCCEEDED},
        {"provider": None},
        {"provider_id": None},
        starting | {"model": None},
        starting | {"create_id": None},
        starting | {"cancel_requested_at": 1},
    ]
    for fields in nothing:
        assert need_of(prediction(**fields)) is Need.NOTHING, fields


@given(
    st.sampled_from([need for need in Need if need is not Need.NOTHING]),
    st.integers(0, 100),
    st.one_of(st.none(), st.floats(allow_nan=False, allow_infinity=False), st.integers(-(10**400), 10**400)),
)
@example(Need.LOOK, 0, 1.7e308)
@example(Need.LOOK, 0, -1.7e308)
@example(Need.LOOK, 0, 10**310)
def test_waits_grow_and_have_a_bound(need: Need, tries: int, estimated: float | None) -> None:
    """Each wait is at least as long as the one before; none overflows; an estimate makes patient, not impatient."""
    patience = Patience()
    record = prediction(estimated_time=estimated, payload=Raw(b"{}"))
    first, second = (wait_for(need, record, tries + n, patience) for n in (0, 1))
    longest = min(max(estimated or 0, 0), LONGEST_ESTIMATE) * patience.estimates
    assert 0 <= first <= second <= max(patience.longest, longest)
    if need is Need.LOOK:
        assert first >= patience.silence


async def test_what_was_heard_of_while_the_list_was_read_is_not_given_up() -> None:
    """A submission that is nowhere in the provider's list fails only if its record still knows nothing of it then."""

    class Nowhere(LookUps):
        """A provider whose list shows nothing, and takes its time."""

        given: Sequence[Prediction] = ()

        async def find(self, provider: str, records: Sequence[Prediction], given_up: Sequence[Prediction]) -> Sought:
            """Nothing; a webhook of one comes meanwhile, another one ends, a third is begun anew."""
            for name, fields in heard.items():
                bench.records[name] = prediction(name, **{"provider_id": None, **fields})
            return Sought(given_up)

        async def give_up(self, record: Prediction) -> None:
            """Note it."""
            failed.append(record.prediction_id)

    bench, failed = Bench(), list[str]()
    waiting: dict[str, Any] = {"status": Status.STARTING, "provider_id": None, "attempt": "first"}
    heard: dict[str, dict[str, Any]] = {
        "heard": {"attempt": "first", "provider_id": "r1"},
        "ended": {"attempt": "first", "status": Status.CANCELED},
        "anew": {**waiting, "attempt": "second"},
        "lost": waiting,
    }
    names = (*heard, "deleted")
    bench.records = {name: prediction(name, **waiting) for name in names if name != "deleted"}
    reconciler = Reconciler(
        bench.load, Nowhere({}, {}, Reports(MemoryLog()), None), None, clock=lambda: bench.now / 1000
    )
    records = [prediction(name, **waiting) for name in names]
    bench.now += 10 * 3_600_000
    await reconciler._find("replicate", records)
    assert failed == ["lost"]
