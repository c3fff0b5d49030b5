"""A back-end developer: the library without a service, then a client of a service in Python.

`python -m tests.system.first_hour.back_end` prints the steps and their seconds.
"""

import asyncio
import json

from tests.support.conditions import eventually
from tests.support.tidings_process import serving
from tests.support.uvicorn_process import uvicorn
from tests.system.first_hour.steps import Hour, block, main, run_command, run_python, shell


async def back_end(hour: Hour) -> None:
    """The README's blocks for Python, in the order in which they stand there."""
    readme = "README.md"
    with hour.step("keep predictions in a program of one's own, without a log"):
        said = await run_python(hour.folder, block(readme, "python", "PredictionStatusManager"), "")
        assert said.startswith("succeeded "), said
    with hour.step("start the service"):
        stack = serving(hour.folder)
        service = await stack.__aenter__()
    try:
        with hour.step("report about a prediction from the shell"):
            words = ["report", "p1", "--status", "succeeded", "--image-url"]
            done = await run_command(hour.folder, [*words, "https://example.com/cat.png"])
            assert done.code == 0, done.err
        address = f"127.0.0.1:{service.port}"
        with hour.step("wait for its end with the Python client"):
            code = block(readme, "python", "client.finished")
            said = await run_python(hour.folder, code, address)
            assert said.strip() == "succeeded https://example.com/cat.png", said
        with hour.step("write a text word by word, and read it as it grows"):
            code = block("docs/tutorial/streaming.md", "python", "async def words")
            writing = asyncio.create_task(run_python(hour.folder, code, address))

            async def begun() -> bool:
                line = f"curl -s http://{address}/api/predictions/fox/text"
                return (await shell(hour.folder, line)).startswith("The quick ")

            await eventually(begun)
            await writing
            read = await shell(hour.folder, f"curl -s http://{address}/api/predictions/fox/text")
            assert read == "The quick brown fox jumps over the lazy dog "
    finally:
        await stack.__aexit__(None, None, None)
    with hour.step("mount it in a FastAPI application, and take a report there"):
        own = hour.folder / "application"
        own.mkdir()
        (own / "app.py").write_text(block(readme, "python", "from fastapi import FastAPI"))
        async with uvicorn("app:app", own, own, {}) as url:
            done = await run_command(own, ["report", "p2", "--status", "succeeded"])
            assert done.code == 0, done.err
            read = await shell(own, f"curl -s {url}/predictions/api/predictions/p2?wait=5")
            assert json.loads(read)["data"]["status"] == "succeeded", read


if __name__ == "__main__":
    main(back_end)
