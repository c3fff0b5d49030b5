"""Deadlines over real ports: what hangs ends, its provider is asked to cancel it, and a crash forgets neither."""

import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.conditions import eventually
from tests.support.providers.faulty_stand_in import FaultyStandIn
from tests.support.providers.work import at_work
from tidings.storage.prediction import Prediction, Status
from tidings.streams.log.protocol import DEAD_LETTERS, EVENTS, NewRecord
from tidings.streams.log.read_until_end import read_until_end
from tidings.streams.submission.reconcile_policy import Timeouts

PATIENT = Timeouts(silence=600_000, unsubmitted=200, unanswered=200, cancel=100)
"""Nothing is looked up by itself: what ends does so by its deadline."""
LONG = {"duration": 600}


@pytest.fixture
async def stand_in() -> AsyncIterator[FaultyStandIn]:
    async with FaultyStandIn(duration=0.2, steps=2, first_retry=0.05, seed=1) as running:
        yield running


def within_two_seconds(record: dict[str, Any], seen: float) -> None:
    assert record["error"]
    assert record["errorCode"] == "deadline"
    assert record["transitions"][-1]["at"] == record["deadline"]
    assert 0 <= seen * 1000 - record["deadline"] < 2_000


@pytest.mark.parametrize("provider", ["replicate", "fal"])
async def test_what_hangs_ends_at_its_deadline_and_is_canceled(
    tmp_path: Path, stand_in: FaultyStandIn, provider: str
) -> None:
    """It fails within 2 s; the provider is asked to cancel, and its answer is noted once."""
    async with at_work(tmp_path, stand_in, timeouts=PATIENT) as work:
        made = await work.create(provider=provider, payload=LONG, timeout=1_500)
        record = await work.becomes(made["predictionId"], "failed")
        within_two_seconds(record, time.time())

        async def canceled() -> bool:
            return (await work.get(made["predictionId"])).get("lateStatus") == "canceled"

        await eventually(canceled)
        assert (await work.get(made["predictionId"]))["status"] == "failed"


async def test_deadlines_pass_while_the_service_is_down(
    tmp_path: Path, stand_in: FaultyStandIn
) -> None:
    """After a start what was due meanwhile fails at once, and a cancel that was owed is asked for."""
    async with at_work(tmp_path, stand_in, timeouts=PATIENT) as work:
        made = await work.create(payload=LONG, timeout=1_000)
        await work.becomes(made["predictionId"], "processing")
    await eventually(lambda: time.time() * 1000 > made["deadline"])
    async with at_work(tmp_path, stand_in, timeouts=PATIENT) as work:
        record = await work.becomes(made["predictionId"], "failed")
        assert record["transitions"][-1]["at"] == made["deadline"]

        async def canceled() -> bool:
            return (await work.get(made["predictionId"])).get("lateStatus") == "canceled"

        await eventually(canceled)


async def test_a_prediction_from_elsewhere_gets_the_default(
    tmp_path: Path, stand_in: FaultyStandIn
) -> None:
    """What another service reports about has the deadline of the settings, and fails by it."""
    more = {"TIDINGS_TIMEOUTS": "acme=1,*=600"}
    async with at_work(tmp_path, stand_in, more, timeouts=PATIENT) as work:
        said = {"predictionId": "p", "status": "processing", "provider": "acme"}
        await work.service.resources.log.append(
            EVENTS, [NewRecord(b"p", json.dumps(said).encode())]
        )
        record = await work.becomes("p", "failed")
        within_two_seconds(record, time.time())
        assert record["deadline"] == record["createdAt"] + 1_000
        made = await work.create(payload=LONG)
        assert made["deadline"] - made["createdAt"] == pytest.approx(600_000, abs=1_000)


