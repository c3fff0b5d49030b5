"""A token that names a prediction covers whatever tries it again, over every transport; nothing else."""

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator

import httpx
import jwt
import pytest
from websockets.asyncio.client import connect

from tests.support.gateway.pushing import hear_until, subscribe
from tests.support.gateway.small_service import SmallService, prediction, small_service
from tidings.gateway.auth.permissions import Permissions
from tidings.gateway.auth.tokens import Hs256Tokens, RequiredClaims
from tidings.storage.prediction import encode

pytestmark = pytest.mark.doors

SECRET = b"a secret of more than thirty-two bytes"


@contextlib.asynccontextmanager
async def serving() -> AsyncIterator[tuple[SmallService, httpx.AsyncClient]]:
    """Three attempts at `p1`, and one at somebody else's; the token names `p1`."""
    claims = {"sub": "eve", "predictions": ["p1"], "exp": time.time() + 60}
    headers = {"Authorization": "Bearer " + jwt.encode(claims, SECRET, algorithm="HS256")}
    async with (
        small_service(authenticator=Hs256Tokens(SECRET, RequiredClaims())) as service,
        httpx.AsyncClient(base_url=service.url, timeout=20, headers=headers) as client,
    ):
        common = {"owner": "ada"}
        await service.put(prediction("p1", status="failed", retriedAs="p2", **common))
        await service.put(prediction("p2", status="failed", retriedAs="p3", retryOf="p1", **common))
        await service.put(prediction("p3", retryOf="p2", firstAttempt="p1", **common))
        await service.put(prediction("q2", retryOf="q1", firstAttempt="q1", **common))
        yield service, client


async def test_reads_follow_the_attempts() -> None:
    """Each attempt is read by its id and as the newest; what is not one stays hidden."""
    async with serving() as (service, client):
        for name, status in (("p1", 200), ("p2", 200), ("p3", 200), ("q2", 404), ("q1", 404)):
            answer = await client.get(f"/api/predictions/{name}")
            assert answer.status_code == status, name
        newest = await client.get("/api/predictions/p1?latest=1")
        assert newest.json()["data"]["predictionId"] == "p3"
        # It may read, and no more.
        assert (await client.post("/api/predictions/p3/cancel")).status_code == 403
        headers = {"If-None-Match": newest.headers["ETag"], "Prefer": "wait=20"}
        waiting = asyncio.ensure_future(client.get("/api/predictions/p3", headers=headers))
        later = prediction("p3", version=3, retryOf="p2", firstAttempt="p1", owner="ada")
        await service.put(later)
        assert (await waiting).json()["data"]["version"] == 3


async def test_watches_follow_the_attempts() -> None:
    """Snapshots and changes of an attempt come by WebSocket and by event stream."""
    async with serving() as (service, client):
        authorization = client.headers["Authorization"]
        async with (
            connect(service.ws_url, additional_headers={"Authorization": authorization}) as socket,
            client.stream("GET", "/api/events?predictions=p2,p3,q2") as stream,
        ):
            heard = await subscribe(socket, predictions=["p2", "p3", "p4", "q2"])
            kinds = [one["type"] for one in heard]
            assert kinds.count("snapshot") == 2
            assert kinds.count("unknown") == 2
            lines = stream.aiter_lines()
            async for line in lines:
                if line.startswith("event: synced"):
                    break
            await service.put(
                prediction("q2", version=3, retryOf="q1", firstAttempt="q1", owner="ada")
            )
            await service.put(
                prediction("p4", version=1, retryOf="p3", firstAttempt="p1", owner="ada")
            )
            last = prediction("p3", version=3, retryOf="p2", firstAttempt="p1", owner="ada")
            await service.put(last)
            changes = [await hear_until(socket, "change"), await hear_until(socket, "change")]
            found = [one[-1]["prediction"]["predictionId"] for one in changes]
            assert found == ["p4", "p3"]
            async for line in lines:
                if line.startswith("data: ") and '"change"' in line:
                    assert json.loads(line[6:])["prediction"]["predictionId"] == "p3"
                    break


def test_only_a_named_prediction_is_followed() -> None:
    """Neither an owner's right, nor a payload that looks like an attempt, gives anything."""
    record = encode(prediction("x", owner="ada", payload={"retryOf": "p1", "firstAttempt": "p1"}))
    assert not Permissions(predictions=frozenset({"p1"})).covers_attempt(record)
    attempt = encode(prediction("x", retryOf="p1"))
    assert Permissions(predictions=frozenset({"p1"})).covers_attempt(attempt)
    assert not Permissions(subject="p1", owners=frozenset({"p1"})).covers_attempt(attempt)
    assert not Permissions(predictions=frozenset({"p1"})).covers_attempt(b"")
