"""The reconciler's heap: nothing is read before it is due, and each action is met in its time."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from msgspec import Raw

from tests.support.clock import ManualClock
from tidings.storage.errors import StoreUnavailable
from tidings.storage.memory import MemoryStore
from tidings.storage.prediction import Prediction, Status, encode
from tidings.storage.store import Stored, Write
from tidings.streams.changes.codec import Change
from tidings.streams.log.memory import MemoryLog
from tidings.streams.submission.event_publisher import EventPublisher
from tidings.streams.submission.reconcile_policy import (
    LONGEST_ESTIMATE,
    Action,
    Timeouts,
    action_for,
    wait_before,
)
from tidings.streams.submission.reconciler import Reconciler, remember_unfinished
from tidings.streams.submission.status_client import SearchResult, StatusClient


class Bench:
    """A reconciler on a clock of the test's own, over records that nobody can be asked about."""

    def __init__(self) -> None:
        self.clock = ManualClock(1_764_000_000_000)
        self.loaded: list[str] = []
        self.records: dict[str, Prediction] = {}
        status_client = StatusClient({}, {}, EventPublisher(MemoryLog()), None)
        self.reconciler = Reconciler(self.load, status_client, None, clock=self.clock)

    async def load(self, ids: Sequence[str]) -> dict[str, Stored]:
        self.loaded += ids
        found = {name: self.records[name] for name in ids if name in self.records}
        return {name: Stored(one.version, one.status, encode(one)) for name, one in found.items()}

    def change(self, name: str, status: Status = Status.PROCESSING, **fields: object) -> None:
        record = prediction(name, status=status, updated_at=self.clock.ms(), **fields)
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
    """Of 10,000 predictions in flight only the one that has been silent for too long is read."""
    bench = Bench()
    bench.change("silent")
    bench.clock.now_ms += 30_000
    for number in range(10_000):
        bench.change(f"p{number}")
    bench.clock.now_ms += 29_999
    await bench.reconciler.once()
    assert bench.loaded == []
    bench.clock.now_ms += 1
    await bench.reconciler.once()
    assert bench.loaded == ["silent"]


async def test_news_put_it_off() -> None:
    """Each change of a prediction begins the wait anew; the end of one ends the watch."""
    bench = Bench()
    bench.change("p1")
    bench.change("p2")
    bench.clock.now_ms += 50_000
    bench.change("p1")
    bench.change("p2", Status.SUCCEEDED)
    assert len(bench.reconciler) == 1
    bench.clock.now_ms += 50_000
    await bench.reconciler.once()
    assert set(bench.loaded) <= {"p1"}
    assert bench.reconciler.done["look"] == 0


async def test_what_nobody_can_be_asked_about_is_not_watched() -> None:
    """A prediction of a provider without a token is let go when it comes due."""
    bench = Bench()
    bench.change("p1")
    bench.clock.now_ms += 60_000
    await bench.reconciler.once()
    assert (bench.loaded, len(bench.reconciler)) == (["p1"], 0)


def test_what_a_record_needs() -> None:
    """The record alone says what is to be done about it."""
    starting: dict[str, Any] = {
        "status": Status.STARTING,
        "provider_id": None,
        "create_id": "c",
        "model": "m",
    }
    assert action_for(prediction()) is Action.LOOK
    assert action_for(prediction(cancel_requested_at=1)) is Action.CANCEL
    assert action_for(prediction(**starting)) is Action.SUBMIT
    assert action_for(prediction(**starting | {"attempt": "a"})) is Action.FIND
    assert (
        action_for(prediction(**starting | {"attempt": "a", "cancel_requested_at": 1}))
        is Action.FIND
    )
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
        assert action_for(prediction(**fields)) is Action.NOTHING, fields


