"""The index of deadlines: each is told once it has passed, and nothing is read for it."""

from typing import Any

import msgspec

from tests.support.clock import ManualClock
from tidings.storage.prediction import Prediction, Source, Status
from tidings.streams.changes.codec import Change, announcement, parse
from tidings.streams.lifecycle.deadlines import Deadlines
from tidings.streams.log.memory import MemoryLog
from tidings.streams.log.protocol import EVENTS, Position, StoredRecord
from tidings.streams.log.read_until_end import read_until_end
from tidings.streams.rules.timeouts import DefaultTimeouts
from tidings.streams.submission.event_publisher import EventPublisher

T0 = 1_764_000_000_000


def changed(name: str, status: str = "processing", **fields: Any) -> Change:
    """The change of a record as every reader of the topic sees it."""
    standing = prediction(name, status, **fields)
    new = announcement(standing, msgspec.json.encode(standing), position=Position(3, 7))
    stored = StoredRecord("predictions.changes", 3, 0, T0, new.key, new.value, new.headers)
    found = parse(stored)
    assert found is not None
    return found


def prediction(name: str, status: str = "processing", **fields: Any) -> Prediction:
    given: dict[str, Any] = {"version": 1, "created_at": T0, "updated_at": T0, **fields}
    return Prediction(prediction_id=name, status=Status(status), **given)


class Bench:
    def __init__(self, **given: Any) -> None:
        self.clock = ManualClock(T0)
        self.log = MemoryLog(partitions=4)
        self.deadlines = Deadlines(EventPublisher(self.log), clock=self.clock, **given)

    async def told(self) -> list[dict[str, object]]:
        while await self.deadlines.once():
            pass
        batches = [batch async for batch in read_until_end(self.log, EVENTS)]
        return [msgspec.json.decode(one.value or b"") for batch in batches for one in batch]


async def test_a_deadline_is_told_when_it_has_passed_and_where_its_record_is() -> None:
    """Not a millisecond before; the event says which deadline, and lies in the partition of the record's events."""
    bench = Bench()
    bench.deadlines.notice([changed("p", deadline=T0 + 1_000)])
    bench.clock.now_ms += 999
    assert await bench.told() == []
    bench.clock.now_ms += 1
    (told,) = await bench.told()
    assert told["deadline"] == told["at"] == T0 + 1_000
    batches = [batch async for batch in read_until_end(bench.log, EVENTS)]
    assert batches[0][0].partition == 3


async def test_what_ends_or_is_moved_is_not_told() -> None:
    """An end takes the deadline away, and another deadline takes its place."""
    bench = Bench()
    bench.deadlines.notice([changed(name, deadline=T0 + 1_000) for name in ("a", "b", "c")])
    bench.deadlines.notice([changed("a", "succeeded", deadline=T0 + 1_000)])
    bench.deadlines.notice([changed("b", deadline=T0 + 9_000)])
    bench.clock.now_ms += 1_000
    assert [one["predictionId"] for one in await bench.told()] == ["c"]
    bench.clock.now_ms += 1_000
    assert len(bench.deadlines) == 2


async def test_it_is_told_again_until_the_prediction_has_ended() -> None:
    """The processor may have been behind, or the log's clock: the event is repeated, ever more seldom."""
    bench = Bench()
    bench.deadlines.notice([changed("p", deadline=T0 + 1_000)])
    bench.clock.now_ms += 1_000
    assert len(await bench.told()) == 1
    bench.clock.now_ms += 4_999
    assert len(await bench.told()) == 1
    bench.clock.now_ms += 1
    assert len(await bench.told()) == 2
    bench.deadlines.notice([changed("p", "failed", deadline=T0 + 1_000)])
    bench.clock.now_ms += 100_000
    assert len(await bench.told()) == 2


async def test_another_instance_tells_of_its_own_partitions() -> None:
    """Nothing is told of another's, until the partition is this instance's."""
    mine: set[int] = set()
    bench = Bench(mine=lambda partitions: not mine.isdisjoint(partitions))
    bench.deadlines.notice([changed("p", deadline=T0 + 1)])
    bench.clock.now_ms += 1
    assert await bench.told() == []
    mine.add(3)
    bench.clock.now_ms += 500
    assert len(await bench.told()) == 1


async def test_the_index_is_rebuilt_from_records() -> None:
    """After a start what is unfinished is remembered by its record, with a deadline or with the settings' default."""
    bench = Bench(defaults=DefaultTimeouts.parse(["fal=1"]))
    source = Source("log", {"2": 5})
    bench.deadlines.remember(prediction("a", deadline=T0 + 5, source=source))
    bench.deadlines.remember(prediction("b", provider="fal"))
    bench.deadlines.remember(prediction("c", provider="replicate"))
    bench.deadlines.remember(prediction("d", pending=Status.SUCCEEDED, deadline=T0 + 5))
    bench.clock.now_ms += 1_000
    told = {one["predictionId"]: one for one in await bench.told()}
    assert set(told) == {"a", "b"}
    assert (told["b"]["deadline"], told["b"]["createdAt"]) == (T0 + 1_000, T0)


async def test_predictions_without_deadlines_leave_nothing_behind() -> None:
    """They cost neither a look at their records nor memory; and deadlines of the past go out of the heap."""
    bench = Bench()
    bench.deadlines.notice([changed(f"p{number}") for number in range(100)])
    assert (len(bench.deadlines), bench.deadlines._heap) == (0, [])
    for number in range(20_000):
        bench.deadlines.notice([changed("p", deadline=T0 + 1_000 + number)])
    assert len(bench.deadlines._heap) <= 1_001


async def test_ten_thousand_in_one_second() -> None:
    """All are told, in a few appends."""
    bench = Bench()
    bench.deadlines.notice(
        [changed(f"p{number}", deadline=T0 + number // 10) for number in range(1, 10_001)]
    )
    bench.clock.now_ms += 1_000
    assert len({one["predictionId"] for one in await bench.told()}) == 10_000
