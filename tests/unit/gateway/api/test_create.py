"""Creating predictions over a real port, with a submitter that takes notes."""

import contextlib
import hashlib
import time
from collections.abc import AsyncIterator
from typing import Any

import httpx
import jwt
import msgspec
import pytest

from tests.support.gateway.small_service import SmallService, prediction, small_service
from tidings.gateway.auth.tokens import Hs256Tokens, RequiredClaims
from tidings.storage.prediction import Prediction, decode
from tidings.streams.log.protocol import DEAD_LETTERS, EVENTS

pytestmark = pytest.mark.doors

SECRET = b"a secret of more than thirty-two bytes"
ORDER = {
    "provider": "replicate",
    "model": "owner/model",
    "prompt": "a jersey",
    "payload": {"seed": 1},
}
STOOD = {
    "status": "processing",
    "version": 2,
    "createdAt": 1_764_000_000_000,
    "updatedAt": 1_764_000_000_000,
}


class Notes:
    """A submitter that writes down what it is given."""

    def __init__(self) -> None:
        self.submitted: list[Prediction] = []

    def refusal(self, provider: str) -> str | None:
        return None if provider == "replicate" else f"Set TIDINGS_{provider.upper()}_TOKEN."

    def model_refusal(self, provider: str, model: str) -> str | None:
        return None

    def stream_refusal(self, provider: str) -> str | None:
        return f"{provider} has no stream that is read here."

    async def submit(self, record: Prediction) -> None:
        self.submitted.append(record)


@contextlib.asynccontextmanager
async def serving(**settings: Any) -> AsyncIterator[tuple[SmallService, httpx.AsyncClient, Notes]]:
    notes = Notes()
    async with (
        small_service(submitter=notes, **settings) as service,
        httpx.AsyncClient(base_url=service.url, timeout=20) as client,
    ):
        yield service, client, notes


async def test_a_prediction_is_written_down_and_then_submitted() -> None:
    """201 with the record and its place; the submitter gets exactly what was written down."""
    async with serving() as (_, client, notes):
        answer = await client.post(
            "/api/predictions", json={**ORDER, "tags": ["t"], "estimatedTime": 5}
        )
        record = answer.json()["data"]
        assert answer.status_code == 201
        assert answer.headers["location"] == f"/api/predictions/{record['predictionId']}"
        assert (await client.get(answer.headers["location"])).json()["data"] == record
    assert (record["status"], record["version"], record["model"]) == ("starting", 1, "owner/model")
    assert (record["payload"], record["tags"], record["estimatedTime"]) == ({"seed": 1}, ["t"], 5)
    assert [one.prediction_id for one in notes.submitted] == [record["predictionId"]]


async def test_an_idempotency_key_makes_one_prediction() -> None:
    """The same key and body give the same prediction, submitted once; another body is a 422, another key another one."""
    async with serving() as (_, client, notes):
        headers = {"Idempotency-Key": "k1"}
        first = await client.post("/api/predictions", json=ORDER, headers=headers)
        second = await client.post(
            "/api/predictions", json=dict(reversed(ORDER.items())), headers=headers
        )
        other_body = await client.post(
            "/api/predictions", json={**ORDER, "prompt": "x"}, headers=headers
        )
        other_key = await client.post(
            "/api/predictions", json=ORDER, headers={"Idempotency-Key": "k2"}
        )
    assert first.status_code == second.status_code == other_key.status_code == 201
    assert first.json() == second.json()
    assert first.json() != other_key.json()
    assert other_body.status_code == 422
    assert len(notes.submitted) == 2


