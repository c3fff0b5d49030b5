"""Readers of one answer through cuts and over gateways that are killed and started again."""

import asyncio
from pathlib import Path

import pytest

from tests.support.conditions import lasting
from tests.support.faulty_proxy import FaultyProxy
from tests.support.tidings_process import TidingsProcess
from tidings.client.client import Client

KEY = "a key of the tests for webhook addresses"


class Reader:
    """Reads a text piece by piece."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.pieces: list[str] = []
        self.replaced = False

    async def run(self) -> None:
        async with Client(self.url, heartbeat=2.0) as client:
            text = client.text("answer")
            async for piece in text:
                self.replaced |= text.replaced
                self.pieces.append(piece)


@pytest.mark.parametrize(
    ("readers", "seconds"),
    [(12, 9), pytest.param(100, 60, marks=pytest.mark.long)],
)
async def test_each_reader_gets_each_byte_once(
    tmp_path: Path, log_settings: dict[str, str], readers: int, seconds: int
) -> None:
    """Cut for 2 s every 5 s over two restarting gateways, each reader ends with exactly the text, and no byte twice."""
    settings = {
        "TIDINGS_WEBHOOK_KEY": KEY,
        "TIDINGS_LOG": f"sqlite:///{tmp_path}/log.db",
        "TIDINGS_STORE": f"sqlite:///{tmp_path}/store.db",
        **log_settings,
    }
    processor = TidingsProcess(tmp_path, settings, ("serve", "--role", "processor"))
    gateways = [
        TidingsProcess(tmp_path, settings, ("serve", "--role", "gateway")) for _ in range(2)
    ]
    await processor.start()
    for gateway in gateways:
        await gateway.start()
    try:
        async with (
            FaultyProxy(gateways[0].port) as first,
            FaultyProxy(gateways[1].port) as second,
            Client(gateways[0].url) as direct,
        ):
            proxies = (first, second)
            reading = [Reader(f"http://127.0.0.1:{proxies[n % 2].port}") for n in range(readers)]
            async with asyncio.TaskGroup() as tasks:
                for reader in reading:
                    tasks.create_task(reader.run())
                trouble = tasks.create_task(disturb(gateways, proxies, seconds))
                whole = await write(direct, trouble)
            for reader in reading:
                assert "".join(reader.pieces) == whole
                assert not reader.replaced
    finally:
        for process in (*gateways, processor):
            await process.stop()


async def write(client: Client, trouble: "asyncio.Task[None]") -> str:
    """Write words until the trouble is over; returns all of them."""
    words: list[str] = []
    async with client.text("answer") as text:
        while not trouble.done():
            words.append(f"wörd {len(words)} 🎉 ")
            await text.write(words[-1])
            await lasting(0.02)
    return "".join(words)


async def disturb(
    gateways: list[TidingsProcess], proxies: tuple[FaultyProxy, ...], seconds: int
) -> None:
    """Cut each proxy's readers for 2 s every 5 s, and kill a gateway in turn meanwhile."""
    loop = asyncio.get_running_loop()
    end, turn = loop.time() + seconds, 0
    while loop.time() < end:
        await lasting(3.0)
        for proxy in proxies:
            proxy.cut()
            proxy.freeze()
        gateway = gateways[turn % 2]
        turn += 1
        await gateway.kill()
        await gateway.start()
        await lasting(1.0)
        for proxy in proxies:
            proxy.cut()
            proxy.thaw()
