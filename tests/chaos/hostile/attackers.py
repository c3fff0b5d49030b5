"""Clients, senders and strangers that mean harm: a process of their own, each with an address of its own.

`python -m tests.chaos.hostile.attackers PORT SEED`: attacks until it is ended, at a lower priority, as
attackers would have machines of their own. Every kind is one that cost memory, the loop or another's
place before there were limits.
"""

import asyncio
import contextlib
import json
import os
import random
import sys
import time
from collections.abc import Awaitable, Callable

import jwt
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import WebSocketException
from websockets.typing import Subprotocol

from tests.support.webhooks import SECRET, signed

KEY = "a-secret-of-the-hostile-hour-of-32-bytes"
OWNER = "mallory"
CLIENTS, SENDERS, STRANGERS = 50, 20, 10
HELD = 5.0
"""Seconds for which an attacker holds what it does not read."""

Attack = Callable[["Attacker"], Awaitable[None]]


def token_of(owner: str) -> str:
    claims = {"sub": owner, "exp": int(time.time()) + 2 * 3600}
    return jwt.encode(claims, KEY, algorithm="HS256")


class Attacker:
    """One of them.

    Args:
        port: Of the service.
        number: Makes its address.
        chance: Its own.
    """

    def __init__(self, port: int, number: int, chance: random.Random) -> None:
        self.port, self.chance = port, chance
        self.address = f"198.51.{number // 250}.{number % 250 + 1}"
        self.token = token_of(OWNER)

    async def raw(self, head: str, *pieces: bytes, read: bool = True, pause: float = 0) -> bytes:
        """Send a request as it stands; what is answered, or nothing where it is not read."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port, limit=4096)
        try:
            lines = f"{head}\r\nHost: 127.0.0.1\r\nX-Forwarded-For: {self.address}\r\n\r\n"
            writer.write(lines.encode())
            for piece in pieces:
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(pause)
            if not read:
                await asyncio.sleep(HELD)
                return b""
            return await asyncio.wait_for(reader.read(4096), 15)
        finally:
            writer.transport.abort()

    async def get(self, path: str, *, read: bool = True, token: str | None = None) -> bytes:
        """`GET` with a token."""
        bearer = f"Authorization: Bearer {token or self.token}"
        return await self.raw(f"GET {path} HTTP/1.1\r\n{bearer}", read=read)

    async def post(
        self, path: str, body: bytes, headers: dict[str, str], pause: float = 0
    ) -> bytes:
        """`POST` in pieces."""
        lines = "".join(f"\r\n{name}: {value}" for name, value in headers.items())
        head = f"POST {path} HTTP/1.1\r\nContent-Length: {len(body)}{lines}"
        pieces = [body[at : at + 262_144] for at in range(0, len(body), 262_144)]
        return await self.raw(head, *pieces, pause=pause)

    def socket(self, token: str | None = None) -> connect:
        """A WebSocket of its own."""
        headers = {
            "Authorization": f"Bearer {token or self.token}",
            "X-Forwarded-For": self.address,
        }
        return connect(
            f"ws://127.0.0.1:{self.port}/api/ws",
            subprotocols=[Subprotocol("tidings.v1")],
            additional_headers=headers,
            proxy=None,
            compression=None,
            max_queue=1,
            ping_interval=None,
        )

    async def say(self, socket: ClientConnection, **message: object) -> None:
        await socket.send(json.dumps(message))


async def unread_socket(one: Attacker) -> None:
    """Ask for all of one's large records, and read none."""
    async with one.socket() as socket:
        for ref in range(4):
            await one.say(socket, type="subscribe", ref=ref, owner=OWNER, limit=10_000)
        await asyncio.sleep(HELD)


async def repeated_subscribe(one: Attacker) -> None:
    """Ask for the same snapshot again and again."""
    async with one.socket() as socket:
        for ref in range(200):
            await one.say(socket, type="subscribe", ref=ref, owner=OWNER, limit=1000)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(socket.recv(), 0.05)


