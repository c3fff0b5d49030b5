"""The stand-in as its callers see it.

Over real HTTP, judged by an independent library for its signatures.
"""

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import standardwebhooks

from tests.support.conditions import eventually
from tests.support.providers.bad_days import BadDays
from tests.support.providers.faulty_stand_in import FaultyStandIn
from tests.support.providers.receiver import Receiver
from tidings.streams.providers.configuration import Configuration
from tidings.streams.providers.protocol import Webhook
from tidings.streams.providers.registry import open_providers

TERMINAL = {"succeeded", "failed", "canceled"}


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with Receiver() as open_receiver:
        yield open_receiver


@pytest.fixture
async def stand_in() -> AsyncIterator[FaultyStandIn]:
    async with FaultyStandIn(duration=0.3, steps=4, first_retry=0.01, seed=1) as running:
        yield running


@pytest.fixture
async def api(stand_in: FaultyStandIn) -> AsyncIterator[httpx.AsyncClient]:
    async with client(stand_in) as opened:
        yield opened


def client(stand_in: FaultyStandIn) -> httpx.AsyncClient:
    headers = {"Authorization": f"Bearer {stand_in.token}"}
    return httpx.AsyncClient(base_url=stand_in.url, headers=headers, timeout=30)


async def create(api: httpx.AsyncClient, webhook: str | None = None, **more: Any) -> dict[str, Any]:
    body = {
        "version": "v1",
        "input": {"prompt": "a cat", "seed": 17454220438242315174},
        "webhook": webhook,
    } | more
    answer = await api.post(
        "/v1/predictions", json={name: part for name, part in body.items() if part is not None}
    )
    assert answer.status_code == 201, answer.text
    value: dict[str, Any] = answer.json()
    return value


async def finished(api: httpx.AsyncClient, identity: str) -> dict[str, Any]:
    async def ended() -> dict[str, Any] | None:
        shown: dict[str, Any] = (await api.get(f"/v1/predictions/{identity}")).json()
        return shown if shown["status"] in TERMINAL else None

    shown: dict[str, Any] | None = await eventually(ended, within=30)
    assert shown is not None
    return shown


async def test_a_prediction_runs_to_its_picture(api: httpx.AsyncClient) -> None:
    """A created prediction starts, succeeds, tells its time of work, and its output is a PNG."""
    created = await create(api)
    assert created["status"] == "starting"
    assert created["output"] is None
    assert created["input"]["seed"] == 17454220438242315174
    done = await finished(api, created["id"])
    assert (done["status"], done["error"], done["id"]) == ("succeeded", None, created["id"])
    assert done["metrics"]["predict_time"] > 0
    assert "100%|" in done["logs"]
    picture = await api.get(done["output"])
    assert picture.headers["content-type"] == "image/png"
    assert picture.content.startswith(b"\x89PNG")


async def test_webhooks_tell_the_whole_course(
    stand_in: FaultyStandIn, api: httpx.AsyncClient, receiver: Receiver
) -> None:
    """Start, outputs, logs that only grow and the end are sent, each signed so that the reference library agrees."""
    created = await create(api, receiver.url)
    await eventually(receiver.ended, within=30)
    oracle = standardwebhooks.Webhook(stand_in.secret)
    for headers, body in receiver.came:
        oracle.verify(body, headers)
    bodies = [body for body in receiver.bodies if body["id"] == created["id"]]
    assert [body["status"] for body in bodies if "completed_at" in body] == ["succeeded"]
    logs = [body["logs"] for body in bodies]
    assert all(max(logs, key=len).startswith(text) for text in logs)
    partial = {
        body["output"] for body in bodies if body["status"] == "processing" and body["output"]
    }
    assert partial
    for url in partial:
        assert (await api.get(url)).content.startswith(b"\x89PNG")


async def test_our_provider_understands_it(
    stand_in: FaultyStandIn, api: httpx.AsyncClient, receiver: Receiver
) -> None:
    """What the stand-in sends is accepted and read by the provider for Replicate."""
    replicate = open_providers({"replicate": Configuration(secret=(stand_in.secret,))})["replicate"]
    await create(api, receiver.url)
    await eventually(receiver.ended, within=30)
    headers, body = next(one for one in receiver.came if b"completed_at" in one[1])
    delivery = replicate.verify(headers, body, float(headers["webhook-timestamp"]))
    event = replicate.translate(Webhook(body, None, 1764000000000, delivery))
    assert event.status == "succeeded"
    assert event.prompt == "a cat"
    assert event.image_url is not None
    assert b"17454220438242315174" in bytes(event.payload)


async def test_the_filter_chooses_webhooks(api: httpx.AsyncClient, receiver: Receiver) -> None:
    """Only the kinds of webhooks that were asked for are sent."""
    await create(api, receiver.url, webhook_events_filter=["completed"])
    await eventually(receiver.ended, within=30)
    assert [body["status"] for body in receiver.bodies] == ["succeeded"]


