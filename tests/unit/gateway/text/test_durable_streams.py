"""A prediction's text as a Durable Stream, over a real port."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from typing import Any

import httpx
import jwt
import pytest

from tests.support.conditions import eventually
from tests.support.gateway.small_service import SmallService, prediction, small_service
from tidings.gateway.auth.rate_limits import TrustedProxies
from tidings.gateway.auth.tokens import Hs256Tokens, RequiredClaims
from tidings.gateway.text import protocol
from tidings.gateway.text.protocol import Offset
from tidings.streams.rules.text import TEXT_MAX

SECRET = b"a secret of more than thirty-two bytes"
PLAIN = {"Content-Type": "text/plain"}


@contextlib.asynccontextmanager
async def serving(**settings: Any) -> AsyncIterator[tuple[SmallService, httpx.AsyncClient]]:
    async with (
        small_service(**settings) as service,
        httpx.AsyncClient(base_url=service.url, timeout=20) as client,
    ):
        yield service, client


def place(size: int, epoch: int = 0) -> str:
    return str(Offset(epoch, size))


async def test_a_text_is_begun_appended_to_closed_and_read() -> None:
    """PUT begins it, POST appends, a POST with `Stream-Closed` ends the prediction, and GET says where it stands."""
    async with serving() as (service, client):
        begun = await client.put("/v1/stream/p1", headers=PLAIN, content="The quick")
        assert (begun.status_code, begun.headers["Stream-Next-Offset"]) == (201, place(9))
        assert begun.headers["Location"] == f"{service.url}/v1/stream/p1"
        url = "/api/predictions/p1/text"
        appended = await client.post(url, headers=PLAIN, content=" brøwn")
        assert (appended.status_code, appended.headers["Stream-Next-Offset"]) == (204, place(16))
        read = await client.get(url)
        assert read.text == "The quick brøwn"
        assert read.headers["Stream-Up-To-Date"] == "true"
        assert read.headers["Cache-Control"] == "private, no-store"
        assert "Stream-Closed" not in read.headers
        closed = await client.post(url, headers={**PLAIN, "Stream-Closed": "true"}, content=".")
        assert (closed.status_code, closed.headers["Stream-Closed"]) == (204, "true")
        record = (await client.get("/api/predictions/p1")).json()["data"]
        assert (record["status"], record["text"]) == ("succeeded", "The quick brøwn.")
        late = await client.post(url, headers=PLAIN, content="late")
        assert (late.status_code, late.headers["Stream-Closed"]) == (409, "true")
        rest = await client.get(url, params={"offset": place(16)})
        assert (rest.text, rest.headers["Stream-Closed"]) == (".", "true")


@pytest.mark.parametrize(
    ("settings", "address"),
    [
        ({}, "http://tidings.test"),
        ({"trusted_proxies": TrustedProxies(["127.0.0.0/8"])}, "https://outside.example"),
        ({"public_url": "https://said.example/below/"}, "https://said.example/below"),
    ],
)
async def test_a_new_text_is_where_its_client_reaches_it(
    settings: dict[str, Any], address: str
) -> None:
    """`Location` has the public address, else what a trusted proxy says, else what the client addressed."""
    headers = {
        **PLAIN,
        "Host": "tidings.test",
        "X-Forwarded-Proto": "https",
        "X-Forwarded-Host": "outside.example",
    }
    async with serving(allowed_hosts=None, **settings) as (_, client):
        begun = await client.put("/v1/stream/p%C3%A91?x=1", headers=headers)
        assert begun.headers["Location"] == f"{address}/v1/stream/p%C3%A91"


async def test_a_repeat_with_the_same_numbers_is_taken_once() -> None:
    """A writer that numbers its pieces may repeat each; older epochs are fenced off, and gaps are told."""
    async with serving() as (_, client):
        await client.put("/v1/stream/p1", headers=PLAIN)

        async def write(epoch: int, seq: int, text: str) -> httpx.Response:
            numbers = {"Producer-Epoch": str(epoch), "Producer-Seq": str(seq)}
            headers = {**PLAIN, "Producer-Id": "w", **numbers}
            return await client.post("/v1/stream/p1", headers=headers, content=text)

        assert (await write(0, 0, "a")).status_code == 200
        assert (await write(0, 0, "a")).status_code == 204
        gap = await write(0, 2, "c")
        assert (gap.status_code, gap.headers["Producer-Expected-Seq"]) == (409, "1")
        assert (await write(1, 0, "b")).status_code == 200
        fenced = await write(0, 1, "x")
        assert (fenced.status_code, fenced.headers["Producer-Epoch"]) == (403, "1")
        assert (await client.get("/v1/stream/p1")).text == "ab"


async def test_a_piece_at_its_offset() -> None:
    """A piece may say where it belongs: an overlap counts once, another text there and a gap are refused."""
    async with serving() as (_, client):
        await client.put("/v1/stream/p1", headers=PLAIN, content="The quick")

        async def write(offset: int, text: str) -> int:
            path = f"/v1/stream/p1?offset={offset}"
            return (await client.post(path, headers=PLAIN, content=text)).status_code

        assert await write(4, "quick brown") == 204
        assert await write(4, "quick") == 204
        assert await write(4, "Quick") == 409
        assert await write(99, "fox") == 409
        assert await write(-1, "fox") == 400
        assert (await client.get("/v1/stream/p1")).text == "The quick brown"


@pytest.mark.parametrize(
    ("headers", "content", "status"),
    [
        (PLAIN, b"\xff\xfe", 400),
        (PLAIN, b"\xc3", 400),
        (PLAIN, b"", 400),
        ({"Content-Type": "application/json"}, b"{}", 409),
        (PLAIN, b"x" * 2 * TEXT_MAX, 413),
        ({**PLAIN, "Producer-Id": "w"}, b"x", 400),
        ({**PLAIN, "Producer-Id": "w", "Producer-Epoch": "-1", "Producer-Seq": "0"}, b"x", 400),
    ],
)
async def test_a_bad_piece_is_refused(headers: dict[str, str], content: bytes, status: int) -> None:
    """What is no piece is answered with a clear error, and changes nothing."""
    async with serving() as (_, client):
        await client.put("/v1/stream/p1", headers=PLAIN, content="The quick")
        answer = await client.post("/v1/stream/p1", headers=headers, content=content)
        assert answer.status_code == status
        assert answer.json()["detail"]
        assert (await client.get("/v1/stream/p1")).text == "The quick"


async def test_a_text_too_long_is_refused_at_its_end() -> None:
    """Beyond the limit a piece is left out with 413; what was there stays."""
    async with serving() as (_, client):
        await client.put("/v1/stream/p1", headers=PLAIN, content="x" * (TEXT_MAX - 1))
        answer = await client.post("/v1/stream/p1", headers=PLAIN, content="yy")
        assert (answer.status_code, answer.json()["code"]) == (413, "text-too-long")


@pytest.mark.parametrize(
    "headers",
    [
        {"Content-Type": "application/json"},
        {"Content-Type": "application/octet-stream"},
        {**PLAIN, "Stream-TTL": "60"},
        {**PLAIN, "Stream-Forked-From": "/v1/stream/p0"},
    ],
)
async def test_what_is_no_text_is_not_begun(headers: dict[str, str]) -> None:
    """JSON, binary streams, forks and times to live are refused with 400, as the protocol says."""
    async with serving() as (_, client):
        assert (await client.put("/v1/stream/p1", headers=headers)).status_code == 400
        assert (await client.get("/v1/stream/p1")).status_code == 404


async def test_the_content_type_is_read_back_as_given() -> None:
    """`text/plain; charset=utf-8` comes back as it was given; without it `text/plain` does."""
    async with serving() as (_, client):
        given = "text/plain; charset=utf-8"
        await client.put("/v1/stream/p1", headers={"Content-Type": given}, content="a")
        await client.put("/v1/stream/p2", headers=PLAIN, content="a")
        assert (await client.get("/v1/stream/p1")).headers["Content-Type"] == given
        assert (await client.get("/v1/stream/p2")).headers["Content-Type"] == "text/plain"


async def test_long_polls_and_event_streams_follow() -> None:
    """A long poll is answered with what comes; an event stream sends it with where it ends, and closes."""
    async with serving() as (_, client):
        await client.put("/v1/stream/p1", headers=PLAIN, content="The quick")
        live = {"offset": place(9), "live": "long-poll"}
        poll = asyncio.create_task(client.get("/v1/stream/p1", params=live))
        async with client.stream("GET", "/v1/stream/p1?offset=-1&live=sse") as stream:
            lines = stream.aiter_lines()
            assert [await anext(lines) for _ in range(3)] == ["event: data", "data:The quick", ""]
            await client.post("/v1/stream/p1", headers=PLAIN, content=" brown")
            answer = await poll
            assert (answer.text, answer.headers["Stream-Next-Offset"]) == (" brown", place(15))
            assert answer.headers["Stream-Cursor"].isdecimal()
            await client.post("/v1/stream/p1", headers={"Stream-Closed": "true"})
            rest = [line async for line in lines]
            assert "data: " + " brown" in rest
            assert '"streamClosed":true' in rest[-2]


async def test_live_readers_are_counted() -> None:
    """An event stream of a text counts while it is open, and each piece that it was sent."""
    async with serving() as (service, client):
        audience = service.texts.audiences["stream"]
        await client.put("/v1/stream/p1", headers=PLAIN, content="one")
        url = "/v1/stream/p1?offset=-1&live=sse"
        async with client.stream("GET", url) as response:
            lines = response.aiter_lines()
            assert "data:one" in [await anext(lines) for _ in range(2)]
            assert (len(audience), audience.pieces) == (1, 1)
        await eventually(lambda: len(audience) == 0)


async def test_an_older_text_is_gone() -> None:
    """An offset of a text that was replaced is answered with 410; one of the new text is served."""
    async with serving() as (_, client):
        await client.put("/v1/stream/p1", headers=PLAIN, content="The quick")
        await client.patch("/api/predictions/p1", json={"text": "Another, and longer one"})
        record = (await client.get("/api/predictions/p1")).json()["data"]
        epoch = record["textEpoch"]
        old = await client.get("/v1/stream/p1", params={"offset": place(9)})
        assert old.status_code == 410
        new = await client.get("/v1/stream/p1", params={"offset": place(7, epoch)})
        assert new.text == ", and longer one"


async def test_a_text_has_the_rights_of_its_prediction() -> None:
    """Readers see their own texts, writing takes the scope `write`, and what one may not see does not exist."""
    authenticator = Hs256Tokens(SECRET, RequiredClaims())

    def as_(**claims: Any) -> dict[str, str]:
        token = jwt.encode({"exp": time.time() + 60, **claims}, SECRET, algorithm="HS256")
        return {**PLAIN, "Authorization": f"Bearer {token}"}

    ada, bob = as_(sub="ada"), as_(sub="bob")
    async with serving(authenticator=authenticator) as (service, client):
        await service.put(prediction("p1", owner="ada", text="secret", text_length=6))
        path = "/v1/stream/p1"
        assert (await client.get(path, headers=ada)).text == "secret"
        assert (await client.get(path, headers=bob)).status_code == 404
        assert (await client.head(path, headers=bob)).status_code == 404
        assert (await client.post(path, headers=ada, content="x")).status_code == 403
        assert (await client.post(path, headers=bob, content="x")).status_code == 404
        assert (await client.put(path, headers=bob, content="x")).status_code == 409
        assert (await client.get(path)).status_code == 401
        assert (await client.put("/v1/stream/p2", headers=bob, content="x")).status_code == 201
        assert (await client.get("/v1/stream/p2", headers=ada)).status_code == 404


async def test_texts_that_were_read_are_let_go() -> None:
    """A gateway keeps no text that nobody reads or watches, but what its record does not say yet."""
    async with serving() as (service, client):
        for number in range(20):
            await service.put(prediction(f"p{number}", text="x", text_length=1))
            assert (await client.get(f"/v1/stream/p{number}")).text == "x"
        assert len(service.texts) == 0
        await client.post("/v1/stream/p1", headers=PLAIN, content="y")
        assert (await client.get("/v1/stream/p1")).text == "xy"


def test_cursors_never_stand_still() -> None:
    """A cursor is the present interval; one that the client has already is followed by a greater one."""
    now = protocol.CURSOR_EPOCH + 100 * protocol.CURSOR_SECONDS
    assert protocol.cursor(now, None, 1) == 100
    assert protocol.cursor(now, "99", 5) == 100
    assert protocol.cursor(now, "100", 5) == 105
    assert protocol.cursor(now, "nonsense", 5) == 100
