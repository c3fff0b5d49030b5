"""Pieces that make no sense, over HTTP and through the topic: a clear error or one dead letter, and nothing stops."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from tests.support.conditions import eventually
from tests.support.tidings_process import TidingsProcess, serving
from tests.support.webhooks import signed
from tidings.client.client import Client
from tidings.streams.log.factory import open_log
from tidings.streams.log.protocol import EVENTS, Log, NewRecord
from tidings.streams.rules.text import TEXT_MAX

PLAIN = {"Content-Type": "text/plain"}
GAPS = 10_000
AT_ONCE = 50
"""Requests under way at a time."""


ON_SQLITE_FIRST = pytest.mark.parametrize(
    "log_settings", ["sqlite", pytest.param("kafka", marks=pytest.mark.long)], indirect=True
)
"""The log makes little difference here: on Kafka in the long form alone."""


class Writing:
    """An answer of somebody else, which is written and read all the while."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._stopping = asyncio.Event()
        self.written: list[str] = []
        self.read: list[str] = []

    async def write(self) -> None:
        async with Client(self._url) as client, client.text("innocent") as text:
            while not self._stopping.is_set():
                self.written.append(f"wörd {len(self.written)} ")
                await text.write(self.written[-1])
                await asyncio.sleep(0.02)  # the pace of a model

    async def hear(self) -> None:
        async with Client(self._url) as client:
            async for piece in client.text("innocent"):
                self.read.append(piece)

    def stop(self) -> None:
        self._stopping.set()


@asynccontextmanager
async def innocent(service: TidingsProcess) -> AsyncIterator[None]:
    """Meanwhile an innocent text grows, and is read whole."""
    one = Writing(service.url)
    async with asyncio.TaskGroup() as group:
        group.create_task(one.write())
        group.create_task(one.hear())
        await eventually(lambda: one.read)
        so_far = len(one.read)
        yield
        await eventually(lambda: len(one.read) > so_far)
        one.stop()
    assert "".join(one.read) == "".join(one.written)


@asynccontextmanager
async def log_of(service: TidingsProcess, settings: dict[str, str]) -> AsyncIterator[Log]:
    """The log that the service reads."""
    url = settings.get("TIDINGS_LOG", f"sqlite:///{service.folder}/data/log.db")
    log = await open_log(url, topic_prefix=settings.get("TIDINGS_TOPIC_PREFIX", ""), create=False)
    try:
        yield log
    finally:
        await log.close()


def piece(text: str, **more: Any) -> bytes:
    return msgspec.json.encode({"type": "append", "text": text, **more})


async def letters(client: httpx.AsyncClient) -> Counter[tuple[str, str]]:
    """The open dead letters by prediction and code."""
    answer = await client.get("/api/dead-letters", params={"limit": 1000})
    return Counter((one["predictionId"], one["reason"]) for one in answer.json()["data"])


async def test_through_the_topic(settings: dict[str, str], tmp_path: Path) -> None:
    """Each bad piece is one dead letter with its code, 10,000 behind a gap are one, and the next good one counts."""
    bad: dict[str, tuple[list[bytes], str]] = {
        "half": ([b'{"type":"append","offset":4,"text":"caf\xc3"}'], "encoding"),
        "surrogate": ([rb'{"type":"append","offset":4,"text":"\ud83d"}'], "encoding"),
        "large": ([piece("x" * 2 * TEXT_MAX, offset=4)], "text-too-long"),
        "negative": ([piece("x", offset=-1)], "wrong-type"),
        "fraction": ([piece("x", offset=1.5)], "wrong-type"),
        "number": ([b'{"type":"append","offset":4,"text":7}'], "wrong-type"),
        "gap": ([piece("x", offset=5 + n) for n in range(GAPS)], "text-gap"),
        "other": ([piece("Oh", offset=0)], "text-mismatch"),
    }
    async with (
        serving(tmp_path, settings) as service,
        innocent(service),
        log_of(service, settings) as log,
        httpx.AsyncClient(base_url=service.url, timeout=20) as client,
    ):
        for name, (values, _) in bad.items():
            records = [piece("The ", offset=0), *values, piece("quick", offset=4)]
            await log.append(EVENTS, [NewRecord(name.encode(), value) for value in records])
        ended = [b'{"status":"processing","text":"The end"}', b'{"status":"succeeded"}']
        late = [piece(" or not", offset=7), piece(" at all", offset=14)]
        await log.append(EVENTS, [NewRecord(b"ended", value) for value in (*ended, *late)])

        async def judged() -> bool:
            found = [(await client.get(f"/api/predictions/{name}")).json() for name in bad]
            return all(one.get("data", {}).get("text") == "The quick" for one in found)

        await eventually(judged, 30)
        expected = Counter({(name, code): 1 for name, (_, code) in bad.items()})
        expected["ended", "text-late"] = 1
        await eventually(lambda: told(client, expected), 20)
        record = (await client.get("/api/predictions/ended")).json()["data"]
        assert (record["status"], record["text"], record["textMissing"]) == (
            "succeeded",
            "The end",
            14,
        )


