"""Groups over real ports: made by one request, counted right, canceled, tried again and deleted as one."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.conditions import eventually
from tests.support.providers.faulty_stand_in import FaultyStandIn
from tests.support.providers.work import Work, an_order, at_work, creates
from tidings.client.client import Client
from tidings.storage.prediction import Prediction
from tidings.streams.log.protocol import EVENTS, NewRecord

QUICKLY = {"steps": 1, "duration": 0.05}
LONG = {"duration": 600}


@pytest.fixture
async def stand_in() -> AsyncIterator[FaultyStandIn]:
    async with FaultyStandIn(duration=0.05, steps=1, first_retry=0.05, seed=1) as running:
        yield running


@pytest.fixture
async def work(tmp_path: Path, stand_in: FaultyStandIn) -> AsyncIterator[Work]:
    async with at_work(tmp_path, stand_in) as running:
        yield running


async def group(work: Work, orders: list[dict[str, Any]], **fields: Any) -> dict[str, Any]:
    """Order a group; returns its record."""
    body = {**an_order(payload=QUICKLY), "orders": orders, **fields}
    answer = await work.client.post("/api/predictions", json=body)
    assert answer.status_code == 201, answer.text
    made: dict[str, Any] = answer.json()["data"]
    return made


async def members(work: Work, name: str, **query: Any) -> list[dict[str, Any]]:
    """The newest attempts at a group's members."""
    answer = await work.client.get(
        "/api/predictions", params={"group": name, "limit": 1000, **query}
    )
    assert answer.status_code == 200, answer.text
    found: list[dict[str, Any]] = answer.json()["data"]
    return found


async def test_a_group_succeeds_with_its_last_member(work: Work, stand_in: FaultyStandIn) -> None:
    """One request makes all members, each submitted once; the group ends as they do, outside lists."""
    made = await group(work, [{"prompt": f"cat {i}"} for i in range(10)], group="cats", owner="ada")
    assert (made["predictionId"], made["kind"], made["memberStatus"]) == ("cats", "group", "q" * 10)
    found = await work.becomes("cats", "succeeded")
    assert found["memberStatus"] == "s" * 10
    each = await members(work, "cats")
    assert [one["prompt"] for one in each] == [f"cat {i}" for i in range(10)]
    assert {(one["group"], one["owner"], one["status"]) for one in each} == {
        ("cats", "ada", "succeeded")
    }
    assert set(creates(stand_in).values()) == {1}
    assert len(creates(stand_in)) == 10
    listed = (await work.client.get("/api/predictions?limit=100")).json()["data"]
    assert "cats" not in {one["predictionId"] for one in listed}
    groups = (await work.client.get("/api/predictions?kind=group")).json()["data"]
    assert [one["predictionId"] for one in groups] == ["cats"]
    for kind, total in (("", 10), ("&kind=group", 1)):
        answer = await work.client.get(f"/api/predictions?count=true&owner=ada{kind}")
        assert answer.json()["counts"]["total"] == total


async def test_one_failure_fails_the_group_when_all_have_ended(work: Work) -> None:
    """It goes on until the last member has ended; then a retry makes a group of those that failed."""
    orders = [{}, {"payload": LONG, "timeout": 700}, {"payload": LONG, "timeout": 900}]
    made = await group(work, orders)
    name = made["predictionId"]
    found = await work.becomes(name, "failed")
    assert (found["memberStatus"], found["error"]) == ("sff", "2 of 3 failed")
    answer = await work.client.post(f"/api/predictions/{name}/retry")
    assert answer.status_code == 201, answer.text
    again = answer.json()["data"]
    assert (again["kind"], again["retryOf"], len(again["memberStatus"])) == ("group", name, 2)
    assert (await work.becomes(again["predictionId"], "failed"))["memberStatus"] == "ff"


async def test_a_member_is_tried_again_in_its_place(work: Work) -> None:
    """By its policy before the group ends, and by hand after: the letter is that of the newest attempt."""
    policy = {"max": 1, "backoff": 10, "then": [{"provider": "fal", "model": "fal-ai/flux"}]}
    made = await group(work, [{}, {"payload": LONG, "timeout": 500, "retries": policy}])
    name = made["predictionId"]
    found = await work.becomes(name, "failed", "succeeded")
    assert (found["memberStatus"], found["memberRetries"]) == ("sf", {"1": 1})
    each = await members(work, name)
    assert (each[1]["retryCount"], each[1]["index"], each[1]["provider"]) == (1, 1, "fal")
    path = f"/api/predictions/{each[1]['predictionId']}/retry"
    answer = await work.client.post(path)
    assert answer.status_code == 201
    last = answer.json()["data"]["predictionId"]
    await work.becomes(last, "processing", "starting")
    assert (
        await work.client.patch(f"/api/predictions/{last}", json={"status": "succeeded"})
    ).is_success

    async def counted() -> bool:
        return bool((await work.get(name))["memberStatus"] == "ss")

    await eventually(counted, 30)
    assert (await work.get(name))["status"] == "failed"


async def test_a_cancel_reaches_every_member(work: Work) -> None:
    """A group that is canceled asks each member to cancel, and ends as they do."""
    made = await group(work, [{"payload": LONG}] * 3)
    name = made["predictionId"]

    async def submitted() -> bool:
        return bool((await work.get(name))["memberStatus"] == "ppp")

    await eventually(submitted, 30)
    await work.cancel(name)
    found = await work.becomes(name, "canceled")
    assert found["memberStatus"] == "ccc"