async def test_a_deadline_is_moved(tmp_path: Path, stand_in: FaultyStandIn) -> None:
    """A later deadline takes the place of the first, whose time passes without a word."""
    async with at_work(tmp_path, stand_in, timeouts=PATIENT) as work:
        made = await work.create(payload=LONG, timeout=1_000)
        later = made["deadline"] + 1_500
        path = f"/api/predictions/{made['predictionId']}"
        assert (await work.client.patch(path, json={"deadline": later})).status_code == 200
        record = await work.becomes(made["predictionId"], "failed")
        assert record["transitions"][-1]["at"] == later
        past = await work.client.patch(path, json={"deadline": 1_764_000_000_000})
        assert past.status_code == 422


@pytest.mark.long
async def test_ten_thousand_pass_in_one_second(tmp_path: Path, stand_in: FaultyStandIn) -> None:
    """Among 100,000 that wait each fails at its own deadline, none early by the log's clock and none missed."""
    async with at_work(tmp_path, stand_in, timeouts=PATIENT) as work:
        log = work.service.resources.log
        far = int(time.time() * 1000) + 3_600_000
        for start in range(0, 100_000, 5_000):
            waiting = (f"w{number}" for number in range(start, start + 5_000))
            await log.append(EVENTS, [expecting(name, far) for name in waiting])
        provider_work = work.service.provider_work
        assert provider_work is not None
        deadlines = provider_work.deadlines
        assert deadlines is not None
        await eventually(lambda: len(deadlines) == 100_000, 120)
        first = int(time.time() * 1000) + 20_000
        due = {f"d{number}": first + number // 10 for number in range(10_000)}
        await log.append(EVENTS, [expecting(name, at) for name, at in due.items()])
        await eventually(lambda: len(deadlines) == 110_000, 60)
        known = first - int(time.time() * 1000)
        await eventually(lambda: time.time() * 1000 >= first, 60)
        began = time.process_time()
        await eventually(lambda: deadlines.told >= 10_000, 60)
        spent = time.process_time() - began
        store = work.service.resources.store

        async def all_failed() -> bool:
            found = await store.load(list(due))
            return len(found) == len(due) and all(
                one.status is Status.FAILED for one in found.values()
            )

        await eventually(all_failed, 60)
        for name, stored in (await store.load(list(due))).items():
            record = stored.standing()
            assert isinstance(record, Prediction)
            assert (record.error_code, record.transitions[-1].at) == ("deadline", due[name])
        told: dict[str, int] = {}
        async for batch in read_until_end(log, EVENTS):
            for one in batch:
                if b'"type":"deadline"' in (one.value or b""):
                    told.setdefault((one.key or b"").decode(), one.timestamp)
        late = [told[name] - at for name, at in due.items()]
        assert min(late) >= 0
        median = sorted(late)[len(late) // 2]
        print(f"known {known} ms before; told {median} ms after, at most {max(late)} ms")  # noqa: T201
        print(f"{spent:.2f} s of CPU from the first deadline to the last word")  # noqa: T201


def expecting(name: str, deadline: int) -> NewRecord:
    said = {"predictionId": name, "status": "processing", "deadline": deadline}
    return NewRecord(name.encode(), json.dumps(said).encode())


async def test_a_late_success_is_kept_apart(tmp_path: Path, stand_in: FaultyStandIn) -> None:
    """It goes to the dead letters, and a report of it by PATCH is a conflict."""
    async with at_work(tmp_path, stand_in, timeouts=PATIENT) as work:
        path = "/api/predictions/late"
        log = work.service.resources.log
        said = {"predictionId": "late", "status": "processing", "deadline": int(time.time() * 1000)}
        await log.append(EVENTS, [NewRecord(b"late", json.dumps(said).encode())])
        await work.becomes("late", "failed")
        answer = await work.client.patch(path, json={"status": "succeeded"})
        assert answer.status_code == 409
        said = {"predictionId": "late", "status": "succeeded", "output": "x"}
        await log.append(EVENTS, [NewRecord(b"late", json.dumps(said).encode())])

        async def noted() -> bool:
            return (await work.get("late")).get("lateStatus") == "succeeded"

        await eventually(noted)
        assert sum(end for _, end in (await log.bounds(DEAD_LETTERS)).values()) == 1