async def test_a_failure_says_why(api: httpx.AsyncClient) -> None:
    """An input may ask for a failure; its message is the error."""
    created = await create(api, input={"prompt": "a", "fail": "NSFW content detected"})
    done = await finished(api, created["id"])
    assert (done["status"], done["error"], done["output"]) == (
        "failed",
        "NSFW content detected",
        None,
    )


async def test_a_cancel_stops_it_and_comes_too_late_after_the_end(
    api: httpx.AsyncClient, receiver: Receiver
) -> None:
    """A running prediction is canceled at once and says so by webhook.

    A finished one stays as it is.
    """
    created = await create(api, receiver.url, input={"prompt": "a", "duration": 600})
    answer = await api.post(f"/v1/predictions/{created['id']}/cancel")
    assert answer.json()["status"] == "canceled"
    await eventually(receiver.ended, within=30)
    assert "canceled" in [body["status"] for body in receiver.bodies]
    done = await finished(api, (await create(api))["id"])
    late = await api.post(f"/v1/predictions/{done['id']}/cancel")
    assert late.json()["status"] == "succeeded"


async def test_cancel_after_stops_it(api: httpx.AsyncClient) -> None:
    """`Cancel-After` ends a prediction that takes longer."""
    body = {"version": "v", "input": {"prompt": "a", "duration": 600}}
    created = (await api.post("/v1/predictions", json=body, headers={"Cancel-After": "1s"})).json()
    assert (await finished(api, created["id"]))["status"] == "canceled"


async def test_prefer_wait_holds_the_answer(api: httpx.AsyncClient) -> None:
    """With `Prefer: wait` the answer to the create call is the finished prediction."""
    body = {"input": {"prompt": "a"}}
    path = "/v1/models/black-forest-labs/flux/predictions"
    answer = await api.post(path, json=body, headers={"Prefer": "wait=30"})
    assert (answer.status_code, answer.json()["status"]) == (201, "succeeded")
    assert answer.json()["model"] == "black-forest-labs/flux"


async def test_the_list_goes_back_page_by_page(
    stand_in: FaultyStandIn, api: httpx.AsyncClient
) -> None:
    """All predictions are listed once, newest first, over pages of a hundred."""
    created = [(await create(api, input={"duration": 0, "steps": 1}))["id"] for _ in range(105)]
    first = (await api.get("/v1/predictions")).json()
    second = (await api.get(first["next"])).json()
    assert [one["id"] for one in first["results"] + second["results"]] == created[::-1]
    assert (len(first["results"]), second["next"]) == (100, None)


async def test_a_webhook_that_ends_it_is_retried_under_one_id(
    stand_in: FaultyStandIn, api: httpx.AsyncClient
) -> None:
    """The final webhook comes again after a refusal, with the same id; progress does not."""
    refusals = iter([500, 503])
    async with Receiver(
        lambda body: next(refusals, 200) if "completed_at" in body else 500
    ) as receiver:
        await create(api, receiver.url)
        await eventually(
            lambda: sum("completed_at" in body for body in receiver.bodies) == 3, within=30
        )
        ids = [headers["webhook-id"] for headers, body in receiver.came if b"completed_at" in body]
        assert len(set(ids)) == 1
        others = [
            headers["webhook-id"] for headers, body in receiver.came if b"completed_at" not in body
        ]
        assert len(set(others)) == len(others)


async def test_outputs_expire() -> None:
    """After their time outputs, logs and files are gone, and the prediction says so."""
    async with (
        FaultyStandIn(duration=0, steps=1, outputs_live=0.0) as stand_in,
        client(stand_in) as api,
    ):
        created = await create(api)
        done = await finished(api, created["id"])
        assert (done["data_removed"], done["output"], done["logs"], done["input"]) == (
            True,
            None,
            "",
            {},
        )
        assert (await api.get(f"/files/{created['id']}/out-0.png")).status_code == 404


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("GET", "/v1/predictions/nothere", None, 404),
        ("POST", "/v1/predictions/nothere/cancel", None, 404),
        ("POST", "/v1/predictions", {"version": "v"}, 422),
        ("POST", "/v1/predictions", {"version": "v", "input": 5}, 422),
        ("POST", "/v1/predictions", {"input": {}}, 422),
        ("POST", "/v1/predictions", {"version": "v", "input": {}, "webhook": "ftp://x"}, 422),
        (
            "POST",
            "/v1/predictions",
            {"version": "v", "input": {}, "webhook_events_filter": ["x"]},
            422,
        ),
        ("GET", "/files/nothere/out-0.png", None, 404),
        ("PUT", "/bad-days", {"late": 2}, 422),
        ("PUT", "/bad-days", {"odd": 1}, 422),
    ],
)
async def test_refusals(
    api: httpx.AsyncClient, method: str, path: str, body: Any, status: int
) -> None:
    """What is unknown or invalid is refused as Replicate refuses it, with a reason."""
    answer = await api.request(method, path, json=body)
    assert answer.status_code == status
    assert answer.json()["detail"]


