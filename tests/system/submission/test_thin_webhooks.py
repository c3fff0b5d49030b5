"""Webhooks without a result.

The resource is fetched, and what the provider says is reported as it came, where it belongs.
"""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from msgspec.structs import replace

from tests.support.conditions import eventually
from tests.support.providers.faulty_stand_in import FaultyStandIn
from tests.support.providers.upstream import Upstream, event, post
from tests.support.providers.work import QUICK, Work, at_work
from tests.support.webhooks import SECRET
from tidings.streams.log.headers import ARCHIVE_HEADER, PROVIDER_HEADER
from tidings.streams.log.protocol import EVENTS, NewRecord

RESPONSE = {
    "object": "response",
    "status": "completed",
    "model": "gpt",
    "output": [{"text": "a poem"}],
}
PATH = "/v1/responses/resp_1"
SLOW = replace(QUICK, silence=600_000)
"""What is silent is left alone: only a webhook can tell."""
GPT = {"provider": "openai", "model": "gpt-5", "prompt": "a poem", "payload": {}}


@pytest.fixture
async def upstream() -> AsyncIterator[Upstream]:
    found = Upstream()
    await found.start()
    yield found
    await found.close()


async def succeeded(work: Work) -> None:
    record = await work.becomes("resp_1", "succeeded")
    assert record["output"] == [{"text": "a poem"}]
    assert record["providerId"] == "resp_1"


async def fetched(work: Work, times: int) -> None:
    """Wait until so many webhooks are dealt with."""
    tasks = work.service.provider_work
    assert tasks is not None
    await eventually(lambda: tasks.thin is not None and tasks.thin.fetched == times, 20)


async def listed(work: Work) -> list[str]:
    """The ids of all records."""
    return [
        one["predictionId"] for one in (await work.client.get("/api/predictions")).json()["data"]
    ]


# ---- predictions that somebody else submitted ----


async def test_the_result_is_fetched(tmp_path: Path, upstream: Upstream) -> None:
    """A webhook that names a response alone changes nothing.

    What is fetched makes the record, once.
    """
    upstream.resources[PATH] = {"id": "resp_1", **RESPONSE}
    async with (
        FaultyStandIn() as stand_in,
        at_work(tmp_path, stand_in, upstream.settings()) as work,
    ):
        await post(work.client, event("resp_1"))
        await succeeded(work)
        await post(work.client, event("resp_1"))
        await fetched(work, 2)
        assert upstream.asked == [PATH]
        assert (await work.get("resp_1"))["version"] == 1


async def test_a_provider_that_is_down_is_asked_again(tmp_path: Path, upstream: Upstream) -> None:
    """While the provider answers 500 the webhook is kept in mind."""
    upstream.resources[PATH] = {"id": "resp_1", **RESPONSE}
    upstream.status = 500
    async with (
        FaultyStandIn() as stand_in,
        at_work(tmp_path, stand_in, upstream.settings()) as work,
    ):
        await post(work.client, event("resp_1"))
        await eventually(lambda: len(upstream.asked) >= 2, 20)
        upstream.status = 200
        await succeeded(work)


async def test_a_restart_in_between(tmp_path: Path, upstream: Upstream) -> None:
    """A webhook whose result was not fetched before the end is fetched for after the restart."""
    upstream.resources[PATH] = {"id": "resp_1", **RESPONSE}
    upstream.status = 500
    async with FaultyStandIn() as stand_in:
        async with at_work(tmp_path, stand_in, upstream.settings()) as work:
            await post(work.client, event("resp_1"))
            await eventually(lambda: upstream.asked, 20)
        upstream.status = 200
        async with at_work(tmp_path, stand_in, upstream.settings()) as work:
            await succeeded(work)


async def test_a_redirect_gets_no_token(tmp_path: Path, upstream: Upstream) -> None:
    """A redirect is an answer like any other: it is not followed, with the token or without."""
    upstream.resources[PATH] = {"id": "resp_1", **RESPONSE}
    upstream.status = 307
    async with (
        FaultyStandIn() as stand_in,
        at_work(tmp_path, stand_in, upstream.settings()) as work,
    ):
        await post(work.client, event("resp_1"))
        await eventually(lambda: len(upstream.asked) >= 2, 20)
        upstream.status = 200
        await succeeded(work)
    assert upstream.elsewhere == []


