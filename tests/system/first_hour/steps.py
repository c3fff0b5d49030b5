"""What the scripts share: code blocks of documents, commands in a fresh folder, and the time of each step."""

import asyncio
import re
import shlex
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from msgspec import Struct

from tests.support.command import Ended, tidings
from tests.support.root import ROOT
from tests.support.tidings_process import environment

ADDRESS = "127.0.0.1:8080"
"""Where the documents say that the service is."""


class Step(Struct, frozen=True):
    """One thing that somebody did."""

    name: str
    seconds: float


class Hour:
    """The steps so far, in a folder of their own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.steps: list[Step] = []

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Measure a step."""
        start = time.monotonic()
        yield
        self.steps.append(Step(name, time.monotonic() - start))

    def __str__(self) -> str:
        lines = [f"{step.seconds:6.1f} s  {step.name}" for step in self.steps]
        total = sum(step.seconds for step in self.steps)
        return "\n".join([*lines, f"{total:6.1f} s  {len(self.steps)} steps"])


def block(document: str, language: str, having: str = "") -> str:
    """The first code block of a document in a language that has these words.

    Raises:
        LookupError: There is none: the document and the script do not go together any more.
    """
    text = (ROOT / document).read_text(encoding="utf-8")
    found = re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    for code in found:
        if having in code:
            return str(code)
    raise LookupError(f"{document} has no block of {language} with {having!r}")


def lines_of(code: str, program: str = "tidings") -> list[list[str]]:
    """The commands of a shell block that call a program, as words without its name."""
    found = []
    for line in code.splitlines():
        words = shlex.split(line, comments=True)
        if words and words[0].rpartition("/")[2] == program:
            found.append(words[1:])
    return found


async def run_python(folder: Path, code: str, address: str) -> str:
    """Run a Python block as a program of its own, against the service at an address; gives what it printed."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", code.replace(ADDRESS, address)),
        cwd=folder,
        env=environment({}),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 0, err.decode()
    return out.decode()


async def shell(folder: Path, code: str) -> str:
    """Run a line in bash; gives what it printed."""
    process = await asyncio.create_subprocess_exec(
        *("bash", "-c", code), cwd=folder, env=environment({}), stdout=asyncio.subprocess.PIPE
    )
    out, _ = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 0, code
    return out.decode()


async def run_command(folder: Path, words: list[str], **settings: str) -> Ended:
    """Run a `tidings` command as it stands in a document."""
    return await tidings(folder, *words, settings=settings)


def main(script: Callable[[Hour], Awaitable[None]]) -> None:
    """Run a script in a fresh folder, and print its steps."""
    with tempfile.TemporaryDirectory(prefix="tidings-first-hour-") as folder:
        hour = Hour(Path(folder))
        asyncio.run(script(hour))  # type: ignore[arg-type]
        print(hour)  # noqa: T201 - for whoever runs it
