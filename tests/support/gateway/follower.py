"""A WebSocket client that costs little, is cut, slow and forgetful, and checks that versions only rise."""

import asyncio
import contextlib
import json
import random
import re
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

import jwt
import msgspec
from websockets.frames import Frame, Opcode

JWT_SECRET = "a secret of the tests, of thirty-two bytes"
STEP = 0.25
"""Seconds between two looks of a follower at what it should do next."""

TERMINAL = frozenset({b"succeeded", b"failed", b"canceled"})
_RECORD = re.compile(
    rb'\{"type":"(?:change|snapshot)","prediction":\{"predictionId":"([^"]+)","status":"(\w+)","version":(\d+),'
)
_HANDSHAKE = (
    "GET /api/ws HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    "Sec-WebSocket-Protocol: tidings.v1\r\n\r\n"
)


class Plan(msgspec.Struct, frozen=True):
    """How rough the clients' life is. Times are in seconds."""

    stays: tuple[float, float]
    """A connection is cut after this long."""
    off: float
    token: float
    """For which a token is good; most clients renew it in time."""
    slow: float
    """For which a slow reader reads nothing, now and then."""


class Link(asyncio.Protocol):
    """One connection."""

    def __init__(self, follower: "Follower") -> None:
        self.follower = follower
        self.lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.code: int | None = None
        self.transport: Any = None
        self._data = b""
        self._open = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self.transport.write(_HANDSHAKE.encode())

    def say(self, **message: Any) -> None:
        """Send one message."""
        self._send(Opcode.TEXT, msgspec.json.encode(message))

    def _send(self, opcode: Opcode, payload: bytes) -> None:
        if not self.transport.is_closing():
            self.transport.write(Frame(opcode, payload).serialize(mask=True))

    def data_received(self, data: bytes) -> None:
        data = self._data = self._data + data if self._data else data
        at = 0
        if not self._open:
            at = data.find(b"\r\n\r\n") + 4
            if at < 4:
                return
            self._open = data.startswith(b"HTTP/1.1 101 ")
            if not self._open:
                self.transport.abort()  # a gateway that is going away says 503
                return
        while len(data) >= at + 2:
            size, start = data[at + 1], at + 2
            if size >= 126:
                start += 2 if size == 126 else 8
                if len(data) < start:
                    break
                size = int.from_bytes(data[at + 2 : start], "big")
            if len(data) < start + size:
                break
            self._frame(data[at] & 15, data[start : start + size])
            at = start + size
        self._data = data[at:]

    def _frame(self, opcode: int, payload: bytes) -> None:
        if opcode == Opcode.TEXT:
            try:
                self.follower.take(payload)
            except AssertionError as error:
                # Out of here it would only cut this connection.
                self.follower.wrong = self.follower.wrong or error
        elif opcode == Opcode.PING:
            self._send(Opcode.PONG, payload)
        elif opcode == Opcode.CLOSE:
            self.code = int.from_bytes(payload[:2], "big")
            self._send(Opcode.CLOSE, payload[:2])

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.lost.done():
            self.lost.set_result(None)


