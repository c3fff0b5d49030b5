"""Questions of a provider over real ports: answered, handed over once, and gone on with; also after a crash."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from tests.support.conditions import eventually
from tests.support.providers.faulty_stand_in import FaultyStandIn
from tests.support.providers.work import Work, at_work
from tests.support.webhooks import SECRET
from tidings.streams.log.protocol import EVENTS, NewRecord
from tidings.streams.providers.protocol import USAGE_STAMP

CALL = {"type": "function_call", "id": "c1", "name": "weather", "arguments": {}}


class Interactions:
    """Gemini's interactions: one that asks, and what goes on with its answer."""

    def __init__(self) -> None:
        self.stored: dict[str, dict[str, Any]] = {
            "i1": {"id": "i1", "status": "requires_action", "model": "g", "outputs": [CALL]}
        }
        self.created: list[dict[str, Any]] = []
        self.keys: list[str] = []
        self.status = 200
        self.port = 0

    async def start(self) -> None:
        app = web.Application()
        app.router.add_post("/v1beta/interactions", self._create)
        app.router.add_get("/v1beta/interactions/{id}", self._get)
        self._runner = web.AppRunner(app)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.port = self._runner.addresses[0][1]

    async def close(self) -> None:
        await self._runner.cleanup()

    async def _create(self, request: web.Request) -> web.Response:
        self.keys.append(request.headers["Idempotency-Key"])
        if self.status != 200:
            said = {"error": {"message": "the result is no object"}}
            return web.json_response(said, status=self.status)
        self.created.append(await request.json())
        name = f"i{len(self.created) + 1}"
        self.stored[name] = {"id": name, "status": "completed", "outputs": [{"text": "Sunny"}]}
        return web.json_response({"id": name, "status": "in_progress"})

    async def _get(self, request: web.Request) -> web.Response:
        return web.json_response(self.stored[request.match_info["id"]])


@pytest.fixture
async def gemini() -> AsyncIterator[Interactions]:
    found = Interactions()
    await found.start()
    yield found
    await found.close()


def settings(gemini: Interactions) -> dict[str, str]:
    return {
        "TIDINGS_GEMINI_SECRET": SECRET,
        "TIDINGS_GEMINI_TOKEN": "tok",
        "TIDINGS_GEMINI_URL": f"http://127.0.0.1:{gemini.port}",
    }


async def asking(work: Work, gemini: Interactions, stamp: bytes = USAGE_STAMP[1]) -> dict[str, Any]:
    """A prediction that its provider lets wait; returns its record."""
    headers = [("tidings-provider", b"gemini"), (USAGE_STAMP[0], stamp)]
    body = json.dumps(gemini.stored["i1"]).encode()
    await work.service.resources.log.append(EVENTS, [NewRecord(b"p1", body, headers)])
    return await work.becomes("p1", "processing")


async def answer(work: Work, said: Any) -> int:
    found = await work.client.post("/api/predictions/p1/answer", json={"answer": said})
    return found.status_code


async def test_an_answer_reaches_the_provider(tmp_path: Path, gemini: Interactions) -> None:
    """It is asked for, handed over once, and the prediction ends as the job that goes on ends."""
    async with FaultyStandIn() as stand_in, at_work(tmp_path, stand_in, settings(gemini)) as work:
        record = await asking(work, gemini)
        assert (record["waiting"], record["question"]["calls"]) == (True, [CALL])
        assert await answer(work, {"celsius": 20}) == 200
        ended = await work.becomes("p1", "succeeded")
        assert (ended["output"], ended["providerId"]) == ([{"text": "Sunny"}], "i2")
        assert (ended["askedAs"], ended["answer"]) == ("i1", {"celsius": 20})
        assert ended["answerTakenAt"] >= ended["answeredAt"]
        [sent] = gemini.created
        assert sent["previous_interaction_id"] == "i1"
        assert sent["input"][0]["result"] == {"celsius": 20}
        assert gemini.keys == ["p1:1"]


async def test_a_provider_that_is_away_gets_it_later(tmp_path: Path, gemini: Interactions) -> None:
    """While it answers 503, and over a restart of ours, the answer is kept; then it is handed over once."""
    gemini.status = 503
    async with FaultyStandIn() as stand_in:
        async with at_work(tmp_path, stand_in, settings(gemini)) as work:
            await asking(work, gemini)
            assert await answer(work, "x" * 40_000) == 200
            await eventually(lambda: len(gemini.keys) >= 1, 20)
            assert not (await work.get("p1")).get("waiting")
        gemini.status = 200
        async with at_work(tmp_path, stand_in, settings(gemini)) as work:
            await work.becomes("p1", "succeeded")
    [sent] = gemini.created
    assert sent["input"][0]["result"] == "x" * 40_000
    assert set(gemini.keys) == {"p1:1"}


async def test_an_answer_that_the_provider_refuses_is_asked_for_again(
    tmp_path: Path, gemini: Interactions
) -> None:
    """The question comes again with the reason, and the next answer is taken."""
    gemini.status = 400
    async with FaultyStandIn() as stand_in, at_work(tmp_path, stand_in, settings(gemini)) as work:
        await asking(work, gemini)
        assert await answer(work, "no object") == 200

        async def again() -> bool:
            return (await work.get("p1")).get("questionNumber") == 2

        await eventually(again, 20)
        record = await work.get("p1")
        assert record["waiting"]
        assert "no object" in record["question"]["refused"]
        gemini.status = 200
        assert await answer(work, {"celsius": 20}) == 200
        await work.becomes("p1", "succeeded")
        assert gemini.keys == ["p1:1", "p1:2"]


async def test_what_was_appended_before_asks_nothing(tmp_path: Path, gemini: Interactions) -> None:
    """A body with an older stamp gives the record that it always gave."""
    gemini.stored["i1"]["status"] = "requires_action"
    async with FaultyStandIn() as stand_in, at_work(tmp_path, stand_in, settings(gemini)) as work:
        record = await asking(work, gemini, b"1")
        assert "waiting" not in record
        assert "question" not in record


async def test_somebody_elses_question_is_not_the_providers(
    tmp_path: Path, gemini: Interactions
) -> None:
    """What one's own service asks about a job is answered to it; the provider hears nothing of it."""
    gemini.stored["i1"]["status"] = "in_progress"
    async with FaultyStandIn() as stand_in, at_work(tmp_path, stand_in, settings(gemini)) as work:
        await asking(work, gemini)
        asked = {"waiting": True, "question": "Go on?"}
        assert (await work.client.patch("/api/predictions/p1", json=asked)).status_code == 200
        assert await answer(work, "yes") == 200
        assert work.service.provider_work is not None
        delivery = work.service.provider_work.answers
        assert delivery is not None
        await eventually(lambda: len(delivery) == 0, 20)
        assert "answerTakenAt" not in await work.get("p1")
    assert gemini.keys == []
