"""The clients of Durable Streams that others wrote, over a server that is killed and started again."""

import asyncio
from collections.abc import Callable
from functools import partial
from pathlib import Path

import httpx
import pytest

from tests.support.conditions import eventually
from tests.support.durable_streams import javascript_reader, python_reader
from tests.support.system import NODE, require
from tests.support.tidings_process import serving
from tidings.client.client import Client

WORDS = [f"Wörd {count} " for count in range(60)] + ["END"]


@pytest.mark.parametrize(
    ("reader", "live"),
    [
        (javascript_reader, "long-poll"),
        (python_reader, "sse"),
        pytest.param(javascript_reader, "sse", marks=pytest.mark.long),
        pytest.param(python_reader, "long-poll", marks=pytest.mark.long),
    ],
)
async def test_a_reader_resumes(
    tmp_path: Path, reader: Callable[[], tuple[list[str], Path]], live: str
) -> None:
    """A reader that is cut off twice ends with exactly the text that was written meanwhile."""
    require(NODE)
    command, home = await asyncio.to_thread(reader)
    async with serving(tmp_path) as service, Client(service.url) as client:
        async with httpx.AsyncClient() as http:
            url = f"{service.url}/v1/stream/p1"
            await http.put(url, headers={"Content-Type": "text/plain"})
        process = await asyncio.create_subprocess_exec(
            *command,
            url,
            live,
            cwd=home,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        assert process.stdout is not None
        assert process.stderr is not None
        heard: list[str] = []

        async def hear(lines: asyncio.StreamReader) -> None:
            async for line in lines:
                heard.append(line.decode())  # noqa: PERF401 - looked at while it grows

        hearing = asyncio.create_task(hear(process.stderr))
        async with client.text("p1") as text:
            for number, word in enumerate(WORDS):
                await text.write(word)
                await text.flush()
                if number in {20, 40}:
                    said = len(heard)
                    await service.kill()
                    await service.start()
                    await text.write(".")
                    await text.flush()
                    await eventually(partial(more_than, heard, said, process), 20)
        async with asyncio.timeout(30):
            output = await process.stdout.read()
        await process.wait()
        hearing.cancel()
        expected = "".join(word + ("." if n in {20, 40} else "") for n, word in enumerate(WORDS))
        assert output.decode() == expected, heard


def more_than(heard: list[str], said: int, process: asyncio.subprocess.Process) -> bool:
    """Whether the reader has said more, or has ended."""
    return len(heard) > said or process.returncode is not None
