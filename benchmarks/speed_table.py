"""Every figure of speed that is promised, in one table: what is wanted, what holds today, what held at a former commit.

Each line comes from a benchmark that runs the real program beside its peer or limit; the ratio stands in the line itself.
A former commit is measured by today's benchmarks on its own product, one benchmark after the other. What a row printed goes
to its section of `RESULTS.md`, unless `--quick` made it short. A row that does not end in its time is said so.

    python -m benchmarks.speed_table [--former COMMIT] [--only WORD] [--quick]
"""

import argparse
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from msgspec import Struct

from benchmarks.__main__ import read_sections, section, write_sections
from benchmarks.former import checked_out
from tests.support.root import ROOT


class Row(Struct, frozen=True):
    """A promise, and where its figure is read."""

    what: str
    wanted: str
    bench: str
    lines: str = r"^\|"
    """A regular expression: which lines of the benchmark's output are the figure."""
    options: tuple[str, ...] = ()
    quick: tuple[str, ...] = ()
    """Options that make it short."""
    seconds: float = 240.0
    """In which it has to end."""


ONE = ("--rounds", "1")
ROWS = (
    Row(
        "Kafka -> transitions -> SQLite FULL -> Kafka",
        ">= 1.2 x Kafka Streams' events/s on 2 cores, <= 0.75 x its CPU, <= 200 MB",
        "peers",
        quick=("--events", "90000", *ONE),
        seconds=600,
    ),
    Row("two processors on Postgres", ">= 1.8 x one", "processors", quick=ONE),
    Row(
        "a lone webhook through everything, CPU",
        "SQLite <= 1.8 x the least at 100 and 500/s; Kafka <= 2.7 x at 100, 2.2 x at 500",
        "lone_event",
        options=("--rates", "100,500", "--seconds", "2"),
        quick=("--rates", "100,500", "--seconds", "2", *ONE),
    ),
    Row(
        "POST -> frame, 500/s over 1,000 sessions",
        "SQLite <= 3 / 12 ms, Kafka <= 8 / 25 ms",
        "latency",
        options=("--seconds", "5"),
        quick=("--seconds", "5", *ONE),
    ),
    Row(
        "signed webhook, CPU against bare aiohttp",
        "<= 1.1 x memory log, <= 1.25 x SQLite, Kafka",
        "http",
        r"^\|(?!.*read)",
        quick=("--without-asgi", "--rounds", "7"),
    ),
    Row(
        "opening a session; idle ones with pings",
        "<= 70 us / <= 1.2 x; <= 1.2 x",
        "sessions",
        r"ours|open one|with pings",
        quick=("2000", "8"),
    ),
    Row(
        "paced fan-out to 1,000",
        "<= 1.08 x a bare loop",
        "fanout",
        r"^\|(?!.*burst)",
        quick=("--only", "paced", "--rounds", "3"),
    ),
    Row(
        "paced fan-out to 1,000, the gateway seen from outside",
        "<= 1.08 x a bare loop",
        "gateway",
        r"x bare|one change",
        quick=("--only", "fan-out", "--rounds", "3"),
    ),
    Row(
        "replay against the bare driver",
        ">= 0.9 SQLite, 0.85 Kafka, 0.9 from the changes",
        "replay",
        r"^\||into SQLite|driver",
        quick=("--events", "60000", *ONE),
        seconds=600,
    ),
    Row(
        "Durable Objects, one update at 500/s",
        "p50 <= 15 ms",
        "original",
        "same at 500 a second",
    ),
)


def run(source: Path, row: Row, options: Sequence[str]) -> str:
    """What a row's benchmark printed, run in this folder; or why there is nothing."""
    if not (source / "benchmarks" / f"bench_{row.bench}.py").exists():
        return "not measured there"
    command = (sys.executable, "-m", f"benchmarks.bench_{row.bench}", *options)
    with subprocess.Popen(
        command,
        cwd=source,
        env={**os.environ, "PYTHONPATH": str(source)},
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            printed, _ = process.communicate(timeout=row.seconds)
        except subprocess.TimeoutExpired:
            return f"did not end within {row.seconds:g} s"
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)  # with the brokers and services it started
    return printed if not process.returncode else f"ended with {process.returncode}"


def figures(row: Row, printed: str) -> str:
    """The lines that the promise is about; all if there are none of them."""
    lines = [line for line in printed.splitlines() if re.search(row.lines, line)]
    return "\n".join(lines) or printed


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
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # not without ending what runs
    sections = read_sections()
    with checked_out(arguments.former) as former:
        if former is not None:
            lend(former)
        for row in ROWS:
            if arguments.only and arguments.only not in f"{row.what} {row.bench}":
                continue
            options = row.quick if arguments.quick else row.options
            print(f"## {row.what}\nwanted: {row.wanted}\n\ntoday:", flush=True)
            started = time.monotonic()
            printed = run(ROOT, row, options)
            print(figures(row, printed), flush=True)
            if not arguments.quick and "|" in printed:
                taken = time.monotonic() - started
                sections[row.bench] = section(row.bench, printed, options, taken)
                write_sections(sections)
            if former is not None:
                print(
                    f"\n{arguments.former}:\n{figures(row, run(former, row, options))}", flush=True
                )
            print(flush=True)


if __name__ == "__main__":
    main()