async def test_a_group_is_deleted_with_its_members(work: Work) -> None:
    """Nothing of it is left, and a late report about a member brings nothing back."""
    made = await group(work, [{}] * 3)
    name = made["predictionId"]
    await work.becomes(name, "succeeded")
    names = [one["predictionId"] for one in await members(work, name)]
    assert (await work.client.delete(f"/api/predictions/{name}")).status_code == 204
    for one in (name, *names):
        assert (await work.client.get(f"/api/predictions/{one}")).status_code == 404


async def test_a_crash_right_after_the_groups_event(
    tmp_path: Path, stand_in: FaultyStandIn
) -> None:
    """The one event is enough: members are created and submitted once after the next start."""
    async with at_work(tmp_path, stand_in, {"TIDINGS_ROLE": "gateway,processor"}) as work:
        await group(work, [{}] * 5, group="g")
        assert (await work.get("g"))["memberStatus"] == "qqqqq"
        assert (await work.client.get("/api/predictions/g.0")).status_code == 404
    for _ in range(2):
        async with at_work(tmp_path, stand_in) as work:
            assert (await work.becomes("g", "succeeded"))["memberStatus"] == "sssss"
    assert sorted(creates(stand_in).values()) == [1] * 5


async def until_ended(client: Client, name: str) -> list[int]:
    """The versions that a watcher is told of, to the end."""
    versions = []
    async with client.watch(name) as watch:
        async for update in watch:
            versions.append(update.version)
            if isinstance(update, Prediction) and update.status.terminal:
                break
    return versions


async def test_a_thousand_members_that_end_within_a_second(
    tmp_path: Path, stand_in: FaultyStandIn
) -> None:
    """The count is right, whatever came together; who watches gets few states of it, and the last."""
    async with (
        at_work(tmp_path, stand_in, {"TIDINGS_REPLICATE_RATE": "1"}) as work,
        Client(str(work.client.base_url)) as client,
    ):
        made = await group(work, [{}] * 1000, group="many")
        assert len(made["memberStatus"]) == 1000
        watching = asyncio.create_task(until_ended(client, "many"))

        async def there() -> bool:
            return (await work.client.get("/api/predictions/many.999")).status_code == 200

        await eventually(there, 60)
        log = work.service.resources.log
        ends = ["succeeded", "failed", "canceled"]
        await log.append(
            EVENTS,
            [
                NewRecord(b"many.%d" % i, b'{"status": "%s"}' % ends[i % 3].encode())
                for i in range(1000)
            ],
        )
        found = await work.becomes("many", "failed", "succeeded")
        letters = found["memberStatus"]
        assert {letter: letters.count(letter) for letter in "sfc"} == {"s": 334, "f": 333, "c": 333}
        versions = await watching
        assert versions == sorted(set(versions))
        assert versions[-1] == found["version"] > 1000
        assert len(versions) < 500


@pytest.mark.parametrize(
    "bad",
    [
        {"orders": []},
        {"orders": [{}] * 1001},
        {"orders": "many"},
        {"orders": [{"predictionId": "x"}]},
        {"orders": [{"group": "another"}]},
        {"orders": [{"provider": "nobody"}]},
        {"orders": [{"deadline": 1_764_000_000_000}]},
        {"orders": [{}], "group": "a b"},
        {"orders": [{}], "group": "g" * 251},
        {"orders": [{}], "predictionId": "p"},
        {"orders": [{"retries": 99}]},
    ],
)
async def test_a_bad_group_makes_nothing(work: Work, bad: dict[str, Any]) -> None:
    """It is refused whole, and the order that is off is named."""
    before = await work.service.resources.log.bounds(EVENTS)
    answer = await work.client.post("/api/predictions", json={**an_order(), **bad})
    assert answer.status_code == 422, answer.text
    assert await work.service.resources.log.bounds(EVENTS) == before


async def test_an_id_that_is_in_use(work: Work) -> None:
    """A group's id that is a prediction's, or whose members' ids are, is refused; reports on a group are, too."""
    await work.create(predictionId="p")
    await work.create(predictionId="g.1")
    for name in ("p", "g"):
        body = {**an_order(), "orders": [{}, {}], "group": name}
        assert (await work.client.post("/api/predictions", json=body)).status_code == 409
    assert (await work.client.get("/api/predictions/g")).status_code == 404
    made = await group(work, [{"payload": LONG}])
    path = f"/api/predictions/{made['predictionId']}"
    assert (await work.client.patch(path, json={"status": "succeeded"})).status_code == 409
    single = await work.client.post("/api/predictions", json={**an_order(), "group": "x"})
    assert single.status_code == 422


async def test_a_key_gives_one_group(work: Work) -> None:
    """The same request with the same key is the same group."""
    key = {"Idempotency-Key": "k"}
    body = {**an_order(payload=QUICKLY), "orders": [{}, {}], "timeout": 60_000}
    made = [await work.client.post("/api/predictions", json=body, headers=key) for _ in range(2)]
    assert {one.status_code for one in made} == {201}
    assert len({one.json()["data"]["predictionId"] for one in made}) == 1
    other = await work.client.post("/api/predictions", json={**body, "orders": [{}]}, headers=key)
    assert other.status_code == 422
