"""Running a `tidings` command to its end, as a real process."""

import asyncio
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from msgspec import Struct

from tests.support.root import ROOT
from tests.support.tidings_process import environment


class Ended(Struct, frozen=True):
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def line(self) -> str:
        """Its one line on standard error."""
        lines = self.err.splitlines()
        assert len(lines) == 1, self.err
        assert lines[0].startswith("tidings: ")
        return lines[0]


async def tidings(
    folder: Path, *arguments: str, settings: Mapping[str, str] | None = None, within: float = 60.0
) -> Ended:
    """Run `tidings` with these arguments in a working folder, and nothing of the developer's settings."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tidings",
        *arguments,
        cwd=folder,
        env=environment({"PYTHONPATH": str(ROOT), "COLUMNS": "200", **(settings or {})}),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        out, err = await asyncio.wait_for(process.communicate(), within)
    except TimeoutError:
        process.kill()
        await process.wait()
        raise
    assert process.returncode is not None
    return Ended(process.returncode, out.decode(), err.decode())
