"""Growing texts beside what people build by hand: a Redis stream for each answer, read with XREAD.

The first table: 200 answers at 50 tokens a second, each with a viewer of its own on a WebSocket and without a joining
window, through `tidings serve` on SQLite and on Kafka, and through a small aiohttp server that waits with XREAD for each
viewer; one after the other in the same run. The pieces come from another process. CPU is in microseconds for each
delivered piece: of the service, of who produces (with SQLite that is where the log is written), and of the server of
others (Valkey, Kafka's broker). `together` counts all three, `without` leaves that server out; cores are without it.

The second table: one answer that 50 read, of whom one stops for a while: what that does to the others, and in how many
messages it then gets the rest.

    python -m benchmarks.bench_text_streams [--answers 200] [--seconds 5] [--only kafka,sqlite,redis,stop]
"""

import argparse
import asyncio
import itertools
import json
import os
import re
import resource
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from statistics import quantiles
from typing import Any

import redis.asyncio
import uvloop
from aiohttp import web
from websockets.frames import Frame, Opcode

from benchmarks.push_clients import HANDSHAKE, PONG
from tests.support.broker import Broker
from tests.support.servers import Valkey
from tests.support.tidings_process import TidingsProcess
from tidings.streams.log.factory import open_log
from tidings.streams.log.protocol import EVENTS, NewRecord

RATE = 50
TICK = 0.01
"""Seconds between appends: each has what came due."""
WARM = 1.5
STAMP = re.compile(rb"(\d{10}\.\d{4})\|")
READERS = 50

Send = Callable[[list[tuple[str, str]]], Awaitable[object]]


class Viewer(asyncio.Protocol):
    """Watches one answer, and notes how long each piece took to come."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.took: list[tuple[float, float]] = []
        """When each piece was made, and the seconds that it took to come."""
        self.ready = asyncio.Event()
        self.pieces: list[tuple[float, int]] = []
        """Of one that may stop: per message when its last piece was made, and how many it had."""
        self.noting = False
        self._last, self._rest = b"", b""

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        asked = {"type": "subscribe", "predictions": [self.name], "text": "append"}
        frame = Frame(Opcode.TEXT, json.dumps(asked).encode()).serialize(mask=True)
        transport.write(HANDSHAKE.format("").encode() + frame)

    def data_received(self, data: bytes) -> None:
        now = time.time()
        if b"\x89\x00" in data:
            self.transport.write(PONG)
        if not self.ready.is_set() and b'"synced"' in data:
            self.ready.set()
        data = self._rest + data
        if self.noting:
            for message in data.split(b'"type":"append"')[1:]:
                if times := [float(found[1]) for found in STAMP.finditer(message)]:
                    self.pieces.append((times[-1], len(times)))
        end = 0
        for found in STAMP.finditer(data):
            end = found.end()
            if found[1] > self._last:  # a whole record repeats what came
                self._last = found[1]
                made = float(found[1])
                self.took.append((made, now - made))
        self._rest = data[max(end, len(data) - 16) :]


async def watch(port: int, name: str) -> Viewer:
    """A viewer that is subscribed."""
    loop = asyncio.get_running_loop()
    _, viewer = await loop.create_connection(lambda: Viewer(name), "127.0.0.1", port)
    async with asyncio.timeout(20):
        await viewer.ready.wait()
    return viewer


# ---- who produces, in a process of its own ----


@asynccontextmanager
async def sending(url: str) -> AsyncIterator[Send]:
    """A way to append pieces."""
    if url.startswith("redis"):
        client = redis.asyncio.Redis.from_url(url)

        async def add(pieces: list[tuple[str, str]]) -> None:
            pipeline = client.pipeline(transaction=False)
            for name, text in pieces:
                pipeline.xadd(name, {"text": text})
            await pipeline.execute()

        yield add
        await client.aclose()
        return
    log = await open_log(url)

    async def append(pieces: list[tuple[str, str]]) -> None:
        def event(name: str, text: str) -> NewRecord:
            value = {"type": "append", "predictionId": name, "text": text}
            return NewRecord(name.encode(), json.dumps(value).encode())

        await log.append(EVENTS, [event(name, text) for name, text in pieces])

    yield append
    await log.close()


def stamp(time_: int) -> str:
    """A time in units of 0.1 ms, as `STAMP` finds it."""
    return f"{time_ // 10_000}.{time_ % 10_000:04}|"


async def produce(url: str, answers: int, seconds: float) -> None:
    """Pieces for all answers at the rate, each with the time it was made; prints its CPU."""
    loop = asyncio.get_running_loop()
    async with sending(url) as send:
        begun, sent, last, spent = loop.time(), 0, 0, 0.0
        while (passed := loop.time() - begun) < WARM + seconds:
            if passed < WARM:
                spent = cpu_of(os.getpid())
            due = int(passed * RATE * answers)
            if due > sent:
                # In steps of 0.1 ms, so that no two pieces of an answer have the same.
                last = max(round(time.time() * 10_000), last + (due - sent) // answers + 1)
                pieces = [
                    (f"a{n % answers}", stamp(last - (due - 1 - n) // answers))
                    for n in range(sent, due)
                ]
                await send(pieces)
                sent = due
            await asyncio.sleep(TICK)
        print(json.dumps({"sent": sent, "cpu": cpu_of(os.getpid()) - spent}))


# ---- by hand ----


async def by_hand(url: str, port_file: str) -> None:
    """What one writes oneself: each viewer waits with XREAD for its answer's stream."""
    client: Any = redis.asyncio.Redis.from_url(url, max_connections=2000)

    async def handle(request: web.Request) -> web.WebSocketResponse:
        socket_ = web.WebSocketResponse(protocols=("tidings.v1",), compress=False)
        await socket_.prepare(request)
        name = json.loads(await socket_.receive_str())["predictions"][0]
        await socket_.send_str('{"type":"synced"}')
        last = b"0"
        while not socket_.closed:
            found = await client.xread({name: last}, block=1000, count=100)
            for _, entries in found:
                for identity, fields in entries:
                    text = fields[b"text"].decode()
                    message = {"type": "append", "id": identity.decode(), "text": text}
                    await socket_.send_str(json.dumps(message))
                    last = identity
        return socket_

    app = web.Application()
    app.router.add_get("/api/ws", handle)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    Path(port_file).write_text(str(runner.addresses[0][1]))  # noqa: ASYNC240 -- once, at the start
    await asyncio.Event().wait()


