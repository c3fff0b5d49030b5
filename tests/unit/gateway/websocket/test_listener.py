"""The listening socket and the framing, spoken to with raw sockets: split, joined, broken and hostile bytes."""

import asyncio
import json
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from websockets.frames import Frame, Opcode
from websockets.protocol import CLIENT
from websockets.protocol import Protocol as Core

from tests.support.conditions import eventually
from tests.support.gateway.pushing import Push, pushing
from tidings.gateway.auth.quotas import SessionLimits
from tidings.gateway.websocket.connection import WebSocketConnection
from tidings.gateway.websocket.listener import TURN

UPGRADE = (
    b"GET /api/ws HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: keep-alive, Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    b"Sec-WebSocket-Protocol: tidings.v1\r\n\r\n"
)
HELLO = b"GET /hello HTTP/1.1\r\nHost: localhost\r\n\r\n"
PING = b'{"type":"ping","ref":1}'


class Raw:
    """A client that sends whatever bytes a test wants."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.core = Core(CLIENT, max_size=None)
        self.frames: list[Frame] = []

    def send(self, *data: bytes) -> None:
        for one in data:
            self.writer.write(one)

    async def head(self) -> bytes:
        async with asyncio.timeout(10):
            return await self.reader.readuntil(b"\r\n\r\n")

    async def http(self) -> tuple[int, bytes]:
        """Status and body of an HTTP answer."""
        head = (await self.head()).lower()
        length = int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0])
        return int(head.split()[1]), await self.reader.readexactly(length)

    async def frame(self) -> Frame:
        """The next frame from the server."""
        while not self.frames:
            async with asyncio.timeout(10):
                data = await self.reader.read(65536)
            assert data, "the server closed without a frame"
            self.core.receive_data(data)
            self.frames += [
                event for event in self.core.events_received() if isinstance(event, Frame)
            ]
        return self.frames.pop(0)

    async def message(self) -> dict[str, Any]:
        while (frame := await self.frame()).opcode is Opcode.PING:
            self.send(framed(Opcode.PONG, bytes(frame.data)))
        assert frame.opcode is Opcode.TEXT, frame
        value: dict[str, Any] = json.loads(bytes(frame.data))
        return value

    async def close_code(self) -> int:
        """The code of the next close frame, after which the server must end the connection."""
        while (frame := await self.frame()).opcode is not Opcode.CLOSE:
            pass
        async with asyncio.timeout(10):
            assert await self.reader.read() == b""
        return int.from_bytes(bytes(frame.data)[:2], "big")

    async def upgrade(self) -> None:
        self.send(UPGRADE)
        assert b" 101 " in await self.head()
        assert (await self.message())["type"] == "welcome"


@asynccontextmanager
async def raw(push: Push) -> AsyncIterator[Raw]:
    reader, writer = await asyncio.open_connection("127.0.0.1", push.port)
    try:
        yield Raw(reader, writer)
    finally:
        writer.close()


def connections(push: Push) -> list[WebSocketConnection]:
    return [
        one
        for group in push.sessions._groups
        for one in group
        if isinstance(one, WebSocketConnection)
    ]


def framed(opcode: Opcode, data: bytes, fin: bool = True) -> bytes:
    """A client's frame, masked."""
    return Frame(opcode, data, fin).serialize(mask=True)


def text(data: bytes, fin: bool = True) -> bytes:
    return framed(Opcode.TEXT, data, fin)


# Handing over


async def test_http_and_websocket_share_the_socket() -> None:
    """A request for HTTP is answered by the HTTP server, an upgrade by the WebSocket side, on one port."""
    async with pushing() as push, raw(push) as http, raw(push) as websocket:
        http.send(HELLO)
        assert await http.http() == (200, b"hello")
        http.send(HELLO, HELLO)
        assert await http.http() == (200, b"hello")
        assert await http.http() == (200, b"hello")
        await websocket.upgrade()


