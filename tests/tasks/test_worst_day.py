"""A provider on its worst day: everything goes wrong at once, and every prediction ends as the provider says."""

import asyncio
import random
from pathlib import Path
from typing import Any

import pytest

from storage.prediction import Status
from tests.tasks.work import Work, at_work, creates
from tidings.demo import BadDays, StandIn

WORST = BadDays(
    out_of_order=0.2,
    duplicated=0.2,
    late=0.2,
    never=0.2,
    wrong_signature=0.1,
    throttled=0.05,
    broken=0.1,
    lost_answers=0.1,
    slow=0.2,
    huge=0.02,
    failing=0.1,
    late_by=2.0,
    slow_by=0.3,
    huge_bytes=200_000,
)


async def _order(work: Work, number: int, chance: random.Random) -> tuple[str, str]:
    provider = chance.choice(["replicate", "replicate", "fal"])
    made = await work.create(
        provider=provider, prompt=f"number {number}", payload={"duration": chance.uniform(0, 2), "steps": 3}
    )
    if chance.random() < 0.15:
        await asyncio.sleep(chance.uniform(0, 1))
        answer = await work.client.post(f"/api/predictions/{made['predictionId']}/cancel")
        assert answer.status_code in (202, 409)
    return provider, str(made["predictionId"])


def _as_the_provider_says(work: Work, provider: str, record: dict[str, Any]) -> None:
    status, provider_id = record["status"], record.get("providerId")
    assert [step["to"] for step in record["transitions"]][-1] == status
    if provider_id is not None:
        # fal tells a cancel as an error of its own, which is read as one.
        assert status == work.stand_in.jobs[provider_id].status, record
        return
    error = record.get("error") or ""
    if status == "failed":
        assert error == "submission outcome unknown" or error.startswith("AI service submission failed: "), record
        # Replicate's list shows what was begun: it is always found.
        assert provider == "fal" or not any(record["predictionId"] in url for url in creates(work.stand_in)), record
    else:
        assert status == Status.CANCELED, record


async def _worst_day(folder: Path, count: int, seed: int) -> None:
    chance = random.Random(seed)
    async with StandIn(duration=1, steps=3, first_retry=0.1, bad_days=WORST, seed=seed) as stand_in:
        limits = {"TIDINGS_REPLICATE_RATE": "60000"}
        async with at_work(folder, stand_in, limits) as work:
            room = asyncio.Semaphore(20)

            async def one(number: int) -> tuple[str, str]:
                async with room:
                    return await _order(work, number, chance)

            made = await asyncio.gather(*(one(number) for number in range(count)))
            for provider, prediction_id in made:
                record = await work.becomes(prediction_id, "succeeded", "failed", "canceled", within=240)
                _as_the_provider_says(work, provider, record)
        assert set(creates(stand_in).values()) == {1}


async def test_a_worst_day(tmp_path: Path) -> None:
    """All the switches at once, 100 predictions: each ends as its provider says, none was submitted twice."""
    await _worst_day(tmp_path, 100, seed=5)


@pytest.mark.long
async def test_a_worst_day_in_full(tmp_path: Path) -> None:
    """All the switches at once, 2,000 predictions: each ends as its provider says, none was submitted twice."""
    await _worst_day(tmp_path, 2000, seed=6)
