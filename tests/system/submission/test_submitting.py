"""Submitting: exactly once, whatever the provider does."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.conditions import eventually
from tests.support.providers.faulty_stand_in import FaultyStandIn
from tests.support.providers.work import QUICK, Work, an_order, at_work, creates
from tidings.streams.log.protocol import EVENTS, NewRecord


@pytest.fixture
async def stand_in() -> AsyncIterator[FaultyStandIn]:
    async with FaultyStandIn(duration=0.2, steps=2, first_retry=0.05, seed=1) as running:
        yield running


@pytest.fixture
async def work(tmp_path: Path, stand_in: FaultyStandIn) -> AsyncIterator[Work]:
    async with at_work(tmp_path, stand_in) as running:
        yield running


def once(stand_in: FaultyStandIn, count: int = 1) -> None:
    """The provider was asked for so many predictions, for each once."""
    assert sorted(creates(stand_in).values()) == [1] * count


@pytest.mark.parametrize("provider", ["replicate", "fal"])
async def test_a_prediction_is_submitted_and_ends(work: Work, provider: str) -> None:
    """Written down, submitted under an attempt, reported by webhook to its own address, done."""
    made = await work.create(provider=provider, payload={"seed": 17454220438242315174})
    assert (made["status"], made["version"]) == ("starting", 1)
    record = await work.becomes(made["predictionId"], "succeeded")
    assert record["attempt"].startswith("attempt-")
    assert record["providerId"] in work.stand_in.jobs
    assert record["imageUrl"].endswith(".png")
    assert [step["to"] for step in record["transitions"]] == ["starting", "processing", "succeeded"]
    (address,) = creates(work.stand_in)
    assert f"/api/webhooks/{provider}/{made['predictionId']}?token=" in address
    once(work.stand_in)


async def test_it_is_processing_as_soon_as_the_provider_has_taken_it(work: Work) -> None:
    """The provider's answer makes it `processing`, with the provider's id and addresses."""
    work.bad(never=1)
    made = await work.create(payload={"duration": 600})
    record = await work.becomes(made["predictionId"], "processing")
    assert record["providerUrls"]["cancel"].endswith(
        f"/v1/predictions/{record['providerId']}/cancel"
    )


@pytest.mark.parametrize(
    ("order", "said"),
    [
        ({"payload": [1]}, "the payload is no JSON object"),
        ({"provider": "fal", "model": "one-part-alone"}, "40"),
        ({"model": "a/b/c"}, "40"),
    ],
)
async def test_what_the_provider_refuses_has_failed(
    work: Work, order: dict[str, Any], said: str
) -> None:
    """A refusal fails the prediction with the reason, and nothing is begun."""
    made = await work.create(**order)
    record = await work.becomes(made["predictionId"], "failed")
    assert record["error"].startswith("AI service submission failed: ")
    assert said in record["error"]
    assert not creates(work.stand_in)


async def test_a_wrong_token_is_said_and_not_shown(tmp_path: Path, stand_in: FaultyStandIn) -> None:
    """401 fails the prediction; the error names neither the token nor the webhook's."""
    async with at_work(tmp_path, stand_in, {"TIDINGS_REPLICATE_TOKEN": "wrong-and-secret"}) as work:
        made = await work.create()
        record = await work.becomes(made["predictionId"], "failed")
    assert record["error"].startswith("AI service submission failed: 401")
    assert "wrong-and-secret" not in json.dumps(record)


@pytest.mark.parametrize("switch", ["throttled", "broken"])
async def test_429_and_500_are_repeated(work: Work, switch: str) -> None:
    """While the provider answers 429 or 500 the prediction waits.

    When it is back it is submitted once.
    """
    work.bad(**{switch: 1})
    made = await work.create()
    throttle = work.throttle
    await eventually(lambda: throttle.calls >= 2, 30)
    assert (await work.get(made["predictionId"]))["status"] == "starting"
    work.bad()
    await work.becomes(made["predictionId"], "succeeded")
    once(work.stand_in)


async def test_429_for_too_long_fails(tmp_path: Path, stand_in: FaultyStandIn) -> None:
    """After the time for one attempt it has failed with what the provider said."""
    impatient = type(QUICK)(silence=300, attempt=1_500)
    async with at_work(tmp_path, stand_in, timeouts=impatient) as work:
        work.bad(throttled=1)
        made = await work.create()
        record = await work.becomes(made["predictionId"], "failed")
        assert record["error"].startswith(
            "AI service submission failed: 429: Request was throttled."
        )
    assert not creates(stand_in)


async def test_a_lost_answer_is_found_in_the_list(work: Work) -> None:
    """A create whose answer was lost is not repeated.

    The provider's list shows our webhook, and it goes on.
    """
    work.bad(lost_answers=1, never=1)
    made = await work.create()
    await eventually(lambda: len(work.stand_in.jobs) == 1, 30)
    work.bad()
    record = await work.becomes(made["predictionId"], "succeeded")
    assert record["providerId"] in work.stand_in.jobs
    once(work.stand_in)


