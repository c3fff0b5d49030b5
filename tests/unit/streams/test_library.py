"""The library's entrance beyond its five methods: envelopes, plain values, subscriptions, webhooks, sweeping."""

import asyncio
import contextlib
import json

import msgspec
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from pydantic import BaseModel

import tidings
from tests.support.clock import ManualClock
from tests.support.webhooks import SECRET, output, report, signed, start
from tidings.storage.prediction import ABSENT


def manager() -> tidings.PredictionStatusManager:
    return tidings.PredictionStatusManager(tidings.MemoryStore())


async def test_the_envelope_of_the_original_interface() -> None:
    """A call as a result says whether it went well, and if not why: by a code and in words."""
    one = manager()
    made = await tidings.as_result(one.initialize("p1", prompt="a cat"))
    assert made["success"] is True
    assert made["data"]["prompt"] == "a cat"
    again = await tidings.as_result(one.initialize("p1"))
    assert (again["success"], again["errorCode"]) == (False, "ALREADY_EXISTS")
    assert "p1" in again["message"]
    lost = await tidings.as_result(one.mark_as_processing("p2"))
    assert lost["errorCode"] == "NOT_FOUND"
    await one.mark_as_failed("p1", "no")
    late = await tidings.as_result(one.mark_as_processing("p1"))
    assert late["errorCode"] == "INVALID_TRANSITION"
    assert await tidings.as_result(one.delete("p1")) == {"success": True, "data": None}

    async def broken() -> None:
        raise TypeError

    with pytest.raises(TypeError):
        await tidings.as_result(broken())


async def test_an_end_without_a_picture() -> None:
    """What succeeds may bring any output, or none."""
    one = manager()
    await one.initialize("p1")
    done = await one.mark_as_succeeded("p1", output={"text": "a poem", "parts": [1, 2]})
    assert (done.status.value, done.image_url) == ("succeeded", None)
    assert done.value("output") == {"text": "a poem", "parts": [1, 2]}
    await one.initialize("p2")
    assert (await one.mark_as_succeeded("p2")).output == ABSENT


async def test_values_as_plain_python() -> None:
    """A record gives itself, and each field, as plain Python; as JSON it keeps the bytes."""
    one = manager()
    record = await one.initialize("p1", payload={"seed": 2**70}, tags={"a": 1}.keys())
    assert record.value("payload") == {"seed": 2**70}
    assert record.value("output") is None
    assert record.value("prompt") is None
    assert record.to_dict()["payload"] == {"seed": 2**70}
    assert dict(record)["predictionId"] == "p1"
    assert record.tags == ("a",)
    assert isinstance(record.payload, msgspec.Raw)


def test_fastapi_and_pydantic_take_a_record() -> None:
    """A route may return a record, said or unsaid, and a model may have one as a field."""
    record = asyncio.run(manager().initialize("p1", payload={"a": [1]}))
    app = FastAPI()

    @app.get("/said")
    async def said() -> tidings.Prediction:
        return record

    @app.get("/unsaid", response_model=None)
    async def unsaid():  # type: ignore[no-untyped-def]
        return record

    class Order(BaseModel):
        prediction: tidings.Prediction

    client = TestClient(app)
    for path in ("/said", "/unsaid"):
        answer = client.get(path)
        assert answer.status_code == 200
        assert answer.json() == record.to_dict()
    assert client.get("/openapi.json").status_code == 200
    dumped = json.loads(Order(prediction=record).model_dump_json())
    assert dumped == {"prediction": record.to_dict()}
    assert Order.model_validate(dumped).prediction == record


async def test_a_list_is_of_predictions() -> None:
    """A page gives its records, and filters go by keyword."""
    one = manager()
    for name, owner in (("p1", "anna"), ("p2", "bert"), ("p3", "anna")):
        await one.initialize(name, owner=owner)
    page = await one.list(owner="anna")
    assert sorted(record.prediction_id for record in page.predictions) == ["p1", "p3"]
    with pytest.raises(ValueError, match="not both"):
        await one.list(tidings.Query(), owner="anna")


async def test_an_expired_id_is_free_again() -> None:
    """Whoever initializes an id whose record has expired gets a new record, at the next version."""
    clock = ManualClock()
    one = tidings.PredictionStatusManager(tidings.MemoryStore(clock=clock), clock=clock)
    await one.initialize("p1", owner="anna")
    before = await one.mark_as_failed("p1", "no")
    with pytest.raises(tidings.AlreadyExists):
        await one.initialize("p1")
    clock.advance(2 * 3600)
    again = await one.initialize("p1", owner="bert")
    assert (again.owner, again.error, again.status.value) == ("bert", None, "starting")
    assert again.version > before.version


async def test_sweeping_in_a_program() -> None:
    """What is past its retention is removed when the program says so."""
    clock = ManualClock()
    store = tidings.MemoryStore(clock=clock)
    one = tidings.PredictionStatusManager(store, clock=clock)
    await one.initialize("p1")
    await one.mark_as_failed("p1", "no")
    assert await one.sweep() == 0
    clock.advance(30 * 24 * 3600)
    assert await one.sweep() == 1
    assert await store.load(["p1"]) == {}


async def test_a_subscription_in_the_same_process() -> None:
    """A subscriber gets the record as it stands, each newer one, and its end."""
    one = manager()
    await one.initialize("p1")
    heard: list[str] = []
    first = asyncio.Event()

    async def listen() -> None:
        async for record in one.subscribe("p1"):
            heard.append(record.status.value)
            first.set()

    listening = asyncio.create_task(listen())
    await asyncio.wait_for(first.wait(), 5)
    await one.mark_as_processing("p1")
    await one.mark_as_succeeded("p1", "https://x.example/a.png")
    await asyncio.wait_for(listening, 5)
    assert (heard[0], heard[-1]) == ("starting", "succeeded")
    assert not one._told


async def test_a_subscriber_that_leaves_is_forgotten() -> None:
    """Leaving a subscription keeps nothing of it."""
    one = manager()
    await one.initialize("p1")
    async with contextlib.aclosing(one.subscribe("p1")) as records:
        assert (await anext(records)).prediction_id == "p1"
        assert one._told
    assert not one._told


async def test_webhooks_in_any_framework() -> None:
    """A proven webhook becomes the record that the service would make of it; a repeat changes nothing."""
    one = manager()
    receiver = tidings.WebhookReceiver(one, "replicate", secret=SECRET)
    for body in (start("p1"), output("p1"), report("p1")):
        record = await receiver.handle(signed(body), body)
    assert record is not None
    assert (record.status.value, record.provider_id) == ("succeeded", "p1")
    body = report("p1")
    assert await receiver.handle(signed(body), body) == record
    with pytest.raises(tidings.BadSignature):
        await receiver.handle(signed(body), body + b" ")
    named = await receiver.handle(
        {name.title(): value for name, value in signed(body).items()}, body, prediction_id="mine"
    )
    assert named is not None
    assert named.prediction_id == "mine"
    with pytest.raises(tidings.BadConfiguration):
        tidings.WebhookReceiver(one, "nobody", secret=SECRET)
