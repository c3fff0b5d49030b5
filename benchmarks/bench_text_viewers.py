"""Growing texts above the processor: what a viewer costs in bytes and time.

Three tables:

1. One answer of 2,000 tokens (12 KB) at 50 a second: bytes of frames for a viewer that gets pieces, and for one that gets
   whole records, in the same run.
2. Many answers at 50 tokens a second each: from a piece's append to the viewer that has it, and CPU of the service.
3. One answer to 1,000 viewers: CPU a delivery, beside a bare loop of writes in the same process.

    python -m benchmarks.bench_text_viewers [--seconds 10] [--tokens 2000] [--only 1,2,3]
"""

import argparse
import asyncio
import json
import os
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import uvloop
from websockets.asyncio.client import ClientConnection, connect
from websockets.typing import Subprotocol

from benchmarks.push_clients import Counter, Server
from benchmarks.push_clients import connect as connect_many
from tests.support.tidings_process import TidingsProcess
from tidings.client.client import Client
from tidings.streams.log.factory import open_log
from tidings.streams.log.protocol import EVENTS, NewRecord

RATE = 50
ANSWERS = 100
TICK = 0.01
VIEWERS = 1_000

Send = Callable[[list[tuple[str, str]]], Awaitable[None]]


@asynccontextmanager
async def service(window: float) -> AsyncIterator[TidingsProcess]:
    """A real `tidings serve` on SQLite."""
    with tempfile.TemporaryDirectory() as folder:
        settings = {"TIDINGS_TEXT_WINDOW": str(window)}
        program = (sys.executable, "-m", "tidings")
        process = TidingsProcess(Path(folder), settings, program=program)
        await process.start()
        try:
            yield process
        finally:
            await process.stop()


@asynccontextmanager
async def viewer(service: TidingsProcess, **asked: Any) -> AsyncIterator[ClientConnection]:
    """A session that has subscribed."""
    async with connect(
        service.ws_url,
        subprotocols=[Subprotocol("tidings.v1")],
        compression=None,
        max_size=None,
        proxy=None,
    ) as client:
        await client.send(json.dumps({"type": "subscribe", **asked}))
        while json.loads(await client.recv())["type"] != "synced":
            pass
        yield client


async def count(client: ClientConnection, found: list[int]) -> None:
    """Bytes of every frame, its header included."""
    async for data in client:
        size = len(data if isinstance(data, bytes) else data.encode())
        found.append(size + (2 if size < 126 else 4 if size < 65_536 else 10))
        if '"status":"succeeded"' in str(data):
            return


async def one_viewer(tokens: int) -> None:
    """The first table."""
    async with (
        service(0.04) as served,
        viewer(served, predictions=["p1"], text="append") as pieces,
        viewer(served, predictions=["p1"]) as whole,
        Client(served.url) as client,
    ):
        frames: list[int] = []
        records: list[int] = []
        counting = [
            asyncio.create_task(count(pieces, frames)),
            asyncio.create_task(count(whole, records)),
        ]
        async with client.text("p1") as text:
            for _ in range(tokens):
                await text.write("token ")
                await asyncio.sleep(1 / RATE)
        await asyncio.gather(*counting)
    print(f"\n{tokens:,} tokens, {6 * tokens:,} bytes of text, at {RATE}/s")
    print(f"{'viewer':28}{'frames':>8}{'bytes':>12}{'x the text':>12}")
    for name, sizes in (("pieces", frames), ("whole records", records)):
        print(f"{name:28}{len(sizes):>8,}{sum(sizes):>12,}{sum(sizes) / (6 * tokens):>12.1f}")


def cpu_of(*pids: int) -> float:
    """CPU seconds of these processes so far."""
    spent = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        spent += int(fields[11]) + int(fields[12])
    return spent / os.sysconf("SC_CLK_TCK")


async def produce(send: Send, answers: int, seconds: float) -> int:
    """Pieces for all answers at the rate, each with the time it was made; returns how many."""
    loop = asyncio.get_running_loop()
    begun, sent = loop.time(), 0
    while (spent := loop.time() - begun) < seconds:
        due = int(spent * RATE * answers)
        if due > sent:
            now = f"{time.time():.4f}|"
            await send([(f"a{number % answers}", now) for number in range(sent, due)])
            sent = due
        await asyncio.sleep(TICK)
    return sent


