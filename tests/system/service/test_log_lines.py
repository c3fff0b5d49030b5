"""The service's own log: lines about an event name its prediction and its trace."""

import json
import secrets
from pathlib import Path
from typing import Any

import aiohttp

from tests.support import webhooks
from tests.support.conditions import eventually
from tests.support.tidings_process import TidingsProcess, serving
from tests.support.webhooks import SECRET, reaches, signed


def lines(service: TidingsProcess, event: str) -> list[dict[str, Any]]:
    """What was logged under a name."""
    found = [json.loads(line) for line in service.output.splitlines() if line.startswith("{")]
    return [line for line in found if line["event"] == event]


async def test_a_dead_letter_and_a_refusal_name_prediction_and_trace(tmp_path: Path) -> None:
    """What cannot be applied, and what is not proven, is found in the log by the prediction's id and the trace's."""
    trace = secrets.token_hex(16)
    sent = {"traceparent": f"00-{trace}-{secrets.token_hex(8)}-00"}
    settings = {"TIDINGS_REPLICATE_SECRET": SECRET}
    async with aiohttp.ClientSession() as session, serving(tmp_path, settings) as service:
        url = f"{service.url}/api/webhooks/replicate"
        done, other = (
            webhooks.report("p1"),
            webhooks.report("p1", status="failed", output=None, error="no"),
        )
        for body in (done, other):
            async with session.post(url, data=body, headers={**signed(body), **sent}) as response:
                assert response.status == 200
            await reaches(session, service.url, "p1", "succeeded")
        (letter,) = await eventually(lambda: lines(service, "processor.dead_letter"), 20)
        assert (letter["code"], letter["prediction"], letter["trace"]) == (
            "contradiction",
            "p1",
            trace,
        )
        for _ in range(5):
            async with session.post(f"{url}/p2?token=wrong", data=done, headers=sent) as response:
                assert response.status == 401
        refused = lines(service, "webhook.refused")
        assert 1 <= len(refused) < 5  # a flood of them is counted, not repeated
        assert (refused[0]["code"], refused[0]["prediction"], refused[0]["trace"]) == (
            "bad-token",
            "p2",
            trace,
        )
        assert "wrong" not in service.output


async def test_a_download_that_fails_names_prediction_and_trace(tmp_path: Path) -> None:
    """The archiver's lines name the prediction, and the trace that its end came with."""
    trace = secrets.token_hex(16)
    settings = {"TIDINGS_REPLICATE_SECRET": SECRET, "TIDINGS_ASSETS_ALLOW": "127.0.0.1:9"}
    async with aiohttp.ClientSession() as session, serving(tmp_path, settings) as service:
        body = webhooks.report("p1", output="http://127.0.0.1:9/x.png")
        headers = {**signed(body), "traceparent": f"00-{trace}-{secrets.token_hex(8)}-00"}
        async with session.post(
            f"{service.url}/api/webhooks/replicate", data=body, headers=headers
        ) as response:
            assert response.status == 200
        later = await eventually(lambda: lines(service, "archiver.later"), 20)
        assert (later[0]["prediction"], later[0]["trace"]) == ("p1", trace)
