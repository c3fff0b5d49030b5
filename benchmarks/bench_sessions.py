"""Sessions beside a bare protocol: memory of an idle one, CPU of opening one with token, subscription and snapshot, of
keeping it with pings, and of a change that nobody watches.

python -m benchmarks.bench_sessions [SESSIONS] [SECONDS]

The bare protocol answers the handshake and pings, and does nothing else: no token, no subscription, no snapshot. Of a
change that nobody watches the bare form looks its key up. SECONDS is how long each of two idle phases lasts.
"""

import asyncio
import sys
import time

import jwt
import uvloop

from benchmarks.push_clients import Counter, Server, connect

SECRET = "a secret of the benchmark, thirty-two bytes long"
FIRST = 100
"""Sessions that pay for what is made once: spare cores, imports, the allocator's arenas."""
UNWATCHED = 50_000


def own(number: int) -> bytes:
    return b'{"type":"subscribe","ref":1,"predictions":["own-%06d"]}' % number


async def opened(
    server: Server, port: int, count: int, tokens: list[str]
) -> tuple[float, float, float]:
    """Open so many sessions; µs of CPU and bytes of each, and the seconds that it took."""
    counter = Counter()
    await connect(port, FIRST, counter, own, tokens[:FIRST])
    before = await server("measure")
    begun = time.perf_counter()
    await connect(port, count - FIRST, counter, lambda number: own(number + FIRST), tokens[FIRST:])
    elapsed = time.perf_counter() - begun
    after = await server("measure")
    made = after["sessions"] - before["sessions"]
    return (
        (after["cpu"] - before["cpu"]) / made * 1e6,
        (after["rss"] - before["rss"]) / made,
        elapsed,
    )


async def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    idle = float(sys.argv[2]) if len(sys.argv) > 2 else 25.0
    now = int(time.time())
    tokens = [
        jwt.encode({"sub": "someone", "exp": now + 3600, "jti": str(number)}, SECRET)
        for number in range(count)
    ]
    server, bare = Server(SECRET), Server(program="bare_server")
    try:
        port = (await server("start", count=count))["port"]
        ours_cpu, ours_rss, ours_time = await opened(server, port, count, tokens)
        bare_cpu, bare_rss, bare_time = await opened(
            bare, (await bare("measure"))["port"], count, []
        )
        before, bare_before = await server("measure"), await bare("measure")
        await asyncio.sleep(idle)
        after, bare_after = await server("measure"), await bare("measure")
        await server("watch_stalls")
        await asyncio.sleep(idle)
        watched = await server("measure")
        unwatched = await server("unwatched", count=UNWATCHED)
    finally:
        server.close()
        bare.close()
    rows = (
        ("CPU to open one, µs", ours_cpu, bare_cpu),
        ("seconds to open all", ours_time, bare_time),
        ("RSS of an idle one, bytes", ours_rss, bare_rss),
        (
            "CPU idle, with pings, % of a core",
            (after["cpu"] - before["cpu"]) / idle * 100,
            (bare_after["cpu"] - bare_before["cpu"]) / idle * 100,
        ),
        (
            "a change that nobody watches, µs",
            unwatched["cpu"] / UNWATCHED * 1e6,
            unwatched["bare"] / UNWATCHED * 1e6,
        ),
    )
    print(f"{f'{count:,} sessions':36}{'ours':>10}{'bare':>10}{'ratio':>8}")
    for name, ours, least in rows:
        print(
            f"{name:36}{ours:10,.2f}{least:10,.2f}{ours / least:8.2f}"
            if least
            else f"{name:36}{ours:10,.2f}"
        )
    print(f"{'worst stall of the idle loop, ms':36}{watched['stall'] * 1e3:10.1f}")
    print(f"{'still open':36}{watched['sessions']:10,}")


if __name__ == "__main__":
    uvloop.run(main())