@pytest.mark.parametrize(
    "header", [{}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic x"}]
)
async def test_a_token_is_required(stand_in: FaultyStandIn, header: dict[str, str]) -> None:
    """Nobody gets in without the token."""
    async with httpx.AsyncClient(base_url=stand_in.url, headers=header) as stranger:
        answers = [
            await stranger.get("/v1/predictions"),
            await stranger.get("/v1/webhooks/default/secret"),
        ]
    assert [answer.status_code for answer in answers] == [401, 401]


async def test_the_secret_is_told_to_who_may_ask(
    stand_in: FaultyStandIn, api: httpx.AsyncClient
) -> None:
    """The signing secret is where Replicate has it."""
    assert (await api.get("/v1/webhooks/default/secret")).json() == {"key": stand_in.secret}


async def test_throttled_broken_and_lost(stand_in: FaultyStandIn, api: httpx.AsyncClient) -> None:
    """429 and 500 do nothing; a lost answer leaves a prediction that the list shows."""
    stand_in.bad_days = BadDays(throttled=1)
    answer = await api.post("/v1/predictions", json={"version": "v", "input": {}})
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "1")
    stand_in.bad_days = BadDays(broken=1)
    assert (
        await api.post("/v1/predictions", json={"version": "v", "input": {}})
    ).status_code == 500
    assert not stand_in.jobs
    stand_in.bad_days = BadDays(lost_answers=1)
    with pytest.raises(httpx.TransportError):
        await api.post("/v1/predictions", json={"version": "v", "input": {}})
    stand_in.bad_days = BadDays()
    assert [one["id"] for one in (await api.get("/v1/predictions")).json()["results"]] == list(
        stand_in.jobs
    )
    assert len(stand_in.jobs) == 1


async def test_wrong_signatures_and_duplicates(
    stand_in: FaultyStandIn, api: httpx.AsyncClient, receiver: Receiver
) -> None:
    """On such days webhooks come twice under one id, and some are not signed by the secret."""
    await api.put("/bad-days", json={"duplicated": 1, "wrong_signature": 0.5})
    for _ in range(3):
        await create(api, receiver.url, webhook_events_filter=["completed"])
    await eventually(lambda: len(receiver.came) == 6, within=30)
    oracle = standardwebhooks.Webhook(stand_in.secret)

    def proven(headers: dict[str, str], body: bytes) -> bool:
        try:
            oracle.verify(body, headers)
        except standardwebhooks.WebhookVerificationError:
            return False
        return True

    assert {proven(headers, body) for headers, body in receiver.came} == {True, False}
    assert len({headers["webhook-id"] for headers, _ in receiver.came}) == 3


async def test_never_and_huge(
    stand_in: FaultyStandIn, api: httpx.AsyncClient, receiver: Receiver
) -> None:
    """Webhooks may never come while the prediction ends all the same; logs may be megabytes."""
    stand_in.bad_days = BadDays(never=1, huge=1)
    done = await finished(api, (await create(api, receiver.url))["id"])
    assert done["status"] == "succeeded"
    assert len(done["logs"]) > 2_000_000
    assert receiver.came == []


async def test_out_of_order(
    stand_in: FaultyStandIn, api: httpx.AsyncClient, receiver: Receiver
) -> None:
    """On such days some webhook is overtaken by a later one."""
    stand_in.bad_days = BadDays(out_of_order=0.5)
    for _ in range(5):
        await create(api, receiver.url, input={"prompt": "a", "steps": 10})
    await eventually(lambda: len(receiver.came) == 5 * 17, within=30)
    lengths: dict[str, list[int]] = {}
    for body in receiver.bodies:
        lengths.setdefault(body["id"], []).append(len(body["logs"]))
    assert any(course != sorted(course) for course in lengths.values())


def test_switches_are_read_from_a_line() -> None:
    """A comma list sets switches.

    A name alone is always, `all` a little of everything, and odd ones are named.
    """
    assert BadDays.parse("late=0.2, duplicated,late-by=3") == BadDays(
        late=0.2, duplicated=1, late_by=3
    )
    little = BadDays.parse("all=0.3,never=0")
    assert (little.late, little.never, little.huge, little.late_by) == (
        0.3,
        0,
        0.3,
        BadDays().late_by,
    )
    assert BadDays.parse("") == BadDays()
    for odd in ("lat=0.2", "late=2", "late=x"):
        with pytest.raises(ValueError, match="the switches are"):
            BadDays.parse(odd)
