"""Sessions beside a bare protocol: CPU of opening one, with and without token and snapshot, memory of an idle one, CPU of
keeping it with pings, and of a change that nobody watches.

python -m benchmarks.bench_sessions [SESSIONS] [SECONDS]

The bare protocol answers the handshake and pings, and does nothing else: no token, no subscription, no snapshot. So there
are two more beside sessions with both: each reads the head, verifies the same token, reads the message and writes the
record in the same bytes, one with PyJWT, one with our own check, which costs a sixth of it. All take turns, a tenth of
the sessions each; the ratio is the median of those of each turn. Of a change that nobody watches the bare form looks its
key up. SECONDS is how long each of two idle phases lasts.
"""

import asyncio
import sys
import time
from functools import partial
from statistics import median

import jwt
import uvloop
from msgspec import Struct

from benchmarks.push_clients import Counter, Server, connect
from tidings.runtime.limits import open_files, raise_open_files

SECRET = "a secret of the benchmark, thirty-two bytes long"
FIRST = 100
"""Sessions that pay for what is made once: spare cores, imports, the allocator's arenas."""
UNWATCHED = 50_000
TURNS, SERVERS = 10, 5


def own(number: int, more: bytes = b"") -> bytes:
    return b'{"type":"subscribe","ref":1,"predictions":["own-%06d"]%b}' % (number, more)


class Opened(Struct):
    """A server with sessions, and what they took."""

    server: Server
    port: int
    tokens: list[str]
    more: bytes = b""
    """What its subscriptions say further."""
    count: int = 0
    cpu: list[float] = []
    """Microseconds of one, in each turn."""
    rss: float = 0.0
    """Bytes of all."""

    async def open(self, count: int, counted: bool = True) -> None:
        """Open so many more."""
        first, self.count = self.count, self.count + count
        before = await self.server("measure")
        tokens = self.tokens[first : self.count]
        message = partial(self._message, first)
        await connect(self.port, count, Counter(), message, tokens)
        after = await self.server("measure")
        if counted:
            self.cpu.append((after["cpu"] - before["cpu"]) / count * 1e6)
            self.rss += after["rss"] - before["rss"]

    def _message(self, first: int, number: int) -> bytes:
        return own(first + number, self.more)


def line(name: str, ours: float, bare: float, ratio: float | None = None) -> None:
    ratio = ours / bare if ratio is None else ratio
    print(f"| {name} | {ours:,.2f} | {bare:,.2f} | {ratio:.2f} |")


async def main() -> None:
    raise_open_files()
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 5_000
    # The clients of all five servers are in this process, and 500 files are for all else.
    count = min(count, (open_files() - 500) // SERVERS - FIRST) // TURNS * TURNS
    idle = float(sys.argv[2]) if len(sys.argv) > 2 else 25.0
    now = int(time.time())
    tokens = [
        jwt.encode({"sub": "someone", "exp": now + 3600, "jti": str(number)}, SECRET)
        for number in range(count + FIRST)
    ]
    server, open_server, bare_server = Server(SECRET), Server(), Server(program="bare_server")
    provers = [
        Server(SECRET, str(count + FIRST), check, program="bare_server")
        for check in ("library", "ours")
    ]
    try:
        full = Opened(server, (await server("start", count=count + FIRST))["port"], tokens)
        port = (await open_server("start"))["port"]
        plain = Opened(open_server, port, [], b',"snapshot":false')
        bare = Opened(bare_server, (await bare_server("measure"))["port"], [])
        library, own_check = [
            Opened(prover, (await prover("measure"))["port"], tokens) for prover in provers
        ]
        all_of_them = [plain, bare, full, library, own_check]
        for one in all_of_them:
            await one.open(FIRST, counted=False)
        for turn in range(TURNS):
            for one in all_of_them if turn % 2 else reversed(all_of_them):
                await one.open(count // TURNS)
        before = [await one.server("measure") for one in (plain, bare)]
        await asyncio.sleep(idle)
        after = [await one.server("measure") for one in (plain, bare)]
        await server("watch_stalls")
        await asyncio.sleep(idle / 4)
        watched = await server("measure")
        unwatched = await server("unwatched", count=UNWATCHED)
    finally:
        for process in (server, open_server, bare_server, *provers):
            process.close()
    print(f"| {count:,} sessions | ours | bare | ratio |\n|---|---|---|---|")
    for name, ours, peer in (
        ("without token and snapshot", plain, bare),
        ("with both; bare with both, token by PyJWT", full, library),
        ("with both; bare with both, token by our check", full, own_check),
        ("with both; bare without either", full, bare),
    ):
        ratio = median(a / b for a, b in zip(ours.cpu, peer.cpu, strict=True))
        line(f"CPU to open one, {name}, µs", median(ours.cpu), median(peer.cpu), ratio)
    line("RSS of an idle one, bytes", full.rss / count, bare.rss / count)
    pings = [
        (later["cpu"] - sooner["cpu"]) / idle * 100
        for sooner, later in zip(before, after, strict=True)
    ]
    line("CPU idle, with pings, % of a core", *pings)
    line(
        "a change that nobody watches, µs",
        unwatched["cpu"] / UNWATCHED * 1e6,
        unwatched["bare"] / UNWATCHED * 1e6,
    )
    print(f"\nworst stall of the idle loop {watched['stall'] * 1e3:.1f} ms")
    print(f"still open {watched['sessions']:,}")


if __name__ == "__main__":
    uvloop.run(main())
