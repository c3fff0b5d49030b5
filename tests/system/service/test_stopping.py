"""A service that is told to stop before it serves, whatever it waits for."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.support import system
from tests.support.broker import Broker, free_port
from tests.support.conditions import eventually
from tests.support.faulty_proxy import CHUNK, FaultyProxy
from tests.support.tidings_process import TidingsProcess
from tidings.config.settings import Settings
from tidings.runtime.service import serve
from tidings.streams.log.memory import MemoryLog
from tidings.streams.log.protocol import LogUnavailable, Record, Since

KEY = {"TIDINGS_WEBHOOK_KEY": "k" * 32}
SOON = 10.0
"""Twice the seconds in which it ends on a machine of its own."""


@asynccontextmanager
async def silent() -> AsyncIterator[tuple[int, asyncio.Event]]:
    """A server that never answers: its port, and whether somebody has come."""
    came = asyncio.Event()

    async def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        came.set()
        while await reader.read(CHUNK):
            pass
        writer.close()

    server = await asyncio.start_server(accepted, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1], came
    finally:
        server.close()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_ends_a_start_that_waits_for_the_store(
    tmp_path: Path, number: signal.Signals
) -> None:
    """A store that takes connections and says nothing: the process ends at the signal, not at the store's time limit."""
    async with silent() as (port, came):
        service = TidingsProcess(
            tmp_path, {"TIDINGS_STORE": f"valkey://127.0.0.1:{port}?timeout=300"}
        )
        await service.launch()
        await asyncio.wait_for(came.wait(), 30)
        service.signal(number)
        assert await service.ended(SOON) == 0
        assert "Traceback" not in service.output


async def test_what_a_stopped_start_has_opened_is_closed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Changes that cannot be read keep a start waiting; told to stop it leaves no task, no socket and no error."""
    tried = asyncio.Event()

    async def unreadable(
        log: MemoryLog, topic: str, since: Since
    ) -> AsyncIterator[Sequence[Record]]:
        tried.set()
        raise LogUnavailable(f"{log.name} has lost {topic} since {since}")
        yield ()

    monkeypatch.setattr(MemoryLog, "follow", unreadable)
    port = free_port()
    settings = Settings(
        log="memory://",
        store="memory://",
        assets=f"file:///{tmp_path}/assets",
        port=port,
        webhook_key="k" * 32,
    )
    served: list[int] = []
    before = asyncio.all_tasks()
    serving = asyncio.create_task(serve(settings, ready=served.append))
    await asyncio.wait_for(tried.wait(), 10)
    os.kill(os.getpid(), signal.SIGTERM)
    await asyncio.wait_for(serving, SOON)
    assert served == []
    await eventually(lambda: asyncio.all_tasks() <= before)
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", port)


class UntilTheFirstFetch(FaultyProxy):
    """Passes everything on to a broker until somebody begins to read records, and then nothing any more."""

    def __init__(self, target: int) -> None:
        super().__init__(target)
        self.frozen = asyncio.Event()

    async def _requests(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while head := await reader.readexactly(6):  # its size, and which request it is
            if head[4:] == b"\0\1":  # Fetch
                self.freeze()
                self.frozen.set()
            await self._moving.wait()
            writer.write(head + await reader.readexactly(int.from_bytes(head[:4], "big") - 2))
            await writer.drain()


@pytest.mark.kafka
@pytest.mark.parametrize("roles", ["gateway", "all"])
async def test_a_signal_ends_a_start_whose_kafka_went_away(tmp_path: Path, roles: str) -> None:
    """Kafka stands still once the topics are there and reading begins: the process ends in order at the signal."""
    system.require(*system.broker_parts())
    target = free_port()
    async with UntilTheFirstFetch(target) as proxy:
        broker = Broker(
            port=target, properties=f"advertised.listeners=PLAINTEXT://127.0.0.1:{proxy.port}"
        )
        try:
            await asyncio.to_thread(broker.start)
            settings = {
                "TIDINGS_LOG": f"kafka://127.0.0.1:{proxy.port}",
                "TIDINGS_PARTITIONS": "4",
                **KEY,
            }
            service = TidingsProcess(tmp_path, settings, ("serve", "--role", roles))
            await service.launch()
            await asyncio.wait_for(proxy.frozen.wait(), 60)
            service.signal(signal.SIGTERM)
            assert await service.ended(SOON) == 0
            assert "Traceback" not in service.output
            assert "Unclosed client session" not in service.output
        finally:
            broker.close()
