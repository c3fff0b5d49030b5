"""Fan-out: CPU per delivery of one paced change, and of bursts, beside a bare loop of writes in the same process.

Both take turns; the ratio is the median of those of each turn.

    python -m benchmarks.bench_fanout [--rounds 7] [--only paced]
"""

import argparse
import statistics
from typing import Any

import uvloop

from benchmarks.push_clients import Counter, Server, connect

FRAME = 404
"""Bytes of a frame with a message of 400."""

SHAPES = (
    ("one change, paced 50 ms", 1_000, 1, 20, 0.05),
    ("one change, paced 50 ms", 5_000, 1, 8, 0.05),
    ("burst of 100 to `all`", 1_000, 100, 5, 0.05),
    ("burst of 1,000 to `all`", 100, 1_000, 5, 0.05),
    ("burst of 20 to `all`", 5_000, 20, 5, 0.05),
)


def everything(_: int) -> bytes:
    return b'{"type":"subscribe","all":true,"snapshot":false}'


async def shape(
    sessions: int, burst: int, rounds: int, every: float, repeats: int
) -> dict[bool, list[float]]:
    """µs of CPU a delivery, ours (False) and bare (True), in interleaved repeats."""
    server = Server()
    counter = Counter()
    try:
        port = (await server("start"))["port"]
        await connect(port, sessions, counter, everything)
        found: dict[bool, list[float]] = {False: [], True: []}
        for _ in range(repeats):
            for bare in (True, False):
                wanted = counter.bytes + sessions * burst * rounds * FRAME
                total = 0.0
                each = 1 if burst > 1 else rounds
                for done in range(0, rounds, each):
                    answer: dict[str, Any] = await server(
                        "paced",
                        bare=bare,
                        rounds=each,
                        every=every,
                        burst=burst,
                        distinct=burst > 1,
                    )
                    total += answer["cpu"]
                    await counter.until(
                        "bytes", wanted - sessions * burst * (rounds - done - each) * FRAME
                    )
                found[bare].append(total / (sessions * burst * rounds) * 1e6)
        return found
    finally:
        server.close()


async def main(repeats: int, only: str) -> None:
    print(
        "| shape | sessions | x bare | ours µs | bare µs | ours/s of CPU |\n|---|---|---|---|---|---|"
    )
    for name, sessions, burst, rounds, every in SHAPES:
        if only not in name:
            continue
        found = await shape(sessions, burst, rounds, every, repeats)
        ratio = statistics.median(
            ours / bare for ours, bare in zip(found[False], found[True], strict=True)
        )
        ours, bare = statistics.median(found[False]), statistics.median(found[True])
        figures = f"{ratio:.2f} | {ours:.3f} | {bare:.3f} | {1e6 / ours:,.0f}"
        print(f"| {name} | {sessions:,} | {figures} |", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--only", default="", help="shapes whose name has this")
    options = parser.parse_args()
    uvloop.run(main(options.rounds, options.only))