async def told(client: httpx.AsyncClient, expected: Counter[tuple[str, str]]) -> bool:
    """Whether there are these dead letters; more than one of a kind is a failure at once."""
    found = await letters(client)
    assert not found - expected, found - expected
    return found == expected


@ON_SQLITE_FIRST
async def test_by_webhook(settings: dict[str, str], tmp_path: Path) -> None:
    """A signed webhook is always taken; a piece without its offset, or with a bad one, is one dead letter."""
    async with (
        serving(tmp_path, settings) as service,
        httpx.AsyncClient(base_url=service.url, timeout=20) as client,
    ):
        for name, more in (
            ("none", {}),
            ("negative", {"offset": -4}),
            ("large", {"offset": 4, "text": "x" * 2 * TEXT_MAX}),
        ):
            for fields in ({"offset": 0, "text": "The "}, {"text": "x", **more}):
                body = msgspec.json.encode({"type": "append", "predictionId": name, **fields})
                url = "/api/webhooks/standard"
                answer = await client.post(url, content=body, headers=signed(body))
                assert answer.status_code == 200, answer.text
        expected = Counter(
            {
                ("none", "missing-field"): 1,
                ("negative", "missing-field"): 1,
                ("large", "text-too-long"): 1,
            }
        )
        await eventually(lambda: told(client, expected), 20)


@ON_SQLITE_FIRST
@pytest.mark.parametrize("gaps", [300, pytest.param(GAPS, marks=pytest.mark.long)])
async def test_over_http(settings: dict[str, str], tmp_path: Path, gaps: int) -> None:
    """Each bad piece is refused with its status and code, and says what to do; what stood stays, and goes on."""
    async with (
        serving(tmp_path, settings) as service,
        innocent(service),
        httpx.AsyncClient(base_url=service.url, timeout=60) as client,
    ):
        url, gap = (f"/api/predictions/{name}/text" for name in ("p1", "gap"))
        for begun in (url, gap):
            await client.put(begun, headers=PLAIN, content="The ")

        async def refused(content: bytes, offset: object = 4, url: str = url) -> tuple[int, str]:
            answer = await client.post(
                url, params={"offset": str(offset)}, headers=PLAIN, content=content
            )
            assert answer.json()["detail"]
            return answer.status_code, answer.json()["code"]

        assert await refused(b"caf\xc3") == (400, "bad-request")
        assert await refused(b"x" * 2 * TEXT_MAX) == (413, "too-large")
        assert await refused(b"x" * TEXT_MAX) == (413, "text-too-long")
        assert await refused(b"x", -1) == (400, "bad-request")
        assert await refused(b"x", 1.5) == (400, "bad-request")
        assert await refused(b"Oh", 0) == (409, "text-mismatch")
        turns = asyncio.Semaphore(AT_ONCE)

        async def behind(number: int) -> tuple[int, str]:
            async with turns:
                return await refused(b"x", 5 + number, gap)

        found = Counter(await asyncio.gather(*[behind(number) for number in range(gaps)]))
        assert found == {(409, "text-gap"): gaps}
        told = {("gap", "text-gap"): 1, ("p1", "text-too-long"): 1, ("p1", "text-mismatch"): 1}
        assert await letters(client) == told
        for begun in (url, gap):
            where = {"offset": "4"}
            answer = await client.post(begun, params=where, headers=PLAIN, content="quick")
            assert answer.status_code == 204
        closed = await client.post(url, headers={**PLAIN, "Stream-Closed": "true"})
        assert closed.status_code == 204
        assert await refused(b" fox", 9) == (409, "text-closed")
        assert (await client.get(url)).text == "The quick"