async def latencies(client: ClientConnection, found: list[float]) -> None:
    """Seconds from each piece's making to its arrival."""
    while True:
        data = await client.recv(decode=False)
        now = time.time()
        begins = data.find(b'"text":"') + 8  # as JSON it would cost more than all the rest
        if begins > 8:
            text = data[begins : data.index(b'"', begins)]
            found += [now - float(part) for part in text.split(b"|") if part]


async def enough(found: list[float], sent: int) -> None:
    """Wait until nearly all pieces have come."""
    async with asyncio.timeout(20):
        while len(found) < 0.95 * sent:  # noqa: ASYNC110 - another task counts
            await asyncio.sleep(0.05)


async def ours(answers: int, seconds: float) -> tuple[list[float], float]:
    """Latencies, and CPU seconds of the service a second."""
    async with service(0) as served:
        log = await open_log(f"sqlite:///{served.folder}/data/log.db")

        async def send(pieces: list[tuple[str, str]]) -> None:
            def event(name: str, text: str) -> NewRecord:
                value = {"type": "append", "predictionId": name, "text": text}
                return NewRecord(name.encode(), json.dumps(value).encode())

            await log.append(EVENTS, [event(name, text) for name, text in pieces])

        async with viewer(served, all=True, text="append") as client:
            found: list[float] = []
            hearing = asyncio.create_task(latencies(client, found))
            await produce(send, answers, 1.0)
            found.clear()
            assert served.process is not None
            before = cpu_of(served.process.pid)
            sent = await produce(send, answers, seconds)
            spent = cpu_of(served.process.pid) - before
            await enough(found, sent)
            hearing.cancel()
        await log.close()
    return found, spent / seconds


async def many_answers(answers: int, seconds: float) -> None:
    """The second table."""
    print(f"\n{answers} answers at {RATE} tokens/s each, {seconds:.0f} s, no joining window")
    print(f"{'':28}{'pieces':>9}{'p50 ms':>9}{'p99 ms':>9}{'cores':>7}{'us a piece':>12}")
    found, cores = await ours(answers, seconds)
    cuts = quantiles(found, n=100)
    each = cores * seconds / max(1, len(found)) * 1e6
    print(
        f"{'tidings, SQLite':28}{len(found):>9,}{median(found) * 1e3:>9.1f}{cuts[98] * 1e3:>9.1f}"
        f"{cores:>7.2f}{each:>12.1f}"
    )


def appended(_: int) -> bytes:
    return b'{"type":"subscribe","predictions":["the-text"],"text":"append"}'


async def fan_out(rounds: int) -> None:
    """The third table."""
    server = Server()
    counter = Counter()
    try:
        port = (await server("start_text"))["port"]
        await connect_many(port, VIEWERS, counter, appended)
        found: dict[bool, list[float]] = {False: [], True: []}
        for _ in range(rounds):
            for bare in (True, False):
                answer = await server("paced_text", bare=bare, rounds=20, every=0.04)
                found[bare].append(answer["cpu"] / (VIEWERS * 20) * 1e6)
    finally:
        server.close()
    mine, least = median(found[False]), median(found[True])
    print(f"\none answer to {VIEWERS:,} viewers, a piece every 40 ms")
    print(f"{'ours us':>9}{'bare us':>9}{'ratio':>7}")
    print(f"{mine:>9.2f}{least:>9.2f}{mine / least:>7.2f}")


async def main(arguments: argparse.Namespace) -> None:
    wanted = set(arguments.only.split(","))
    if "1" in wanted:
        await one_viewer(arguments.tokens)
    if "2" in wanted:
        await many_answers(arguments.answers, arguments.seconds)
    if "3" in wanted:
        await fan_out(5)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--tokens", type=int, default=2_000)
    parser.add_argument("--answers", type=int, default=ANSWERS)
    parser.add_argument("--only", default="1,2,3")
    uvloop.run(main(parser.parse_args()))
