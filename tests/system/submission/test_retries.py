"""Retries over real ports: asked for by a client or by a policy, each made once, also after a crash."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.conditions import eventually
from tests.support.providers.faulty_stand_in import FaultyStandIn
from tests.support.providers.work import Work, at_work, creates
from tidings.storage.prediction import decode
from tidings.streams.lifecycle.follow_ups import successor_id
from tidings.streams.log.protocol import EVENTS, NewRecord


@pytest.fixture
async def stand_in() -> AsyncIterator[FaultyStandIn]:
    async with FaultyStandIn(duration=0.1, steps=1, first_retry=0.05, seed=1) as running:
        yield running


@pytest.fixture
async def work(tmp_path: Path, stand_in: FaultyStandIn) -> AsyncIterator[Work]:
    async with at_work(tmp_path, stand_in) as running:
        yield running


async def failed(work: Work, **order: object) -> str:
    """A prediction that has failed; returns its id."""
    made = await work.create(payload={"duration": 600}, **order)
    name: str = made["predictionId"]
    await work.becomes(name, "processing")
    answer = await work.client.patch(f"/api/predictions/{name}", json={"status": "failed"})
    assert answer.status_code == 200
    return name


async def test_a_failed_prediction_is_tried_again(work: Work, stand_in: FaultyStandIn) -> None:
    """The successor is an order of its own with what the first one had; the first one stays failed."""
    big = "x" * 40_000
    name = await failed(work, prompt=big, owner="ada", tags=["t"])
    answer = await work.client.post(f"/api/predictions/{name}/retry")
    assert answer.status_code == 201, answer.text
    made = answer.json()["data"]
    assert (made["retryOf"], made["retryCount"], made["owner"]) == (name, 1, "ada")
    assert answer.headers["Location"] == f"/api/predictions/{made['predictionId']}"
    blob = made["prompt"]["$blob"]
    found = await work.client.get(f"/api/predictions/{made['predictionId']}/blobs/{blob}")
    assert found.json() == big
    old = await work.get(name)
    assert (old["status"], old["retriedAs"]) == ("failed", made["predictionId"])
    await work.becomes(made["predictionId"], "processing")
    assert sorted(creates(stand_in).values()) == [1, 1]
    newest = await work.client.get(f"/api/predictions/{name}?latest=1")
    assert newest.json()["data"]["predictionId"] == made["predictionId"]

    again = await work.client.post(f"/api/predictions/{name}/retry")
    assert again.json()["data"]["predictionId"] == made["predictionId"]
    refused = await work.client.post(f"/api/predictions/{made['predictionId']}/retry")
    assert refused.status_code == 409


async def test_it_is_tried_elsewhere(work: Work) -> None:
    """The body may name another provider and model; one that cannot be submitted to is refused."""
    name = await failed(work)
    path = f"/api/predictions/{name}/retry"
    for bad in ({"provider": "nobody"}, {"provider": 1}, {"owner": "x"}):
        assert (await work.client.post(path, json=bad)).status_code == 422
    assert "retriedAs" not in await work.get(name)
    answer = await work.client.post(path, json={"provider": "fal", "model": "fal-ai/flux"})
    made = answer.json()["data"]
    assert (made["provider"], made["model"]) == ("fal", "fal-ai/flux")
    assert (await work.get(name))["retriedWith"] == {"provider": "fal", "model": "fal-ai/flux"}


async def test_a_policy_tries_again_until_none_is_left(work: Work, stand_in: FaultyStandIn) -> None:
    """Each failure is followed by the next attempt after its wait, at whom the policy names; then no more."""
    policy = {"max": 2, "backoff": 10, "then": [{}, {"provider": "fal", "model": "fal-ai/flux"}]}
    made = await work.create(payload={"duration": 600}, timeout=700, retries=policy)
    name, seen = made["predictionId"], []
    for count in range(3):
        record = await work.becomes(name, "failed")
        seen.append((record["provider"], record.get("retryCount", 0), record["errorCode"]))
        if count < 2:

            async def retried(name: str = name) -> bool:
                return "retriedAs" in await work.get(name)

            await eventually(retried)
            name = (await work.get(name))["retriedAs"]
    assert seen == [
        ("replicate", 0, "deadline"),
        ("replicate", 1, "deadline"),
        ("fal", 2, "deadline"),
    ]
    assert set(creates(stand_in).values()) == {1}
    newest = await work.client.get(f"/api/predictions/{made['predictionId']}?latest=1")
    assert newest.json()["data"]["predictionId"] == name
    assert "retriedAs" not in await work.get(name)


async def test_a_crash_between_a_retry_and_its_successor(
    tmp_path: Path, stand_in: FaultyStandIn
) -> None:
    """A retry that is in the log, and nothing more, is carried out after the next start, once."""
    async with at_work(tmp_path, stand_in, {"TIDINGS_ROLE": "gateway,processor"}) as work:
        event = b'{"type": "create", "provider": "replicate", "model": "owner/model"}'
        log = work.service.resources.log
        await log.append(EVENTS, [NewRecord(b"old", event)])
        await log.append(EVENTS, [NewRecord(b"old", b'{"status": "failed"}')])
        await log.append(EVENTS, [NewRecord(b"old", b'{"type": "retry", "as": "new"}')] * 2)
        await work.becomes("old", "failed")
    for _ in range(2):
        async with at_work(tmp_path, stand_in) as work:
            record = await work.becomes("new", "succeeded")
            assert (record["retryOf"], record["retryCount"]) == ("old", 1)
    assert sorted(creates(stand_in).values()) == [1]


@pytest.mark.parametrize(
    "retries",
    [-1, 21, "often", {"max": 1, "then": [{"provider": "nobody"}]}, {"max": 1, "also": 1}],
)
async def test_a_bad_policy_is_refused(work: Work, retries: object) -> None:
    """Nothing is created with a policy that could not be carried out."""
    order = {"provider": "replicate", "model": "owner/model", "retries": retries}
    assert (await work.client.post("/api/predictions", json=order)).status_code == 422


async def test_nobody_takes_the_id_of_a_successor(work: Work) -> None:
    """It follows from the record and a key: another key gives another id."""
    name = await failed(work)
    stored = await work.service.resources.store.get(name)
    assert stored is not None
    record = decode(stored.encoded)
    assert successor_id(b"a", record) != successor_id(b"b", record)
