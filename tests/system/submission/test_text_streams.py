"""A provider's stream is read where the order asks for it, and the answer grows as text."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.chaos.crashes.test_submitter_kills import ordered, process
from tests.support.conditions import eventually
from tests.support.providers.bad_days import BadDays
from tests.support.providers.faulty_stand_in import FaultyStandIn
from tests.support.providers.upstream import Upstream, event, post
from tests.support.providers.work import Work, at_work, becomes

SAID = "Ein Leuchtturm — für\nSchiffe 🚢 bei Nacht.\n\n" * 12


@pytest.fixture
async def stand_in() -> AsyncIterator[FaultyStandIn]:
    async with FaultyStandIn(duration=0.5, steps=2, first_retry=0.05, seed=1) as running:
        yield running


@pytest.fixture
async def work(tmp_path: Path, stand_in: FaultyStandIn) -> AsyncIterator[Work]:
    async with at_work(tmp_path, stand_in) as running:
        yield running


def writing(**more: Any) -> dict[str, Any]:
    return {"stream": True, "payload": {"say": SAID, **more}}


async def letters(work: Work) -> list[dict[str, Any]]:
    answer = await work.client.get("/api/dead-letters")
    found: list[dict[str, Any]] = answer.json()["data"]
    return found


def appended(work: Work) -> int:
    tasks = work.service.provider_work
    assert tasks is not None
    assert tasks.texts is not None
    return tasks.texts.appended


async def test_an_answer_grows_and_ends_as_its_provider_wrote_it(work: Work) -> None:
    """The text comes in pieces while it is written, and is not stored a second time as output."""
    made = await work.create(**writing(duration=2))

    async def growing() -> bool:
        record = await work.get(made["predictionId"])
        return record["status"] == "processing" and bool(record.get("textLength"))

    await eventually(growing, 30)
    record = await work.becomes(made["predictionId"], "succeeded")
    assert record["text"] == SAID
    assert record["textLength"] == len(SAID.encode())
    assert "output" not in record, (record["output"], record["transitions"])
    assert "textMissing" not in record
    assert appended(work) > 3
    assert await letters(work) == []


async def test_a_stream_that_is_cut_again_and_again(work: Work) -> None:
    """It is opened again; nothing is missing, nothing comes twice."""
    work.bad(cut_streams=0.05)
    made = await work.create(**writing(duration=3))
    record = await work.becomes(made["predictionId"], "succeeded")
    assert record["text"] == SAID
    assert appended(work) > 3
    assert await letters(work) == []


async def test_an_answer_without_a_stream_comes_as_output(work: Work) -> None:
    """A model that does not stream is none the worse for being asked to."""
    made = await work.create(stream=True)
    record = await work.becomes(made["predictionId"], "succeeded")
    assert record["imageUrl"].endswith("out-0.png")
    assert "text" not in record


async def test_nobody_reads_what_no_order_asks_for(work: Work) -> None:
    """Without `stream` the answer is an output as ever."""
    made = await work.create(payload={"say": SAID})
    record = await work.becomes(made["predictionId"], "succeeded")
    assert "".join(record["output"]) == SAID
    assert "text" not in record
    assert appended(work) == 0


async def test_a_failure_keeps_the_text_so_far(work: Work) -> None:
    """The webhook says how it ended; what was written by then stays."""
    made = await work.create(**writing(duration=1, fail="out of memory"))
    record = await work.becomes(made["predictionId"], "failed")
    assert record["error"] == "out of memory"
    assert record["text"]
    assert SAID.startswith(record["text"])


async def test_the_end_by_webhook_completes_what_was_never_streamed(work: Work) -> None:
    """A stream that is cut for good leaves the text to the webhook that tells the end."""
    work.bad(cut_streams=1)
    made = await work.create(**writing(duration=0.3))
    record = await work.becomes(made["predictionId"], "succeeded")
    assert "".join(record.get("output") or [record.get("text")]) == SAID
    assert appended(work) == 0


@pytest.mark.parametrize("roles", ["all"])
async def test_killed_in_the_middle(tmp_path: Path, stand_in: FaultyStandIn, roles: str) -> None:
    """After SIGKILL the next process goes on: the whole text once, and no dead letter."""
    stand_in.bad_days = BadDays()
    async with process(tmp_path, stand_in, roles=roles) as (doomed, client):
        made = await ordered(client, "k", **writing(duration=6))
        assert made is not None

        async def growing() -> bool:
            answer = await client.get(f"/api/predictions/{made}")
            return bool(answer.json()["data"].get("textLength", 0) > 20)

        await eventually(growing, 30)
        await doomed.kill()
    async with process(tmp_path, stand_in, roles=roles) as (_, client):
        record = await becomes(client, made, "succeeded", "failed")
        assert record["text"] == SAID
        assert "output" not in record, (record["output"], record["transitions"])
        assert (await client.get("/api/dead-letters")).json()["data"] == []


# ---- OpenAI ----


@pytest.fixture
async def upstream() -> AsyncIterator[Upstream]:
    running = Upstream()
    await running.start()
    yield running
    await running.close()


async def test_openai_goes_on_after_the_last_event(
    tmp_path: Path, stand_in: FaultyStandIn, upstream: Upstream
) -> None:
    """A background response is read after the number of the last event, over a cut and a restart."""
    upstream.deltas = [f"wort{number} — " for number in range(40)]
    upstream.cut_after = 10
    order = {"provider": "openai", "model": "gpt-5", "prompt": "tell", "stream": True}
    said = "".join(upstream.deltas)

    async def has(work: Work, bytes_: int) -> bool:
        return bool((await work.get(made["predictionId"])).get("textLength", 0) >= bytes_)

    async with at_work(tmp_path, stand_in, upstream.settings()) as work:
        made = await work.create(**order, payload={})
        record = await work.becomes(made["predictionId"], "processing")
        assert upstream.created[0]["stream"] is True
        assert record["providerId"] == "resp_1"
        half = len("".join(upstream.deltas[:20]).encode())
        upstream.written = 20
        await eventually(lambda: has(work, half), 30)
    before = len(upstream.streams)
    assert 10 in upstream.streams
    async with at_work(tmp_path, stand_in, upstream.settings()) as work:
        upstream.written = 40
        await eventually(lambda: has(work, len(said.encode())), 30)
        assert upstream.streams[before] == 20
        content = [{"type": "output_text", "text": said, "annotations": []}]
        output = [{"type": "message", "content": content}]
        upstream.ends("/v1/responses/resp_1", status="completed", output=output)
        await post(work.client, event("resp_1"))
        record = await work.becomes(made["predictionId"], "succeeded", "failed")
        assert (record["status"], record["text"]) == ("succeeded", said)
        assert "output" not in record, (record["output"], record["transitions"])
        assert await letters(work) == []