async def test_what_the_provider_does_not_know_makes_no_record(
    tmp_path: Path, upstream: Upstream
) -> None:
    """A response that is gone when it is fetched leaves nothing behind."""
    async with (
        FaultyStandIn() as stand_in,
        at_work(tmp_path, stand_in, upstream.settings()) as work,
    ):
        await post(work.client, event("resp_1"))
        await fetched(work, 1)
        assert upstream.asked == [PATH]
        assert await listed(work) == []


@pytest.mark.parametrize(
    ("kind", "status", "error"),
    [
        ("completed", "succeeded", None),
        ("incomplete", "failed", "incomplete"),
        ("cancelled", "canceled", None),
    ],
)
async def test_without_a_token_the_webhook_is_believed(
    tmp_path: Path, kind: str, status: str, error: str | None
) -> None:
    """Where a provider cannot be asked, what its webhook says of the end is all there is."""
    async with (
        FaultyStandIn() as stand_in,
        at_work(tmp_path, stand_in, {"TIDINGS_OPENAI_SECRET": SECRET}) as work,
    ):
        await post(work.client, event("resp_1", f"response.{kind}"))
        record = await work.becomes("resp_1", status)
        assert (record.get("error"), record["providerId"], record["provider"]) == (
            error,
            "resp_1",
            "openai",
        )


async def test_a_result_that_the_log_does_not_take_makes_a_failure(
    tmp_path: Path, upstream: Upstream
) -> None:
    """What is too large to be reported is told as a failure, even of an unknown prediction."""
    upstream.resources[PATH] = {"id": "resp_1", **RESPONSE, "output": "a" * 700_000}
    more = {**upstream.settings(), "TIDINGS_MAX_BODY": "600000"}
    async with FaultyStandIn() as stand_in, at_work(tmp_path, stand_in, more) as work:
        await post(work.client, event("resp_1"))
        record = await work.becomes("resp_1", "failed", "succeeded")
        assert record["error"].startswith("the result is larger than TIDINGS_MAX_BODY (700")
        assert (record["provider"], record["providerId"], record["model"]) == (
            "openai",
            "resp_1",
            "gpt",
        )


# ---- predictions that we submitted ----


async def ours(work: Work, upstream: Upstream) -> dict[str, Any]:
    """Submit one, and wait until the provider's answer is in the record."""
    made = await work.create(**GPT)
    record = await work.becomes(made["predictionId"], "processing")
    assert record["providerId"] == "resp_1"
    return record


@pytest.mark.parametrize(
    ("said", "kind", "status"),
    [
        (RESPONSE, "completed", "succeeded"),
        ({"status": "failed", "error": {"code": "server_error"}}, "failed", "failed"),
        ({"status": "cancelled"}, "cancelled", "canceled"),
    ],
)
async def test_a_webhook_reaches_the_prediction_that_was_submitted(
    tmp_path: Path, upstream: Upstream, said: dict[str, Any], kind: str, status: str
) -> None:
    """OpenAI's webhook names its own id alone.

    The end stands in our record, there is no second one, repeats are free.
    """
    # Nobody but the webhook can tell in time.
    async with (
        FaultyStandIn() as stand_in,
        at_work(tmp_path, stand_in, upstream.settings(), timeouts=SLOW) as work,
    ):
        made = await ours(work, upstream)
        upstream.ends(PATH, **said)
        await post(work.client, event("resp_1", f"response.{kind}"))
        record = await work.becomes(made["predictionId"], status)
        assert record.get("output") == said.get("output")
        for _ in range(2):
            await post(work.client, event("resp_1", f"response.{kind}"))
        await fetched(work, 3)
        assert upstream.asked == [PATH]
        assert await listed(work) == [made["predictionId"]]
        assert (await work.get(made["predictionId"]))["version"] == record["version"]


async def test_a_webhook_faster_than_the_answer(tmp_path: Path, upstream: Upstream) -> None:
    """The end is in the record before the create call is answered, and stays when it is."""
    upstream.held.clear()
    async with (
        FaultyStandIn() as stand_in,
        at_work(tmp_path, stand_in, upstream.settings(), timeouts=SLOW) as work,
    ):
        made = await work.create(**GPT)
        await eventually(lambda: upstream.resources, 20)
        upstream.ends(PATH, **RESPONSE)
        await post(work.client, event("resp_1"))
        record = await work.becomes(made["predictionId"], "succeeded")
        assert record["providerId"] == "resp_1"
        upstream.held.set()
        tasks = work.service.provider_work
        assert tasks is not None
        await eventually(
            lambda: tasks.submissions is not None and tasks.submissions.submitted == 1, 20
        )
        assert (await work.get(made["predictionId"]))["status"] == "succeeded"
        assert await listed(work) == [made["predictionId"]]


