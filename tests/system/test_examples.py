"""Each example runs as its first lines say, and the index names them all."""

import asyncio
import re
import sys
from pathlib import Path

from tests.support.root import ROOT
from tests.support.tidings_process import environment, serving

FOLDER = ROOT / "examples"
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


async def run(*arguments: str, folder: Path) -> str:
    """An example's output; it must end well within a minute."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *arguments,
        cwd=folder,
        env=environment({"PYTHONPATH": str(ROOT), "TIDINGS_STANDARD_SECRET": SECRET}),
        stdout=asyncio.subprocess.PIPE,
    )
    output, _ = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 0
    return output.decode()


async def test_a_report_reaches_whoever_watches(tmp_path: Path) -> None:
    """The example that reports ends the watch of the example that watches."""
    async with serving(tmp_path, {"TIDINGS_STANDARD_SECRET": SECRET}) as service:
        watching = asyncio.create_task(
            run(str(FOLDER / "watch.py"), service.url, "p1", folder=tmp_path)
        )
        report = str(FOLDER / "report.py")
        picture = "https://example.com/cat.png"
        sent = await run(report, service.url, "p1", "succeeded", picture, folder=tmp_path)
        assert sent == "200\n"
        assert (await watching).splitlines()[-1] == f"succeeded {picture}"


async def test_the_library_needs_no_service(tmp_path: Path) -> None:
    """The example of the library keeps a prediction in its file, step by step."""
    printed = await run(str(FOLDER / "library.py"), "predictions.db", folder=tmp_path)
    assert printed.split() == ["starting", "processing", "succeeded"]
    assert (tmp_path / "predictions.db").exists()


def test_the_index_names_every_example() -> None:
    """What lies in the folder stands in its index, and nothing else."""
    named = set(re.findall(r"\]\(([\w.]+)\)", (FOLDER / "README.md").read_text(encoding="utf-8")))
    there = {path.name for path in FOLDER.iterdir() if path.is_file()} - {"README.md"}
    assert named == there
