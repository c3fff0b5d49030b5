"""Reconciling: what the provider's webhooks do not say is found out, and cancels reach it."""

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.conditions import eventually
from tests.support.providers.faulty_stand_in import FaultyStandIn
from tests.support.providers.upstream import Upstream
from tests.support.providers.work import QUICK, Work, at_work, creates
from tidings.streams.log.protocol import EVENTS, NewRecord
from tidings.streams.submission.reconcile_policy import Timeouts


@pytest.fixture
async def stand_in() -> AsyncIterator[FaultyStandIn]:
    async with FaultyStandIn(duration=0.2, steps=2, first_retry=0.05, seed=1) as running:
        yield running


@pytest.fixture
async def work(tmp_path: Path, stand_in: FaultyStandIn) -> AsyncIterator[Work]:
    async with at_work(tmp_path, stand_in) as running:
        yield running


@pytest.mark.parametrize("provider", ["replicate", "fal"])
@pytest.mark.parametrize("switch", ["never", "wrong_signature"])
async def test_a_webhook_that_never_comes(work: Work, provider: str, switch: str) -> None:
    """A prediction whose webhooks are lost, or prove nothing, is looked up and ends."""
    work.bad(**{switch: 1})
    made = await work.create(provider=provider)
    record = await work.becomes(made["predictionId"], "succeeded")
    assert record["imageUrl"].endswith("out-0.png")
    assert record["transitions"][-1]["source"] == provider
    assert record["transitions"][-1]["id"].startswith("tidings-")


async def test_what_is_gone_at_the_provider_has_failed(work: Work) -> None:
    """A prediction that the provider no longer knows fails with that reason."""
    work.bad(never=1)
    made = await work.create(payload={"duration": 600})
    record = await work.becomes(made["predictionId"], "processing")
    for forget in work.stand_in.runner.on_forgotten:
        forget(record["providerId"])
    record = await work.becomes(made["predictionId"], "failed")
    assert record["error"] == "gone at the provider (404)"


async def reports(work: Work, **said: str) -> None:
    """Another service reports about the prediction `p`."""
    await work.service.resources.log.append(EVENTS, [NewRecord(b"p", json.dumps(said).encode())])


@pytest.mark.parametrize("provider", ["runpod", "fal"])
async def test_what_cannot_be_found_for_want_of_its_model_goes_on(
    tmp_path: Path, stand_in: FaultyStandIn, provider: str
) -> None:
    """A job whose address needs a model that nobody has told is neither asked for nor failed.

    Its own end counts.
    """
    upstream = Upstream()
    await upstream.start()
    try:
        async with at_work(tmp_path, stand_in, upstream.settings("RUNPOD")) as work:
            tasks = work.service.provider_work
            assert tasks is not None
            reconciler = tasks.reconciler
            assert reconciler is not None
            await reports(work, status="processing", provider=provider, providerId="j1")
            await eventually(lambda: reconciler.done["look"] >= 2, 30)
            await work.cancel("p")
            await eventually(lambda: reconciler.done["cancel"] >= 2, 30)
            assert (await work.get("p"))["status"] == "processing"
            await reports(work, status="succeeded", output="there")
            assert (await work.becomes("p", "succeeded", "failed"))["output"] == "there"
        assert upstream.asked == []
    finally:
        await upstream.close()


async def test_a_result_that_the_log_does_not_take_ends_as_a_failure(
    tmp_path: Path, stand_in: FaultyStandIn
) -> None:
    """A result beyond `TIDINGS_MAX_BODY` is fetched once, and its prediction fails."""
    upstream = Upstream()
    await upstream.start()
    try:
        more = {**upstream.settings("ASSEMBLYAI"), "TIDINGS_MAX_BODY": "600000"}
        async with at_work(tmp_path, stand_in, more) as work:
            made = await work.create(
                provider="assemblyai", model="m", payload={"audio_url": "https://e.com/a.mp3"}
            )
            await work.becomes(made["predictionId"], "processing")
            upstream.ends("/v2/transcript/t_1", status="completed", text="a" * 700_000)
            record = await work.becomes(made["predictionId"], "failed", "succeeded")
            assert record["error"].startswith("the result is larger than TIDINGS_MAX_BODY (700")
            tasks = work.service.provider_work
            assert tasks is not None
            await eventually(lambda: len(tasks.reconciler or ()) == 0)
    finally:
        await upstream.close()