class Follower:
    """A client that comes back with what it knows.

    Args:
        number: Of the client; it decides what it watches, and how it behaves.
        ports: Of the gateways.
        names: Of all predictions; the one at position n belongs to owner `n % 4`.
        plan: How its life is.
    """

    def __init__(self, number: int, ports: Sequence[int], names: Sequence[str], plan: Plan) -> None:
        self.random = random.Random(number)
        self.ports = ports
        self.plan = plan
        owner = number % 4
        owned = [name for position, name in enumerate(names) if position % 4 == owner]
        kind = number % 10
        self.watch: dict[str, Any] = {"all": True}
        self.claims: dict[str, Any] = {"sub": f"o{owner}"}
        if kind == 0:
            self.claims, self.wants = {"scope": "watch:all"}, set(names)
        elif kind < 3:
            self.wants, self.watch = set(owned), {"owner": f"o{owner}"}
        else:
            self.wants = set(self.random.sample(owned, min(5, len(owned))))
            self.watch = {"predictions": sorted(self.wants)}
        self.slow = number % 5 == 1
        self.forgetful = number % 7 == 3
        self.known: dict[str, int] = {}
        self.ended: set[str] = set()
        """What it has seen the end of."""
        self.final: dict[str, int | None] | None = None
        """The last version of each prediction, once nothing changes any more; None: deleted."""
        self.wrong: AssertionError | None = None
        self.heard = 0
        self.synced = False
        self.connections = 0
        self.codes: Counter[int | None] = Counter()
        self.recoveries: list[float] = []
        """Seconds from the beginning of each connection to `synced`."""
        self.begun = 0.0

    async def run(self) -> None:
        """Follow until the end of everything it wants has come."""
        while not self.done():
            port = self.random.choice(self.ports)
            try:
                _, link = await asyncio.get_running_loop().create_connection(
                    lambda: Link(self), "127.0.0.1", port
                )
            except OSError:
                await asyncio.sleep(0.05)  # that gateway restarts just now
                continue
            await self._stay(link)
            if self.wrong is not None:
                raise self.wrong
            self.codes[link.code] += 1
            link.transport.abort()
            if not self.done():
                await asyncio.sleep(self.random.uniform(0.5, 1.5) * self.plan.off)

    async def _stay(self, link: Link) -> None:
        clock = time.monotonic
        self.connections += 1
        self.synced, self.begun = False, clock()
        link.say(type="auth", token=self._token())
        link.say(type="subscribe", ref=1, known=self.known, limit=10_000, **self.watch)
        ends = clock() + self.random.uniform(*self.plan.stays)
        renews = clock() + self.plan.token * (2 if self.forgetful else 0.4)
        reads = 0.0
        while (
            not link.lost.done()
            and not self.wrong
            and not self.done()
            and (self.final is not None or clock() < ends)
        ):
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(asyncio.shield(link.lost), STEP)
            if clock() > renews:
                renews += self.plan.token * 0.4
                link.say(type="auth", token=self._token())
            if reads and clock() > reads:
                reads = 0.0
                link.transport.resume_reading()
            elif self.slow and not reads and self.random.random() < 0.1:
                reads = clock() + self.random.uniform(0.5, 1) * self.plan.slow
                link.transport.pause_reading()

    def _token(self) -> str:
        return jwt.encode(
            {**self.claims, "exp": time.time() + self.plan.token}, JWT_SECRET, algorithm="HS256"
        )

    def take(self, payload: bytes) -> None:
        """One message."""
        record = _RECORD.match(payload)
        if record is not None:
            name, status, version = record[1].decode(), record[2], int(record[3])
            self._rise(name, version, payload)
            if status in TERMINAL:
                self.ended.add(name)
            return
        message = json.loads(payload)
        kind = message["type"]
        if kind == "deleted":
            self._rise(message["predictionId"], message["version"], payload)
            self.ended.add(message["predictionId"])
        elif kind == "synced" and not self.synced:
            self.synced = True
            self.recoveries.append(time.monotonic() - self.begun)
        else:
            assert kind in {"welcome", "subscribed", "unknown", "bye"}, payload

    def _rise(self, name: str, version: int, payload: bytes) -> None:
        self.heard += 1
        assert name in self.wants, payload[:200]
        assert version > self.known.get(name, 0), f"{payload[:100]!r} after {self.known[name]}"
        assert name not in self.ended or payload.startswith(b'{"type":"deleted"'), (
            f"{payload[:100]!r} after its end"
        )
        self.known[name] = version

    def done(self) -> bool:
        """Whether it has the newest of everything; of what it never heard of before it was deleted nobody tells it."""
        final = self.final
        return final is not None and all(self._at_end(name, final[name]) for name in self.wants)

    def _at_end(self, name: str, version: int | None) -> bool:
        if version is None:
            return name in self.ended or name not in self.known
        return name in self.ended and self.known[name] == version
