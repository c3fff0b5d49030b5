"""SIGKILL at each step of a submission and of a cancel, and at any moment: never two submissions, the same end."""

import asyncio
import random
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.providers.bad_days import BadDays
from tests.support.providers.faulty_stand_in import FaultyStandIn
from tests.support.providers.work import an_order, becomes, creates, variables
from tests.support.tidings_process import TidingsProcess


@pytest.fixture
async def stand_in() -> AsyncIterator[FaultyStandIn]:
    async with FaultyStandIn(duration=0.3, steps=2, first_retry=0.2, seed=3) as running:
        yield running


@asynccontextmanager
async def process(
    folder: Path, stand_in: FaultyStandIn, step: int = 0, roles: str = "all"
) -> AsyncIterator[tuple[TidingsProcess, httpx.AsyncClient]]:
    """A service that dies as this step ends; 0: it is ended in order."""
    program = (sys.executable, "-m", "tests.chaos.crashes.submitter_mortal", str(step))
    service = TidingsProcess(folder, variables(stand_in), ("serve", "--role", roles), program)
    await service.start()
    try:
        async with httpx.AsyncClient(base_url=service.url, timeout=30) as client:
            yield service, client
    finally:
        if service.process is not None and service.process.returncode is None:
            await service.stop()


async def ordered(client: httpx.AsyncClient, key: str, **order: Any) -> str | None:
    """Order one; None where the process died under it."""
    try:
        answer = await client.post(
            "/api/predictions", json=an_order(**order), headers={"Idempotency-Key": key}
        )
    except httpx.TransportError:
        return None
    assert answer.status_code == 201, answer.text
    made: str = answer.json()["data"]["predictionId"]
    return made


@pytest.mark.parametrize(
    ("step", "end", "count"),
    [(2, "succeeded", 1), (3, "failed", 0), (4, "succeeded", 1), (5, "succeeded", 1)],
    ids=["submit appended", "attempt seen", "provider answered", "answer appended"],
)
async def test_killed_at_each_step_of_submitting(
    tmp_path: Path, stand_in: FaultyStandIn, step: int, end: str, count: int
) -> None:
    """After the restart the prediction ends, submitted at most once; what was never called has failed as unknown."""
    stand_in.bad_days = BadDays(never=1)  # nobody but the reconciler can tell
    async with process(tmp_path, stand_in, step) as (doomed, client):
        await ordered(client, "k")
        assert await doomed.ended(30) == -9
    async with process(tmp_path, stand_in) as (_, client):
        made = await ordered(client, "k")
        assert made is not None
        record = await becomes(client, made, "succeeded", "failed")
    if step == 2:
        # The event is out: whether the record showed the attempt before the end is the processor's luck.
        assert record["status"] in ("failed", "succeeded")
        assert len(creates(stand_in)) == (record["status"] == "succeeded")
    else:
        assert (record["status"], sum(creates(stand_in).values())) == (end, count)
    if record["status"] == "failed":
        assert record["error"] == "submission outcome unknown"
    assert set(creates(stand_in).values()) <= {1}


async def test_killed_between_a_cancel_and_the_provider(
    tmp_path: Path, stand_in: FaultyStandIn
) -> None:
    """Killed as soon as the cancel is taken: after the restart the provider hears of it."""
    stand_in.bad_days = BadDays(never=1)
    async with process(tmp_path, stand_in) as (service, client):
        made = await ordered(client, "k", payload={"duration": 600})
        assert made is not None
        await becomes(client, made, "processing")
        stand_in.bad_days = BadDays(never=1, broken=1)
        answer = await client.post(f"/api/predictions/{made}/cancel")
        assert answer.status_code == 202
        await service.kill()
    assert not next(iter(stand_in.jobs.values())).terminal
    stand_in.bad_days = BadDays(never=1)
    async with process(tmp_path, stand_in) as (_, client):
        await becomes(client, made, "canceled")
    (job,) = stand_in.jobs.values()
    assert job.status == "canceled"


async def _killed_at_random(folder: Path, stand_in: FaultyStandIn, kills: int, seed: int) -> None:
    """Two services beside one processor, one of the three killed again and again, while predictions are ordered."""
    chance = random.Random(seed)
    stand_in.bad_days = BadDays(
        never=0.3, duplicated=0.2, broken=0.1, throttled=0.05, lost_answers=0.1
    )
    made: dict[str, str] = {}
    number = 0
    for _ in range(kills):
        async with process(folder, stand_in) as (service, client):
            for _ in range(6):
                number += 1
                found = await ordered(
                    client, f"k{number}", payload={"duration": chance.uniform(0, 1)}
                )
                if found is not None:
                    made[f"k{number}"] = found
                    if chance.random() < 0.2:
                        await client.post(f"/api/predictions/{found}/cancel")
            await asyncio.sleep(chance.uniform(0, 0.3))
            await service.kill()
    stand_in.bad_days = BadDays()
    async with process(folder, stand_in) as (_, client):
        for found in made.values():
            record = await becomes(client, found, "succeeded", "failed", "canceled", within=90)
            provider_id = record.get("providerId")
            if provider_id is not None:
                assert record["status"] == stand_in.jobs[provider_id].status, record["transitions"]
            else:
                assert (
                    record.get("error", "submission outcome unknown")
                    == "submission outcome unknown"
                ), record
    assert set(creates(stand_in).values()) <= {1}
    assert len(made) == kills * 6


async def test_killed_at_random_moments(tmp_path: Path, stand_in: FaultyStandIn) -> None:
    """Killed a few times on a bad day: every prediction ends as its provider says, none was submitted twice."""
    await _killed_at_random(tmp_path, stand_in, kills=4, seed=1)


@pytest.mark.long
async def test_killed_at_random_moments_thirty_times(
    tmp_path: Path, stand_in: FaultyStandIn
) -> None:
    """Killed thirty times on a bad day: the same."""
    await _killed_at_random(tmp_path, stand_in, kills=30, seed=2)
