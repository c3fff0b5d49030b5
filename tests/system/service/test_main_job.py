"""A report becomes a push: over real ports, on SQLite and on Kafka."""

import itertools
import json
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.support import webhooks
from tests.support.conditions import eventually
from tests.support.tidings_process import TidingsProcess, serving
from tests.support.webhooks import COMPLETED, ID, get, reaches, signed, watching

TELLING = {"version", "createdAt", "updatedAt", "transitions", "source"}
"""What tells the order in which reports came."""


async def post(session: aiohttp.ClientSession, url: str, body: bytes, **how: Any) -> int:
    """Post a genuine webhook of Replicate's; returns the answer's status."""
    async with session.post(
        f"{url}/api/webhooks/replicate", data=body, headers=signed(body, **how)
    ) as response:
        return response.status


async def test_a_webhook_comes_out_exactly_as_it_came(service: TidingsProcess) -> None:
    """Every number and string of Replicate's body is the same in GET and in the WebSocket's frame."""
    async with aiohttp.ClientSession() as session, watching(service.ws_url, all=True) as watcher:
        assert await post(session, service.url, COMPLETED) == 200
        pushed = await watcher.version(ID, "succeeded")
        async with session.get(f"{service.url}/api/predictions/{ID}") as response:
            text = await response.text()
        assert response.headers["ETag"] == f'"{pushed["version"]}"'
    assert json.loads(text)["data"] == pushed
    assert text == '{"success":true,"data":' + watcher.raw[-1].removeprefix(
        '{"type":"change","prediction":'
    )
    assert '"payload":{"prompt":"a jersey","seed":17454220438242315174}' in text
    assert "report" not in pushed
    assert pushed["prompt"] == "a jersey"
    assert pushed["providerId"] == ID
    assert (
        pushed["imageUrl"] == pushed["output"] == "https://replicate.delivery/xezq/tmp5v_v9dtm.png"
    )
    assert pushed["logs"] == "Using seed: 7710683\nGenerating...\n"
    assert pushed["generationTime"] == 5247
    assert pushed["usage"] == {"seconds": 5.247161016, "images": 1}
    assert pushed["model"] == "black-forest-labs/flux-kontext-pro"
    assert [(step["from"], step["to"]) for step in pushed["transitions"]] == [
        (None, "starting"),
        ("starting", "processing"),
        ("processing", "succeeded"),
    ]


async def test_webhooks_in_any_order_and_repeated_end_in_the_same_record(
    service: TidingsProcess,
) -> None:
    """`start`, `output`, `logs` and `completed` in each of their 24 orders, each sent twice, give one record."""
    kinds = (webhooks.start, webhooks.output, webhooks.logs, webhooks.report)
    records = []
    async with aiohttp.ClientSession() as session:
        for number, order in enumerate(itertools.permutations(kinds)):
            for kind in (*order, *order):
                assert await post(session, service.url, kind(f"order-{number}")) == 200
        for number in range(24):
            await reaches(session, service.url, f"order-{number}", "succeeded")
        await _settled(session, service.url)
        for number in range(24):
            record = await get(session, service.url, f"order-{number}")
            assert record is not None
            assert [step["to"] for step in record["transitions"]] == [
                "starting",
                "processing",
                "succeeded",
            ]
            records.append(
                json.dumps({k: v for k, v in record.items() if k not in TELLING}).replace(
                    f"order-{number}", "ID"
                )
            )
    assert len(set(records)) == 1


async def _settled(session: aiohttp.ClientSession, url: str) -> None:
    """Wait until everything posted so far is processed: a last report of another prediction has come through."""
    for number in range(8):
        assert await post(session, url, webhooks.report(f"last-{number}")) == 200
    for number in range(8):
        await reaches(session, url, f"last-{number}", "succeeded")


