"""The least that keeps WebSockets open: a bare protocol that answers the handshake, and pings everybody in groups.

For benchmarks, beside the gateway. It keeps no subscription, and never closes the silent.

    python -m benchmarks.bare_server [SECRET RECORDS CHECK | follow LOG PREFIX PARTITIONS]

Without arguments it looks at nothing and answers the same bytes to everybody. With them it does what every gateway
must: it reads the head, answers the client's own key, verifies the token, reads the message, and writes the record
that it names, in the bytes that ours writes. CHECK is `library` (PyJWT, as most programs verify tokens) or `ours`.
With `follow` it reads the changes from the same log as ours, and writes each to everybody.
"""

import asyncio
import json
import sys
from collections.abc import Callable
from typing import Any, ClassVar

import jwt
import msgspec
import uvloop
from websockets.speedups import apply_mask
from websockets.utils import accept_key

from benchmarks.push_server import cpu, record, rss
from tidings.gateway.auth.tokens import Hs256Tokens, RequiredClaims
from tidings.gateway.push.protocol import frame
from tidings.observability.gc_tuning import freeze_startup_objects
from tidings.storage.prediction import encode
from tidings.streams.log.factory import open_log
from tidings.streams.log.protocol import CHANGES

ANSWER = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b'Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n\x81\x11{"type":"synced"}'
)
SWITCHING = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Accept: %b\r\nSec-WebSocket-Protocol: tidings.v1\r\n\r\n"
)
SNAPSHOT = b'{"type":"snapshot","prediction":%b}'
GROUPS = 100
HEARTBEAT = 25.0


class Session(asyncio.Protocol):
    """One connection."""

    __slots__ = ("_transport",)
    groups: tuple[set["Session"], ...] = tuple(set() for _ in range(GROUPS))
    made = 0

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        Session.made += 1
        self.groups[Session.made % GROUPS].add(self)

    def data_received(self, data: bytes) -> None:
        if data.startswith(b"GET "):
            self._transport.write(ANSWER)

    def ping(self) -> None:
        self._transport.write(b"\x89\x00")

    def write(self, data: bytes) -> None:
        self._transport.write(data)


class WithBoth(Session):
    """One connection that proves itself, and gets the record it names."""

    __slots__ = ()
    records: ClassVar[dict[str, bytes]] = {}
    verify: Callable[[str], object]

    def data_received(self, data: bytes) -> None:
        if not data.startswith(b"GET "):
            return
        head, _, sent = data.partition(b"\r\n\r\n")
        lines = [line.partition(": ") for line in head.decode("latin-1").split("\r\n")[1:]]
        headers = {name.lower(): value for name, _, value in lines}
        type(self).verify(headers["authorization"].removeprefix("Bearer "))
        said = msgspec.json.decode(apply_mask(sent[6:], sent[2:6]))
        self._transport.write(
            SWITCHING % accept_key(headers["sec-websocket-key"]).encode()
            + frame(b'{"type":"welcome","session":"%012x-%x","heartbeat":25000}' % (0, self.made))
            + frame(b'{"type":"subscribed","ref":%d}' % said["ref"])
            + frame(SNAPSHOT % self.records[said["predictions"][0]])
            + frame(b'{"type":"synced","ref":%d,"more":false}' % said["ref"])
        )


def with_both(secret: str, count: int, check: str) -> type[WithBoth]:
    """Such connections, with so many records."""
    records = (record(f"own-{number:06}", 1) for number in range(count))
    WithBoth.records = {one.prediction_id: encode(one) for one in records}
    tokens = Hs256Tokens(secret.encode(), RequiredClaims())
    by_library = lambda token: jwt.decode(  # noqa: E731
        token, secret, algorithms=["HS256"], options={"require": ["exp"]}
    )
    WithBoth.verify = staticmethod(tokens.at_once if check == "ours" else by_library)
    return WithBoth


async def sweep() -> None:
    """Ping one group after the other, each once in a heartbeat."""
    while True:
        for group in Session.groups:
            for session in group:
                session.ping()
            await asyncio.sleep(HEARTBEAT / GROUPS)


def write_to_all(data: bytes) -> None:
    for session in [one for group in Session.groups for one in group]:
        session.write(data)


async def follow(url: str, prefix: str, partitions: str) -> None:
    """Write every change of this log from now on to everybody, knowing nothing of who wants what."""
    log = await open_log(url, topic_prefix=prefix, partitions=int(partitions))
    bounds = await log.bounds(CHANGES)
    async for batch in log.follow(CHANGES, {number: end for number, (_, end) in bounds.items()}):
        for one in batch:
            value = one.value or b""
            write_to_all(frame(b'{"type":"change","prediction":%b}' % value))


async def serve() -> None:
    """Do what each line says, `write` as many bytes to everybody or nothing, and answer with where things stand."""
    loop = asyncio.get_running_loop()
    kind, follows = Session, sys.argv[1:2] == ["follow"]
    if sys.argv[1:] and not follows:
        kind = with_both(sys.argv[1], int(sys.argv[2]), sys.argv[3])
    server = await loop.create_server(kind, "127.0.0.1", 0, backlog=4096)
    freeze_startup_objects()
    working = [loop.create_task(sweep())]
    if follows:
        working.append(loop.create_task(follow(*sys.argv[2:])))
    lines = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    while line := await lines.readline():
        name, arguments = json.loads(line)
        if name == "write":
            write_to_all(frame(b"x" * (arguments["bytes"] - 4)))
        port = server.sockets[0].getsockname()[1]
        print(
            json.dumps({"port": port, "cpu": cpu(), "rss": rss(), "sessions": Session.made}),
            flush=True,
        )
    for task in working:
        task.cancel()


if __name__ == "__main__":
    uvloop.run(serve())