async def churn(one: Attacker) -> None:
    """Subscribe to thousands, and drop them one by one."""
    names = [f"none-{one.address}-{number}" for number in range(4000)]
    async with one.socket() as socket:
        await one.say(socket, type="subscribe", ref=1, predictions=names, snapshot=False)
        for name in names[:400]:
            await one.say(socket, type="unsubscribe", ref=2, predictions=[name])
            await asyncio.sleep(0.005)


async def unread_list(one: Attacker) -> None:
    """Ask for the largest page, and read none of it."""
    await one.get("/api/predictions?limit=1000", read=False)


async def unread_stream(one: Attacker) -> None:
    """Ask for a stream of everything one has, and read none of it."""
    await one.get(f"/api/events?owner={OWNER}", read=False)


async def many_values(one: Attacker) -> None:
    """Order with a payload of a million values."""
    payload = b"[" + b"0," * 500_000 + b"0]"
    body = b'{"provider":"replicate","model":"m/m","payload":' + payload + b"}"
    headers = {"Authorization": f"Bearer {one.token}", "Content-Type": "application/json"}
    await one.post("/api/predictions", body, headers)


async def large_webhook(one: Attacker) -> None:
    """A genuine webhook whose output is a hundred thousand links."""
    links = [f"https://example.com/{number}" for number in range(60_000)]
    body = json.dumps({"id": f"m-{one.address}", "status": "processing", "output": links}).encode()
    await one.post("/api/webhooks/replicate", body, signed(body, secret=SECRET))


async def unsigned_body(one: Attacker) -> None:
    """Ten megabytes without a proof, slowly."""
    headers = {"Content-Type": "application/json", "webhook-id": "x", "webhook-timestamp": "1"}
    body = b'{"id":"x","logs":"' + b"a" * 9_000_000 + b'"}'
    await one.post("/api/webhooks/replicate", body, headers, pause=0.1)


async def many_webhooks(one: Attacker) -> None:
    """Small genuine webhooks, one after the other."""
    for number in range(20):
        fields = {"id": f"m-{one.address}", "status": "processing", "logs": "x" * number}
        body = json.dumps(fields).encode()
        await one.post("/api/webhooks/replicate", body, signed(body, secret=SECRET))


async def guess(one: Attacker) -> None:
    """Tokens that are none."""
    for _ in range(10):
        await one.get("/api/predictions/bob-1", token=f"e30.{one.chance.random()}.x")


async def slow_head(one: Attacker) -> None:
    """A request that never has its end."""
    await one.raw("GET / HTTP/1.1\r\nX-Slow: " + "a" * 30_000, b"b" * 1000, read=False)


async def knock(one: Attacker) -> None:
    """WebSockets without a token, held until they are closed."""
    sockets = [one.socket("none") for _ in range(10)]
    for socket in sockets:
        async with socket as open_one:
            await open_one.wait_closed()


OF_CLIENTS: tuple[Attack, ...] = (
    *(unread_socket, repeated_subscribe, churn, unread_list, unread_stream, many_values),
)
OF_SENDERS: tuple[Attack, ...] = (large_webhook, unsigned_body, many_webhooks)
OF_STRANGERS: tuple[Attack, ...] = (guess, slow_head, knock)


async def attack(one: Attacker, kinds: tuple[Attack, ...]) -> None:
    """Attack until canceled, in one kind after the other; whatever is refused is tried again."""
    kind = one.chance.randrange(len(kinds))
    while True:
        with contextlib.suppress(OSError, TimeoutError, WebSocketException, EOFError):
            await kinds[kind % len(kinds)](one)
        kind += 1
        await asyncio.sleep(one.chance.random())


async def main(port: int, seed: int) -> None:
    """All of them."""
    chance = random.Random(seed)
    crowd = [(CLIENTS, OF_CLIENTS), (SENDERS, OF_SENDERS), (STRANGERS, OF_STRANGERS)]
    async with asyncio.TaskGroup() as group:
        number = 0
        for count, kinds in crowd:
            for _ in range(count):
                number += 1
                one = Attacker(port, number, random.Random(chance.random()))
                group.create_task(attack(one, kinds))


if __name__ == "__main__":
    os.nice(10)
    asyncio.run(main(int(sys.argv[1]), int(sys.argv[2])))