async def test_an_id_that_is_taken_is_a_409() -> None:
    """A predictionId of the caller's choice is used, and refused where something stands under it."""
    async with serving() as (service, client, notes):
        await service.put(prediction("taken"))
        taken = await client.post("/api/predictions", json={**ORDER, "predictionId": "taken"})
        free = await client.post("/api/predictions", json={**ORDER, "predictionId": "mine/1"})
        assert (await client.get("/api/predictions/mine%2F1")).status_code == 200
    assert taken.status_code == 409
    assert (free.status_code, free.headers["location"]) == (201, "/api/predictions/mine%2F1")
    assert len(notes.submitted) == 1


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ({"model": "m"}, "provider"),
        ({"provider": "replicate"}, "model"),
        ({**ORDER, "provider": 7}, "provider"),
        ({**ORDER, "predictionId": "a b"}, "predictionId"),
        ({**ORDER, "status": "succeeded"}, "status"),
        ({**ORDER, "tags": "t"}, "tags"),
        ({**ORDER, "provider": "luma"}, "TIDINGS_LUMA_TOKEN"),
    ],
)
async def test_a_bad_order_names_what_is_off(body: dict[str, Any], named: str) -> None:
    """What cannot be submitted is refused with the field, or the setting, that is missing; nothing is written down."""
    async with serving() as (service, client, _):
        answer = await client.post("/api/predictions", json=body)
        assert answer.status_code == 422
        assert named in answer.json()["detail"]
        assert await service.records() == []


async def test_without_a_submitter_nothing_is_created() -> None:
    """Where no provider can be submitted to, the answer says which setting is missing."""
    async with (
        small_service() as service,
        httpx.AsyncClient(base_url=service.url, timeout=20) as client,
    ):
        answer = await client.post("/api/predictions", json=ORDER)
    assert answer.status_code == 422
    assert "TIDINGS_REPLICATE_TOKEN" in answer.json()["detail"]


async def test_one_creates_for_oneself() -> None:
    """The owner is the caller; another's name needs `write`; keys of two owners do not meet."""
    async with serving(authenticator=Hs256Tokens(SECRET, RequiredClaims())) as (_, client, _notes):

        async def create(claims: dict[str, Any], **more: Any) -> httpx.Response:
            token = jwt.encode({"exp": time.time() + 60, **claims}, SECRET, algorithm="HS256")
            headers = {"Authorization": f"Bearer {token}", "Idempotency-Key": "k"}
            return await client.post("/api/predictions", json={**ORDER, **more}, headers=headers)

        own = await create({"sub": "ann"})
        other = await create({"sub": "ann"}, owner="bob")
        bobs = await create({"sub": "bob"})
        nobodys = await create({"scope": "read:all"})
        written = await create({"scope": "write"}, owner="zoe")
        bare = await client.post("/api/predictions", json=ORDER)
    assert own.json()["data"]["owner"] == "ann"
    assert (other.status_code, nobodys.status_code, bare.status_code) == (403, 403, 401)
    assert bobs.json()["data"]["owner"] == "bob"
    assert own.json()["data"]["predictionId"] != bobs.json()["data"]["predictionId"]
    assert written.status_code == 201


async def expired(service: SmallService, record: dict[str, Any]) -> None:
    """Let this record have finished over an hour ago: it stands, and nobody sees it."""
    finished = {**record, "status": "succeeded", "version": record["version"] + 1}
    await service.put(decode(msgspec.json.encode(finished)), int(time.time() * 1000) - 1)


@pytest.mark.parametrize("named", [{}, {"predictionId": "mine"}])
async def test_what_has_expired_is_not_made_again(named: dict[str, str]) -> None:
    """The same order, once its prediction has expired, is a 409 that says so; another body a 422; nothing is written."""
    async with serving() as (service, client, notes):
        order, headers = {**ORDER, **named}, {"Idempotency-Key": "k1"}
        first = await client.post("/api/predictions", json=order, headers=headers)
        await expired(service, first.json()["data"])
        assert (await client.get(first.headers["location"])).status_code == 404
        written = len(await service.records())
        again = await client.post("/api/predictions", json=order, headers=headers)
        other = await client.post(
            "/api/predictions", json={**order, "prompt": "x"}, headers=headers
        )
        assert len(await service.records()) == written
        renewed = {**order, "predictionId": "new"} if named else order
        new = await client.post("/api/predictions", json=renewed, headers={"Idempotency-Key": "k2"})
    assert (again.status_code, again.json()["code"]) == (409, "exists")
    assert "expired" in again.json()["detail"]
    assert (other.status_code, new.status_code) == (422, 201)
    assert len(notes.submitted) == 2


