"""Replicate's webhooks as Replicate sends and signs them, and what reads the answers."""

import base64
import hashlib
import hmac
import json
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp

from tests.support.conditions import eventually

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"

ID = "vcscvthbaxrm80cq9xqtcbaw4m"

COMPLETED = (
    b'{"completed_at":"2025-06-08T12:06:20.383588891Z","created_at":"2025-06-08T12:06:15.127Z","data_removed":false,'
    b'"error":null,"id":"vcscvthbaxrm80cq9xqtcbaw4m","input":{"prompt":"a jersey","seed":17454220438242315174},'
    b'"logs":"Using seed: 7710683\\nGenerating...\\n","metrics":{"image_count":1,"predict_time":5.247161016},'
    b'"model":"black-forest-labs/flux-kontext-pro","output":"https://replicate.delivery/xezq/tmp5v_v9dtm.png",'
    b'"started_at":"2025-06-08T12:06:15.136Z","status":"succeeded",'
    b'"urls":{"get":"https://api.replicate.com/v1/predictions/vcscvthbaxrm80cq9xqtcbaw4m",'
    b'"cancel":"https://api.replicate.com/v1/predictions/vcscvthbaxrm80cq9xqtcbaw4m/cancel"},"version":"hidden",'
    b'"webhook":"https://example.com/hook","webhook_events_filter":["start","completed","logs","output"]}'
)
"""A real body, with a seed beyond 2^53 added to its input."""


def report(prediction_id: str = ID, **fields: Any) -> bytes:
    """The body of one of the prediction's webhooks: the real one with some fields replaced."""
    body = json.loads(COMPLETED)
    body["id"] = prediction_id
    body.update(fields)
    return json.dumps(body, separators=(",", ":")).encode()


def start(prediction_id: str = ID) -> bytes:
    """The webhook `start`."""
    return report(
        prediction_id, status="processing", output=None, logs="", completed_at=None, metrics={}
    )


def logs(prediction_id: str = ID) -> bytes:
    """The webhook `logs`."""
    return report(
        prediction_id,
        status="processing",
        output=None,
        logs="Using seed: 7710683\n",
        completed_at=None,
        metrics={},
    )


def output(prediction_id: str = ID) -> bytes:
    """The webhook `output`."""
    return report(prediction_id, status="processing", completed_at=None, metrics={})


def signed(
    body: bytes, *, secret: str = SECRET, at: float | None = None, delivery: str | None = None
) -> dict[str, str]:
    """The headers of a genuine webhook, as the specification of Standard Webhooks says."""
    identifier = delivery or f"msg_{uuid.uuid4().hex}"
    stamp = str(int(time.time() if at is None else at))
    key = base64.b64decode(secret.removeprefix("whsec_"))
    digest = hmac.new(key, f"{identifier}.{stamp}.".encode() + body, hashlib.sha256).digest()
    return {
        "content-type": "application/json",
        "webhook-id": identifier,
        "webhook-timestamp": stamp,
        "webhook-signature": f"v1,{base64.b64encode(digest).decode()}",
    }


class Watcher:
    """A browser's WebSocket: what it was told, in order."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self.socket = socket
        self.messages: list[dict[str, Any]] = []
        self.raw: list[str] = []

    async def receive(self) -> dict[str, Any]:
        """The next message."""
        text = await self.socket.receive_str(timeout=60)
        self.raw.append(text)
        message: dict[str, Any] = json.loads(text)
        self.messages.append(message)
        return message

    async def until(self, kind: str) -> dict[str, Any]:
        """The next message of a type."""
        while (message := await self.receive())["type"] != kind:
            pass
        return message

    async def subscribe(self, **what: Any) -> None:
        """Subscribe, and wait until the snapshots have come."""
        await self.socket.send_json({"type": "subscribe", "ref": 1, **what})
        await self.until("synced")

    async def version(self, prediction_id: str, status: str) -> dict[str, Any]:
        """The record of the first change to this status."""
        while True:
            message = await self.receive()
            record = message.get("prediction", {})
            if record.get("predictionId") == prediction_id and record["status"] == status:
                return dict(record)


@asynccontextmanager
async def watching(url: str, **what: Any) -> AsyncIterator[Watcher]:
    """A subscribed WebSocket."""
    async with (
        aiohttp.ClientSession() as session,
        session.ws_connect(url, protocols=["tidings.v1"]) as socket,
    ):
        watcher = Watcher(socket)
        await watcher.until("welcome")
        if what:
            await watcher.subscribe(**what)
        yield watcher


async def get(
    session: aiohttp.ClientSession, url: str, prediction_id: str
) -> dict[str, Any] | None:
    """The record behind `GET`; None: 404."""
    async with session.get(f"{url}/api/predictions/{prediction_id}") as response:
        if response.status == 404:
            return None
        assert response.status == 200, await response.text()
        answer: dict[str, Any] = await response.json()
        record: dict[str, Any] = answer["data"]
        return record


async def reaches(
    session: aiohttp.ClientSession,
    url: str,
    prediction_id: str,
    status: str,
    within: float = 20,
) -> dict[str, Any]:
    """Wait until `GET` shows the prediction in a status."""

    async def there() -> dict[str, Any]:
        record = await get(session, url, prediction_id)
        return record if record is not None and record["status"] == status else {}

    return await eventually(there, 20)