# ---- the measurement ----


def cpu_of(pid: int | None) -> float:
    """CPU seconds of a process so far."""
    if pid is None:
        return 0.0
    if pid == os.getpid():
        usage = resource.getrusage(resource.RUSAGE_SELF)
        return usage.ru_utime + usage.ru_stime
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def producing(url: str, answers: int, seconds: float) -> dict[str, float]:
    """Run a producer; what it says at its end."""
    given = ["--produce", url, str(answers), str(seconds)]
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "benchmarks.bench_text_streams",
        *given,
        stdout=asyncio.subprocess.PIPE,
    )
    said, _ = await process.communicate()
    assert process.returncode == 0
    result: dict[str, float] = json.loads(said.splitlines()[-1])  # before it, its log's words
    return result


@asynccontextmanager
async def tidings(settings: dict[str, str]) -> AsyncIterator[TidingsProcess]:
    """A real `tidings serve`."""
    with tempfile.TemporaryDirectory() as folder:
        program = (sys.executable, "-m", "tidings")
        process = TidingsProcess(Path(folder), settings, program=program)
        await process.start()
        try:
            yield process
        finally:
            await process.stop()


async def measure(
    title: str, url: str, port: int, pids: tuple[int, int | None], answers: int, seconds: float
) -> None:
    """A row of the first table; `pids`: of the service, and of the server behind it."""
    viewers = [await watch(port, f"a{number}") for number in range(answers)]
    task = asyncio.create_task(producing(url, answers, seconds))
    while not viewers[0].took:  # noqa: ASYNC110 -- an event would cost at each piece
        await asyncio.sleep(0.01)
    begun = viewers[0].took[0][0] + WARM
    await asyncio.sleep(begun - time.time())
    before = [cpu_of(pid) for pid in pids]
    await asyncio.sleep(begun + seconds - time.time())
    spent = [cpu_of(pid) - was for pid, was in zip(pids, before, strict=True)]
    said = await task
    async with asyncio.timeout(20):
        while sum(len(viewer.took) for viewer in viewers) < said["sent"]:  # noqa: ASYNC110 -- as above
            await asyncio.sleep(0.05)
    took = [
        one for viewer in viewers for made, one in viewer.took if begun <= made < begun + seconds
    ]
    cuts = quantiles(took, n=100)
    each = [part / len(took) * 1e6 for part in (spent[0], said["cpu"], spent[1])]
    without = each[0] + each[1]
    print(
        f"{title:26}{len(took):8,}{cuts[49] * 1e3:8.1f}{cuts[98] * 1e3:8.1f}"
        f"{(without * len(took) / 1e6) / seconds:7.2f}{each[0]:9.1f}{each[1]:9.1f}{each[2]:9.1f}"
        f"{without:9.1f}{sum(each):9.1f}",
        flush=True,
    )
    for viewer in viewers:
        viewer.transport.abort()


async def on_sqlite(answers: int, seconds: float) -> None:
    async with tidings({"TIDINGS_TEXT_WINDOW": "0"}) as served:
        assert served.process is not None
        url = f"sqlite:///{served.folder}/data/log.db"
        pids = (served.process.pid, None)
        await measure("tidings, SQLite", url, served.port, pids, answers, seconds)


async def on_kafka(answers: int, seconds: float) -> None:
    broker = Broker()
    broker.start()
    try:
        url = f"kafka://{broker.bootstrap}"
        async with tidings({"TIDINGS_TEXT_WINDOW": "0", "TIDINGS_LOG": url}) as served:
            assert served.process is not None
            pids = (served.process.pid, broker.pid)
            await measure("tidings, Kafka", url, served.port, pids, answers, seconds)
    finally:
        broker.close()