async def test_an_id_that_webhooks_made_and_that_has_expired() -> None:
    """A finished prediction that nobody created is not shown again by a create, which is refused as for one that stands."""
    async with serving() as (service, client, _):
        await service.put(prediction("standing"))
        await expired(service, {**STOOD, "predictionId": "gone"})
        answers = [
            await client.post("/api/predictions", json={**ORDER, "predictionId": name})
            for name in ("standing", "gone")
        ]
        assert await service.records() == []
    assert [answer.status_code for answer in answers] == [409, 409]
    assert answers[0].json() == answers[1].json()


async def test_an_id_that_is_deleted_belongs_to_its_owner() -> None:
    """After a deletion the owner may use the id again; another is told what he would be told if it still stood."""
    async with serving(authenticator=Hs256Tokens(SECRET, RequiredClaims())) as (service, client, _):

        def token(who: str) -> dict[str, str]:
            signed = jwt.encode({"exp": time.time() + 60, "sub": who}, SECRET, algorithm="HS256")
            return {"Authorization": f"Bearer {signed}"}

        async def create(who: str) -> httpx.Response:
            return await client.post(
                "/api/predictions", json={**ORDER, "predictionId": "x"}, headers=token(who)
            )

        assert (await create("ann")).status_code == 201
        standing = await create("bob")
        assert (await client.delete("/api/predictions/x", headers=token("ann"))).status_code == 204
        written = len(await service.records(EVENTS))
        deleted = await create("bob")
        assert len(await service.records(EVENTS)) == written
        again = await create("ann")
        assert await service.records(DEAD_LETTERS) == []
    assert standing.status_code == deleted.status_code == 409
    assert standing.json() == deleted.json()
    assert (again.status_code, again.json()["data"]["version"]) == (201, 3)


async def test_nobody_can_ask_after_anothers_idempotency_key() -> None:
    """The id that a key leads to cannot be computed from the owner and the key, so nobody can take it."""
    guessed = hashlib.sha256(b"ann\0order-17").hexdigest()[:32]
    async with serving(webhook_key=b"a key of this service") as (_, client, _):
        order = {**ORDER, "owner": "ann"}
        headers = {"Idempotency-Key": "order-17"}
        made = await client.post("/api/predictions", json=order, headers=headers)
        taken = await client.post("/api/predictions", json={**ORDER, "predictionId": guessed})
        again = await client.post("/api/predictions", json=order, headers=headers)
    assert (made.status_code, taken.status_code, again.status_code) == (201, 201, 201)
    assert again.json() == made.json()


@pytest.mark.parametrize(("hours", "same"), [(23, True), (25, False)])
async def test_a_key_given_to_an_earlier_release_matches_for_a_day(hours: int, same: bool) -> None:
    """What an earlier release made of a key is found by the same key, for a day."""
    former = hashlib.sha256(b"ann\0k").hexdigest()[:32]
    order = {**ORDER, "owner": "ann"}
    canonical = msgspec.json.encode({**order, "type": "create"}, order="deterministic")
    create_id = f"create-{former}-{hashlib.sha256(canonical).hexdigest()[:32]}"
    created = time.time_ns() // 1_000_000 - hours * 3_600_000
    async with serving(webhook_key=b"a key of this service") as (service, client, _):
        await service.put(prediction(former, owner="ann", createId=create_id, createdAt=created))
        answer = await client.post("/api/predictions", json=order, headers={"Idempotency-Key": "k"})
        other = await client.post(
            "/api/predictions", json={**order, "prompt": "x"}, headers={"Idempotency-Key": "k"}
        )
    assert answer.status_code == 201
    assert (answer.json()["data"]["predictionId"] == former) is same
    assert other.status_code == 422


