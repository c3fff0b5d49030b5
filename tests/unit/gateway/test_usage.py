"""`GET /api/usage`: who may sum what, and what is refused."""

import contextlib
import time
from collections.abc import AsyncIterator
from typing import Any

import httpx
import jwt
import pytest

from tests.support.gateway.small_service import SmallService, prediction, small_service
from tidings.gateway.auth.tokens import Hs256Tokens, RequiredClaims
from tidings.storage.prediction import Usage

SECRET = b"a secret of more than thirty-two bytes"
T0 = 1_764_000_000_000
"""2025-11-24, 16:00 UTC."""
DAY = 86_400_000


@contextlib.asynccontextmanager
async def filled(**settings: Any) -> AsyncIterator[tuple[SmallService, httpx.AsyncClient]]:
    async with (
        small_service(**settings) as service,
        httpx.AsyncClient(base_url=service.url, timeout=20) as client,
    ):
        for number, owner in enumerate(("ann", "bob", "ann", None)):
            usage = Usage(seconds=1.25, cost="0.1", currency="USD", input_tokens=number)
            at = T0 + number * DAY
            await service.put(
                prediction(f"p{number}", owner=owner, model="m", createdAt=at, usage=usage)
            )
        await service.put(prediction("p9", owner="ann"))
        yield service, client


def bearer(**claims: Any) -> dict[str, str]:
    token = jwt.encode({"exp": time.time() + 60, **claims}, SECRET, algorithm="HS256")
    return {"Authorization": f"Bearer {token}"}


async def test_usage_is_summed_by_what_is_asked_for() -> None:
    """One sum for all, or one for each owner and day; costs are sums to the last digit."""
    async with filled(ttl=3600) as (_, client):
        answer = (await client.get("/api/usage")).json()
        assert answer["success"]
        assert (answer["groupBy"], answer["keptSeconds"]) == ([], 3600)
        assert answer["data"] == [
            {
                "predictions": 4, "inputTokens": 6, "outputTokens": 0, "seconds": 5, "images": 0,
                "costs": {"USD": "0.4"},
            }
        ]  # fmt: skip
        answer = (await client.get("/api/usage?groupBy=owner,day&model=m")).json()
        found = [(row["owner"], row["day"], row["costs"]["USD"]) for row in answer["data"]]
        assert found == [
            (None, "2025-11-27", "0.1"), ("ann", "2025-11-24", "0.1"), ("ann", "2025-11-26", "0.1"),
            ("bob", "2025-11-25", "0.1"),
        ]  # fmt: skip
        answer = (await client.get(f"/api/usage?from=2025-11-25&to={T0 + 2 * DAY}")).json()
        assert (answer["data"][0]["predictions"], answer["data"][0]["seconds"]) == (1, 1.25)
        assert (await client.get("/api/usage?provider=nobody")).json()["data"] == []


async def test_an_owner_sums_their_own() -> None:
    """Another's usage does not exist for them; an admin sums everybody's, and who owns nothing is refused."""
    async with filled(authenticator=Hs256Tokens(SECRET, RequiredClaims())) as (_, client):

        async def owners(query: str, **claims: Any) -> list[str]:
            answer = await client.get(f"/api/usage?groupBy=owner{query}", headers=bearer(**claims))
            assert answer.status_code == 200, answer.text
            return [row["owner"] for row in answer.json()["data"]]

        assert await owners("", sub="ann") == ["ann"]
        assert await owners("&owner=bob", sub="ann") == []
        assert await owners("", sub="zoe") == []
        assert await owners("", sub="zoe", owners=["ann", "bob"]) == ["ann", "bob"]
        assert await owners("", scope="read:all") == [None, "ann", "bob"]
        assert await owners("&owner=bob", scope="admin") == ["bob"]
        refused = await client.get("/api/usage", headers=bearer(predictions=["p1"]))
        assert (refused.status_code, refused.json()["code"]) == (403, "forbidden")
        assert (await client.get("/api/usage")).status_code == 401


@pytest.mark.parametrize(
    ("query", "named"),
    [
        ("groupBy=colour", "colour"), ("groupBy=owner,owner", "owner"), ("colour=red", "colour"),
        ("from=yesterday", "yesterday"), ("from=2026-01-02&to=2026-01-01", "`to`"), ("status=failed", "status"),
    ],
)  # fmt: skip
async def test_a_sum_that_cannot_be_is_a_400(query: str, named: str) -> None:
    """A filter or a group that there is not, and a time that ends before it begins, are named."""
    async with filled() as (_, client):
        answer = await client.get(f"/api/usage?{query}")
    assert answer.status_code == 400
    assert named in answer.json()["detail"]
