"""Sessions: memory of an idle one, CPU of opening one with token, subscription and snapshot, and of keeping it.

python -m benchmarks.bench_sessions [SESSIONS]
"""

import asyncio
import sys
import time

import jwt
import uvloop

from benchmarks.push_clients import Counter, Server, connect

SECRET = "a secret of the benchmark, thirty-two bytes long"
IDLE = 25.0
"""Seconds of each of the two idle phases: one heartbeat."""


def own(number: int) -> bytes:
    return b'{"type":"subscribe","ref":1,"predictions":["own-%06d"]}' % number


async def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    server = Server(SECRET)
    try:
        port = (await server("start", count=count))["port"]
        counter = Counter()
        now = int(time.time())
        tokens = [
            jwt.encode({"sub": "someone", "exp": now + 3600, "jti": str(number)}, SECRET) for number in range(count)
        ]
        # The first ones pay for what is made once: spare cores, imports, the allocator's arenas.
        await connect(port, 100, counter, own, tokens)
        before = await server("measure")
        begun = time.perf_counter()
        await connect(port, count - 100, counter, lambda number: own(number + 100), tokens[100:])
        elapsed = time.perf_counter() - begun
        opened = await server("measure")
        made = opened["sessions"] - before["sessions"]
        print(f"opened                {made:,} sessions in {elapsed:.2f} s (with the clients' own work)")
        print(f"CPU to open one       {(opened['cpu'] - before['cpu']) / made * 1e6:.1f} µs")
        print(f"RSS of one            {(opened['rss'] - before['rss']) / made:.0f} bytes")
        await asyncio.sleep(IDLE)
        idle = await server("measure")
        print(f"CPU idle, with pings  {(idle['cpu'] - opened['cpu']) / IDLE * 100:.2f} % of a core")
        await server("watch_stalls")
        await asyncio.sleep(IDLE)
        idle = await server("measure")
        print(f"worst stall           {idle['stall'] * 1e3:.1f} ms")
        print(f"still open            {idle['sessions']:,}")
        unwatched = await server("unwatched", count=50_000)
        print(f"a change nobody sees  {unwatched['cpu'] / 50_000 * 1e6:.2f} µs of CPU")
    finally:
        server.close()


if __name__ == "__main__":
    uvloop.run(main())
