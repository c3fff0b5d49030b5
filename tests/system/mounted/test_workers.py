"""An application in several processes of uvicorn, which share one log."""

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path

import aiohttp
import pytest

from tests.support import webhooks
from tests.support.conditions import eventually
from tests.support.uvicorn_process import uvicorn
from tests.support.webhooks import SECRET, signed, watching
from tests.system.mounted.test_hosts import APPLICATION

pytestmark = [pytest.mark.kafka, pytest.mark.long]

WATCHERS = 12
"""So many connections that each of the four processes has some, by all odds."""


async def test_four_workers_share_a_log(tmp_path: Path, kafka_url: str, topic_prefix: str) -> None:
    """With Kafka whoever is connected to whichever process sees what any of them takes, and all end with the first."""
    (tmp_path / "app.py").write_text(APPLICATION)
    settings = {
        "TIDINGS_LOG": kafka_url,
        "TIDINGS_TOPIC_PREFIX": topic_prefix,
        "TIDINGS_PARTITIONS": "4",
        "TIDINGS_REPLICATE_SECRET": SECRET,
    }
    names = {f"p{number}" for number in range(20)}
    async with uvicorn("app:app", tmp_path, tmp_path, settings, "--workers", "4") as url:
        service = f"{url}/predictions"
        async with aiohttp.ClientSession() as session:

            async def ready() -> bool:
                # Each connection may be another process's: all must be ready many times over.
                for _ in range(WATCHERS):
                    async with session.get(
                        f"{service}/readyz", headers={"Connection": "close"}
                    ) as answer:
                        if answer.status != 200:
                            return False
                return True

            await eventually(ready, 90)
            async with AsyncExitStack() as stack:
                watchers = [
                    await stack.enter_async_context(
                        watching(service.replace("http", "ws") + "/api/ws", all=True)
                    )
                    for _ in range(WATCHERS)
                ]
                for name in sorted(names):
                    body = webhooks.report(name)
                    headers = {**signed(body), "Connection": "close"}
                    async with session.post(
                        f"{service}/api/webhooks/replicate", data=body, headers=headers
                    ) as answer:
                        assert answer.status == 200
                for watcher in watchers:
                    seen: set[str] = set()
                    async with asyncio.timeout(30):
                        while seen != names:
                            record = (await watcher.receive()).get("prediction", {})
                            if record.get("status") == "succeeded":
                                seen.add(record["predictionId"])
