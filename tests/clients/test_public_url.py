"""Where the service is for everybody: what clients on a server, which may ask an inner address, are told."""

from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from tests.support import node
from tests.support.providers.faulty_stand_in import FaultyStandIn
from tests.support.providers.work import Work, at_work
from tidings.client.client import Client
from tidings.client.progress import Deleted
from tidings.streams.log.protocol import EVENTS, NewRecord

OUTSIDE = "https://outside.example/app"
ASSET = "/assets/aa/0"
SUCCESS = b'{"status": "succeeded", "model": "a/b"}'
ARCHIVE = b'{"type": "archive", "assets": [{"url": "/assets/aa/0", "bytes": 3}]}'

PROGRAM = """
import { Tidings } from "@tidings/client";

for (const transport of [undefined, "sse"]) {
  const tidings = new Tidings(process.argv[2], { transport });
  for await (const record of tidings.watch("p1")) {
    console.log(record.imageUrl, record.assets[0].url);
    break;
  }
  console.log((await tidings.get("p1")).imageUrl, (await tidings.list()).data[0].imageUrl);
  tidings.close();
}
"""


@pytest.fixture
async def work(tmp_path: Path) -> AsyncIterator[Work]:
    """A service that knows its address outside, with a prediction whose picture it keeps."""
    async with (
        FaultyStandIn(duration=600, seed=1) as provider,
        at_work(tmp_path, provider, {"TIDINGS_PUBLIC_URL": f"{OUTSIDE}/"}) as running,
    ):
        log = running.service.resources.log
        await log.append(EVENTS, [NewRecord(b"p1", SUCCESS), NewRecord(b"p1", ARCHIVE)])
        await running.becomes("p1", "succeeded")
        yield running


async def test_python_is_told(work: Work) -> None:
    """A record that Python reads, lists or watches names its files outside; on the wire it stays as it is."""
    url = f"http://127.0.0.1:{work.service.port}"
    async with Client(url) as client, client.watch("p1") as watch:
        update = await anext(watch)
        while isinstance(update, Deleted) or update.image_url is None:
            update = await anext(watch)
        found = [update, await client.get("p1"), (await client.list()).data[0]]
    assert [record.image_url for record in found] == [f"{OUTSIDE}{ASSET}"] * 3
    assert {record.value("assets")[0]["url"] for record in found} == {f"{OUTSIDE}{ASSET}"}
    answer = await work.client.get("/api/predictions/p1")
    assert answer.headers["Tidings-Public-Url"] == OUTSIDE
    assert answer.json()["data"]["imageUrl"] == ASSET


async def test_a_new_prediction_is_found_outside(work: Work) -> None:
    """The address of what was made is a whole one, below the prefix that the outside sees."""
    order = {"provider": "replicate", "model": "owner/model", "predictionId": "p2"}
    answer = await work.client.post("/api/predictions", json=order)
    assert answer.status_code == 201, answer.text
    assert answer.headers["Location"] == f"{OUTSIDE}/api/predictions/p2"


async def test_a_page_on_a_server_is_told(work: Work, tmp_path: Path) -> None:
    """In Node.js, where pages are made that others see, records name their files outside, too."""
    folder = tmp_path / "program"
    folder.mkdir()
    (folder / "node_modules").symlink_to(node.packages() / "node_modules")
    (folder / "program.mjs").write_text(PROGRAM)
    answer: httpx.Response = await work.client.get("/api/predictions/p1")
    assert answer.json()["data"]["assets"]
    printed = await node.printed(
        "node", folder / "program.mjs", f"http://127.0.0.1:{work.service.port}"
    )
    assert set(printed.split()) == {f"{OUTSIDE}{ASSET}"}
    assert len(printed.split()) == 8
