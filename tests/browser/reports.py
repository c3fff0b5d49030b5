"""What the tests of the page report about predictions, as signed webhooks."""

import json
from typing import Any

import httpx

from tests.main_job.webhooks import SECRET, signed
from tests.tidings_process import TidingsProcess

SETTINGS = {"TIDINGS_STANDARD_SECRET": SECRET}

PICTURE = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010802000000907753de0000000c49444154789c63606060000000040001f6"
    "17385500000000"
    "49454e44ae426082"
)
"""A PNG of one pixel."""


async def report(service: TidingsProcess, prediction_id: str, status: str | None = None, **fields: Any) -> None:
    """Report about a prediction; the fields are those of an event."""
    said = {"predictionId": prediction_id, "status": status, **fields}
    body = json.dumps({name: value for name, value in said.items() if value is not None}).encode()
    async with httpx.AsyncClient(trust_env=False) as http:
        answer = await http.post(f"{service.url}/api/webhooks/standard", content=body, headers=signed(body))
    assert answer.status_code == 200, answer.text
