"""The real program beside its peers: `tidings serve --role processor`, Kafka Streams, Quix Streams, on the same events.

300,000 events of 100,000 predictions on 4 partitions, the three of one prediction 20,000 records apart, so that nothing
folds. Tidings writes to SQLite with synchronous FULL; Kafka Streams has RocksDB and a changelog, without an fsync; Quix
Streams (`--quix-python`: an interpreter that has it) RocksDB and a changelog too; the least in Python keeps SQLite rows
without indexes, and nothing else that Tidings does. In each round they run one after the
other. The rate is that of the changes' topic between its first and its last record, as the broker stamped them.

    python -m benchmarks.bench_peers [--events 300000] [--rounds 3] [--former COMMIT] [--quix-python PATH]
"""

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import psutil  # type: ignore[import-untyped]  # carries no types
import structlog
import uvloop
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from msgspec import Struct

from benchmarks.former import checked_out
from tests.support.broker import Broker
from tests.support.root import ROOT
from tidings.streams.log.factory import open_log
from tidings.streams.log.protocol import CHANGES, DEAD_LETTERS, EVENTS, TEXT, NewRecord

PARTITIONS = 4
APART = 20_000
SILENT = 6.0
"""Seconds without a further change after which a contestant is done."""
ALLOWED = 180.0
PEERS = Path(__file__).with_name("peers")
PROMPT = "a photograph of a lighthouse in a storm, seed " + "x" * 90


class Contestant(Struct, frozen=True):
    """A program to measure."""

    name: str
    command: tuple[str, ...]
    environment: dict[str, str] = {}


class Figures(Struct, frozen=True):
    """What one run took."""

    rate: float
    """Events a second."""
    cpu: float
    """Seconds per 100,000 events, all processes of the program together."""
    memory: float
    """Most MB of one process."""


def tidings(name: str, source: Path, *arguments: str) -> Contestant:
    """The processor as a user starts it, from the source in this folder."""
    command = (sys.executable, "-m", "tidings", "serve", "--role", "processor", "--port", "0")
    settings = {
        "PYTHONPATH": str(source),
        "TIDINGS_WEBHOOK_KEY": "0b" * 32,
        "TIDINGS_ARCHIVE": "off",
        "TIDINGS_PARTITIONS": str(PARTITIONS),
    }
    return Contestant(name, (*command, *arguments), settings)


def kafka_streams(threads: int) -> Contestant:
    """The peer on the JVM, built if it is not."""
    built = ROOT / ".cache" / "peers"
    if not (built / "libs").exists():
        goals = ("package", "dependency:copy-dependencies")
        folders = (f"-Dbuilt={built}", f"-DoutputDirectory={built / 'libs'}")
        build = ("mvn", "-q", "-B", "-f", PEERS / "pom.xml", *goals, *folders)
        subprocess.run(build, check=True)
    classpath = f"{built}/classes:{built}/libs/*"
    command = ("java", "-Xmx1g", "-cp", classpath, "KafkaStreamsPeer", str(threads))
    return Contestant(f"Kafka Streams, threads: {threads}", command)