async def test_a_prediction_can_be_changed_listed_and_deleted_over_http(
    service: TidingsProcess,
) -> None:
    """PATCH applies and answers with the record, a wrong step is 409, DELETE is 204 and then 404; all of it is pushed."""
    async with (
        aiohttp.ClientSession() as session,
        watching(service.ws_url, predictions=["p1"]) as watcher,
    ):
        body = json.dumps(
            {"predictionId": "p1", "status": "starting", "owner": "ann", "tags": ["cats"]}
        ).encode()
        async with session.post(
            f"{service.url}/api/webhooks/standard", data=body, headers=signed(body)
        ) as response:
            assert response.status == 200
        await reaches(session, service.url, "p1", "starting")
        one = f"{service.url}/api/predictions/p1"
        async with session.patch(one, json={"status": "processing", "progress": 0.25}) as response:
            assert response.status == 200
            assert (await response.json())["data"]["progress"] == 0.25
        async with session.patch(one, json={"status": "succeeded", "output": ["x"]}) as response:
            assert response.status == 200
        async with session.patch(one, json={"status": "failed"}) as response:
            problem = await response.json()
            assert (response.status, response.content_type) == (409, "application/problem+json")
            assert (
                "Invalid transition from succeeded to failed"
                in problem["detail"] + problem["error"]
            )
        for query in ("status=succeeded", "owner=ann", "tag=cats"):
            async with session.get(f"{service.url}/api/predictions?{query}") as response:
                assert [r["predictionId"] for r in (await response.json())["data"]] == ["p1"]
        async with session.delete(one) as response:
            assert response.status == 204
        assert await watcher.until("deleted") == {
            "type": "deleted",
            "predictionId": "p1",
            "version": 4,
        }
        async with session.get(one) as response:
            assert response.status == 404
            assert (await response.json())["error"] == "Prediction not found"
    versions = [m["prediction"]["version"] for m in watcher.messages if "prediction" in m]
    assert versions == sorted(set(versions))


async def test_a_late_report_does_not_bring_a_deleted_prediction_back(
    service: TidingsProcess,
) -> None:
    """After a DELETE the provider's last webhook changes nothing, and an explicit create begins anew."""
    async with aiohttp.ClientSession() as session:
        assert await post(session, service.url, webhooks.start("gone")) == 200
        await reaches(session, service.url, "gone", "processing")
        async with session.delete(f"{service.url}/api/predictions/gone") as response:
            assert response.status == 204
        assert await post(session, service.url, webhooks.report("gone")) == 200
        await _settled(session, service.url)
        assert await get(session, service.url, "gone") is None


async def test_poison_is_kept_and_the_next_record_is_processed(service: TidingsProcess) -> None:
    """Well-signed nonsense is answered 200 and becomes a dead letter; what follows goes through."""
    async with aiohttp.ClientSession() as session:
        for body in (
            b"nonsense",
            b"[]",
            b'{"id":"x","status":"what"}',
            b'{"id":"a b","status":"succeeded"}',
        ):
            assert await post(session, service.url, body) == 200
        assert await post(session, service.url, COMPLETED) == 200
        await reaches(session, service.url, ID, "succeeded")

        async def counted() -> bool:
            async with session.get(f"{service.url}/api/stats") as response:
                letters = (await response.json())["data"]["processor"]["deadLetters"]
                return bool(sum(letters.values()) == 4)

        await eventually(counted, 20)


@pytest.mark.parametrize("how", ["in order", "on the spot"])
async def test_what_was_acknowledged_survives_the_end(
    tmp_path: Path, settings: dict[str, str], how: str
) -> None:
    """Every webhook answered 200 is in the record after a restart, however the process ended."""
    service = await TidingsProcess(tmp_path, settings).start()
    async with aiohttp.ClientSession() as session:
        for number in range(20):
            assert await post(session, service.url, webhooks.report(f"p{number}")) == 200
        if how == "in order":
            assert await service.stop() == 0
        else:
            await service.kill()
        async with serving(tmp_path, settings) as again:
            for number in range(20):
                await reaches(session, again.url, f"p{number}", "succeeded")
            record = await get(session, again.url, "p7")
            assert record is not None
            assert record["version"] == 1


async def test_ctrl_c_says_bye_and_exits_cleanly(tmp_path: Path, settings: dict[str, str]) -> None:
    """SIGINT tells the sessions when to come back, closes them, and ends with 0 within five seconds."""
    service = await TidingsProcess(tmp_path, settings).start()
    async with watching(service.ws_url, all=True) as watcher:
        code = await service.stop(within=5)
        assert (await watcher.until("bye"))["retryAfter"] >= 0
        closing = await watcher.socket.receive(timeout=5)
        assert closing.type in {
            aiohttp.WSMsgType.CLOSE,
            aiohttp.WSMsgType.CLOSED,
            aiohttp.WSMsgType.CLOSING,
        }
    assert code == 0
    assert "Traceback" not in service.output
