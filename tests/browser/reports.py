"""What the tests of the page report about predictions, as signed webhooks."""

import json
from typing import Any, Protocol

import httpx
import jwt

from tests.support.conditions import eventually
from tests.support.webhooks import SECRET, signed

SETTINGS = {"TIDINGS_STANDARD_SECRET": SECRET}

KEY = "a secret of the tests that is long enough"
"""Signs the tokens of services that ask for them."""

FOR_EVER = 4_000_000_000
"""A time in seconds since the epoch that no test lives to see."""

PICTURE = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010802000000907753de0000000c49444154789c63606060000000040001f6"
    "17385500000000"
    "49454e44ae426082"
)
"""A PNG of one pixel."""


class Reached(Protocol):
    """A service somewhere."""

    @property
    def url(self) -> str:
        """Before `/api`."""


async def report(
    service: Reached, prediction_id: str, status: str | None = None, **fields: Any
) -> None:
    """Report about a prediction, and wait until its status is this one; the fields are those of an event."""
    said = {"predictionId": prediction_id, "status": status, **fields}
    body = json.dumps({name: value for name, value in said.items() if value is not None}).encode()
    token = jwt.encode({"scope": "admin", "exp": FOR_EVER}, KEY, "HS256")
    async with httpx.AsyncClient(trust_env=False, base_url=service.url) as http:
        answer = await http.post("/api/webhooks/standard", content=body, headers=signed(body))
        assert answer.status_code == 200, answer.text

        async def applied() -> bool:
            there = await http.get(
                f"/api/predictions/{prediction_id}", headers={"Authorization": f"Bearer {token}"}
            )
            return there.status_code == 200 and status in (None, there.json()["data"]["status"])

        await eventually(applied, 20)
