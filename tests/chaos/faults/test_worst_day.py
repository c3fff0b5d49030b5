"""A provider on its worst day: everything goes wrong at once, and every prediction ends as the provider says.

Its files are kept, once each, and its record tells every step and who reported it.
"""

import asyncio
import random
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.support.conditions import eventually
from tests.support.providers.bad_days import BadDays
from tests.support.providers.faulty_stand_in import FaultyStandIn
from tests.support.providers.work import Work, at_work, creates
from tidings.storage.prediction import Status
from tidings.streams.archive.paths import is_asset_path

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
        provider=provider,
        prompt=f"number {number}",
        payload={"duration": chance.uniform(0, 2), "steps": 3},
    )
    if chance.random() < 0.15:
        await asyncio.sleep(chance.uniform(0, 1))
        answer = await work.client.post(f"/api/predictions/{made['predictionId']}/cancel")
        assert answer.status_code in (202, 409)
    return provider, str(made["predictionId"])


def _as_the_provider_says(work: Work, provider: str, record: dict[str, Any]) -> None:
    status, provider_id = record["status"], record.get("providerId")
    _explained(record)
    if provider_id is not None:
        # fal tells a cancel as an error of its own, which is read as one.
        assert status == work.stand_in.jobs[provider_id].status, record
        return
    error = record.get("error") or ""
    if status == "failed":
        assert error == "submission outcome unknown" or error.startswith(
            "AI service submission failed: "
        ), record
        # Replicate's list shows what was begun: it is always found.
        assert provider == "fal" or not any(
            record["predictionId"] in url for url in creates(work.stand_in)
        ), record
    else:
        assert status == Status.CANCELED, record


def _explained(record: dict[str, Any]) -> None:
    """Each step follows from the one before, and names the event, its time, its place in the log, and who said it."""
    before = None
    for step in record["transitions"]:
        assert step.get("from") == before, record
        assert all(step.get(name) for name in ("id", "at", "source", "position")), step
        before = step["to"]
    assert before == record["status"], record


async def _archived(work: Work, prediction_id: str) -> dict[str, Any]:
    """The record once its files are kept, or it says why not."""
    record = await work.get(prediction_id)
    return record if "assets" in record or "assetsError" in record else {}


async def _kept(work: Work, folder: Path, made: list[str], succeeded: list[str]) -> None:
    """Every file of every success lies in the storage, once, and nothing that no record names."""
    for prediction_id in succeeded:
        record = await eventually(partial(_archived, work, prediction_id), 120)
        assert "assetsError" not in record, record
        assert record["imageUrl"] == record["assets"][0]["url"]

    async def named() -> bool:
        """What was canceled or failed may have shown a file before, which is kept as well."""
        records = [await work.get(prediction_id) for prediction_id in made]
        paths = [asset["path"] for record in records for asset in record.get("assets", ())]
        files = [file for file in (folder / "assets").glob("*/*") if file.is_file()]
        there = [
            path
            for file in files
            if is_asset_path(path := str(file.relative_to(folder / "assets")))
        ]
        return sorted(there) == sorted(paths)

    await eventually(named, 60)
    for prediction_id in succeeded:
        for asset in (await work.get(prediction_id))["assets"]:
            content = (folder / "assets" / asset["path"]).read_bytes()
            assert (content[:8], len(content)) == (b"\x89PNG\r\n\x1a\n", asset["bytes"])


async def _worst_day(folder: Path, count: int, seed: int) -> None:
    chance = random.Random(seed)
    async with FaultyStandIn(
        duration=1, steps=3, first_retry=0.1, bad_days=WORST, seed=seed
    ) as stand_in:
        limits = {"TIDINGS_REPLICATE_RATE": "60000"}
        async with at_work(folder, stand_in, limits) as work:
            room = asyncio.Semaphore(20)

            async def one(number: int) -> tuple[str, str]:
                async with room:
                    return await _order(work, number, chance)

            made = await asyncio.gather(*(one(number) for number in range(count)))
            succeeded = []
            for provider, prediction_id in made:
                record = await work.becomes(
                    prediction_id, "succeeded", "failed", "canceled", within=240
                )
                _as_the_provider_says(work, provider, record)
                if record["status"] == "succeeded":
                    succeeded.append(prediction_id)
            assert succeeded
            await _kept(work, folder, [prediction_id for _, prediction_id in made], succeeded)
        assert set(creates(stand_in).values()) == {1}


async def test_a_worst_day(tmp_path: Path) -> None:
    """All the switches at once, 100 predictions: each ends as its provider says, submitted and archived once."""
    await _worst_day(tmp_path, 100, seed=5)


@pytest.mark.long
async def test_a_worst_day_in_full(tmp_path: Path) -> None:
    """All the switches at once, 2,000 predictions: each ends as its provider says, submitted and archived once."""
    await _worst_day(tmp_path, 2000, seed=6)
