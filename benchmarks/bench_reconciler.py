"""What providers cost the main job: predictions in flight that the reconciler watches, and webhooks through a whole service.

First table: the reconciler's CPU while nothing is overdue, and what it does when one is. Second: signed webhooks of 1 KB
into a service on SQLite until all are applied, with everything, without the reconciler, and without proof and mapping
(the same events, made without reading the body); rounds interleaved, medians, each on fresh files.

    python -m benchmarks.bench_reconciler [--watched 10000] [--rounds 3] [--requests 4000]
"""

import argparse
import asyncio
import logging
import multiprocessing
import statistics
import tempfile
import time
import tracemalloc
from collections.abc import Mapping, Sequence
from multiprocessing.connection import Connection as Pipe

import msgspec
import uvloop
from msgspec import Raw

from benchmarks.bench_http import SECRET, call, cpu
from tests.support.clock import ManualClock
from tidings.config.loader import load_settings
from tidings.observability import logging as service_logging
from tidings.runtime import service
from tidings.storage.clock import SYSTEM_CLOCK
from tidings.storage.prediction import Prediction, Status, encode
from tidings.storage.store import Stored
from tidings.streams.changes.codec import Change
from tidings.streams.log.memory import MemoryLog
from tidings.streams.log.protocol import EVENTS
from tidings.streams.processing.processor import GROUP
from tidings.streams.providers.catalog.replicate import Replicate
from tidings.streams.providers.protocol import Webhook
from tidings.streams.rules.event import Event
from tidings.streams.submission.event_publisher import EventPublisher
from tidings.streams.submission.reconciler import Reconciler
from tidings.streams.submission.status_client import StatusClient

IDLE = 2.0
"""Seconds watched while nothing is due."""
ARMS = ("neither proof nor mapping", "without the reconciler", "everything")
SETTLED = 0.01


# ---- what is in flight ----


def prediction(number: int, at: int) -> Prediction:
    return Prediction(
        prediction_id=f"p{number}",
        status=Status.PROCESSING,
        version=2,
        created_at=at,
        updated_at=at,
        provider="replicate",
        provider_id=f"r{number}",
        logs="x" * 300,
    )