async def test_an_attempt_that_nobody_knows_of_has_failed_in_the_end(
    tmp_path: Path, stand_in: FaultyStandIn
) -> None:
    """An attempt that the provider never shows fails with `submission outcome unknown`."""
    hurried = type(QUICK)(silence=300, unanswered=100, unknown=1_500, attempt=1_000)
    async with at_work(tmp_path, stand_in, timeouts=hurried) as work:
        create = {"type": "create", "id": "c", "provider": "replicate", "model": "a/b"}
        events = [create, {"type": "submit", "attempt": "somebody-else"}]
        values = [NewRecord(b"lost", json.dumps(event).encode()) for event in events]
        await work.service.resources.log.append(EVENTS, values)
        record = await work.becomes("lost", "failed")
    assert record["error"] == "submission outcome unknown"
    assert not creates(stand_in)


async def test_a_create_that_nobody_has_submitted_is_submitted(work: Work) -> None:
    """A create in the log without an attempt is taken up by the reconciler."""
    create = {
        "type": "create",
        "id": "c",
        "provider": "replicate",
        "model": "a/b",
        "payload": {"steps": 1},
    }
    await work.service.resources.log.append(
        EVENTS, [NewRecord(b"left", json.dumps(create).encode())]
    )
    await work.becomes("left", "succeeded")
    once(work.stand_in)


async def test_the_same_key_is_submitted_once(work: Work) -> None:
    """Twenty requests at once with the same Idempotency-Key are one prediction.

    Another body is a 422.
    """
    key = {"Idempotency-Key": "k"}
    posts = [work.client.post("/api/predictions", json=an_order(), headers=key) for _ in range(20)]
    answers = await asyncio.gather(*posts)
    assert {answer.status_code for answer in answers} == {201}
    (made,) = {answer.json()["data"]["predictionId"] for answer in answers}
    await work.becomes(made, "succeeded")
    other = await work.client.post("/api/predictions", json=an_order(prompt="other"), headers=key)
    assert other.status_code == 422
    once(work.stand_in)


async def test_a_cancel_before_the_submission_stays_here(work: Work) -> None:
    """Canceled while the provider answers 429.

    It is canceled, and the provider never hears of it.
    """
    work.bad(throttled=1)
    made = await work.create()
    throttle = work.throttle
    await eventually(lambda: throttle.calls >= 1, 30)
    await work.cancel(made["predictionId"])
    work.bad()
    await work.becomes(made["predictionId"], "canceled")
    assert not creates(work.stand_in)


async def test_concurrency_and_rate_are_kept(tmp_path: Path, stand_in: FaultyStandIn) -> None:
    """No more calls at once than the settings allow, and no more creates a minute."""
    limits = {"TIDINGS_REPLICATE_CONCURRENCY": "2", "TIDINGS_REPLICATE_RATE": "600"}
    async with at_work(tmp_path, stand_in, limits) as work:
        throttle = work.throttle
        most, now = 0, 0
        send = throttle._send

        async def counted(call: Any) -> Any:
            nonlocal most, now
            now += 1
            most = max(most, now)
            try:
                return await send(call)
            finally:
                now -= 1

        throttle._send = counted
        work.bad(slow=1, slow_by=0.05)
        made = [await work.create() for _ in range(14)]
        for one in made:
            await work.becomes(one["predictionId"], "succeeded")
        times = sorted(job.created for job in stand_in.jobs.values())
    assert most == 2
    assert times[13] - times[0] >= 0.1 * (14 - 10) * 0.9
    once(stand_in, 14)


async def test_prompt_and_estimate_are_completed(work: Work) -> None:
    """The prompt comes out of the payload.

    The estimate is the median of the finished ones of the model.
    """
    first = await work.create(prompt=None, payload={"prompt": "from the payload", "steps": 1})
    assert (first["prompt"], first.get("estimatedTime")) == ("from the payload", None)
    done = await work.becomes(first["predictionId"], "succeeded")
    given = await work.create(model="owner/other", estimatedTime=5)
    assert given["estimatedTime"] == 5
    await work.becomes(given["predictionId"], "succeeded")
    second = await work.create(model="owner/other")
    assert second["estimatedTime"] == (await work.get(given["predictionId"]))["generationTime"]
    assert done["generationTime"] > 0


async def test_functions_of_the_user(tmp_path: Path, stand_in: FaultyStandIn) -> None:
    """`TIDINGS_PROMPT_FUNCTION` and `TIDINGS_ESTIMATE_FUNCTION` are asked.

    One that fails is in nobody's way.
    """
    functions = {
        "TIDINGS_PROMPT_FUNCTION": "tests.support.providers.functions:prompt",
        "TIDINGS_ESTIMATE_FUNCTION": "tests.support.providers.functions:estimate",
    }
    async with at_work(tmp_path, stand_in, functions) as work:
        made = await work.create(prompt=None, payload={"text": "words"})
        failing = await work.create(prompt=None, payload={})
    assert (made["prompt"], made["estimatedTime"]) == ("replicate of words", 1234)
    assert "prompt" not in failing


@pytest.mark.parametrize(
    ("provider", "model"),
    [("replicate", "x/../../deployments/acme/private"), ("fal", ".."), ("replicate", "m" * 513)],
)
async def test_a_model_that_no_call_can_be_made_of_is_refused(
    tmp_path: Path, stand_in: FaultyStandIn, provider: str, model: str
) -> None:
    """Such an order is answered with 422 at once: nothing is written down, and nothing is called."""
    async with at_work(tmp_path, stand_in) as work:
        order = an_order(provider=provider, model=model)
        answer = await work.client.post("/api/predictions", json=order)
        assert (answer.status_code, answer.json()["code"]) == (422, "invalid-content")
        assert (await work.client.get("/api/predictions")).json()["data"] == []