@pytest.mark.parametrize("head", [UPGRADE, HELLO], ids=["websocket", "http"])
async def test_a_head_may_come_byte_by_byte(head: bytes) -> None:
    """A request head that is split over packets anywhere is understood."""
    async with pushing() as push:
        for step in (1, 7, 50):
            async with raw(push) as client:
                client.writer.transport.set_write_buffer_limits(0)
                for start in range(0, len(head), step):
                    client.send(head[start : start + step])
                    await asyncio.sleep(0)
                    await client.writer.drain()
                assert (b" 101 " if head is UPGRADE else b" 200 ") in await client.head()


async def test_bytes_behind_the_handshake_are_frames() -> None:
    """Messages sent in the same packet as the handshake are answered."""
    async with pushing() as push, raw(push) as client:
        client.send(UPGRADE + text(PING) + text(PING)[:5])
        assert b" 101 " in await client.head()
        assert [(await client.message())["type"] for _ in range(2)] == ["welcome", "pong"]


async def test_an_upgrade_as_a_later_request() -> None:
    """A GET and then an upgrade on the same kept-alive connection: the same session, with everything it does."""
    async with pushing() as push, raw(push) as client:
        client.send(HELLO)
        assert await client.http() == (200, b"hello")
        client.send(UPGRADE + text(b'{"type":"subscribe","predictions":["p1"]}'))
        assert b" 101 " in await client.head()
        kinds = [(await client.message())["type"] for _ in range(4)]
        assert kinds == ["welcome", "subscribed", "unknown", "synced"]
        await push.change("p1", 1)
        assert (await client.message())["prediction"]["version"] == 1
        client.send(framed(Opcode.PING, b"payload"))
        frame = await client.frame()
        assert (frame.opcode, bytes(frame.data)) == (Opcode.PONG, b"payload")
        client.send(framed(Opcode.CLOSE, (1000).to_bytes(2, "big")))
        assert await client.close_code() == 1000
        await eventually(lambda: len(push.sessions) == 0)


async def test_a_pipelined_get_and_upgrade() -> None:
    """A GET, an upgrade and a message in one packet are answered in order."""
    async with pushing() as push, raw(push) as client:
        client.send(HELLO + UPGRADE + text(PING))
        assert await client.http() == (200, b"hello")
        assert b" 101 " in await client.head()
        assert [(await client.message())["type"] for _ in range(2)] == ["welcome", "pong"]


async def test_a_cut_connection_taken_over_from_http_is_forgotten() -> None:
    """When a client of an upgraded kept-alive connection vanishes, neither side keeps it."""
    async with pushing() as push:
        async with raw(push) as client:
            client.send(HELLO)
            await client.http()
            await client.upgrade()
            assert len(push.sessions) == 1
            client.writer.transport.abort()
        await eventually(lambda: len(push.sessions) == 0)
        server = push.http._runner.server
        assert server is not None
        await eventually(lambda: not server.connections)


async def test_a_query_is_allowed_and_another_path_is_not() -> None:
    """`/api/ws?x=1` is the WebSocket; a path that only begins alike is HTTP's."""
    async with pushing() as push, raw(push) as query, raw(push) as other:
        query.send(UPGRADE.replace(b"/api/ws", b"/api/ws?x=1"))
        assert b" 101 " in await query.head()
        other.send(UPGRADE.replace(b"/api/ws", b"/api/wsx"))
        assert (await other.http())[0] == 404


