"""The whole service is killed while groups run, deadlines pass and members are tried again: every count is right after."""

import asyncio
import json
import random
import sqlite3
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.conditions import eventually
from tests.support.providers.faulty_stand_in import FaultyStandIn
from tests.support.providers.work import an_order, creates, variables
from tests.support.tidings_process import TidingsProcess, environment

LETTERS = {"succeeded": "s", "failed": "f", "canceled": "c"}
HANGS = {"payload": {"duration": 600}, "timeout": 900, "retries": {"max": 1, "backoff": 20}}
ENDS = {"payload": {"steps": 1, "duration": 0.1}, "timeout": 20_000}
MEMBERS = [ENDS, HANGS, ENDS, HANGS, ENDS]


async def order(client: httpx.AsyncClient, name: str) -> None:
    """Order a group, until the service has answered."""

    async def made() -> bool:
        body = {**an_order(), "group": name, "orders": MEMBERS}
        try:
            answer = await client.post(
                "/api/predictions", json=body, headers={"Idempotency-Key": name}
            )
        except httpx.TransportError:
            return False
        return answer.status_code in (201, 202)

    await eventually(made, 60)


async def read(client: httpx.AsyncClient, name: str) -> dict[str, Any]:
    answer = await client.get(f"/api/predictions/{name}")
    found: dict[str, Any] = answer.json()["data"] if answer.status_code == 200 else {}
    return found


async def check(client: httpx.AsyncClient, name: str) -> None:
    """A group has ended, its letters are its members', and no member was tried again twice, or ended early."""

    async def ended() -> bool:
        return (await read(client, name)).get("status") in LETTERS

    await eventually(ended, 90)
    group = await read(client, name)
    letters = []
    for place, asked in enumerate(MEMBERS):
        record = await read(client, f"{name}.{place}")
        attempts = 0
        while "retriedAs" in record:
            attempts += 1
            record = await read(client, record["retriedAs"])
        assert record["group"] == name
        assert record["index"] == place
        assert record.get("retryCount", 0) == attempts
        assert attempts <= ("retries" in asked)
        assert group.get("memberRetries", {}).get(str(place), 0) == attempts
        if record.get("errorCode") == "deadline":
            assert record["transitions"][-1]["at"] == record["deadline"]
            if "retries" in asked:
                assert attempts == 1
        letters.append(LETTERS[record["status"]])
    assert group["memberStatus"] == "".join(letters)
    assert group["status"] == ("failed" if "f" in letters else "succeeded")


async def verified(folder: Path, settings: dict[str, str]) -> tuple[int, str]:
    """The exit code of a verification, and what it says."""
    program = ("-m", "tidings", "replay", "--verify", "--json")
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *program,
        cwd=folder,
        env=environment(settings),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    out, _ = await asyncio.wait_for(process.communicate(), 120)
    return process.returncode or 0, out.decode()


async def check_kills(folder: Path, times: int, seed: int) -> None:
    moments = random.Random(seed)
    async with FaultyStandIn(duration=0.1, steps=1, first_retry=0.05, seed=seed) as stand_in:
        settings = variables(stand_in)
        service = TidingsProcess(folder, settings)
        await service.start()
        names = []
        try:
            async with httpx.AsyncClient(base_url=service.url, timeout=20) as client:
                for number in range(times):
                    names.append(f"g{number}")
                    await order(client, names[-1])
                    await asyncio.sleep(moments.uniform(0, 1.2))  # when it is killed is chance
                    await service.kill()
                    await service.start()
                for name in names:
                    await check(client, name)
            assert set(creates(stand_in).values()) == {1}
        finally:
            await service.stop()
        code, said = await verified(folder, settings)
        assert code == 0, said
        plant_wrong_count(folder, names[0])
        code, said = await verified(folder, settings)
        assert code == 1, said
        assert names[0] in said


def plant_wrong_count(folder: Path, name: str) -> None:
    """Let a group's record say another count than its events."""
    with sqlite3.connect(next(folder.rglob("store.db"))) as store:
        (doc,) = store.execute("SELECT doc FROM predictions WHERE id = ?", (name,)).fetchone()
        record = json.loads(doc)
        right = record["memberStatus"]
        wrong = bytes(doc).replace(
            f'"memberStatus":"{right}"'.encode(), f'"memberStatus":"{right[::-1][1:]}c"'.encode()
        )
        assert wrong != bytes(doc)
        store.execute("UPDATE predictions SET doc = ? WHERE id = ?", (wrong, name))


async def test_killed_with_all_of_it_on(tmp_path: Path) -> None:
    """Three kills: no deadline missed or early, no count wrong, no retry doubled, and the log gives the same bytes."""
    await check_kills(tmp_path, 3, seed=18)


@pytest.mark.long
@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_killed_often_with_all_of_it_on(tmp_path: Path, seed: int) -> None:
    """The same with many kills."""
    await check_kills(tmp_path, 15, seed)
