"""What a lone webhook costs through everything, beside the least that a durable one can cost: CPU and context switches.

The service is one `tidings serve` on SQLite and on a real Kafka broker, pinned to one core, with webhooks at a steady pace
from the other one. The least is aiohttp on uvloop, an HMAC over the raw body, and one SQLite commit that waits for the
disk. All of them take turns; the first column is the ratio.

    python -m benchmarks.bench_lone_event [--rates 20,100,500] [--seconds 4] [--rounds 2] [--without-kafka]
"""

import argparse
import asyncio
import base64
import hashlib
import hmac
import json
import os
import sqlite3
import sys
import tempfile
import uuid
from contextlib import AsyncExitStack
from pathlib import Path
from statistics import median

import uvloop
from aiohttp import web

from benchmarks.bench_latency import CONNECTIONS, Poster, request
from tests.support.broker import Broker
from tests.support.tidings_process import TidingsProcess
from tests.support.webhooks import SECRET

SERVICE_CORE, CLIENT_CORE = {0}, {1}
WARM = 50
"""Webhooks that are not counted."""


def bare(port_file: Path, folder: Path) -> None:
    """Serve the least: proof, one durable commit, an answer."""
    key = base64.b64decode(SECRET.removeprefix("whsec_") + "=")
    db = sqlite3.connect(folder / "bare.db", isolation_level=None)
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = FULL")
    db.execute("CREATE TABLE records (id TEXT PRIMARY KEY, doc BLOB)")

    async def receive(asked: web.Request) -> web.Response:
        body, headers = await asked.read(), asked.headers
        said = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
        mac = base64.b64encode(hmac.new(key, said, hashlib.sha256).digest()).decode()
        if not hmac.compare_digest("v1," + mac, headers["webhook-signature"]):
            return web.Response(status=401)
        db.execute("BEGIN IMMEDIATE")
        db.execute("REPLACE INTO records VALUES (?, ?)", (json.loads(body)["id"], body))
        db.execute("COMMIT")
        return web.json_response({"success": True})

    async def serve() -> None:
        app = web.Application()
        app.router.add_post("/api/webhooks/replicate", receive)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        port_file.write_text(str(runner.addresses[0][1]))  # noqa: ASYNC240 - once, before it serves
        await asyncio.Event().wait()

    uvloop.run(serve())


def used(pid: int) -> tuple[float, int]:
    """CPU seconds and context switches of a process so far, over all of its threads."""
    seconds, switches = 0.0, 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        seconds += int((task / "schedstat").read_text().split()[0]) / 1e9
        for line in (task / "status").read_text().splitlines():
            if "ctxt_switches" in line:
                switches += int(line.split()[1])
    return seconds, switches


def pin(pid: int, cores: set[int]) -> None:
    """Keep all threads of a process on these cores."""
    for task in Path(f"/proc/{pid}/task").iterdir():
        os.sched_setaffinity(int(task.name), cores)


class Client:
    """Posts webhooks at a pace, each of a prediction of its own."""

    def __init__(self) -> None:
        self.number = 0
        self.free: asyncio.Queue[Poster] = asyncio.Queue()

    async def connect(self, port: int) -> None:
        loop = asyncio.get_running_loop()
        for _ in range(CONNECTIONS):
            self.free.put_nowait((await loop.create_connection(Poster, "127.0.0.1", port))[1])

    def prepared(self, count: int) -> list[bytes]:
        """Signed requests, made before anything is measured."""
        made = []
        for _ in range(count):
            self.number += 1
            fields = {"id": f"lone-{self.number}", "status": "starting", "input": {"p": "x" * 300}}
            made.append(request("/api/webhooks/replicate", json.dumps(fields).encode()))
        return made

    async def post(self, one: bytes) -> None:
        poster = await self.free.get()
        await poster.post(one)
        self.free.put_nowait(poster)

    async def pace(self, requests: list[bytes], rate: int) -> None:
        loop = asyncio.get_running_loop()
        started, tasks = loop.time(), []
        for number, one in enumerate(requests):
            await asyncio.sleep(max(0.0, started + number / rate - loop.time()))
            tasks.append(asyncio.create_task(self.post(one)))
        await asyncio.gather(*tasks)
        await asyncio.sleep(0.5)


async def measure(
    kind: str, settings: dict[str, str], rates: list[int], seconds: float
) -> dict[int, tuple[float, float]]:
    """Microseconds and context switches of an event, by rate, on a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        program = None
        if kind == "least":
            program = (sys.executable, "-m", "benchmarks.bench_lone_event", "--bare", folder)
        service = TidingsProcess(
            Path(folder),
            {**settings, "TIDINGS_REPLICATE_SECRET": SECRET, "TIDINGS_ARCHIVE": "off"},
            program=program,
        )
        await service.start()
        try:
            assert service.process is not None
            pid = service.process.pid
            pin(pid, SERVICE_CORE)
            client = Client()
            await client.connect(service.port)
            await client.pace(client.prepared(WARM), 200)
            found = {}
            for rate in rates:
                requests = client.prepared(int(rate * seconds))
                cpu, switches = used(pid)
                await client.pace(requests, rate)
                cpu_after, switches_after = used(pid)
                count = len(requests)
                found[rate] = ((cpu_after - cpu) / count * 1e6, (switches_after - switches) / count)
            return found
        finally:
            await service.stop()


async def run(rates: list[int], seconds: float, rounds: int, kafka: bool) -> None:
    """Interleaved rounds; prints the table."""
    os.sched_setaffinity(0, CLIENT_CORE)
    async with AsyncExitStack() as stack:
        kinds: dict[str, dict[str, str]] = {"least": {}, "SQLite": {}}
        if kafka:
            broker = Broker()
            stack.callback(broker.close)
            await asyncio.to_thread(broker.start)
            kinds["Kafka"] = {"TIDINGS_LOG": f"kafka://{broker.bootstrap}"}
            kinds["Kafka"]["TIDINGS_PARTITIONS"] = "4"
        found: dict[tuple[str, int], list[tuple[float, float]]] = {}
        for _ in range(rounds):
            for kind, settings in kinds.items():
                if kind == "Kafka":
                    settings = {**settings, "TIDINGS_TOPIC_PREFIX": f"l{uuid.uuid4().hex[:8]}."}
                for rate, figures in (await measure(kind, settings, rates, seconds)).items():
                    found.setdefault((kind, rate), []).append(figures)
    print("| one webhook | x the least | CPU us | context switches |\n|---|---|---|---|")
    for (kind, rate), all_figures in sorted(found.items(), key=lambda one: one[0][1]):
        least = [cpu for cpu, _ in found["least", rate]]
        ratio = median(cpu / low for (cpu, _), low in zip(all_figures, least, strict=True))
        cpu, switches = (median(values) for values in zip(*all_figures, strict=True))
        print(f"| {kind}, {rate}/s | {ratio:.2f} | {cpu:.0f} | {switches:.1f} |")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rates", default="20,100,500")
    parser.add_argument("--seconds", type=float, default=4)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--without-kafka", action="store_true")
    parser.add_argument("--bare", help=argparse.SUPPRESS)
    parser.add_argument("--port-file", help=argparse.SUPPRESS)
    chosen, _ = parser.parse_known_args()
    if chosen.bare is not None:
        bare(Path(chosen.port_file), Path(chosen.bare))
        return
    rates = [int(rate) for rate in chosen.rates.split(",")]
    uvloop.run(run(rates, chosen.seconds, chosen.rounds, not chosen.without_kafka))


if __name__ == "__main__":
    main()
