"""A watch of the Python client: tokens that watches share, stores that do not answer, much that is known."""

import asyncio
import base64
import json
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
import structlog

from tests.support.client.scripted_service import ScriptedService, record, scripted_service
from tests.support.conditions import eventually
from tidings.client import subscription
from tidings.client.client import Client, Update
from tidings.client.errors import RequestRefused
from tidings.client.progress import NAMED_AGAIN, Selection, WatchState, parse
from tidings.client.subscription import Watch
from tidings.storage.prediction import Prediction

LIMIT = 20.0
MESSAGE_BYTES = 256 * 1024
"""What the service takes at most in one message."""


@pytest.fixture
async def service() -> AsyncIterator[ScriptedService]:
    async with scripted_service() as running:
        yield running


def jwt(exp: float) -> str:
    claims = base64.urlsafe_b64encode(json.dumps({"exp": exp}).encode()).decode().rstrip("=")
    return f"h.{claims}.s"


async def following(watch: Watch) -> Update:
    async with asyncio.timeout(LIMIT):
        return await anext(watch)


def shown_to(service: ScriptedService) -> list[str]:
    """The tokens that came over open connections."""
    return [message["token"] for message in service.received if message["type"] == "auth"]


async def test_watches_share_a_renewed_token(service: ScriptedService) -> None:
    """A token that one watch had renewed is shown by the others too, early and after a refusal, without asking again."""
    tokens = [jwt(time.time() + 3), jwt(time.time() + 3600), jwt(time.time() + 7200)]
    asked: list[str] = []

    def cached() -> str:
        asked.append(tokens[0])
        return tokens[0]

    async with Client(service.url, cached) as client:
        watches = [client.watch("p1"), client.watch("p2")]
        waiting = [asyncio.create_task(following(watch)) for watch in watches]
        await eventually(lambda: len(service.subscriptions()) == 2)
        second = tokens[1]
        del tokens[0]
        await eventually(lambda: shown_to(service) == [second, second])
        assert len(asked) == 2
        del tokens[0]
        service.good_tokens = {tokens[0]}
        await service.close(4102, "expired")
        await eventually(lambda: len(service.subscriptions()) == 4)
        await service.change(prediction_id="p1", version=1)
        await service.change(prediction_id="p2", version=1)
        await asyncio.gather(*waiting)
    assert len(asked) == 3
    assert service.handshakes == 4


async def test_a_token_that_nobody_looks_at_is_told_once(service: ScriptedService) -> None:
    """Whoever brings a token to a service without authentication reads so in the log, once a watch."""
    service.anonymous = True
    with structlog.testing.capture_logs() as logged:
        async with Client(service.url, "a token") as client:
            watch = client.watch("p1")
            waiting = asyncio.create_task(following(watch))
            await eventually(lambda: len(service.subscriptions()) == 1)
            await service.close(1012, "restart")
            await eventually(lambda: len(service.subscriptions()) == 2)
            await service.change(prediction_id="p1", version=1)
            await waiting
    (said,) = [line for line in logged if line["event"] == "client.token_ignored"]
    assert said["why"] == "the service has no authentication"


async def test_a_store_that_does_not_answer_is_asked_again(
    service: ScriptedService, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the service could not read what stands, changes come all the same, and what stands is asked for again."""
    monkeypatch.setattr(subscription, "AGAIN_WITHIN", 0.3)
    await service.change(prediction_id="p1", version=1)
    service.subscription_errors = ["unavailable", "unavailable"]
    async with Client(service.url) as client, client.watch(owner="ann") as watch:
        assert (await following(watch)).version == 1
        waiting = asyncio.create_task(following(watch))
        await eventually(lambda: watch.synced)
        await service.change(prediction_id="p2", version=1)
        assert (await waiting).prediction_id == "p2"
    assert len(service.subscriptions()) == 3
    assert service.handshakes == 1


async def test_changes_come_while_the_store_does_not_answer(
    service: ScriptedService, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A subscription that has to be asked for again brings changes meanwhile, and names them as known then."""
    monkeypatch.setattr(subscription, "AGAIN_WITHIN", 2.0)
    monkeypatch.setattr("random.uniform", lambda _, most: most)
    service.subscription_errors = ["unavailable"]
    async with Client(service.url) as client, client.watch("p1", "p2") as watch:
        waiting = asyncio.create_task(following(watch))
        await eventually(lambda: not service.subscription_errors)
        await service.change(prediction_id="p1", version=1)
        await waiting
        waiting = asyncio.create_task(following(watch))
        await eventually(lambda: len(service.subscriptions()) == 2)
        assert service.subscriptions()[-1]["known"] == {"p1": 1}
        await service.change(prediction_id="p2", version=1)
        await waiting


async def test_a_store_that_cannot_list(service: ScriptedService) -> None:
    """Without snapshots a watch lives on, after a cut too, where the store cannot list; with them it is refused."""
    async with Client(service.url) as client:
        async with client.watch(tag="t", snapshot=False) as watch:
            waiting = asyncio.create_task(following(watch))
            await eventually(lambda: watch.synced)
            service.subscription_errors = ["unsupported"]
            await service.cut()
            await eventually(lambda: len(service.subscriptions()) == 2 and watch.synced)
            await service.change(prediction_id="p1", version=1)
            assert (await waiting).version == 1
        service.subscription_errors = ["unsupported"]
        async with client.watch(tag="t") as watch:
            with pytest.raises(RequestRefused, match="unsupported"):
                await following(watch)


def known_after(state: WatchState) -> list[dict[str, int]]:
    """What the requests of a new connection name, in their order, once each is found to be small enough."""
    requests: list[dict[str, Any]] = list(state.requests())
    assert all(len(json.dumps(request)) <= MESSAGE_BYTES for request in requests)
    assert [request["limit"] for request in requests] == [0] * (len(requests) - 1) + [50]
    return [request["known"] for request in requests]


def tell(state: WatchState, name: str, status: str) -> None:
    news = state.update_from(
        parse(json.dumps({"type": "change", "prediction": record(name, 1, status)}))
    )
    assert isinstance(news, Prediction)


def test_all_that_is_known_is_named_again() -> None:
    """Of a wide watch everything seen is named to the next connection, over messages, what changed last in the last."""
    progress = WatchState(Selection(all=True), known={}, limit=50)
    names = [f"{number:04}-{'x' * 240}" for number in range(2000)]
    for name in names:
        tell(progress, name, "processing")
    pieces = known_after(progress)
    assert len(pieces) > 1
    assert sorted(name for piece in pieces for name in piece) == names
    assert names[-1] in pieces[-1]


def test_what_still_runs_is_named_first() -> None:
    """Of more than the service takes those that run are named before those that have ended, however long unchanged."""
    progress = WatchState(Selection(all=True), known={}, limit=50)
    for number in range(20):
        tell(progress, f"running-{number}", "processing")
    for number in range(NAMED_AGAIN):
        tell(progress, f"ended-{number}", "succeeded")
    named = {name for piece in known_after(progress) for name in piece}
    assert len(named) == NAMED_AGAIN
    assert {f"running-{number}" for number in range(20)} <= named
    assert {name for name in named if name.startswith("ended")} == {
        f"ended-{number}" for number in range(20, NAMED_AGAIN)
    }
