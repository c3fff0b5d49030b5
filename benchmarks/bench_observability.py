"""What watching costs: a processor (SQLite log and store, both FULL) bare; with its metrics, read once a second, as the
service has them; and with traces too, of which 1% of the events are sampled, sent to a collector on loopback.

The same 60,000 events of 20,000 predictions each time, every round in a process of its own, the three kinds in turn. The ratios
are medians of those within a round, so that what else the machine does counts for all three alike; the CPU time is our
process' own.

    python -m benchmarks.bench_observability [--events 60000] [--rounds 5] [--sample 0.01]
"""

import argparse
import asyncio
import itertools
import random
import shutil
import tempfile
import time
from contextlib import AsyncExitStack
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from statistics import median
from threading import Thread
from typing import Any

import uvloop

from benchmarks.bench_processor import STATUSES, alone, event

KINDS = ("bare", "metrics", "metrics and traces")
TARGETS = {"metrics": 0.95, "metrics and traces": 0.92}
APART = 6_000
"""Events between two of one prediction: more than a batch holds, so that none of them fold."""


class Collector(BaseHTTPRequestHandler):
    """Takes spans and forgets them."""

    received = itertools.count()

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        next(self.received)
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


async def fill(folder: Path, events: int, sample: float) -> None:
    """Write the events; some carry a sampled `traceparent`."""
    from tidings.streams.log.factory import open_log
    from tidings.streams.log.protocol import EVENTS, NewRecord

    log = await open_log(f"sqlite:///{folder}/log.db")
    chance = random.Random(1)
    count = events // 3
    order = [
        (number, status)
        for first in range(0, count, APART)
        for status in STATUSES
        for number in range(first, min(first + APART, count))
    ]
    for start in range(0, len(order), 5000):
        chunk = []
        for number, status in order[start : start + 5000]:
            trace = b"00-%032x-%016x-01" % (chance.getrandbits(128) | 1, chance.getrandbits(64) | 1)
            headers = (("traceparent", trace),) if chance.random() < sample else ()
            chunk.append(NewRecord(b"prediction-%08d" % number, event(number, status), headers))
        await log.append(EVENTS, chunk)
    await log.close()


async def process(kind: str, source: Path, events: int, collector: str) -> dict[str, Any]:
    """Process everything, watched or not."""
    from prometheus_client import CollectorRegistry, generate_latest

    from tests.support.conditions import eventually
    from tidings.observability import gc_tuning
    from tidings.observability.health import HealthMonitor
    from tidings.observability.open_telemetry import Traces
    from tidings.storage.sqlite.store import SqliteStore
    from tidings.storage.wrappers.cache import CachedStore
    from tidings.storage.wrappers.compose import open_composed
    from tidings.streams.log.factory import open_log
    from tidings.streams.log.instrumented import ObservedLog
    from tidings.streams.log.traced import TracedLog
    from tidings.streams.processing.processor import Processor
    from tidings.streams.rules.reducer import StorePolicy

    async with AsyncExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        shutil.copytree(source, folder, dirs_exist_ok=True)
        log: Any = await open_log(f"sqlite:///{folder}/log.db")
        stack.push_async_callback(log.close)
        url, registry = f"sqlite:///{folder}/store.db", CollectorRegistry()
        store: Any = await (
            SqliteStore.open(url) if kind == "bare" else open_composed(url, registry=registry)
        )
        stack.push_async_callback(store.close)
        cache = CachedStore(store, records=40_000, bytes_=48 * 1024 * 1024)
        rules, reached, watching = StorePolicy(await log.identity()), None, None
        if kind != "bare":
            log = ObservedLog(log)
            observation = HealthMonitor(log, cache, registry=registry)
        if kind == "metrics and traces":
            traces = Traces(collector, 0.0)
            stack.push_async_callback(traces.close)
            log = TracedLog(log, traces)
            reached = log.reached
        processor = Processor(log, cache, {}, rules, reached=reached)
        if kind != "bare":
            observation.observe_processor(processor)

            async def watch() -> None:
                while True:
                    await asyncio.sleep(1)
                    generate_latest(registry)

            watching = asyncio.gather(observation.run(), watch())
        gc_tuning.freeze_startup_objects()
        started, cpu = time.perf_counter(), time.process_time()
        running = asyncio.create_task(processor.run())
        await eventually(lambda: processor.statistics.records >= events or running.done(), 300)
        elapsed, spent = time.perf_counter() - started, time.process_time() - cpu
        processor.stop()
        await running
        if watching is not None:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)
    return {"rate": events / elapsed, "cpu": spent / events * 1e6}


def measure(events: int, rounds: int, sample: float) -> dict[str, list[dict[str, Any]]]:
    """Interleaved rounds, each in another order."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Collector)
    Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_address[1]}"
    found: dict[str, list[dict[str, Any]]] = {kind: [] for kind in KINDS}
    with tempfile.TemporaryDirectory() as name:
        source = Path(name)
        uvloop.run(fill(source, events, sample))
        for turn in range(rounds):
            for kind in KINDS[turn % 3 :] + KINDS[: turn % 3]:
                found[kind].append(alone(process, kind, source, events, url))
    server.shutdown()
    return found


def show(found: dict[str, list[dict[str, Any]]]) -> None:
    """Print the table."""
    print("| processor | events/s | x bare | at least | CPU us an event | x bare |")
    print("|---|---|---|---|---|---|")
    for kind, results in found.items():
        pairs = list(zip(results, found["bare"], strict=True))
        rate, cpu = (
            median(one[name] / bare[name] for one, bare in pairs) for name in ("rate", "cpu")
        )
        print(
            f"| {kind} | {median(r['rate'] for r in results):,.0f} | {rate:.3f} | {TARGETS.get(kind, '')} |"
            f" {median(r['cpu'] for r in results):.1f} | {cpu:.3f} |"
        )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    # Each prediction has three events.
    parser.add_argument("--events", type=lambda text: int(text) // 3 * 3, default=60_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--sample", type=float, default=0.01)
    arguments, _ = parser.parse_known_args()
    show(measure(arguments.events, arguments.rounds, arguments.sample))


if __name__ == "__main__":
    main()
