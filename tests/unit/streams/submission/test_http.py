"""Calls to providers over HTTP: what their answers may look like, and what a failure says."""

import gzip
import zlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from aiohttp import web

from tidings.streams.providers.job_api import Call
from tidings.streams.submission.http import HttpCalls, NoAnswer, NotSent

BODY = b'{"id":"x1","status":"succeeded"}'
RAW_DEFLATE = zlib.compressobj(wbits=-15)
ANSWERS = {
    "plain": (BODY, None),
    "gzip": (gzip.compress(BODY), "gzip"),
    "deflate": (zlib.compress(BODY), "deflate"),
    "raw-deflate": (RAW_DEFLATE.compress(BODY) + RAW_DEFLATE.flush(), "deflate"),
    "unsaid": (gzip.compress(BODY), None),
    "untrue": (BODY, "gzip"),
}


@asynccontextmanager
async def provider(**answers: tuple[bytes, str | None]) -> AsyncIterator[str]:
    async def answer(request: web.Request) -> web.Response:
        body, encoding = answers[request.path[1:]]
        headers = {} if encoding is None else {"Content-Encoding": encoding}
        return web.Response(body=body, headers=headers)

    app = web.Application()
    app.router.add_get("/{tail:.*}", answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@pytest.mark.parametrize("form", ANSWERS)
async def test_compressed_answers_are_read(form: str) -> None:
    """An answer is the same however it is compressed, whether its header is true or not."""
    calls = HttpCalls()
    async with provider(**ANSWERS) as url:
        answer = await calls.send(Call(method="GET", url=f"{url}/{form}", headers={}))
    await calls.close()
    assert answer.body == BODY


async def test_an_answer_that_grows_too_large_is_none() -> None:
    """No more is made of a compressed answer than one may have."""
    calls = HttpCalls(max_answer=1000)
    async with provider(bomb=(gzip.compress(bytes(1_000_000)), "gzip")) as url:
        with pytest.raises(NoAnswer, match="over 1000 bytes"):
            await calls.send(Call(method="GET", url=f"{url}/bomb", headers={}))
    await calls.close()


@pytest.mark.parametrize("token", ["r8_secret\n", "r8_secret\x00", "“r8_secret”"])
async def test_what_cannot_be_sent_was_not_sent_and_is_not_shown(token: str) -> None:
    """A header that no client writes.

    The provider has seen nothing, and the failure does not repeat the token.
    """
    calls = HttpCalls()
    async with provider(**ANSWERS) as url:
        call = Call(method="GET", url=f"{url}/plain", headers={"Authorization": f"Bearer {token}"})
        with pytest.raises(NotSent) as failed:
            await calls.send(call)
    await calls.close()
    assert "r8_secret" not in str(failed.value)