async def test_a_webhook_finds_a_submission_whose_answer_was_lost(
    tmp_path: Path, upstream: Upstream
) -> None:
    """OpenAI has no list to look in: the webhook's resource tells which submission it was."""
    upstream.lost_answers = True
    async with (
        FaultyStandIn() as stand_in,
        at_work(tmp_path, stand_in, upstream.settings()) as work,
    ):
        made = await work.create(**GPT)
        tasks = work.service.provider_work
        assert tasks is not None
        await eventually(
            lambda: tasks.submissions is not None and tasks.submissions.unknown == 1, 20
        )
        upstream.ends(PATH, **RESPONSE)
        await post(work.client, event("resp_1"))
        record = await work.becomes(made["predictionId"], "succeeded")
        assert record["providerId"] == "resp_1"
        assert len(upstream.created) == 1
        assert await listed(work) == [made["predictionId"]]


@pytest.mark.parametrize("deleted", [True, False])
async def test_the_response_of_another_attempt(
    tmp_path: Path, upstream: Upstream, deleted: bool
) -> None:
    """What an earlier prediction with this id submitted, or another service, is nobody's here."""
    async with (
        FaultyStandIn() as stand_in,
        at_work(tmp_path, stand_in, upstream.settings(), timeouts=SLOW) as work,
    ):
        made = await work.create(**GPT, predictionId="p1")
        await work.becomes(made["predictionId"], "processing")
        upstream.ends(PATH, **RESPONSE)
        if deleted:
            assert (await work.client.delete("/api/predictions/p1")).status_code == 204
            await work.create(**GPT, predictionId="p1")
            await work.becomes("p1", "processing")
        else:
            upstream.ends(
                PATH,
                metadata={"tidings_prediction_id": "p1", "tidings_attempt": "attempt-elsewhere"},
            )
        await post(work.client, event("resp_1"))
        await fetched(work, 1)
        assert (await work.get("p1"))["status"] == "processing"
        assert await listed(work) == ["p1"]


# ---- the others ----


@pytest.mark.parametrize(
    ("said", "own", "path", "resource"),
    [
        (
            {"type": "interaction.completed", "data": {"id": "i1"}},
            "i1",
            "/v1beta/interactions/i1",
            {"id": "i1", "status": "completed", "outputs": [{"text": "a poem"}]},
        ),
        (
            {"type": "batch.succeeded", "data": {"id": "b1"}},
            "b1",
            "/v1beta/batches/b1",
            {
                "name": "batches/b1",
                "done": True,
                "metadata": {"state": "BATCH_STATE_SUCCEEDED"},
                "response": [{"text": "a poem"}],
            },
        ),
    ],
)
async def test_gemini(
    tmp_path: Path,
    upstream: Upstream,
    said: dict[str, Any],
    own: str,
    path: str,
    resource: dict[str, Any],
) -> None:
    """What Gemini's webhook names is fetched where such things lie."""
    upstream.resources[path] = resource
    async with (
        FaultyStandIn() as stand_in,
        at_work(tmp_path, stand_in, upstream.settings("GEMINI")) as work,
    ):
        await post(work.client, said, "gemini")
        record = await work.becomes(own, "succeeded")
        assert (record["output"], record["provider"]) == ([{"text": "a poem"}], "gemini")
        assert upstream.asked == [path]


async def test_assemblyai(tmp_path: Path, upstream: Upstream) -> None:
    """A transcript that we ordered reports to its own address, and its text is fetched."""
    async with (
        FaultyStandIn() as stand_in,
        at_work(tmp_path, stand_in, upstream.settings("ASSEMBLYAI"), timeouts=SLOW) as work,
    ):
        made = await work.create(
            provider="assemblyai", model="universal", payload={"audio_url": "https://e.com/a.mp3"}
        )
        await work.becomes(made["predictionId"], "processing")
        (order,) = upstream.created
        assert (order["webhook_auth_header_name"], order["webhook_auth_header_value"]) == (
            "x-tidings-secret",
            SECRET,
        )
        upstream.ends("/v2/transcript/t_1", status="completed", text="hello")
        target = urlsplit(order["webhook_url"])
        path = f"{target.path.removeprefix('/api/webhooks/assemblyai')}?{target.query}"
        await post(work.client, {"transcript_id": "t_1", "status": "completed"}, "assemblyai", path)
        record = await work.becomes(made["predictionId"], "succeeded")
        assert (record["output"], record["providerId"]) == ("hello", "t_1")
        assert await listed(work) == [made["predictionId"]]


