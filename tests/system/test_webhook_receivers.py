"""The examples that receive webhooks, in three languages with the official libraries, told by the running service."""

import asyncio
import os
import re
import shutil
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import httpx
import pytest

from tests.support import node, webhooks
from tests.support.broker import free_port
from tests.support.conditions import eventually
from tests.support.receiver import OLD_SECRET, SECRET
from tests.support.root import ROOT
from tests.support.system import GO, NODE, require
from tests.support.tidings_process import environment, serving
from tests.support.webhooks import signed

FOLDER = ROOT / "examples" / "webhooks"
HOWTO = ROOT / "docs" / "howto" / "webhooks.md"


def python(_: Path) -> Sequence[str | Path]:
    """Python's receiver."""
    return sys.executable, FOLDER / "receiver.py"


def node_js(folder: Path) -> Sequence[str | Path]:
    """That for Node.js, with its packages."""
    require(NODE)
    shutil.copy(FOLDER / "receiver.mjs", folder)
    (folder / "node_modules").symlink_to(node.fetched(FOLDER) / "node_modules")
    return "node", folder / "receiver.mjs"


def go(folder: Path) -> Sequence[str | Path]:
    """That in Go, compiled; what it is made of stays in `.cache/`."""
    require(GO)
    cache = ROOT / ".cache" / "go"
    building = ("go", "build", "-p", "2", "-o", folder / "receiver", ".")
    node.run(*building, folder=FOLDER, within=240, GOCACHE=str(cache), CGO_ENABLED="0")
    return (folder / "receiver",)


RECEIVERS: dict[str, Callable[[Path], Sequence[str | Path]]] = {
    "python": python,
    "node": node_js,
    "go": go,
}


def made(language: str, folder: Path) -> Sequence[str | Path]:
    """The command that runs a receiver, with what it needs in a folder of its own."""
    folder.mkdir()
    return RECEIVERS[language](folder)


class Running:
    """A receiver at work."""

    def __init__(self, port: int, output: Path) -> None:
        self.place = f"127.0.0.1:{port}"
        self.url = f"http://{self.place}/hooks"
        self._output = output

    @property
    def lines(self) -> list[str]:
        """What it was told."""
        return self._output.read_text().splitlines()


@asynccontextmanager
async def receiving(language: str, folder: Path, secret: str) -> AsyncIterator[Running]:
    """A receiver in this language, which knows one secret."""
    port = free_port()
    command = await asyncio.to_thread(made, language, folder)
    running = Running(port, folder / "output.txt")
    with (folder / "output.txt").open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            *map(str, command),
            str(port),
            env={**environment({"TIDINGS_NOTIFY_SECRET": secret}), "HOME": os.environ["HOME"]},
            stdout=output,
        )
    try:

        async def listens() -> bool:
            assert process.returncode is None
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                return False
            writer.close()
            return True

        await eventually(listens, 20)
        yield running
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


@pytest.mark.parametrize(
    "languages",
    [("python", "node"), pytest.param(("python", "node", "go"), marks=pytest.mark.long)],
    ids="-".join,
)
async def test_official_libraries_verify(tmp_path: Path, languages: Sequence[str]) -> None:
    """Receivers in each language take each step once, in order, by the old secret and by the new one."""
    async with AsyncExitStack() as stack:
        at_work = [
            await stack.enter_async_context(
                receiving(language, tmp_path / language, (OLD_SECRET, SECRET)[number % 2])
            )
            for number, language in enumerate(languages)
        ]
        settings = {
            "TIDINGS_NOTIFY_SECRET": f"{SECRET},{OLD_SECRET}",
            "TIDINGS_NOTIFY": ",".join(one.url for one in at_work),
            "TIDINGS_NOTIFY_ALLOW": ",".join(one.place for one in at_work),
            "TIDINGS_NOTIFY_EVENTS": "processing,succeeded",
            "TIDINGS_REPLICATE_SECRET": webhooks.SECRET,
        }
        service = await stack.enter_async_context(serving(tmp_path, settings))
        http = await stack.enter_async_context(httpx.AsyncClient(trust_env=False))
        for name in ("p1", "p2"):
            for status in ("processing", "succeeded"):
                body = webhooks.report(name, status=status)
                url = f"{service.url}/api/webhooks/replicate"
                answer = await http.post(url, content=body, headers=signed(body))
                assert answer.status_code == 200

        def told(one: Running, name: str) -> bool:
            steps = [line for line in one.lines if line.endswith(f" {name}")]
            return steps == [f"prediction.processing {name}", f"prediction.succeeded {name}"]

        def all_told() -> bool:
            return all(told(one, name) for one in at_work for name in ("p1", "p2"))

        await eventually(all_told, 20)
        forger = "whsec_" + "Zm9yZ2VkIGZvcmdlZCBmb3JnZWQgZm9yZ2Vk"
        for one in at_work:
            forged = await http.post(one.url, content=b"{}", headers=signed(b"{}", secret=forger))
            assert forged.status_code == 401
            assert len(one.lines) == 4


def test_gofmt_takes_the_receiver() -> None:
    """Go's own formatter reads the example and would change nothing; the long test compiles it."""
    require(GO)
    assert node.run("gofmt", "-l", "receiver.go", folder=FOLDER) == ""


@pytest.mark.parametrize(("fence", "file"), [("python", "py"), ("js", "mjs"), ("go", "go")])
def test_the_guide_shows_the_examples(fence: str, file: str) -> None:
    """The code that the guide shows in a language is that of the example, which the tests run."""
    code = (FOLDER / f"receiver.{file}").read_text(encoding="utf-8")
    blocks = re.findall(rf"^```{fence}\n(.*?)^```", HOWTO.read_text(encoding="utf-8"), re.M | re.S)
    assert blocks
    for block in blocks:
        for passage in block.split("\n\n\n" if fence == "python" else "\n\n"):
            assert passage.strip("\n") in code
