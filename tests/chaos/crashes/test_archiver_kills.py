"""The archiver is killed at any moment; afterwards everything is as if nothing had been."""

import asyncio
import random
import sys
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from tests.support import webhooks
from tests.support.conditions import eventually
from tests.support.tidings_process import TidingsProcess, serving
from tests.support.webhooks import get, signed
from tests.unit.streams.archive.test_downloader import PICTURE, Site

KEY = {"TIDINGS_WEBHOOK_KEY": "0123456789abcdef0123456789abcdef"}
FILES = 3
"""Of each prediction."""


async def numbered(request: web.Request) -> web.StreamResponse:
    return web.Response(body=PICTURE + request.path.encode())


async def send(session: aiohttp.ClientSession, url: str, place: str, name: str) -> None:
    body = webhooks.report(name, output=[f"http://{place}/{name}/{n}" for n in range(FILES)])
    async with session.post(
        f"{url}/api/webhooks/replicate", data=body, headers=signed(body)
    ) as response:
        assert response.status == 200


async def all_there(url: str, names: list[str], folder: Path) -> None:
    """Each prediction has each of its files, the right ones, and nothing was said twice."""
    async with aiohttp.ClientSession() as session:

        async def archived(name: str) -> dict[str, Any]:
            record = await get(session, url, name)
            return record if record is not None and record.get("assets") else {}

        expected = 0
        for name in names:
            record = await eventually(lambda name=name: archived(name), 60)  # type: ignore[misc]
            assert record["version"] == 2, record
            assert "assetsError" not in record
            assert len(record["assets"]) == FILES
            for number, asset in enumerate(record["assets"]):
                async with session.get(url + asset["url"]) as response:
                    assert await response.read() == PICTURE + f"/{name}/{number}".encode()
                expected += 1
    assert _files(folder) == expected


def _files(folder: Path) -> int:
    """Files of predictions: `{folder}/{index}`."""
    return sum(1 for file in folder.glob("*/*") if file.is_file() and file.name.isdecimal())


async def test_killed_at_each_step(tmp_path: Path, settings: dict[str, str]) -> None:
    """SIGKILL as each numbered step ends, the first time or the third."""
    async with Site(numbered).open() as site:
        common = {**settings, **KEY, "TIDINGS_ASSETS_ALLOW": site.place}
        arguments = ("serve", "--role", "gateway,processor")
        async with (
            serving(tmp_path, common, arguments=arguments) as gateway,
            aiohttp.ClientSession() as session,
        ):
            names = []
            for step in range(1, 6):
                some = [f"step{step}-{n}" for n in range(4)]
                for name in some:
                    await send(session, gateway.url, site.place, name)
                names += some
                program = (
                    sys.executable,
                    "-m",
                    "tests.chaos.crashes.archiver_mortal",
                    str(step),
                    str(1 + 2 * (step % 2)),
                )
                doomed = TidingsProcess(tmp_path, common, ("serve", "--role", "archiver"), program)
                await doomed.launch()
                assert await doomed.ended(60) == -9, doomed.output
            async with serving(tmp_path, common, arguments=("serve", "--role", "archiver")):
                await all_there(gateway.url, names, tmp_path / "data" / "assets")


async def _killed_at_random(
    tmp_path: Path, settings: dict[str, str], kills: int, seed: int
) -> None:
    """An archiver is killed again and again while files come slowly; the last one ends the work."""
    moments = random.Random(seed)

    async def slow(request: web.Request) -> web.StreamResponse:
        await asyncio.sleep(0.02)
        return await numbered(request)

    async with Site(slow).open() as site:
        common = {**settings, **KEY, "TIDINGS_ASSETS_ALLOW": site.place}
        arguments = ("serve", "--role", "gateway,processor")
        async with (
            serving(tmp_path, common, arguments=arguments) as gateway,
            aiohttp.ClientSession() as session,
        ):
            names = [f"random-{n}" for n in range(10 * kills)]
            for name in names:
                await send(session, gateway.url, site.place, name)
            for _ in range(kills):
                archiver = TidingsProcess(tmp_path, common, ("serve", "--role", "archiver"))
                await archiver.start()
                asked = len(site.asked)
                # Wait until it is at work, then hit it within the next moments.
                await eventually(lambda asked=asked: len(site.asked) > asked, 60)  # type: ignore[misc]
                await asyncio.sleep(moments.uniform(0, 0.15))
                await archiver.kill()
            async with serving(tmp_path, common, arguments=("serve", "--role", "archiver")):
                await all_there(gateway.url, names, tmp_path / "data" / "assets")


async def test_killed_at_random_moments(tmp_path: Path, settings: dict[str, str]) -> None:
    """SIGKILL at moments that nobody chose, a few times."""
    await _killed_at_random(tmp_path, settings, kills=4, seed=3)


@pytest.mark.long
async def test_killed_at_random_moments_thirty_times(
    tmp_path: Path, settings: dict[str, str]
) -> None:
    """Thirty times: the same."""
    await _killed_at_random(tmp_path, settings, kills=30, seed=4)