async def fill(url: str, prefix: str, events: int) -> None:
    """Write the events."""
    log = await open_log(url, topic_prefix=prefix, partitions=PARTITIONS)
    count, began, number = events // 3, 1_764_000_000_000, 0
    apart = min(APART, count // 4)
    chunk: list[NewRecord] = []
    for first in range(count + 2 * apart):
        for late, status in enumerate(("starting", "processing", "succeeded")):
            which = first - late * apart
            if 0 <= which < count:
                number += 1
                event = {
                    "predictionId": f"p{which}",
                    "status": status,
                    "id": f"evt-{number:032d}",
                    "at": began + number,
                    "prompt": PROMPT + str(which),
                }
                value = json.dumps(event, separators=(",", ":")).encode()
                chunk.append(NewRecord(f"p{which}".encode(), value))
        if len(chunk) >= 4000:
            await log.append(EVENTS, chunk)
            chunk = []
    if chunk:
        await log.append(EVENTS, chunk)
    await log.close()


async def make_topics(server: str, prefix: str, *, compact: bool) -> None:
    """Make them before any contestant does, the changes stamped by the broker."""
    stamped = {"message.timestamp.type": "LogAppendTime"}
    cleanup = {"cleanup.policy": "compact"} if compact else {}
    room = {"max.message.bytes": "12000000"}
    admin = AIOKafkaAdminClient(bootstrap_servers=server)
    await admin.start()
    try:
        await admin.create_topics(
            [
                NewTopic(prefix + EVENTS, PARTITIONS, 1, topic_configs=room),
                NewTopic(prefix + CHANGES, PARTITIONS, 1, topic_configs=room | stamped | cleanup),
                NewTopic(prefix + DEAD_LETTERS, PARTITIONS, 1, topic_configs=room),
                NewTopic(prefix + TEXT, PARTITIONS, 1, topic_configs=room),
            ]
        )
    finally:
        await admin.close()


def processes(pid: int) -> list[Any]:
    """A program's processes."""
    parent = psutil.Process(pid)
    return [parent, *parent.children(recursive=True)]


def spent(pid: int) -> float:
    """Seconds of CPU that a program has had."""
    return float(sum(sum(one.cpu_times()[:2]) for one in processes(pid)))


def peak(pid: int) -> float:
    """Most MB that one of a program's processes ever had."""
    found = []
    for one in processes(pid):
        status = Path(f"/proc/{one.pid}/status").read_text(encoding="utf-8")
        found += [int(line.split()[1]) for line in status.splitlines() if line[:5] == "VmHWM"]
    return max(found) / 1024


async def watch(pid: int, server: str, topic: str, events: int) -> Figures:
    """Wait until a program has announced everything it will."""
    consumer = AIOKafkaConsumer(bootstrap_servers=server, enable_auto_commit=False)
    await consumer.start()
    try:
        partitions = [TopicPartition(topic, number) for number in range(PARTITIONS)]
        began = last = time.monotonic()
        count, first, at_first = 0, 0, 0.0
        while count < events and last - began < ALLOWED:
            now = sum((await consumer.end_offsets(partitions)).values())
            if now and not first:
                first, at_first = now, spent(pid)
            if now > count:
                count, last = now, time.monotonic()
            elif time.monotonic() - last > (SILENT if count else ALLOWED):
                break
            await asyncio.sleep(0.1)
        if not first:
            raise SystemExit("nothing was announced")
        cpu = (spent(pid) - at_first) / (events * (1 - first / count)) * 1e5
        stamps = await ends(consumer, partitions)
        return Figures(events / (max(stamps) - min(stamps)) * 1000, cpu, peak(pid))
    finally:
        await consumer.stop()


async def ends(consumer: Any, partitions: Sequence[TopicPartition]) -> list[int]:
    """The times of the first and the last record of each partition, in ms."""
    stamps = []
    for partition, end in (await consumer.end_offsets(partitions)).items():
        for offset in (0, end - 1) if end else ():
            consumer.assign([partition])
            consumer.seek(partition, offset)
            stamps.append((await consumer.getone()).timestamp)
    return stamps


def measure(broker: Broker, contestant: Contestant, events: int) -> Figures:
    """One run, on topics of its own."""
    prefix = f"b{uuid.uuid4().hex[:8]}."
    ours = "serve" in contestant.command
    uvloop.run(make_topics(broker.bootstrap, prefix, compact=ours))
    url = f"kafka://{broker.bootstrap}"
    uvloop.run(fill(url, prefix, events))
    with tempfile.TemporaryDirectory() as folder:
        environment = {
            **{name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ},
            "KAFKA": broker.bootstrap,
            "FROM": prefix + EVENTS,
            "TO": prefix + CHANGES,
            "GROUP": prefix,
            "STATE": folder,
            "TIDINGS_LOG": url,
            "TIDINGS_STORE": f"sqlite:///{folder}/store.db",
            "TIDINGS_TOPIC_PREFIX": prefix,
            **contestant.environment,
        }
        output = Path(folder, "output")
        with output.open("wb") as file:
            process = subprocess.Popen(
                contestant.command, env=environment, stdout=file, stderr=file, cwd=folder
            )
        try:
            return uvloop.run(watch(process.pid, broker.bootstrap, prefix + CHANGES, events))
        except (SystemExit, psutil.Error):
            raise SystemExit(f"{contestant.name}: {output.read_text()[-2000:]}") from None
        finally:
            process.terminate()
            process.wait(30)


def show(found: dict[str, list[Figures]]) -> None:
    """Print the table; the first contestant is what the others are held against."""
    print("| | x the first: events/s | x its CPU | events/s | CPU-s per 100,000 | MB a process |")
    print("|---|---|---|---|---|---|")
    base: Figures | None = None
    for name, runs in found.items():
        one = Figures(
            *(median(getattr(run, field) for run in runs) for field in Figures.__struct_fields__)
        )
        base = base or one
        print(
            f"| {name} | {one.rate / base.rate:.2f} | {one.cpu / base.cpu:.2f} | {one.rate:,.0f}"
            f" | {one.cpu:.2f} | {one.memory:.0f} |"
        )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--events", type=lambda text: int(text) // 3 * 3, default=300_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--former", metavar="COMMIT", help="measure that one of Tidings as well")
    parser.add_argument("--quix-python", metavar="PATH")
    arguments, _ = parser.parse_known_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))
    broker = Broker()
    with checked_out(arguments.former) as former:
        contestants = [kafka_streams(1), tidings("Tidings", ROOT)]
        contestants.append(tidings("Tidings, --workers 2", ROOT, "--workers", "2"))
        bare = (sys.executable, str(PEERS / "bare_processor.py"))
        contestants.append(Contestant("the least in Python", bare))
        if former is not None:
            contestants.append(tidings(f"Tidings of {arguments.former}", former))
        if arguments.quix_python:
            command = (arguments.quix_python, str(PEERS / "quix_peer.py"))
            contestants.append(Contestant("Quix Streams", command))
        found: dict[str, list[Figures]] = {one.name: [] for one in contestants}
        try:
            broker.start()
            for _ in range(arguments.rounds):
                for one in contestants:
                    found[one.name].append(measure(broker, one, arguments.events))
        finally:
            broker.close()
    show(found)


if __name__ == "__main__":
    main()
