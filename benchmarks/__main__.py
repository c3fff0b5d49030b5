"""Run every benchmark (or those named) and write their tables to `benchmarks/RESULTS.md`.

Each runs in a process of its own, one after the other: `python -m benchmarks [NAME ...]`, where `sqlite_store` stands for
`benchmarks/bench_sqlite_store.py`. What follows `--` is handed to each: `python -m benchmarks replay -- --rounds 1`.
Sections of benchmarks that were not run stay as they are.
"""

import ast
import os
import platform
import re
import sqlite3
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

FOLDER = Path(__file__).parent
RESULTS = FOLDER / "RESULTS.md"
LIBRARIES = (
    "aiohttp",
    "aiokafka",
    "asyncpg",
    "cryptography",
    "hiredis",
    "msgspec",
    "redis",
    "uvloop",
    "websockets",
)
HEAD = """# Measured

Written by `make bench` (`python -m benchmarks [NAME ...]`). Figures are of the machine named with each table and vary
from run to run; what counts is the ratio to what is measured beside it in the same run.
"""


def main() -> int:
    """Run them; the exit code tells whether all ended well."""
    files = {file.stem.removeprefix("bench_"): file for file in sorted(FOLDER.glob("bench_*.py"))}
    given = sys.argv[1:]
    end = given.index("--") if "--" in given else len(given)
    names = [name.removeprefix("bench_").removesuffix(".py") for name in given[:end]] or list(files)
    options = given[end + 1 :]
    if unknown := [name for name in names if name not in files]:
        print(
            f"no benchmark is called {unknown[0]!r}; there are {', '.join(files)}", file=sys.stderr
        )
        return 2
    sections = read_sections()
    failed = []
    for name in names:
        print(f"== {name}", flush=True)
        measured = run(name, files[name], options)
        if measured is None:
            failed.append(name)
            continue
        sections[name] = measured
        write_sections(sections)
    if failed:
        print(f"did not end well: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def run(name: str, file: Path, options: Sequence[str]) -> str | None:
    """Run one, showing what it prints as it comes; returns its section, or None if it failed."""
    command = [sys.executable, "-m", f"benchmarks.{file.stem}", *options]
    start = time.monotonic()
    lines = []
    with subprocess.Popen(command, cwd=FOLDER.parent, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="", flush=True)
            lines.append(line.rstrip())
    if process.returncode:
        return None
    return section(name, "\n".join(lines), options, time.monotonic() - start)


def section(name: str, printed: str, options: Sequence[str], seconds: float) -> str:
    """What `RESULTS.md` says of a benchmark that printed this."""
    file = FOLDER / f"bench_{name}.py"
    about = (ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or "").split("\n\n")[0]
    table = printed.strip("\n")
    command = " ".join(("python -m", f"benchmarks.bench_{name}", *options))
    return (
        f"## {name}\n\n{' '.join(about.split())}\n\n```\n{table}\n```\n\n"
        f"`{command}`, {seconds:.0f} s, {datetime.now(UTC):%Y-%m-%d}; {machine()}\n"
    )


def write_sections(sections: Mapping[str, str]) -> None:
    """Put them into `RESULTS.md`, by name."""
    whole = HEAD + "".join(f"\n{sections[key]}" for key in sorted(sections))
    RESULTS.write_text(whole, encoding="utf-8")


def read_sections() -> dict[str, str]:
    """What `RESULTS.md` has of each benchmark so far."""
    if not RESULTS.exists():
        return {}
    parts = re.split(r"^(?=## )", RESULTS.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {
        part.split("\n", 1)[0].removeprefix("## "): part.rstrip("\n") + "\n" for part in parts[1:]
    }


def machine() -> str:
    """The kind of machine, and the versions that matter."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    parts = [
        f"{os.cpu_count()} cores ({processor()}), {memory:.0f} GB, {platform.system()} {platform.release()}",
        f"{platform.python_implementation()} {platform.python_version()}",
        f"SQLite {sqlite3.sqlite_version}",
    ]
    for library in LIBRARIES:
        try:
            parts.append(f"{library} {version(library)}")
        except PackageNotFoundError:
            continue
    return ", ".join(parts)


def processor() -> str:
    """What the kernel calls the processor."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return platform.machine()
    found = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return found[1] if found else platform.machine()


if __name__ == "__main__":
    sys.exit(main())