async def test_a_transcript_cannot_be_stopped(tmp_path: Path, upstream: Upstream) -> None:
    """A cancel that the provider cannot carry out leaves the prediction to end as it does."""
    async with (
        FaultyStandIn() as stand_in,
        at_work(tmp_path, stand_in, upstream.settings("ASSEMBLYAI")) as work,
    ):
        made = await work.create(
            provider="assemblyai", model="universal", payload={"audio_url": "https://e.com/a.mp3"}
        )
        await work.becomes(made["predictionId"], "processing")
        await work.cancel(made["predictionId"])
        await eventually(lambda: upstream.asked, 20)
        upstream.ends("/v2/transcript/t_1", status="completed", text="hello")
        record = await work.becomes(made["predictionId"], "succeeded")
        assert record["output"] == "hello"


@pytest.mark.parametrize(
    ("provider", "said", "path", "resource"),
    [
        (
            "assemblyai",
            {"transcript_id": "x1", "status": "error"},
            "/v2/transcript/x1",
            {"id": "x1", "status": "error", "error": "no speech"},
        ),
        (
            "gemini",
            {"type": "interaction.failed", "data": {"id": "x1"}},
            "/v1beta/interactions/x1",
            {"id": "x1", "status": "failed", "error": "no speech"},
        ),
    ],
)
async def test_why_it_failed_is_fetched(
    tmp_path: Path,
    upstream: Upstream,
    provider: str,
    said: dict[str, Any],
    path: str,
    resource: dict[str, Any],
) -> None:
    """A failure whose webhook does not say why gets its reason later."""
    upstream.resources[path] = resource
    upstream.status = 500
    settings = upstream.settings(provider.upper())
    async with (
        FaultyStandIn() as stand_in,
        at_work(tmp_path, stand_in, settings, timeouts=SLOW) as work,
    ):
        begun = {"status": "processing", "provider": provider, "providerId": "x1"}
        await work.service.resources.log.append(
            EVENTS, [NewRecord(b"x1", json.dumps(begun).encode())]
        )
        await post(work.client, said, provider)
        assert "error" not in await work.becomes("x1", "failed")
        await eventually(lambda: upstream.asked, 20)
        upstream.status = 200

        async def told() -> bool:
            return (await work.get("x1")).get("error") == "no speech"

        await eventually(told, 30)
        await fetched(work, 1)
        asked = len(upstream.asked)
        await post(work.client, said, provider)
        await fetched(work, 2)
        assert len(upstream.asked) == asked


# ---- a success without its result (fal) ----


async def left_out(work: Work, prediction_id: str, request_id: str) -> None:
    """What fal sends about a success whose result it could not send, as the gateway appends it."""
    said = {
        "request_id": request_id,
        "status": "OK",
        "payload": None,
        "payload_error": "not serializable",
    }
    headers = [(PROVIDER_HEADER, b"fal"), (ARCHIVE_HEADER, b"before")]
    await work.service.resources.log.append(
        EVENTS, [NewRecord(prediction_id.encode(), json.dumps(said).encode(), headers)]
    )


async def test_a_success_whose_files_come_first_waits_for_its_result(tmp_path: Path) -> None:
    """In mode `before`, a success without its result waits for the result and its files."""
    more = {"TIDINGS_ARCHIVE": "before"}
    async with (
        FaultyStandIn(duration=0.1) as stand_in,
        at_work(tmp_path, stand_in, more, timeouts=SLOW) as work,
    ):
        work.bad(never=1)
        made = await work.create(provider="fal")
        record = await work.becomes(made["predictionId"], "processing")
        await eventually(lambda: stand_in.jobs[record["providerId"]].terminal, 20)
        await left_out(work, record["predictionId"], record["providerId"])
        record = await work.becomes(made["predictionId"], "succeeded", "failed")
        assert record["output"]["images"]
        assert len(record["assets"]) == 1


@pytest.mark.parametrize("token", ["", "a token, but no model"])
async def test_a_success_whose_result_cannot_be_fetched(tmp_path: Path, token: str) -> None:
    """Where fal cannot be asked, the success that its webhook names is all there is."""
    more = {"TIDINGS_ARCHIVE": "before", "TIDINGS_FAL_TOKEN": token}
    async with (
        FaultyStandIn() as stand_in,
        at_work(tmp_path, stand_in, more, timeouts=SLOW) as work,
    ):
        await left_out(work, "p1", "r1")
        record = await work.becomes("p1", "succeeded", "failed")
        assert (record["status"], record["providerId"], record.get("output")) == (
            "succeeded",
            "r1",
            None,
        )
