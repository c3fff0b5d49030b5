"""The client's questions and answers, over a real port."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest

from tests.support.gateway.small_service import SmallService, prediction, small_service
from tidings.client.client import Client
from tidings.client.errors import Conflicting, PredictionNotFound, RequestRefused


@pytest.fixture
async def service() -> AsyncIterator[SmallService]:
    async with small_service() as running:
        await running.put(prediction("p1"))
        yield running


@pytest.fixture
async def client(service: SmallService) -> AsyncIterator[Client]:
    async with Client(service.url) as opened:
        yield opened


@pytest.mark.parametrize("said", ["yes", {"n": [1, None]}, False, 0], ids=type)
async def test_who_asks_gets_the_answer(client: Client, said: Any) -> None:
    """Whatever JSON it is; also where it came before anybody waited."""
    asked = await client.ask("p1", {"text": "Go on?"})
    assert (asked.waiting, asked.question_number) == (True, 1)
    waiting = asyncio.ensure_future(client.answer_to("p1", question_number=1, timeout=20))
    answered = await client.answer("p1", said, question_number=1)
    assert not answered.waiting
    assert await waiting == said
    assert await client.answer_to("p1", timeout=20) == said


async def test_a_question_of_the_same_id_is_asked_once(client: Client) -> None:
    """A service that begins anew asks again, and gets the answer that there is."""
    await client.ask("p1", "Go on?", question_id="q1")
    await client.answer("p1", "yes")
    again = await client.ask("p1", "Go on?", question_id="q1")
    assert (again.waiting, again.question_number) == (False, 1)
    assert msgspec.json.decode(again.answer) == "yes"


async def test_what_is_refused(client: Client) -> None:
    """An answer that is late, not asked for, or none of the choices; a question that is none."""
    with pytest.raises(Conflicting):
        await client.answer("p1", "yes")
    with pytest.raises(PredictionNotFound):
        await client.answer("p2", "yes")
    with pytest.raises(RequestRefused):
        await client.ask("p1", "")
    await client.ask("p1", {"text": "Which?", "choices": ["a", "b"]})
    with pytest.raises(RequestRefused):
        await client.answer("p1", "c")
    await client.answer("p1", "a")
    with pytest.raises(Conflicting):
        await client.answer("p1", "b")


async def test_a_wait_ends_where_no_answer_will_come(client: Client) -> None:
    """With the prediction's end, its deletion, and another question."""
    await client.ask("p1", "Go on?")
    waiting = asyncio.ensure_future(client.answer_to("p1", question_number=1, timeout=20))
    await client.ask("p1", "And now?")
    with pytest.raises(Conflicting, match="question 2"):
        await waiting
    waiting = asyncio.ensure_future(client.answer_to("p1", timeout=20))
    await client.patch("p1", status="canceled")
    with pytest.raises(Conflicting, match="canceled"):
        await waiting
    await client.delete("p1")
    with pytest.raises(PredictionNotFound):
        await client.answer("p1", "yes")
