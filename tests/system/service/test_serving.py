"""What clients of a running service hear where changes cannot reach them any more."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
from structlog.testing import capture_logs
from websockets.asyncio.client import ClientConnection, connect

from tests.support.conditions import eventually
from tests.support.gateway.pushing import hear, subscribe
from tests.support.storage.samples import prediction
from tests.unit.gateway.websocket.test_connection import closed
from tidings.config.settings import Settings
from tidings.gateway.push.event_stream import EventStream
from tidings.gateway.push.protocol import Close
from tidings.gateway.push.session import Session
from tidings.runtime import service
from tidings.storage.prediction import encode
from tidings.streams.changes.codec import announcement
from tidings.streams.log.memory import MemoryLog
from tidings.streams.log.protocol import CHANGES, LogUnavailable, Position, Record, Since


class Watched:
    """A service in this process, and a client of each kind that watches everything."""

    def __init__(
        self, running: service.Service, client: ClientConnection, lines: AsyncIterator[str]
    ) -> None:
        self.running = running
        self.client = client
        self.lines = lines

    async def announce(self, name: str) -> None:
        """Let a change come by."""
        record = prediction(name)
        await self.running.resources.log.append(
            CHANGES, [announcement(record, encode(record), position=Position(0, 0))]
        )

    async def stream_ended(self) -> list[str]:
        """What was left of the event stream, which has ended."""
        async with asyncio.timeout(15):
            return [line async for line in self.lines]


@asynccontextmanager
async def watched(folder: Path) -> AsyncIterator[Watched]:
    settings = Settings(
        log="memory://",
        store="memory://",
        assets=f"file:///{folder}/assets",
        port=0,
        webhook_key="k" * 32,
    )
    async with (
        service.running(settings) as running,
        connect(f"ws://127.0.0.1:{running.port}/api/ws", proxy=None) as client,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{running.port}", timeout=20) as http,
        http.stream("GET", "/api/events?all=true") as stream,
    ):
        await subscribe(client, all=True)
        lines = stream.aiter_lines()
        async for line in lines:
            if line == "event: synced":
                break
        yield Watched(running, client, lines)


async def test_who_missed_changes_is_sent_back_for_what_is_newest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the changes' topic is made anew every WebSocket is closed with 1012 and every event stream ends."""
    follow, bounds = MemoryLog.follow, MemoryLog.bounds
    lost: list[str] = []

    async def interrupted(
        log: MemoryLog, topic: str, since: Since
    ) -> AsyncIterator[Sequence[Record]]:
        async for batch in follow(log, topic, since):
            if topic == CHANGES and lost == ["now"]:
                lost.append("noticed")
                raise LogUnavailable("the topic is another one")
            yield batch

    async def moved(log: MemoryLog, topic: str) -> Mapping[int, tuple[int, int]]:
        found = await bounds(log, topic)
        return (
            {number: (end + 10, end + 10) for number, (_, end) in found.items()} if lost else found
        )

    monkeypatch.setattr(MemoryLog, "follow", interrupted)
    monkeypatch.setattr(MemoryLog, "bounds", moved)
    async with watched(tmp_path) as service_:
        lost.append("now")
        await service_.announce("p1")
        assert (await closed(service_.client))[0] == Close.RESTART
        assert any(line.startswith("retry: ") for line in await service_.stream_ended())
        gateway = service_.running.gateway
        assert gateway is not None
        await eventually(lambda: not len(gateway.sessions) and not len(gateway.event_streams))


@pytest.mark.parametrize("kind", [Session, EventStream])
async def test_a_delivery_that_fails_ends_its_connection_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: type
) -> None:
    """A client that a change could not be handed to is told to come back, which is logged; the other gets it."""

    def fail(*_: object) -> None:
        raise ZeroDivisionError

    async with watched(tmp_path) as service_:
        monkeypatch.setattr(kind, "deliver", fail)
        with capture_logs() as lines:
            await service_.announce("p1")
            if kind is Session:
                assert (await closed(service_.client))[0] == Close.RESTART
                async with asyncio.timeout(15):
                    while '"p1"' not in await anext(service_.lines):
                        pass
            else:
                assert not any("p1" in line for line in await service_.stream_ended())
                assert (await hear(service_.client))["prediction"]["predictionId"] == "p1"
        assert [line["event"] for line in lines if line["log_level"] == "error"] == [
            "session.delivery_failed"
        ]
