"""What the tutorial on streaming says works as it stands there."""

import re
import sys
from asyncio import create_subprocess_exec
from pathlib import Path

from tests.support.root import ROOT
from tests.support.tidings_process import serving
from tidings.client.client import Client

TUTORIAL = ROOT / "docs" / "tutorial" / "streaming.md"


async def test_the_plain_python_writes_an_answer(tmp_path: Path) -> None:
    """The first program writes the answer, and a reader that comes in the middle has all of it."""
    blocks = re.findall(r"```python\n(.*?)```", TUTORIAL.read_text(encoding="utf-8"), re.DOTALL)
    for block in blocks:
        compile(block, "tutorial", "exec", flags=0x2000)  # top-level await, as in a notebook
    async with serving(tmp_path) as service, Client(service.url) as client:
        program = tmp_path / "answer.py"
        program.write_text(blocks[0].replace("http://127.0.0.1:8080", service.url))
        process = await create_subprocess_exec(sys.executable, str(program))
        async with client.watch("fox") as watch:
            async for update in watch:
                if getattr(update, "text", None):
                    break
        pieces = [piece async for piece in client.text("fox")]
        assert await process.wait() == 0
    assert "".join(pieces) == "The quick brown fox jumps over the lazy dog "
