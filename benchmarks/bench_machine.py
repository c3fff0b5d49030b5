"""The machine itself: what plain things take on it, to set the absolute figures of the other tables beside.

python -m benchmarks.bench_machine
"""

import asyncio
import json
import os
import random
import socket
import tempfile
import time
from collections.abc import Callable
from statistics import median

import uvloop

ROUNDS = 9
DOCUMENT = json.dumps(
    {
        "predictionId": "prediction-00000005",
        "status": "starting",
        "id": "evt-5-starting",
        "prompt": "a lighthouse in a storm, oil on canvas",
        "model": "acme/paint-1",
        "owner": "owner-5",
    }
).encode()


def each(count: int, work: Callable[[], object]) -> float:
    """Microseconds of one, of `count` in a row."""
    started = time.perf_counter()
    for _ in range(count):
        work()
    return (time.perf_counter() - started) / count * 1e6


def spin() -> float:
    """A turn of an empty loop."""
    started = time.perf_counter()
    for _ in range(1_000_000):
        pass
    return (time.perf_counter() - started) / 1e6 * 1e6


def scattered() -> Callable[[], float]:
    """Reading dictionaries that lie about in memory, beyond every cache."""
    known = {f"prediction-{n:08d}": {"a": n} for n in range(200_000)}
    names = list(known)
    random.Random(1).shuffle(names)

    def read() -> float:
        started = time.perf_counter()
        for name in names:
            known[name]["a"]
        return (time.perf_counter() - started) / len(names) * 1e6

    return read


def flush() -> float:
    """4 KB to the disk."""
    with tempfile.NamedTemporaryFile(dir=".") as file:

        def once() -> None:
            os.pwrite(file.fileno(), b"x" * 4096, 0)
            os.fdatasync(file.fileno())

        return each(50, once)


def gathered() -> float:
    """A task among 500 that are awaited together."""

    async def nothing() -> None:
        await asyncio.sleep(0)

    async def run() -> float:
        started = time.perf_counter()
        for _ in range(20):
            await asyncio.gather(*[nothing() for _ in range(500)])
        return (time.perf_counter() - started) / 10_000 * 1e6

    return uvloop.run(run())


def write() -> float:
    """400 bytes into a loopback connection that somebody reads from."""
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname()) as client,
    ):
        reader, _ = server.accept()
        with reader:
            reader.settimeout(5)

            def once() -> None:
                client.send(b"x" * 400)
                reader.recv(400)

            return each(2_000, once)


def main() -> None:
    """Measure and print."""
    rows: dict[str, Callable[[], float]] = {
        "a turn of an empty Python loop": spin,
        "json.loads of an event of 200 bytes": lambda: each(5_000, lambda: json.loads(DOCUMENT)),
        "a dictionary of a dictionary, in random order over 200,000": scattered(),
        "an asyncio task among 500 gathered, uvloop": gathered,
        "400 bytes through loopback, send and recv": write,
        "4 KB written and fdatasync": flush,
    }
    found: dict[str, list[float]] = {name: [] for name in rows}
    for _ in range(ROUNDS):
        for name, measure in rows.items():
            found[name].append(measure())
    print("| what | µs, median of rounds | best | worst |")
    print("|---|---|---|---|")
    for name, values in found.items():
        print(f"| {name} | {median(values):,.3f} | {min(values):,.3f} | {max(values):,.3f} |")


if __name__ == "__main__":
    main()
