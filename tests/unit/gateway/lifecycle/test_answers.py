"""`POST /api/predictions/{id}/answer` over a real port."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from typing import Any

import httpx
import jwt
import pytest

from tests.support.gateway.small_service import SmallService, prediction, small_service
from tidings.gateway.auth.tokens import Hs256Tokens, RequiredClaims
from tidings.gateway.lifecycle.answers import MAX_ANSWER

pytestmark = pytest.mark.doors

SECRET = b"a secret of more than thirty-two bytes"
PATH = "/api/predictions/p1"


@contextlib.asynccontextmanager
async def serving(**settings: Any) -> AsyncIterator[tuple[SmallService, httpx.AsyncClient]]:
    async with (
        small_service(**settings) as service,
        httpx.AsyncClient(base_url=service.url, timeout=20) as client,
    ):
        yield service, client


def bearer(**claims: Any) -> dict[str, str]:
    token = jwt.encode({"exp": time.time() + 60, **claims}, SECRET, algorithm="HS256")
    return {"Authorization": f"Bearer {token}"}


async def ask(client: httpx.AsyncClient, question: Any = "Go on?", **fields: Any) -> httpx.Response:
    body = {"waiting": True, "question": question, **fields}
    return await client.patch(PATH, json=body)


async def test_a_question_is_asked_and_answered() -> None:
    """A service asks by a report, whoever sees the record answers, and the record says both."""
    async with serving() as (service, client):
        await service.put(prediction("p1"))
        asked = (await ask(client, {"text": "Which?", "choices": ["a", "b"], "why": 1})).json()[
            "data"
        ]
        assert (asked["waiting"], asked["questionNumber"]) == (True, 1)
        assert asked["status"] == "processing"
        answer = await client.post(PATH + "/answer", json={"answer": "b", "questionNumber": 1})
        assert answer.status_code == 200, answer.text
        record = answer.json()["data"]
        assert "waiting" not in record
        assert (record["answer"], record["question"]["why"]) == ("b", 1)
        assert record["answeredAt"] >= asked["updatedAt"]
        assert (await client.get(PATH)).json()["data"] == record


async def test_the_same_answer_again_is_no_news_and_another_one_is_late() -> None:
    """A repeat is answered with the record, and nothing is appended; another answer is a 409."""
    async with serving() as (service, client):
        await service.put(prediction("p1"))
        await ask(client)
        first = await client.post(PATH + "/answer", json={"answer": {"n": 1}})
        again = await client.post(PATH + "/answer", json={"answer": {"n": 1}, "questionNumber": 1})
        assert again.content == first.content
        late = await client.post(PATH + "/answer", json={"answer": {"n": 2}})
        assert (late.status_code, late.json()["code"]) == (409, "answered")


async def test_a_large_answer_again_is_no_news() -> None:
    """The record has a large answer by reference alone; the same one is known by that, another one is late."""
    async with serving() as (service, client):
        await service.put(prediction("p1"))
        await ask(client)
        first = await client.post(PATH + "/answer", json={"answer": "x" * 40_000})
        assert (first.status_code, "$blob" in first.text) == (200, True), first.text
        again = await client.post(PATH + "/answer", json={"answer": "x" * 40_000})
        assert (again.status_code, again.content) == (200, first.content)
        late = await client.post(PATH + "/answer", json={"answer": "x" * 39_999 + "y"})
        assert (late.status_code, late.json()["code"]) == (409, "answered")


async def test_of_two_answers_at_once_one_counts() -> None:
    """Each caller is told at once whose it was: one 200, the rest 409, and the record has the winner's."""
    async with serving() as (service, client):
        await service.put(prediction("p1"))
        for round_ in range(5):
            await ask(client, f"Question {round_}?")
            started = time.monotonic()
            answers = await asyncio.gather(
                *(client.post(PATH + "/answer", json={"answer": n}) for n in range(6))
            )
            assert time.monotonic() - started < 4  # nobody waits out the time for a lost event
            assert sorted(one.status_code for one in answers) == [200] + [409] * 5
            [won] = [one for one in answers if one.status_code == 200]
            assert (await client.get(PATH)).json()["data"] == won.json()["data"]
            assert won.json()["data"]["questionNumber"] == round_ + 1


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({}, 422, "invalid-content"),
        ({"answer": None}, 422, "invalid-content"),
        ({"answer": "c"}, 422, "invalid-content"),
        ({"answer": True}, 422, "invalid-content"),
        ({"answer": "a", "questionNumber": 2}, 409, "other-question"),
        ({"answer": "a", "questionNumber": "x"}, 422, "invalid-content"),
        ({"answer": "a", "owner": "me"}, 422, "invalid-content"),
        ({"answer": "x" * MAX_ANSWER}, 413, "too-large"),
    ],
    ids=lambda value: str(value)[:40],
)
async def test_what_is_no_answer_to_the_question_is_refused(
    body: dict[str, Any], status: int, code: str
) -> None:
    """None, none of the choices, to another question, or too large: nothing of it is appended."""
    async with serving() as (service, client):
        await service.put(prediction("p1"))
        await ask(client, {"text": "Which?", "choices": ["a", "b", 1]})
        before = (await client.get(PATH)).content
        answer = await client.post(PATH + "/answer", json=body)
        assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text
        assert (await client.get(PATH)).content == before
        good = await client.post(PATH + "/answer", json={"answer": 1})
        assert good.status_code == 200


