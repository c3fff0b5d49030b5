"""Webhooks without a result: the resource is fetched, and what the provider says is reported as it came."""

import json
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from aiohttp import web

from tests.conditions import eventually
from tests.main_job.webhooks import SECRET, signed
from tests.tasks.work import Work, at_work
from tidings.demo import StandIn

RESPONSE = b'{"id":"resp_1","object":"response","status":"completed","model":"gpt","output":[{"text":"a poem"}]}'


class Upstream:
    """OpenAI's responses, as far as they are looked up."""

    def __init__(self) -> None:
        self.asked = 0
        self.status = 200
        self.url = ""
        self.elsewhere: list[str] = []

    async def answer(self, request: web.Request) -> web.Response:
        self.asked += 1
        assert request.headers["Authorization"] == "Bearer sk-test"
        if self.status == 307:
            raise web.HTTPTemporaryRedirect(f"{self.url}/elsewhere")
        return web.Response(body=RESPONSE, status=self.status, content_type="application/json")

    async def redirected(self, request: web.Request) -> web.Response:
        self.elsewhere.append(request.headers.get("Authorization", ""))
        return web.Response()


@pytest.fixture
async def upstream() -> AsyncIterator[Upstream]:
    found = Upstream()
    app = web.Application()
    app.router.add_get("/v1/responses/{id}", found.answer)
    app.router.add_get("/elsewhere", found.redirected)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    found.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield found
    await runner.cleanup()


def openai(upstream: Upstream) -> dict[str, str]:
    return {
        "TIDINGS_OPENAI_SECRET": SECRET,
        "TIDINGS_OPENAI_TOKEN": "sk-test",
        "TIDINGS_OPENAI_URL": upstream.url,
    }


async def post(client: httpx.AsyncClient) -> None:
    """The webhook that says no more than that `resp_1` is done."""
    event = {"id": "evt_1", "object": "event", "type": "response.completed", "data": {"id": "resp_1"}}
    body = json.dumps(event).encode()
    answer = await client.post("/api/webhooks/openai", content=body, headers=signed(body))
    assert answer.status_code == 200, answer.text


async def succeeded(work: Work) -> None:
    record = await work.becomes("resp_1", "succeeded")
    assert record["output"] == [{"text": "a poem"}]
    assert record["providerId"] == "resp_1"


async def test_the_result_is_fetched(tmp_path: Path, upstream: Upstream) -> None:
    """A webhook that names a response alone changes nothing; what is fetched makes it succeed, once."""
    async with StandIn() as stand_in, at_work(tmp_path, stand_in, openai(upstream)) as work:
        await post(work.client)
        await succeeded(work)
        await post(work.client)
        tasks = work.service.tasks
        assert tasks is not None
        assert tasks.thin is not None
        await eventually(lambda: tasks.thin is not None and tasks.thin.fetched == 2, 20)
        assert upstream.asked == 1
        assert (await work.get("resp_1"))["version"] == 2


async def test_a_provider_that_is_down_is_asked_again(tmp_path: Path, upstream: Upstream) -> None:
    """While the provider answers 500 the webhook is kept in mind."""
    upstream.status = 500
    async with StandIn() as stand_in, at_work(tmp_path, stand_in, openai(upstream)) as work:
        await post(work.client)
        await eventually(lambda: upstream.asked >= 2, 20)
        upstream.status = 200
        await succeeded(work)


async def test_a_restart_in_between(tmp_path: Path, upstream: Upstream) -> None:
    """A webhook whose result was not fetched before the end is fetched for after the restart."""
    upstream.status = 500
    async with StandIn() as stand_in:
        async with at_work(tmp_path, stand_in, openai(upstream)) as work:
            await post(work.client)
            await eventually(lambda: upstream.asked >= 1, 20)
        upstream.status = 200
        async with at_work(tmp_path, stand_in, openai(upstream)) as work:
            await succeeded(work)


async def test_a_redirect_gets_no_token(tmp_path: Path, upstream: Upstream) -> None:
    """A redirect is an answer like any other: it is not followed, with the token or without."""
    upstream.status = 307
    async with StandIn() as stand_in, at_work(tmp_path, stand_in, openai(upstream)) as work:
        await post(work.client)
        await eventually(lambda: upstream.asked >= 2, 20)
        upstream.status = 200
        await succeeded(work)
    assert upstream.elsewhere == []