@pytest.mark.parametrize(
    ("old", "new", "status"),
    [
        (b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n", b"", 400),
        (b"dGhlIHNhbXBsZSBub25jZQ==", b"short", 400),
        (b"Version: 13", b"Version: 8", 400),
        (b"tidings.v1", b"other", 400),
        (b"keep-alive, Upgrade", b"keep-alive", 426),
        (b"Upgrade: websocket", b"Upgrade: h2c", 426),
        (b"HTTP/1.1", b"HTTP/1.0", 505),
        (b"Host: localhost", b"Host localhost", 400),
    ],
)
async def test_bad_handshakes(old: bytes, new: bytes, status: int) -> None:
    """A handshake that breaks the RFC is answered with the right status and a problem that says what to do."""
    async with pushing() as push, raw(push) as client:
        client.send(UPGRADE.replace(old, new))
        answered, body = await client.http()
        assert answered == status
        assert json.loads(body)["status"] == status
        assert await client.reader.read() == b""


async def test_a_slow_head_is_given_up() -> None:
    """A head that does not arrive in time ends the connection, with 408 where something had come."""
    async with (
        pushing(limits=SessionLimits(head=0.2, heartbeat=5.0)) as push,
        raw(push) as slow,
        raw(push) as mute,
    ):
        slow.send(b"GET /api/ws HTTP/1.1\r\nHost:")
        assert (await slow.http())[0] == 408
        assert await mute.reader.read() == b""


async def test_a_head_too_long_is_refused() -> None:
    """A head beyond the limit is not waited for."""
    async with pushing() as push, raw(push) as client:
        client.send(UPGRADE[:-2] + b"X: " + b"x" * 40_000)
        assert b" 400 " in await client.head()


# Framing, RFC 6455


async def test_fragments_with_control_frames_between() -> None:
    """A message in fragments is put together; a ping between them is answered at once (5.4, 5.5)."""
    async with pushing() as push, raw(push) as client:
        await client.upgrade()
        client.send(
            text(PING[:5], fin=False),
            framed(Opcode.PING, b"now"),
            framed(Opcode.CONT, b"", fin=False),
        )
        frame = await client.frame()
        assert (frame.opcode, bytes(frame.data)) == (Opcode.PONG, b"now")
        client.send(framed(Opcode.CONT, PING[5:9], fin=False), framed(Opcode.CONT, PING[9:]))
        assert await client.message() == {"type": "pong", "ref": 1}
        await eventually(lambda: all(c._parser is None for c in connections(push)))


async def test_frames_byte_by_byte() -> None:
    """A frame that is split anywhere is understood, and nothing of it is kept afterwards."""
    async with pushing() as push, raw(push) as client:
        await client.upgrade()
        client.writer.transport.set_write_buffer_limits(0)
        for byte in text(PING):
            client.send(bytes([byte]))
            await client.writer.drain()
            await asyncio.sleep(0.001)
        assert (await client.message())["type"] == "pong"
        assert all(c._parser is None for c in connections(push))


async def test_a_core_is_never_shared_while_a_frame_is_incomplete() -> None:
    """Two clients whose frames are interleaved do not disturb each other."""
    async with pushing() as push, raw(push) as one, raw(push) as two:
        await one.upgrade()
        await two.upgrade()
        frame = text(PING)
        one.send(frame[:9])
        await eventually(lambda: any(c._parser is not None for c in connections(push)))
        two.send(frame)
        assert (await two.message())["type"] == "pong"
        one.send(frame[9:])
        assert (await one.message())["type"] == "pong"


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (text(b'{"type":"\xff\xfe"}'), 1007),
        (text(b'{"type":"\xc3', fin=False) + framed(Opcode.CONT, b'("}'), 1007),
        (framed(Opcode.CLOSE, b"\x03\xe8\xff"), 1007),
        (Frame(Opcode.TEXT, PING).serialize(mask=False), 1002),
        (b"\xc1" + text(PING)[1:], 1002),
        (b"\xa1" + text(PING)[1:], 1002),
        (b"\x91" + text(PING)[1:], 1002),
        (b"\x83" + text(PING)[1:], 1002),
        (b"\x8b" + text(PING)[1:], 1002),
        (framed(Opcode.CONT, b"x"), 1002),
        (text(b"{", fin=False) + text(b"}"), 1002),
        (b"\x09" + framed(Opcode.PING, b"x")[1:], 1002),
        (b"\x89\xfe\x00\x7e" + bytes(4) + bytes(126), 1002),
        (b"\x88\x81" + bytes(4) + b"x", 1002),
        (framed(Opcode.CLOSE, (1005).to_bytes(2, "big")), 1002),
        (framed(Opcode.CLOSE, (999).to_bytes(2, "big")), 1002),
        (b"\x81\xff" + (262_145).to_bytes(8, "big"), 1009),
        (text(bytes(200_000), fin=False) + b"\x80\xff" + (62_145).to_bytes(8, "big"), 1009),
        (framed(Opcode.BINARY, PING), 4100),
    ],
    ids=[
        "utf8", "utf8-fragments", "utf8-close", "unmasked", "rsv1", "rsv2", "rsv3", "opcode-3", "opcode-b",
        "lone-continuation", "text-in-text", "fragmented-ping", "long-ping", "short-close", "close-1005", "close-999",
        "too-big", "too-big-fragments", "binary",
    ],
)  # fmt: skip
async def test_violations(data: bytes, code: int) -> None:
    """A violation closes with the code that the RFC wants, at the header where that is enough."""
    async with pushing() as push, raw(push) as client:
        await client.upgrade()
        client.send(data)
        assert await client.close_code() == code
        client.writer.close()
        await eventually(lambda: len(push.sessions) == 0)