@given(
    st.sampled_from([action for action in Action if action is not Action.NOTHING]),
    st.integers(0, 100),
    st.one_of(
        st.none(),
        st.floats(allow_nan=False, allow_infinity=False),
        st.integers(-(10**400), 10**400),
    ),
)
@example(Action.LOOK, 0, 1.7e308)
@example(Action.LOOK, 0, -1.7e308)
@example(Action.LOOK, 0, 10**310)
def test_waits_grow_and_have_a_bound(action: Action, tries: int, estimated: float | None) -> None:
    """Each wait is at least as long as the one before; none overflows.

    An estimate makes patient, not impatient.
    """
    timeouts = Timeouts()
    record = prediction(estimated_time=estimated, payload=Raw(b"{}"))
    first, second = (wait_before(action, record, tries + n, timeouts) for n in (0, 1))
    longest = min(max(estimated or 0, 0), LONGEST_ESTIMATE) * timeouts.estimates
    assert 0 <= first <= second <= max(timeouts.longest, longest)
    if action is Action.LOOK:
        assert first >= timeouts.silence


async def test_what_was_heard_of_while_the_list_was_read_is_not_given_up() -> None:
    """A submission that is in no list fails only if its record still knows nothing of it."""

    class Nowhere(StatusClient):
        """A provider whose list shows nothing, and takes its time."""

        given: Sequence[Prediction] = ()

        async def find(
            self, provider: str, records: Sequence[Prediction], given_up: Sequence[Prediction]
        ) -> SearchResult:
            """Nothing; a webhook of one comes meanwhile, another one ends, a third is begun anew."""
            for name, fields in heard.items():
                bench.records[name] = prediction(name, **{"provider_id": None, **fields})
            return SearchResult(given_up)

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
        bench.load,
        Nowhere({}, {}, EventPublisher(MemoryLog()), None),
        None,
        clock=bench.clock,
    )
    records = [prediction(name, **waiting) for name in names]
    bench.clock.now_ms += 10 * 3_600_000
    await reconciler._find("replicate", records)
    assert failed == ["lost"]


class Scripted(StatusClient):
    """Providers that can be asked anything; what happens meanwhile is the test's."""

    def __init__(self) -> None:
        super().__init__({}, {}, EventPublisher(MemoryLog()), None)
        self.asked: list[str] = []
        self.meanwhile: Callable[[], None] = lambda: None
        self.tells: Callable[[], Awaitable[bool]] | None = None
        self.sought = SearchResult()
        self.lost: list[str] = []

    def supports(self, provider: str) -> bool:
        return True

    async def refresh(self, record: Prediction, why: str, whose: object = None) -> bool:
        self.asked.append("look")
        self.meanwhile()
        return True if self.tells is None else await self.tells()

    async def cancel(self, record: Prediction) -> bool:
        self.asked.append("cancel")
        return True

    async def find(
        self, provider: str, records: Sequence[Prediction], given_up: Sequence[Prediction]
    ) -> SearchResult:
        self.asked.append("find")
        return SearchResult(given_up, self.sought.untold)

    async def give_up(self, record: Prediction) -> None:
        self.lost.append(record.prediction_id)


def scripted() -> tuple[Bench, Scripted]:
    bench, providers = Bench(), Scripted()
    bench.reconciler = Reconciler(bench.load, providers, None, clock=bench.clock)
    return bench, providers


@pytest.mark.parametrize("when", ["asked", "read"])
async def test_a_cancel_during_a_look_up_follows_it_at_once(when: str) -> None:
    """Canceled while its record is read, or while its provider is asked.

    The cancel goes out right after, once.
    """
    bench, providers = scripted()
    bench.change("p1")
    bench.clock.now_ms += 60_000
    canceled: list[int] = []

    def cancel() -> None:
        if not canceled:
            canceled.append(bench.clock.ms())
            bench.change("p1", cancel_requested_at=bench.clock.ms())

    async def load_then_cancel(ids: Sequence[str]) -> dict[str, Stored]:
        found = await bench.load(ids)
        cancel()
        return found

    if when == "asked":
        providers.meanwhile = cancel
    else:
        bench.reconciler._load = load_then_cancel
    await bench.reconciler.once()
    assert (providers.asked, canceled) == (["look"], [bench.clock.ms()])
    await bench.reconciler.once()
    await bench.reconciler.once()
    assert providers.asked == ["look", "cancel"]