async def on_redis(answers: int, seconds: float) -> None:
    for title, options in (
        ("by hand, in memory alone", ("--appendonly", "no")),
        ("by hand, flushed", ()),
    ):
        valkey = Valkey(*options)
        valkey.start()
        url = valkey.url.replace("valkey:", "redis:")
        try:
            with tempfile.TemporaryDirectory() as folder:
                file = Path(folder) / "port"
                given = ["--serve-by-hand", url, str(file)]
                process = await asyncio.create_subprocess_exec(
                    sys.executable, "-m", "benchmarks.bench_text_streams", *given
                )
                while not file.exists() or not file.read_text():  # noqa: ASYNC110 -- a file
                    await asyncio.sleep(0.02)
                pids = (process.pid, valkey.pid)
                try:
                    await measure(title, url, int(file.read_text()), pids, answers, seconds)
                finally:
                    process.kill()
                    await process.wait()
        finally:
            valkey.close()


async def stopping(stopped: float) -> None:
    """The second table."""
    around = 5.0
    async with tidings({}) as served:
        url = f"sqlite:///{served.folder}/data/log.db"
        readers = [await watch(served.port, "a0") for _ in range(READERS)]
        slow = await watch(served.port, "a0")
        task = asyncio.create_task(producing(url, 1, 2 * around + stopped))
        while not readers[0].took:  # noqa: ASYNC110 -- an event would cost at each piece
            await asyncio.sleep(0.01)
        edges = [time.time() + WARM]
        edges += [edges[0] + around, edges[0] + around + stopped, edges[0] + 2 * around + stopped]
        await asyncio.sleep(edges[1] - time.time())
        slow.transport.pause_reading()
        behind = len(slow.took)
        await asyncio.sleep(edges[2] - time.time())
        missed = len(readers[0].took) - behind
        slow.noting = True
        slow.transport.resume_reading()
        await asyncio.sleep(1)
        slow.noting = False
        said = await task
        async with asyncio.timeout(10):
            while min(len(one.took) for one in readers) < said["sent"]:  # noqa: ASYNC110 -- as above
                await asyncio.sleep(0.05)
            while slow.took[-1][0] < readers[0].took[-1][0]:  # noqa: ASYNC110 -- as above
                await asyncio.sleep(0.05)
    print(f"\none answer, {RATE} pieces a second, {READERS} readers and one that stops")
    print(f"{'the others':26}{'p50 ms':>8}{'p99 ms':>8}{'p99 ratio':>11}")
    rows = []
    for first, last in itertools.pairwise(edges):
        took = [one for reader in readers for made, one in reader.took if first <= made < last]
        cuts = quantiles(took, n=100)
        rows.append((cuts[49] * 1e3, cuts[98] * 1e3))
    usual = (rows[0][1] + rows[2][1]) / 2
    for title, (p50, p99) in zip(
        ("all read", "one has stopped", "all read again"), rows, strict=True
    ):
        print(f"{title:26}{p50:8.1f}{p99:8.1f}{p99 / usual:11.2f}")
    late = [(made, count) for made, count in slow.pieces if made <= edges[2]]
    most = max([count for _, count in slow.pieces], default=0)
    print(
        f"the one that stopped missed {missed:,} pieces; on its return it got {most:,} of them in one message, "
        f"behind {max(0, len(late) - 1)} that were under way when it stopped"
    )


async def main(arguments: argparse.Namespace) -> None:
    ways = {"redis": on_redis, "sqlite": on_sqlite, "kafka": on_kafka}
    wanted = [one for one in arguments.only.split(",") if one in ways]
    if wanted:
        print(
            f"{arguments.answers} answers at {RATE} tokens/s, {arguments.seconds:.0f} s; us of CPU a piece"
        )
        heads = (
            "pieces",
            "p50 ms",
            "p99 ms",
            "cores",
            "service",
            "producer",
            "server",
            "without",
            "together",
        )
        widths = (8, 8, 8, 7, 9, 9, 9, 9, 9)
        print(" " * 26 + "".join(f"{h:>{w}}" for h, w in zip(heads, widths, strict=True)))
    for way in wanted:
        await ways[way](arguments.answers, arguments.seconds)
    if "stop" in arguments.only.split(","):
        await stopping(arguments.stopped)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--answers", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--stopped", type=float, default=20.0)
    parser.add_argument("--only", default="redis,sqlite,kafka,stop")
    parser.add_argument("--produce", nargs=3)
    parser.add_argument("--serve-by-hand", nargs=2)
    parsed = parser.parse_args()
    if parsed.produce:
        url, answers, seconds = parsed.produce
        uvloop.run(produce(url, int(answers), float(seconds)))
    elif parsed.serve_by_hand:
        uvloop.run(by_hand(*parsed.serve_by_hand))
    else:
        uvloop.run(main(parsed))
