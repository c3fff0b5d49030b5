"""Expiry is told to whoever watches, over each transport, and nothing is appended for it."""

import asyncio
from pathlib import Path

import aiohttp

from tests.support.conditions import eventually
from tests.support.tidings_process import serving
from tests.support.webhooks import watching
from tidings.client.client import Client, Deleted
from tidings.streams.log.factory import open_log
from tidings.streams.log.protocol import CHANGES, EVENTS, NewRecord


async def test_watchers_are_told_of_an_expiry(tmp_path: Path) -> None:
    """WebSocket, event stream and the Python client: `deleted` at the version they have, with the reason."""
    async with serving(tmp_path, {"TIDINGS_TTL": "2"}) as service:
        log = await open_log(f"sqlite:///{tmp_path}/data/log.db")
        try:
            await log.append(EVENTS, [NewRecord(b"p", b'{"status": "succeeded"}')])
            async with (
                watching(service.ws_url, predictions=["p"]) as watcher,
                Client(service.url) as client,
                aiohttp.ClientSession() as session,
                session.get(f"{service.url}/api/events?predictions=p") as stream,
            ):
                receiving = asyncio.create_task(_receive(watcher))
                watch = client.watch("p")
                gone = None
                async for update in watch:
                    if isinstance(update, Deleted):
                        gone = update
                        break
                assert gone == Deleted("p", 1, "expired")
                expired = {
                    "type": "deleted",
                    "predictionId": "p",
                    "version": 1,
                    "reason": "expired",
                }
                await eventually(lambda: expired in watcher.messages)
                seen = b""
                while b"expired" not in seen:
                    seen += await stream.content.readany()
                assert b"event: deleted" in seen
                receiving.cancel()
            assert sum(end for _, end in (await log.bounds(CHANGES)).values()) == 1
        finally:
            await log.close()


async def _receive(watcher: object) -> None:
    while True:
        await watcher.receive()  # type: ignore[attr-defined]
