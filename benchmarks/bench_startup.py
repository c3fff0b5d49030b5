"""How long `tidings serve` takes from the command to its first answer at /readyz, and what it weighs then: embedded, and
on Kafka with topics that are there. Beside it an aiohttp application that does nothing but answer, started the same way.

Medians of 5 starts of each, in turn; memory is what the kernel counts as resident, files of libraries included.

    python -m benchmarks.bench_startup [--rounds 5] [--no-kafka]
"""

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import NamedTuple

ROOT = Path(__file__).parent.parent
TARGETS = {"embedded": 1.0, "Kafka": 3.0}
MEMORY = 70
LIMIT = 60.0

BARE = """
import sys
from pathlib import Path
from aiohttp import web

async def answer(request):
    return web.Response(text="ready")

async def main():
    app = web.Application()
    app.router.add_get("/readyz", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    Path(sys.argv[1]).write_text(str(site._server.sockets[0].getsockname()[1]))
    await asyncio.Event().wait()

import asyncio
import uvloop
uvloop.run(main())
"""


class Start(NamedTuple):
    """What one start took."""

    seconds: float
    """To the first answer."""
    cpu: float
    """Seconds of processor time by then."""
    memory: float
    """MB resident."""


@contextmanager
def started(command: list[str], folder: Path, settings: dict[str, str]) -> Iterator[Start]:
    """Start it, wait for its answer, and end it."""
    port = folder / f"port-{uuid.uuid4().hex[:8]}"
    full = [*command, str(port)]
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), **settings}
    begun = time.perf_counter()
    with subprocess.Popen(full, cwd=folder, env=environment, stderr=subprocess.DEVNULL) as process:
        try:
            while not answers(port):
                if process.poll() is not None or time.perf_counter() - begun > LIMIT:
                    raise SystemExit(f"{' '.join(full)} did not come up")
                time.sleep(0.002)
            seconds = time.perf_counter() - begun
            fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
            cpu = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
            pages = int(Path(f"/proc/{process.pid}/statm").read_text().split()[1])
            yield Start(seconds, cpu, pages * os.sysconf("SC_PAGE_SIZE") / 2**20)
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(20)


def answers(port: Path) -> bool:
    """Whether it is ready by its own word."""
    if not port.exists() or not (text := port.read_text()).strip():
        return False
    try:
        with urllib.request.urlopen(
            f"http://127.0.0.1:{text.split()[0]}/readyz", timeout=5
        ) as response:
            return bool(response.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def measure(rounds: int, kafka: str | None) -> dict[str, list[Start]]:
    """Interleaved starts; the first of each is for the disk's cache and not counted."""
    serve = [sys.executable, "-m", "tidings", "serve", "--port", "0", "--port-file"]
    kinds: dict[str, tuple[list[str], dict[str, str]]] = {
        "a bare aiohttp application": ([sys.executable, "-c", BARE], {}),
        "embedded": (serve, {}),
    }
    if kafka is not None:
        kinds["Kafka"] = (
            serve,
            {"TIDINGS_LOG": kafka, "TIDINGS_TOPIC_PREFIX": f"s{uuid.uuid4().hex[:8]}."},
        )
    found: dict[str, list[Start]] = {kind: [] for kind in kinds}
    with tempfile.TemporaryDirectory() as name:
        for kind in kinds:
            (Path(name) / kind).mkdir()
        for turn in range(rounds + 1):
            for kind, (command, settings) in kinds.items():
                with started(command, Path(name) / kind, settings) as start:
                    if turn:
                        found[kind].append(start)
    return found


def show(found: dict[str, list[Start]]) -> None:
    """Print the table."""
    bare = median(start.seconds for start in found["a bare aiohttp application"])
    print("| start of | ready after s | x bare | at most | CPU s | resident MB | at most |")
    print("|---|---|---|---|---|---|---|")
    for kind, starts in found.items():
        seconds, cpu, memory = (
            median(getattr(start, name) for start in starts) for name in Start._fields
        )
        most, weight = (TARGETS[kind], MEMORY) if kind in TARGETS else ("", "")
        print(
            f"| {kind} | {seconds:.2f} | {seconds / bare:.1f} | {most} | {cpu:.2f} | {memory:.1f} | {weight} |"
        )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--no-kafka", action="store_true")
    arguments, _ = parser.parse_known_args()
    if arguments.no_kafka:
        show(measure(arguments.rounds, None))
        return
    from tests.support.broker import Broker

    broker = Broker()
    try:
        broker.start()
        show(measure(arguments.rounds, f"kafka://{broker.bootstrap}"))
    finally:
        broker.close()


if __name__ == "__main__":
    main()