@pytest.mark.parametrize(
    ("more", "status"),
    [
        ({"model": "m" * 600_000}, 413),
        ({"payload": {"x": "y" * 600_000}}, 201),
        ({"owner": "o" * 300}, 422),
        ({"tags": ["t"] * 101}, 422),
        ({"tags": ["t" * 300]}, 422),
        ({"payload": list(range(250_000))}, 422),
    ],
)
async def test_an_order_that_can_never_be_is_refused(more: dict[str, Any], status: int) -> None:
    """What would end as a dead letter is refused at once, and nothing is kept of it."""
    async with serving() as (service, client, _):
        answer = await client.post("/api/predictions", json={**ORDER, **more})
        assert answer.status_code == status, answer.text[:200]
        assert len(await service.records()) == (status == 201)


@pytest.mark.parametrize("field", ["predictionId", "model", "payload"])
async def test_an_order_that_is_not_utf_8_is_refused(field: str) -> None:
    """A body in another encoding is a 422 whichever field it is in, and whether it has a key or not."""
    body = b'{"provider":"replicate","model":"m","%b":"\xff"}' % field.encode()
    async with serving() as (service, client, _):
        for headers in ({}, {"Idempotency-Key": "k"}):
            answer = await client.post(
                "/api/predictions",
                content=body,
                headers={"content-type": "application/json", **headers},
            )
            assert answer.status_code == 422
        assert await service.records() == []


async def test_a_timeout_becomes_a_deadline() -> None:
    """An order says how long it may take, or until when; the record has the time itself."""
    async with serving() as (_, client, _notes):
        before = time.time() * 1000
        made = (await client.post("/api/predictions", json={**ORDER, "timeout": 60_000})).json()
        assert 60_000 <= made["data"]["deadline"] - before < 70_000
        until = int(before) + 90_000
        made = (await client.post("/api/predictions", json={**ORDER, "deadline": until})).json()
        assert made["data"]["deadline"] == until


@pytest.mark.parametrize(
    "given",
    [
        {"deadline": 1_764_000_000_000},
        {"deadline": "tomorrow"},
        {"deadline": 10**15},
        {"deadline": 4_000_000_000_000, "timeout": 5},
        {"timeout": 0},
        {"timeout": -5},
        {"timeout": "long"},
        {"timeout": True},
        {"timeout": 1e300},
    ],
)
async def test_a_bad_deadline_is_refused(given: dict[str, Any]) -> None:
    """A deadline in the past, or none that is a time, makes nothing."""
    async with serving() as (service, client, notes):
        answer = await client.post("/api/predictions", json={**ORDER, **given})
        assert (answer.status_code, answer.json()["error"]) == (422, "Invalid field")
        assert await service.log.bounds(EVENTS) == {0: (0, 0)}
        assert notes.submitted == []


async def test_a_key_repeats_a_timeout() -> None:
    """The same order with the same key is the same prediction, though its timeout would end later by now."""
    async with serving() as (_, client, _notes):
        key = {"Idempotency-Key": "k"}
        made = [
            await client.post("/api/predictions", json={**ORDER, "timeout": 60_000}, headers=key)
            for _ in range(2)
        ]
        assert made[0].json()["data"] == made[1].json()["data"]


@pytest.mark.parametrize("body", [ORDER, {"orders": [ORDER], "group": True}])
async def test_a_stream_that_nobody_can_read_is_refused(body: dict[str, Any]) -> None:
    """An order that asks for its provider's stream is refused where that has none; `false` asks for nothing."""
    async with serving() as (_, client, notes):
        asked = (
            {**body, "stream": True}
            if "orders" not in body
            else {**body, "orders": [{**ORDER, "stream": True}]}
        )
        refused = await client.post("/api/predictions", json=asked)
        assert refused.status_code == 422
        assert "has no stream that is read here" in refused.json()["detail"]
        assert notes.submitted == []
        taken = await client.post("/api/predictions", json={**ORDER, "stream": False})
        assert taken.status_code == 201