async def test_the_client_closes() -> None:
    """The client's close is echoed, what came before it is answered, and what comes after it is not read."""
    async with pushing() as push, raw(push) as client:
        await client.upgrade()
        close = framed(Opcode.CLOSE, (1001).to_bytes(2, "big") + b"bye")
        client.send(text(PING) + close + text(b"not json"))
        assert (await client.message())["type"] == "pong"
        assert await client.close_code() == 1001
        client.writer.close()
        await eventually(lambda: len(push.sessions) == 0)


async def test_an_empty_close() -> None:
    """A close without a code is answered by one without a code."""
    async with pushing() as push, raw(push) as client:
        await client.upgrade()
        client.send(framed(Opcode.CLOSE, b""))
        assert await client.close_code() == 0


async def test_a_client_that_ignores_the_close_is_cut() -> None:
    """A connection that the client does not end is ended for it."""
    async with (
        pushing(limits=SessionLimits(closing=0.2, heartbeat=5.0)) as push,
        raw(push) as client,
    ):
        await client.upgrade()
        client.send(text(b"not json"))
        assert (await client.frame()).opcode is Opcode.CLOSE
        await eventually(lambda: len(push.sessions) == 0)


async def test_a_flood_of_tiny_frames_is_throttled() -> None:
    """A client that floods is read more slowly; the others are answered meanwhile."""
    limits = SessionLimits(frames_per_second=200, heartbeat=5.0)
    async with pushing(limits=limits) as push, raw(push) as flood, raw(push) as other:
        await flood.upgrade()
        await other.upgrade()
        flood.send(framed(Opcode.PONG, b"") * 200_000)
        for _ in range(20):
            other.send(text(PING))
            async with asyncio.timeout(5):
                assert (await other.message())["type"] == "pong"
        assert any(c._holds for c in connections(push))


async def test_a_throttled_client_is_answered_in_the_end() -> None:
    """Nothing of what a client sends too fast is lost."""
    limits = SessionLimits(frames_per_second=200, heartbeat=1.0)
    async with pushing(limits=limits) as push, raw(push) as client:
        await client.upgrade()
        client.send(text(PING) * 1000)
        for _ in range(1000):
            assert (await client.message())["type"] == "pong"


async def test_random_bytes_leave_the_service_healthy() -> None:
    """Noise before and after the handshake ends that connection and nothing else."""
    async with pushing(limits=SessionLimits(head=0.3, heartbeat=5.0)) as push:
        for number in range(200):
            async with raw(push) as client:
                if number % 2:
                    await client.upgrade()
                client.send(secrets.token_bytes(1 + number * 7))
        async with raw(push) as client:
            await client.upgrade()
            client.send(text(PING))
            assert (await client.message())["type"] == "pong"
            await eventually(lambda: len(push.sessions) == 1)


async def test_a_rush_is_served_in_turns() -> None:
    """Many handshakes at once are all served, in order, also those with bytes behind them that come later."""
    async with pushing() as push:
        clients = [
            Raw(*await asyncio.open_connection("127.0.0.1", push.port)) for _ in range(TURN * 3)
        ]
        ping = text(PING)
        for client in clients:
            client.send(UPGRADE + ping[:4])
        for client in clients:
            client.send(ping[4:])
        for client in clients:
            assert b" 101 " in await client.head()
            assert [(await client.message())["type"] for _ in range(2)] == ["welcome", "pong"]
        assert len(push.sessions) == len(clients)
        for client in clients:
            client.writer.close()
        await eventually(lambda: len(push.sessions) == 0)