async def in_flight(watched: int) -> tuple[float, float, float, int, int]:
    """CPU per change in µs, bytes per prediction, CPU of an idle while in ms, reads then, and reads once one is due."""
    clock = ManualClock(SYSTEM_CLOCK.ms())
    reads: list[str] = []
    records: dict[str, Prediction] = {}

    async def read(ids: Sequence[str]) -> dict[str, Stored]:
        reads.extend(ids)
        return {i: Stored(records[i].version, records[i].status, encode(records[i])) for i in ids}

    reconciler = Reconciler(
        read, StatusClient({}, {}, EventPublisher(MemoryLog()), None), None, clock=clock
    )
    task = asyncio.create_task(reconciler.run())
    records["silent"] = msgspec.structs.replace(prediction(0, clock.ms()), prediction_id="silent")
    reconciler.notice([Change("silent", 2, encode(records["silent"]), Status.PROCESSING.value)])
    clock.advance(30)
    now = clock.ms()
    made = [prediction(number, now) for number in range(watched)]
    changes = [Change(one.prediction_id, 2, encode(one), Status.PROCESSING.value) for one in made]
    await asyncio.sleep(0.1)
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    reconciler.notice(changes[: watched // 2])
    memory = (tracemalloc.get_traced_memory()[0] - before) / max(1, watched // 2)
    tracemalloc.stop()
    start = time.process_time()
    reconciler.notice(changes[watched // 2 :])
    noticed = (time.process_time() - start) / max(1, watched - watched // 2) * 1e6
    start = time.process_time()
    await asyncio.sleep(IDLE)
    idle = (time.process_time() - start) * 1000
    quiet = len(reads)
    clock.advance(31 + IDLE)
    reconciler.notice(
        changes[:1]
    )  # wakes nobody up for what is not new; the heap's own time has come
    await reconciler.once()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    return noticed, memory, idle, quiet, len(reads) - quiet


async def show_in_flight(watched: int) -> None:
    print(
        f"{'in flight':>10}{'µs a change':>13}{'bytes each':>12}{f'idle, ms in {IDLE:.0f} s':>16}{'reads':>7}{'one due':>9}"
    )
    for count in (0, watched):
        noticed, memory, idle, quiet, due = await in_flight(count)
        each = (f"{noticed:.2f}", f"{memory:.0f}") if count else ("", "")
        print(f"{count:>10}{each[0]:>13}{each[1]:>12}{idle:>16.1f}{quiet:>7}{due:>9}")


# ---- the main job ----


_translate = Replicate.translate
_templates: list[Event] = []


def _unproven(_self: Replicate, headers: Mapping[str, str], _body: bytes, _now: float) -> str:
    return headers["webhook-id"]


def _unmapped(self: Replicate, webhook: Webhook) -> Event:
    """The same event as the mapping's, without reading the body: all bodies are alike but for the id."""
    if not _templates:
        _templates.append(_translate(self, webhook))
    own = webhook.body[7:15].decode()
    return msgspec.structs.replace(
        _templates[0],
        prediction_id=own,
        provider_id=own,
        id=webhook.delivery,
        at=webhook.at,
        recorded_at=webhook.at,
        report=Raw(webhook.body),
    )


def serve(pipe: Pipe, arm: str, folder: str) -> None:
    """A service in a process of its own; tells its port, and at the end its CPU seconds until all was applied."""
    service_logging.configure(level=logging.WARNING)
    if arm == ARMS[0]:
        Replicate.verify = _unproven  # type: ignore[method-assign,assignment]
        Replicate.translate = _unmapped  # type: ignore[method-assign]
    roles = "gateway,processor" + (",reconciler" if arm == ARMS[2] else "")
    settings = load_settings(
        {"port": "0", "role": roles},
        environ={
            "TIDINGS_LOG": f"sqlite:////{folder}/log.db",
            "TIDINGS_STORE": f"sqlite:////{folder}/store.db",
            "TIDINGS_ASSETS": f"file:////{folder}/assets",
            "TIDINGS_WEBHOOK_KEY": "k" * 32,
            "TIDINGS_REPLICATE_SECRET": f"whsec_{SECRET}",
            "TIDINGS_REPLICATE_TOKEN": "t",
            "TIDINGS_REPLICATE_URL": "http://127.0.0.1:9",
        },
        config=None,
    )

    async def whole() -> None:
        async with service.running(settings) as running:
            begun = cpu()
            pipe.send(running.port)
            await asyncio.to_thread(pipe.recv)
            log = running.resources.log
            while True:
                ends = {p: end for p, (_, end) in (await log.bounds(EVENTS)).items()}
                done = await log.committed(EVENTS, GROUP)
                if all(done.get(p, 0) >= end for p, end in ends.items()):
                    break
                await asyncio.sleep(SETTLED)
            pipe.send(cpu() - begun)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(whole())


def one(arm: str, count: int) -> tuple[float, float]:
    """Webhooks a second until the last is applied, and the service's CPU µs for each."""
    spawn = multiprocessing.get_context("spawn")
    near, far = spawn.Pipe()
    with tempfile.TemporaryDirectory() as folder:
        process = spawn.Process(target=serve, args=(far, arm, folder), daemon=True)
        process.start()
        port = near.recv()
        start = time.perf_counter()
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(call(port, "webhook", "/api/webhooks/replicate", count))
        near.send(None)
        used = near.recv()
        elapsed = time.perf_counter() - start
        process.join(30)
    return count / elapsed, used / count * 1e6


def show_main_job(rounds: int, count: int) -> None:
    figures: dict[str, list[tuple[float, float]]] = {arm: [] for arm in ARMS}
    for _ in range(rounds):
        for arm in ARMS:
            figures[arm].append(one(arm, count))
    base = statistics.median(rate for rate, _ in figures[ARMS[0]])
    print(f"\n{'main job':<28}{'webhooks/s':>12}{'CPU µs each':>13}{'of the first':>14}")
    for arm, some in figures.items():
        rate, used = (statistics.median(one[index] for one in some) for index in (0, 1))
        print(f"{arm:<28}{rate:>12.0f}{used:>13.0f}{rate / base:>13.0%}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--watched", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--requests", type=int, default=4000)
    options = parser.parse_args()
    asyncio.run(show_in_flight(options.watched))
    show_main_job(options.rounds, options.requests)


if __name__ == "__main__":
    main()