async def test_one_record_that_makes_no_sense_stops_no_other() -> None:
    """A record that cannot be read is put off and counted; what came due with it is looked up."""
    bench, providers = scripted()

    async def load(ids: Sequence[str]) -> dict[str, Stored]:
        return await bench.load(ids) | {"bad": Stored(2, Status.PROCESSING, b"{")}

    bench.reconciler._load = load
    bench.change("bad")
    bench.change("good")
    bench.clock.now_ms += 60_000
    assert await bench.reconciler.once() == 1
    assert (providers.asked, len(bench.reconciler)) == (["look"], 2)
    bench.clock.now_ms += Timeouts().longest
    assert await bench.reconciler.once() == 1


async def test_no_record_keeps_the_others_from_being_remembered() -> None:
    """At a start, what cannot be read is left out; any estimate is borne; the rest is watched."""
    bench, _ = scripted()
    store = MemoryStore()
    far, farther = (
        prediction(f"p{number}", estimated_time=number) for number in (1.7e308, 10**400)
    )
    near, bad = prediction("near"), prediction("bad")
    written = [Write(one, encode(one), 0) for one in (far, farther, near)]
    await store.write([Write(bad, b"{", 0), *written])
    assert await remember_unfinished(bench.reconciler, store, MemoryLog()) == 3


@pytest.mark.parametrize("began", ["noticed", "remembered"])
async def test_nothing_is_given_up_that_may_still_be_called(began: str) -> None:
    """A `submit` that waited for its processor is given up ten minutes after it was seen."""
    bench, providers = scripted()
    fields: dict[str, Any] = {
        "status": Status.STARTING,
        "provider_id": None,
        "attempt": "a",
        "create_id": "c",
    }
    record = bench.records["p1"] = prediction(
        "p1", updated_at=bench.clock.ms() - 3_600_000, **fields
    )
    if began == "noticed":
        bench.reconciler.notice([Change("p1", 2, encode(record), Status.STARTING.value)])
    else:
        bench.reconciler.remember(record)
    for _ in range(9):
        bench.clock.now_ms += 60_000
        await bench.reconciler.once()
        assert not providers.lost
        bench.reconciler.notice(
            [Change("p1", 2, encode(record), Status.STARTING.value)]
        )  # tags, say
    assert "find" in providers.asked
    for _ in range(5):
        bench.clock.now_ms += 60_000
        await bench.reconciler.once()
    assert providers.lost[0] == "p1"


async def test_what_could_not_be_done_is_counted() -> None:
    """An outage of the store or the log, a provider's or a defect.

    Each prediction that was due counts as left.
    """
    bench, providers = scripted()
    for name in ("p1", "p2"):
        bench.change(name)
    bench.clock.now_ms += 60_000
    load, bench.reconciler._load = bench.reconciler._load, away
    assert await bench.reconciler.once() == 2
    bench.reconciler._load = load
    for tells, left in ((away, 2), (broken, 2), (untold, 2), (told, 0)):
        bench.clock.now_ms += 10 * 3_600_000
        providers.tells = tells
        assert await bench.reconciler.once() == left, tells
    providers.sought = SearchResult(untold=1)
    bench.change("p3", Status.STARTING, provider_id=None, attempt="a")
    bench.clock.now_ms += 15_000
    assert await bench.reconciler.once() == 1


async def away(*_: object) -> Any:
    raise StoreUnavailable("away")


async def broken() -> bool:
    raise ZeroDivisionError


async def untold() -> bool:
    return False


async def told() -> bool:
    return True
