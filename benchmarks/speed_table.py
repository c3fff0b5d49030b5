"""Every figure of speed that is promised, in one table: what is wanted, what holds today, what held at a former commit.

Each line comes from a benchmark that runs the real program beside its peer or limit; the ratio stands in the line itself.
A former commit is measured by today's benchmarks on its own product, one benchmark after the other.

    python -m benchmarks.speed_table [--former COMMIT] [--only WORD] [--quick]
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from msgspec import Struct

from benchmarks.former import checked_out
from tests.support.root import ROOT


class Row(Struct, frozen=True):
    """A promise, and where its figure is read."""

    what: str
    wanted: str
    bench: str
    lines: str
    """A regular expression: which lines of the benchmark's output are the figure."""
    quick: tuple[str, ...] = ()
    """Options that make it short."""


SHORT = ("--rounds", "1")
ROWS = (
    Row(
        "Kafka -> transitions -> SQLite FULL -> Kafka",
        ">= 1.2 x Kafka Streams' events/s on 2 cores, <= 0.75 x its CPU, <= 200 MB",
        "peers",
        r"^\|",
        ("--events", "90000", *SHORT),
    ),
    Row("two processors on Postgres", ">= 1.8 x one", "processors", r"^\|", SHORT),
    Row(
        "a lone webhook through everything, CPU",
        "SQLite <= 1.8 x the least at 100 and 500/s; Kafka <= 2.7 x at 100, 2.2 x at 500",
        "lone_event",
        r"^\|",
    ),
    Row(
        "POST -> frame, 500/s over 1,000 sessions",
        "SQLite <= 3 / 12 ms, Kafka <= 8 / 25 ms",
        "latency",
        r"^\|",
    ),
    Row(
        "signed webhook, CPU against bare aiohttp",
        "<= 1.1 x memory log, <= 1.25 x SQLite, Kafka",
        "http",
        "µs; bare",
        SHORT,
    ),
    Row(
        "opening a session; idle ones with pings",
        "<= 70 us / <= 1.2 x; <= 1.2 x",
        "sessions",
        "ours|open one|with pings",
    ),
    Row("paced fan-out to 1,000", "<= 1.08 x a bare loop", "fanout", "shape|paced"),
    Row(
        "replay against the bare driver",
        ">= 0.9 SQLite, 0.85 Kafka, 0.9 from the changes",
        "replay",
        "into SQLite|driver",
        ("--events", "60000", *SHORT),
    ),
    Row("Durable Objects, one update at 500/s", "p50 <= 15 ms", "original", "same at 500 a second"),
)


def run(source: Path, row: Row, options: Sequence[str]) -> str:
    """The lines of a row's benchmark, run in this folder."""
    if not (source / "benchmarks" / f"bench_{row.bench}.py").exists():
        return "not measured there"
    done = subprocess.run(
        (sys.executable, "-m", f"benchmarks.bench_{row.bench}", *options),
        cwd=source,
        env={**os.environ, "PYTHONPATH": str(source)},
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    if done.returncode:
        return f"the benchmark ended with {done.returncode}"
    return "\n".join(line for line in done.stdout.splitlines() if re.search(row.lines, line))


def lend(folder: Path) -> None:
    """Give a former commit today's benchmarks, and the parts that they start."""
    for name in ("benchmarks", "tests/support"):
        shutil.copytree(ROOT / name, folder / name, dirs_exist_ok=True)
    if (cache := ROOT / ".cache").exists():
        (folder / ".cache").symlink_to(cache)


def main() -> None:
    """Measure and print, row by row as they come."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--former", metavar="COMMIT")
    parser.add_argument("--only", metavar="WORD", help="rows whose name or benchmark has it")
    parser.add_argument("--quick", action="store_true")
    arguments = parser.parse_args()
    with checked_out(arguments.former) as former:
        if former is not None:
            lend(former)
        for row in ROWS:
            if arguments.only and arguments.only not in f"{row.what} {row.bench}":
                continue
            options = row.quick if arguments.quick else ()
            print(f"## {row.what}\nwanted: {row.wanted}\n\ntoday:", flush=True)
            print(run(ROOT, row, options), flush=True)
            if former is not None:
                print(f"\n{arguments.former}:\n{run(former, row, options)}", flush=True)
            print(flush=True)


if __name__ == "__main__":
    main()