async def test_an_answer_that_cannot_be_read_is_refused() -> None:
    """Half a character, and nesting without end: said at once, whatever the question takes."""
    async with serving() as (service, client):
        await service.put(prediction("p1"))
        headers = {"Content-Type": "application/json"}
        for question in ("Which?", {"text": "Which?", "choices": ["a"]}):
            await ask(client, question)
            for bad in (b'"\\ud800"', b"[" * 50_000 + b"]" * 50_000, b"{", b"\xff"):
                body = b'{"answer":%b}' % bad
                answer = await client.post(PATH + "/answer", content=body, headers=headers)
                assert answer.status_code in (400, 422), (bad[:20], answer.text)


async def test_an_answer_that_nobody_asked_for_is_refused() -> None:
    """Nothing was asked, or it has ended, or there is no such prediction."""
    async with serving() as (service, client):
        assert (await client.post(PATH + "/answer", json={"answer": 1})).status_code == 404
        await service.put(prediction("p1"))
        unasked = await client.post(PATH + "/answer", json={"answer": 1})
        assert (unasked.status_code, unasked.json()["code"]) == (409, "not-waiting")
        await ask(client)
        await client.patch(PATH, json={"status": "succeeded"})
        ended = await client.post(PATH + "/answer", json={"answer": 1})
        assert (ended.status_code, ended.json()["code"]) == (409, "not-waiting")
        assert (await ask(client, "And now?")).status_code == 409
        record = (await client.get(PATH)).json()["data"]
        assert "waiting" not in record
        assert "answer" not in record


@pytest.mark.parametrize(
    "body",
    [
        {"question": "Go on?"},
        {"waiting": True},
        {"waiting": True, "question": ""},
        {"waiting": True, "question": 5},
        {"waiting": True, "question": {"choices": ["a"]}},
        {"waiting": True, "question": {"text": "a", "choices": []}},
        {"waiting": "yes", "question": "Go on?"},
    ],
    ids=str,
)
async def test_what_is_no_question_is_refused(body: dict[str, Any]) -> None:
    """A question is a text, or an object with a text and perhaps choices; it needs the flag."""
    async with serving() as (service, client):
        await service.put(prediction("p1"))
        answer = await client.patch(PATH, json=body)
        assert answer.status_code == 422, answer.text


async def test_who_may_answer() -> None:
    """Its owner and who may write and see it; to others it does not exist, or they may not."""
    async with serving(authenticator=Hs256Tokens(SECRET, RequiredClaims())) as (service, client):
        await service.put(prediction("p1", owner="ada"))
        writer = bearer(sub="svc", scope="write read:all")
        await client.patch(PATH, json={"waiting": True, "question": "Go on?"}, headers=writer)
        body = {"answer": "yes"}
        for claims, status in (
            ({"sub": "eve"}, 404),
            ({"sub": "eve", "predictions": ["p1"]}, 403),
            ({"sub": "eve", "scope": "read:all"}, 403),
            ({"sub": "eve", "scope": "write"}, 404),
            ({"sub": "ada"}, 200),
        ):
            answer = await client.post(PATH + "/answer", json=body, headers=bearer(**claims))
            assert answer.status_code == status, (claims, answer.text)
        assert answer.json()["data"]["answeredBy"] == "ada"
        # The same answer of somebody else is not the one that was taken.
        other = await client.post(PATH + "/answer", json=body, headers=writer)
        assert other.status_code == 409


async def test_a_large_question_and_answer_lie_elsewhere() -> None:
    """Over 32 KiB the record has a reference; its content is the caller's."""
    async with serving() as (service, client):
        await service.put(prediction("p1"))
        asked = (await ask(client, {"text": "x" * 40_000})).json()["data"]
        assert asked["question"]["kind"] == "object"
        answer = await client.post(PATH + "/answer", json={"answer": "y" * 40_000})
        assert answer.status_code == 200
        assert answer.json()["data"]["answer"]["length"] == 40_000
