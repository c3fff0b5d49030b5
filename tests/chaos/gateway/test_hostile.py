"""What nobody sends by accident: mutated handshakes and frames, floods, and what they leave behind."""

import asyncio
import gc
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]  # carries no types
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from websockets.asyncio.client import connect
from websockets.frames import Frame, Opcode
from websockets.protocol import Protocol as Core

from tests.support.conditions import eventually
from tests.support.gateway.pushing import hear, nothing_more, pushing, say, subscribe
from tests.support.tidings_process import TidingsProcess, serving
from tidings.gateway.auth.quotas import SessionLimits
from tidings.gateway.push.hub import Hub
from tidings.gateway.push.protocol import Close
from tidings.gateway.push.session import Session
from tidings.gateway.push.session_registry import SessionRegistry
from tidings.gateway.websocket.connection import WebSocketConnection
from tidings.gateway.websocket.listener import Acceptor, SniffingProtocol
from tidings.storage.memory import MemoryStore
from tidings.storage.wrappers.cache import CachedStore

UPGRADE = (
    b"GET /api/ws HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
OURS = {code for name, code in vars(Close).items() if name.isupper()}
FROM_THE_RFC = {1000, 1001, 1002, 1003, 1005, 1007, 1009, 1010, 1011}


class Wire(asyncio.Transport):
    """A transport that keeps what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.protocol: asyncio.Protocol | None = None
        self.written = b""
        self.closing = False

    def write(self, data: Any) -> None:
        assert not self.closing
        self.written += data

    def write_eof(self) -> None:
        self.closing = True

    def close(self) -> None:
        self.closing = True

    abort = close

    def is_closing(self) -> bool:
        return self.closing

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        assert isinstance(protocol, asyncio.Protocol)
        self.protocol = protocol

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return ("127.0.0.1", 1) if name == "peername" else default

    def get_write_buffer_size(self) -> int:
        return 0

    def pause_reading(self) -> None:
        """Nothing comes by itself."""

    def resume_reading(self) -> None:
        """Nothing comes by itself."""


class HttpSink(asyncio.Protocol):
    """Stands for the HTTP server, which has tests of its own."""


class Victim:
    """A gateway's push side without sockets, and one connection that is at peace."""

    def __init__(self) -> None:
        self.hub = Hub()
        self.sessions = SessionRegistry(self.hub, CachedStore(MemoryStore()))
        self.acceptor = Acceptor(self.sessions)
        self.peaceful = self.connection()
        self.feed(self.peaceful, [UPGRADE])

    def connection(self) -> Wire:
        wire = Wire()
        front = SniffingProtocol(self.acceptor, HttpSink)
        wire.protocol = front
        front.connection_made(wire)
        return wire

    def feed(self, wire: Wire, pieces: list[bytes]) -> None:
        for piece in pieces:
            if wire.protocol is not None and not wire.closing and piece:
                wire.protocol.data_received(piece)

    async def attack(self, pieces: list[bytes]) -> None:
        """Send this on a connection of its own: it is served or closed as the protocols say, and then forgotten."""
        wire = self.connection()
        self.feed(wire, pieces)
        for _ in range(3):
            await asyncio.sleep(0)
        if isinstance(wire.protocol, WebSocketConnection):
            head, _, frames = wire.written.partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 101 ")
            check_frames(frames, wire.closing)
        assert wire.protocol is not None
        wire.protocol.connection_lost(None)
        before = len(self.peaceful.written)
        self.feed(self.peaceful, [frame(b'{"type":"ping","ref":7}')])
        assert self.peaceful.written[before:].endswith(b'{"type":"pong","ref":7}')
        # A thousandth of a second's worth is forgiven by the sweep, which does not run here.
        peaceful = self.peaceful.protocol
        assert isinstance(peaceful, WebSocketConnection)
        peaceful._spent = 0
        assert len(self.sessions) == 1
        assert not self.hub._subscribers


def check_frames(data: bytes, closing: bool) -> None:
    """What was written are whole frames, with JSON in the text ones; a close comes last, with a code of ours or the RFC's."""
    at = 0
    opcode = 0
    while at < len(data):
        opcode, size, start = data[at] & 15, data[at + 1], at + 2
        assert size < 128
        if size >= 126:
            start += 2 if size == 126 else 8
            size = int.from_bytes(data[at + 2 : start], "big")
        payload = data[start : start + size]
        assert len(payload) == size
        assert opcode in {1, 8, 9, 10}
        if opcode == 1:
            json.loads(payload)
        elif opcode == 8:
            assert start + size == len(data)
            assert not payload or int.from_bytes(payload[:2], "big") in OURS | FROM_THE_RFC | set(
                range(3000, 5000)
            )
        at = start + size
    assert closing == (opcode == 8)


def frame(payload: bytes, opcode: Opcode = Opcode.TEXT, *, fin: bool = True) -> bytes:
    """A masked frame, also one that the library would not make."""
    whole = Frame(Opcode.TEXT, payload, fin).serialize(mask=True)
    return bytes([whole[0] & 0xF0 | opcode]) + whole[1:]


MESSAGES = [
    b'{"type":"subscribe","ref":1,"predictions":["p1","p2"],"known":{"p1":3}}',
    b'{"type":"subscribe","all":true,"limit":0}',
    b'{"type":"subscribe","owner":"o","snapshot":false}',
    b'{"type":"unsubscribe","ref":"x","predictions":["p1"]}',
    b'{"type":"auth","token":"a.b.c"}',
    b'{"type":"ping","ref":null}',
    b'{"type":"subscribe","predictions":["' + "é\U0001f600".encode() + b'"]}',
    b"[" * 5_000,
    b'{"type":"ping","ref":' + b"9" * 400 + b"}",
    b'{"type":"subscribe","predictions":['
    + b",".join(b'"%d"' % number for number in range(2_000))
    + b"]}",
]


def mutated(data: bytes, noise: random.Random) -> bytes:
    """The same with a few bytes changed, left out or put in."""
    changed = bytearray(data)
    for _ in range(noise.choice([0, 0, 1, 1, 2, 5])):
        at = noise.randrange(len(changed) + 1)
        changed[at : at + noise.choice([0, 1, 1, 3])] = noise.randbytes(
            noise.choice([0, 1, 1, 2, 9])
        )
    return bytes(changed)


def attacks(noise: random.Random) -> list[bytes]:
    """A connection's bytes, in pieces."""
    sent = [mutated(UPGRADE, noise) if noise.random() < 0.4 else UPGRADE]
    for _ in range(noise.randrange(5)):
        message = mutated(noise.choice(MESSAGES), noise)
        opcode = noise.choice([Opcode.TEXT] * 6 + list(Opcode))
        sent.append(mutated(frame(message, opcode, fin=noise.random() < 0.9), noise))
    data = b"".join(sent)
    pieces = []
    while data:
        size = noise.choice([1, 5, 100, 4096, 100_000])
        pieces.append(data[:size])
        data = data[size:]
    return pieces


@pytest.fixture(scope="module")
def victim() -> Iterator[tuple[asyncio.Runner, Victim]]:
    with asyncio.Runner() as runner:
        runner.get_loop()
        made: list[Victim] = []

        async def make() -> None:
            made.append(Victim())

        runner.run(make())
        yield runner, made[0]


@settings(max_examples=500, deadline=None)
@given(st.integers(0, 2**64))
def test_mutated_handshakes_and_frames(victim: tuple[asyncio.Runner, Victim], seed: int) -> None:
    """Whatever a client sends, what it gets are whole frames, its connection alone suffers, and nothing of it stays."""
    runner, service = victim
    runner.run(service.attack(attacks(random.Random(seed))))


@settings(max_examples=300, deadline=None)
@given(st.lists(st.binary(max_size=200), max_size=6), st.booleans())
def test_noise(victim: tuple[asyncio.Runner, Victim], pieces: list[bytes], upgraded: bool) -> None:
    """Bytes without any sense do as little."""
    runner, service = victim
    runner.run(service.attack([UPGRADE, *pieces] if upgraded else pieces))


@pytest.mark.parametrize(
    "sent",
    [
        frame(MESSAGES[2]),
        frame(b"x" * 20_000, fin=False),
        frame(b"x" * 20_000)[:500],
        frame(b"x" * 20_000 + b"\xff"),
        b"\x81\x03abc",
        frame(b"", Opcode.CLOSE),
        frame(b"[" * 20_000),
    ],
    ids=["served", "fragment", "half", "not-utf8", "unmasked", "close", "deep"],
)
def test_nothing_of_a_connection_waits_for_the_garbage_collector(
    victim: tuple[asyncio.Runner, Victim], sent: bytes
) -> None:
    """A connection that is gone has freed its memory by then: collections are rare in a process that holds much."""
    runner, service = victim
    runner.run(service.attack([UPGRADE, sent]))
    gc.collect()
    gc.disable()
    try:
        runner.run(service.attack([UPGRADE, sent]))
        alive = [
            one
            for one in gc.get_objects()
            if issubclass(type(one), WebSocketConnection | Session | Core)
        ]
        assert [type(one).__name__ for one in alive if one is not service.peaceful.protocol].count(
            "Session"
        ) == 1
        assert sum(isinstance(one, WebSocketConnection) for one in alive) == 1
        assert all(one.current_size is None for one in alive if isinstance(one, Core))
    finally:
        gc.enable()


@pytest.mark.long
def test_a_hundred_thousand_attacks(victim: tuple[asyncio.Runner, Victim]) -> None:
    """The same, 100,000 times, and the process is as large afterwards as it was."""
    runner, service = victim

    async def rounds(first: int, last: int) -> None:
        for seed in range(first, last):
            await service.attack(attacks(random.Random(seed)))
            if seed % 1000 == 0:
                service.peaceful.written = b""

    runner.run(rounds(0, 10_000))
    before = psutil.Process().memory_info().rss
    runner.run(rounds(10_000, 100_000))
    assert psutil.Process().memory_info().rss < before + 20_000_000


# On a real process


async def settled(service: TidingsProcess) -> int:
    """The resident bytes of the process."""
    assert service.process is not None
    resident: int = psutil.Process(service.process.pid).memory_info().rss
    return resident


async def flood(service: TidingsProcess) -> None:
    """A million tiny frames, as fast as they are taken."""
    _, writer = await asyncio.open_connection("127.0.0.1", service.port)
    writer.write(UPGRADE)
    tiny = Frame(Opcode.PONG, b"").serialize(mask=True) * 10_000
    for _ in range(100):
        writer.write(tiny)
        try:
            async with asyncio.timeout(0.2):
                await writer.drain()
        except TimeoutError:
            break  # it takes no more: what is left would wait unread
    writer.transport.abort()


async def swarm(service: TidingsProcess, head: bytes, body: bytes, count: int) -> None:
    """Many connections that send this and then nothing."""
    opened = [await asyncio.open_connection("127.0.0.1", service.port) for _ in range(count)]
    for _, writer in opened:
        writer.write(head)
        if body:
            writer.write(body)
    for _, writer in opened:
        await writer.drain()
    for _, writer in opened:
        writer.transport.abort()


async def greedy(service: TidingsProcess) -> None:
    """Ten thousand subscriptions in one message, again and again, and one more."""
    names = [f"p{number}" for number in range(10_000)]
    for _ in range(4):
        async with connect(service.ws_url, max_size=None, proxy=None) as client:
            heard = await subscribe(client, predictions=names, snapshot=False)
            assert heard[-1]["type"] == "synced"
            await say(client, type="subscribe", predictions=["another"])
            await client.wait_closed()
            assert client.close_code == Close.TOO_MANY


REQUEST = b"GET /api/ws HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\n"
HEADS = {
    "many-lines": (REQUEST + b"a: b\r\n" * 40 + b"x\x01\r\n\r\n", b"400"),
    "more-headers-than-usual": (REQUEST + b"a: b\r\n" * 110 + b"\r\n", b"426"),
    "white-space": (REQUEST + b"a:" + b" \t" * 7_000 + b"\x01\r\n\r\n", b"400"),
    "longer-than-is-waited-for": (REQUEST + b"a:" + b" " * 100_000 + b"\x01\r\n\r\n", b"400"),
}


async def test_a_head_that_fails_at_its_end_is_refused_at_once(tmp_path: Path) -> None:
    """However many ways there are to read its lines: the time that a head takes grows with its length alone."""
    async with serving(tmp_path) as service:
        for kind, (head, status) in HEADS.items():
            reader, writer = await asyncio.open_connection("127.0.0.1", service.port)
            writer.write(head)
            try:
                async with asyncio.timeout(10):
                    answer = await reader.readline()
            except TimeoutError:
                pytest.fail(f"no answer to the head with {kind}")
            finally:
                writer.transport.abort()
            assert answer.split()[1] == status, (kind, answer)


async def test_floods_leave_nothing_behind(tmp_path: Path) -> None:
    """Through each kind of flood another client is answered, and the process does not grow from round to round."""
    half = frame(b"x" * 200_000, fin=False)
    async with serving(tmp_path) as service, connect(service.ws_url, proxy=None) as other:
        await hear(other)
        sizes = []
        for _ in range(3):
            await flood(service)
            await greedy(service)
            await swarm(service, UPGRADE[:60], b"", 300)
            await swarm(service, UPGRADE, half, 40)
            await swarm(service, UPGRADE, frame(b"[" * 100_000), 20)
            await swarm(service, UPGRADE, frame(b'{"type":"ping","x":' + b"[" * 100_000), 20)
            assert await nothing_more(other) == []
            sizes.append(await settled(service))
        assert sizes[2] < sizes[0] + 8_000_000, sizes


async def test_a_flooding_client_that_is_gone_is_noticed() -> None:
    """A connection of which nothing is read, because it sent too much, is forgotten when its client has gone."""
    async with pushing(limits=SessionLimits(heartbeat=2.0, frames_per_second=10)) as push:
        reader, writer = await asyncio.open_connection("127.0.0.1", push.port)
        writer.write(UPGRADE + frame(b'{"type":"ping"}') * 5_000)
        await reader.readuntil(b"pong")
        await eventually(
            lambda: any(not one.reading for group in push.sessions._groups for one in group)
        )
        writer.transport.abort()
        await eventually(lambda: len(push.sessions) == 0, 20)
