"""Webhooks with far more in them than a record takes, through the whole service."""

import base64
import json
import os
from pathlib import Path
from typing import Any

import aiohttp

from tests.support import webhooks
from tests.support.conditions import eventually
from tests.support.tidings_process import TidingsProcess
from tests.support.webhooks import get, reaches, signed, watching

SOUND = b"RIFF\x24\x00\x00\x00WAVEfmt " + os.urandom(7_200_000)


async def test_a_webhook_of_ten_megabytes_passes(service: TidingsProcess, tmp_path: Path) -> None:
    """Sound in base64: the record refers to it, the content can be read, and it becomes a file with an address."""
    spoken = "data:audio/wav;base64," + base64.b64encode(SOUND).decode()
    body = webhooks.report("spoken", output=spoken, input={"text": "hello"})
    assert 9_500_000 < len(body) < 10_485_760
    async with (
        aiohttp.ClientSession() as session,
        watching(service.ws_url, predictions=["spoken"]) as watcher,
    ):
        url = f"{service.url}/api/webhooks/replicate"
        async with session.post(url, data=body, headers=signed(body)) as response:
            assert response.status == 200
        pushed = await watcher.version("spoken", "succeeded")
        output = pushed["output"]
        assert sorted(output) == ["$blob", "bytes", "length"]
        assert (output["bytes"], output["length"]) == (len(spoken) + 2, len(spoken))
        assert "report" not in pushed
        async with session.get(
            f"{service.url}/api/predictions/spoken/blobs/{output['$blob']}"
        ) as response:
            assert json.loads(await response.read()) == spoken

        async def archived() -> dict[str, Any]:
            record = await get(session, service.url, "spoken")
            return record if record is not None and record.get("assets") else {}

        record = await eventually(archived, 30)
        (asset,) = record["assets"]
        assert (asset["contentType"], asset["bytes"]) == ("audio/wav", len(SOUND))
        async with session.get(service.url + record["imageUrl"]) as response:
            assert await response.read() == SOUND
            assert response.headers["Content-Type"] == "audio/wav"


async def test_a_large_input_does_not_grow_with_its_reports(
    service: TidingsProcess, tmp_path: Path
) -> None:
    """Each of several webhooks repeats an input of 300 KB: the record stays small, and one content lies there."""
    given = {"image": "x" * 300_000}
    async with aiohttp.ClientSession() as session:
        for number in range(4):
            body = webhooks.report(
                "large",
                status="processing",
                output=None,
                input=given,
                logs="line\n" * number,
                completed_at=None,
            )
            async with session.post(
                f"{service.url}/api/webhooks/replicate", data=body, headers=signed(body)
            ) as response:
                assert response.status == 200

        async def all_applied() -> dict[str, Any]:
            record = await reaches(session, service.url, "large", "processing")
            return record if record.get("logsLength") == 15 else {}

        record = await eventually(all_applied, 20)
        assert len(json.dumps(record)) < 10_000
        async with session.get(
            f"{service.url}/api/predictions/large/blobs/{record['payload']['$blob']}"
        ) as response:
            assert await response.json() == given
    folder = tmp_path / "data" / "assets" / "blobs"
    assert sum(1 for file in folder.rglob("*") if file.is_file() and file.name != "id") == 1
