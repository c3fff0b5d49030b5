"""The end of an event stream whose token expires while its client takes its time."""

import asyncio
import contextlib
import socket
import time
from collections.abc import AsyncIterator

from tests.support.conditions import eventually
from tests.support.gateway.small_service import SmallService, prediction
from tests.unit.gateway.api.test_sse import SECRET, serving, token
from tidings.gateway.auth.tokens import Hs256Tokens, RequiredClaims


@contextlib.asynccontextmanager
async def slowly(
    service: SmallService, path: str, expires_at: float
) -> AsyncIterator[asyncio.StreamReader]:
    """The answer to this request with a token of Ann's; few bytes fit between the service and the reader."""
    narrow = socket.socket()
    narrow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 32_768)
    narrow.setblocking(False)
    await asyncio.get_running_loop().sock_connect(narrow, ("127.0.0.1", service.port))
    reader, writer = await asyncio.open_connection(sock=narrow, limit=1024)
    bearer = token(sub="ann", exp=expires_at)
    writer.write(
        f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nAuthorization: Bearer {bearer}\r\n\r\n".encode()
    )
    try:
        yield reader
    finally:
        writer.close()


async def test_a_slow_reader_gets_nothing_more_once_its_token_has_expired() -> None:
    """However much waits for it, and however many changes come: what is made after the expiry is not sent."""
    async with serving(authenticator=Hs256Tokens(SECRET, RequiredClaims())) as (service, _):
        expires_at = time.time() + 2
        async with slowly(service, "/api/events?owner=ann", expires_at) as reader:
            await reader.readuntil(b"synced")
            for version in range(2, 12):
                for number in range(5):
                    await service.put(
                        prediction(f"p{number}", owner="ann", version=version, logs="x" * 60_000)
                    )
            await eventually(lambda: time.time() > expires_at)
            await service.put(prediction("late", owner="ann"))
            async with asyncio.timeout(20):
                received = await reader.read()
        assert b'"late"' not in received
        await eventually(lambda: service.hub.watched("owner:ann") == 0)


async def test_a_snapshot_ends_when_its_token_does() -> None:
    """A client that takes its time over what stands gets no more of it after the expiry."""
    async with serving(authenticator=Hs256Tokens(SECRET, RequiredClaims())) as (service, _):
        for number in range(30):
            await service.put(prediction(f"p{number}", owner="ann", logs="x" * 60_000))
        expires_at = time.time() + 2
        async with slowly(service, "/api/events?owner=ann", expires_at) as reader:
            await reader.readuntil(b"event: snapshot")
            await eventually(lambda: time.time() > expires_at)
            async with asyncio.timeout(20):
                received = await reader.read()
        assert received.count(b"event: snapshot") < 20
        assert b"synced" not in received
