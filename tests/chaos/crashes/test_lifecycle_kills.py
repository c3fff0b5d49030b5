"""The whole service is killed while groups run, deadlines pass, members are tried again and questions wait.

After that every count is right, and the log gives the same bytes.
"""

import asyncio
import contextlib
import json
import random
import sqlite3
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.conditions import eventually
from tests.support.providers.faulty_stand_in import FaultyStandIn
from tests.support.providers.work import an_order, creates, variables
from tests.support.servers import Postgres
from tests.support.tidings_process import TidingsProcess, environment
from tidings import open_store
from tidings.storage.store import Query

LETTERS = {"succeeded": "s", "failed": "f", "canceled": "c"}
HANGS = {"payload": {"duration": 600}, "timeout": 900, "retries": {"max": 1, "backoff": 20}}
HANGS_LONG = {"payload": {"duration": 600}}
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


async def ask_and_answer(client: httpx.AsyncClient, name: str) -> None:
    """A prediction asks and two people answer, each until they know whose answer counts."""
    path = f"/api/predictions/{name}"
    asked = {"waiting": True, "question": f"{name}?", "questionId": name}
    event = {"status": "processing", **asked}

    async def stands() -> bool:
        with contextlib.suppress(httpx.TransportError):
            order = {**an_order(**HANGS_LONG), "predictionId": name}
            await client.post("/api/predictions", json=order)
            return (await client.patch(path, json=event)).status_code == 200
        return False

    async def knows(answer: str) -> bool:
        with contextlib.suppress(httpx.TransportError):
            said = {"answer": answer, "questionNumber": 1}
            found = await client.post(f"{path}/answer", json=said)
            return found.status_code in (200, 409)
        return False

    await eventually(stands, 60)
    await asyncio.gather(*(eventually(lambda who=who: knows(who), 60) for who in "ab"))  # type: ignore[misc]


async def check_answer(client: httpx.AsyncClient, name: str) -> None:
    record = await read(client, name)
    assert (record["questionNumber"], record["answer"] in ("a", "b")) == (1, True)
    assert "waiting" not in record


async def check_replay(folder: Path, settings: dict[str, str], store: str) -> None:
    """A replay into an empty store gives the bytes of the live one."""
    code, said = await replayed(folder, settings, "--into", f"sqlite:///{folder}/again.db")
    assert code == 0, said
    live: list[bytes] = []
    again: list[bytes] = []
    for url, found in ((store, live), (f"sqlite:///{folder}/again.db", again)):
        opened = await open_store(url)
        try:
            cursor: str | None = None
            while True:
                page = await opened.list(Query(limit=1000, cursor=cursor, hidden=True))
                found += [bytes(one.encoded) for one in page.items]
                if (cursor := page.cursor) is None:
                    break
        finally:
            await opened.close()
    assert len(live) > 5
    assert again == live


async def verified(folder: Path, settings: dict[str, str]) -> tuple[int, str]:
    """The exit code of a verification, and what it says."""
    return await replayed(folder, settings, "--verify")


async def replayed(folder: Path, settings: dict[str, str], *what: str) -> tuple[int, str]:
    """The exit code of a replay, and what it says."""
    program = ("-m", "tidings", "replay", *what, "--json")
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


async def check_kills(
    folder: Path, times: int, seed: int, places: Mapping[str, str] | None = None
) -> None:
    """Kill a service on these places (an embedded log and store) at moments that a seed chooses."""
    moments = random.Random(seed)
    async with FaultyStandIn(duration=0.1, steps=1, first_retry=0.05, seed=seed) as stand_in:
        settings = {**variables(stand_in), **(places or {})}
        service = TidingsProcess(folder, settings)
        await service.start()
        names = []
        try:
            async with httpx.AsyncClient(base_url=service.url, timeout=20) as client:
                for number in range(times):
                    names.append(f"g{number}")
                    asking = asyncio.create_task(ask_and_answer(client, f"q{number}"))
                    await order(client, names[-1])
                    await asyncio.sleep(moments.uniform(0, 1.2))  # when it is killed is chance
                    await service.kill()
                    await service.start()
                    await asking
                for name in names:
                    await check(client, name)
                    await check_answer(client, name.replace("g", "q"))
            assert set(creates(stand_in).values()) == {1}
        finally:
            await service.stop()
        code, said = await verified(folder, settings)
        assert code == 0, said
        await check_replay(
            folder, settings, settings.get("TIDINGS_STORE", f"sqlite:///{folder}/data/store.db")
        )
        if places:
            return
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


async def check_steps(folder: Path, deaths: Mapping[int, int]) -> None:
    """Die at these steps, each at the given time that it ends."""
    async with FaultyStandIn(duration=0.1, steps=1, first_retry=0.05, seed=1) as stand_in:
        settings = variables(stand_in)
        service = TidingsProcess(folder, settings)
        await service.start()
        port = service.port
        await service.stop()
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=20) as client:
            for step, count in deaths.items():
                program = (
                    sys.executable,
                    "-m",
                    "tests.chaos.crashes.mortal",
                    str(step),
                    str(count),
                )
                doomed = TidingsProcess(folder, settings, ("serve",), program, port=port)
                await doomed.launch()
                work = [
                    asyncio.create_task(order(client, f"g{step}")),
                    asyncio.create_task(ask_and_answer(client, f"q{step}")),
                ]
                assert await doomed.ended(40) == -9, doomed.output
                service = TidingsProcess(folder, settings, port=port)
                await service.start()
                await asyncio.gather(*work)
                await service.stop()
            await service.start()
            try:
                for step in deaths:
                    await check(client, f"g{step}")
                    await check_answer(client, f"q{step}")
                assert set(creates(stand_in).values()) == {1}
            finally:
                await service.stop()
        code, said = await verified(folder, settings)
        assert code == 0, said
        await check_replay(folder, settings, f"sqlite:///{folder}/data/store.db")


@pytest.mark.long
@pytest.mark.parametrize(
    "deaths", [lambda step: 2 + step, lambda step: 14 - step], ids=["early", "late"]
)
async def test_killed_at_every_step_with_all_of_it_on(
    tmp_path: Path, deaths: Callable[[int], int]
) -> None:
    """The process dies as each step of the processor's commit ends, in the middle of a group's life."""
    await check_steps(tmp_path, {step: deaths(step) for step in range(1, 7)})


@pytest.mark.long
@pytest.mark.kafka
async def test_killed_on_kafka_and_postgres(
    tmp_path: Path, kafka_url: str, topic_prefix: str
) -> None:
    """The same with the log on Kafka and the store in Postgres."""
    server = Postgres()
    await asyncio.to_thread(server.start)
    try:
        places = {
            "TIDINGS_LOG": kafka_url,
            "TIDINGS_TOPIC_PREFIX": topic_prefix,
            "TIDINGS_PARTITIONS": "4",
            "TIDINGS_STORE": server.url,
        }
        await check_kills(tmp_path, 6, 4, places)
    finally:
        server.close()


@pytest.mark.long
@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_killed_often_with_all_of_it_on(tmp_path: Path, seed: int) -> None:
    """The same with many kills."""
    await check_kills(tmp_path, 15, seed)
