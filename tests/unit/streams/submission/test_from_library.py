"""Submitting from a program of its own: written down first, called within a limit, and told as it ended."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web

import tidings
from tests.support.webhooks import SECRET
from tidings.storage.memory import MemoryStore
from tidings.storage.resilience.backoff import Backoff
from tidings.streams.manager import PredictionStatusManager
from tidings.streams.submission import create_call


class Replicate:
    """Answers creates with these statuses, one after the other, the last one for ever."""

    def __init__(self) -> None:
        self.statuses = [201]
        self.orders: list[dict[str, Any]] = []
        self.url = ""

    async def create(self, request: web.Request) -> web.Response:
        """Take an order."""
        self.orders.append(await request.json())
        status = self.statuses.pop(0) if len(self.statuses) > 1 else self.statuses[0]
        if status != 201:
            return web.json_response({"detail": "no"}, status=status, headers={"retry-after": "0"})
        urls = {
            "get": f"{self.url}/v1/predictions/r1",
            "cancel": f"{self.url}/v1/predictions/r1/cancel",
        }
        return web.json_response({"id": "r1", "status": "starting", "urls": urls}, status=201)

    async def list(self, request: web.Request) -> web.Response:
        """No jobs."""
        del request
        return web.json_response({"results": [], "next": None})


@pytest.fixture
async def replicate(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Replicate]:
    """A stand-in on loopback; repeats hardly wait."""
    monkeypatch.setattr(create_call, "BACKOFF", Backoff((0.01,), jitter=0))
    stand_in = Replicate()
    app = web.Application()
    app.router.add_post("/v1/{path:.*}", stand_in.create)
    app.router.add_get("/v1/predictions", stand_in.list)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    stand_in.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield stand_in
    await runner.cleanup()


def to(
    replicate: Replicate, manager: PredictionStatusManager, **options: Any
) -> tidings.Submission:
    return tidings.Submission(
        manager,
        "replicate",
        token="r8_secret",
        secret=SECRET,
        webhook="https://you.example/hooks/{id}",
        url=replicate.url,
        **options,
    )


async def test_taken(replicate: Replicate) -> None:
    """A busy provider is called again; once it has taken the job, the record is processing with its id."""
    replicate.statuses = [429, 503, 201]
    manager = PredictionStatusManager(MemoryStore())
    async with to(replicate, manager) as submission:
        record = await submission.submit("p1", {"seed": 7}, "a cat", model="acme/draw")
    assert (record.status, record.provider, record.provider_id) == ("processing", "replicate", "r1")
    assert len(replicate.orders) == 3
    assert replicate.orders[-1]["input"] == {"seed": 7, "prompt": "a cat"}
    assert replicate.orders[-1]["webhook"] == "https://you.example/hooks/p1"


async def test_declined(replicate: Replicate) -> None:
    """What the provider will not do has failed, with the original's words, and is not called again."""
    replicate.statuses = [422]
    manager = PredictionStatusManager(MemoryStore())
    async with to(replicate, manager) as submission:
        record = await submission.submit("p1", {"seed": 7}, model="acme/draw")
    assert record.status == "failed"
    assert str(record.error).startswith("AI service submission failed: ")
    assert len(replicate.orders) == 1


async def test_retries_have_a_limit(replicate: Replicate) -> None:
    """A provider that stays busy is given up after the limit, and the prediction has failed."""
    replicate.statuses = [503]
    manager = PredictionStatusManager(MemoryStore())
    async with to(replicate, manager, limit=0.2) as submission:
        record = await submission.submit("p1", model="acme/draw")
    assert record.status == "failed"


async def test_an_id_that_is_taken(replicate: Replicate) -> None:
    """Nothing is called for an id that stands, nor for a provider that takes nothing."""
    manager = PredictionStatusManager(MemoryStore())
    await manager.initialize("p1")
    async with to(replicate, manager) as submission:
        with pytest.raises(tidings.AlreadyExists):
            await submission.submit("p1", model="acme/draw")
    assert replicate.orders == []
    with pytest.raises(tidings.BadConfiguration):
        tidings.Submission(manager, "standard", token="t", secret=SECRET, webhook="https://h/{id}")