@pytest.mark.parametrize("provider", ["replicate", "fal"])
async def test_a_cancel_reaches_the_provider(work: Work, provider: str) -> None:
    """A cancel stops the prediction at its provider, whose word makes it canceled."""
    work.bad(never=1)
    made = await work.create(provider=provider, payload={"duration": 600})
    record = await work.becomes(made["predictionId"], "processing")
    await work.cancel(made["predictionId"])
    await work.becomes(made["predictionId"], "canceled")
    assert work.stand_in.jobs[record["providerId"]].status == "canceled"


async def test_a_cancel_that_comes_too_late(work: Work) -> None:
    """Where the provider has finished by then, its success stands."""
    work.bad(never=1)
    made = await work.create()
    record = await work.becomes(made["predictionId"], "processing")
    await eventually(lambda: work.stand_in.jobs[record["providerId"]].terminal, 30)
    await work.cancel(made["predictionId"])
    record = await work.becomes(made["predictionId"], "succeeded")
    assert record["cancelRequestedAt"]


async def test_a_cancel_is_repeated_until_it_is_heard(work: Work) -> None:
    """429 and 500 to a cancel put it off; it is carried out when the provider is back."""
    work.bad(never=1)
    made = await work.create(payload={"duration": 600})
    await work.becomes(made["predictionId"], "processing")
    calls = work.throttle.calls
    work.bad(never=1, broken=1)
    await work.cancel(made["predictionId"])
    await eventually(lambda: work.throttle.calls >= calls + 2, 30)
    work.bad(never=1)
    await work.becomes(made["predictionId"], "canceled")


async def test_a_cancel_while_the_answer_is_lost(work: Work) -> None:
    """Canceled while nobody knows the provider's id: it is found, and then canceled there."""
    work.bad(lost_answers=1, never=1)
    made = await work.create(payload={"duration": 600})
    await eventually(lambda: len(work.stand_in.jobs) == 1, 30)
    await work.cancel(made["predictionId"])
    work.bad(never=1)
    await work.becomes(made["predictionId"], "canceled")
    (job,) = work.stand_in.jobs.values()
    assert job.status == "canceled"


async def test_a_restart_forgets_nothing(tmp_path: Path, stand_in: FaultyStandIn) -> None:
    """What was silent, and what was to be canceled, before a restart is seen to after it."""
    async with at_work(tmp_path, stand_in, timeouts=Timeouts()) as work:
        work.bad(never=1)
        silent, canceled = [await work.create(payload={"duration": 600}) for _ in range(2)]
        for made in (silent, canceled):
            await work.becomes(made["predictionId"], "processing")
        work.bad(never=1, broken=1)
        await work.cancel(canceled["predictionId"])
        for job in stand_in.jobs.values():
            if job.id == (await work.get(silent["predictionId"]))["providerId"]:
                job.duration = 0
                job.stop.set()
    async with at_work(tmp_path, stand_in, timeouts=QUICK) as work:
        work.bad(never=1)
        await work.becomes(canceled["predictionId"], "canceled")
        await work.becomes(silent["predictionId"], "canceled")


async def test_a_provider_that_is_down_is_left_alone(work: Work) -> None:
    """After failures in a row hardly a call is made.

    When it is back, everything ends as it should.
    """
    work.bad(never=1)
    made = [await work.create(payload={"duration": 1.0}) for _ in range(12)]
    for one in made:
        await work.becomes(one["predictionId"], "processing", "succeeded")
    work.bad(never=1, broken=1)
    await eventually(lambda: work.throttle.broken, 30)
    work.bad(never=1)
    for one in made:
        await work.becomes(one["predictionId"], "succeeded")
    assert sorted(creates(work.stand_in).values()) == [1] * 12


async def test_nothing_is_done_before_it_is_overdue(
    tmp_path: Path, stand_in: FaultyStandIn
) -> None:
    """While webhooks come, the provider is asked for nothing but the predictions."""
    async with at_work(tmp_path, stand_in, timeouts=Timeouts()) as work:
        made = [await work.create() for _ in range(10)]
        for one in made:
            await work.becomes(one["predictionId"], "succeeded")
        assert work.throttle.calls == 10
        tasks = work.service.provider_work
        assert tasks is not None
        assert tasks.reconciler is not None
        await eventually(lambda: len(tasks.reconciler or ()) == 0)
