"""Clients on a bad network: cut about every 15 s and offline about 2 s, while what they watch changes and ends.

python -m benchmarks.bench_jitter [CLIENTS]
"""

import asyncio
import statistics
import sys

import uvloop

from benchmarks.push_clients import Server
from tests.support.gateway.follower import JWT_SECRET, Follower, Plan

SECONDS = 45.0
PREDICTIONS = 200
RATE = 500
"""Changes a second, in all."""
PLAN = Plan(stays=(5.0, 25.0), off=2.0, token=600.0, slow=0.5)


async def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000
    server = Server(JWT_SECRET)
    try:
        port = (await server("start"))["port"]
        names = [f"p{number}" for number in range(PREDICTIONS)]
        await server("live", count=PREDICTIONS, rate=RATE, seconds=SECONDS)
        before = await server("measure")
        await server("watch_stalls")
        followers = [Follower(number, [port], names, PLAN) for number in range(count)]
        running = [asyncio.create_task(follower.run()) for follower in followers]
        await asyncio.sleep(SECONDS)
        while not (final := await server("final")):  # noqa: ASYNC110 -- it is another process that is waited for
            await asyncio.sleep(0.05)
        for follower in followers:
            follower.final = dict(final)
        _, late = await asyncio.wait(running, timeout=20)
        after = await server("measure")
        wanted = sum(len(follower.wants) for follower in followers)
        missed = sum(
            follower.known.get(name) != final[name]
            for follower in followers
            for name in follower.wants
        )
        times = [seconds for follower in followers for seconds in follower.recoveries[1:]]
        cuts = statistics.quantiles(times, n=100)
        print(
            f"clients               {count:,}, {sum(one.connections for one in followers):,} connections in all"
        )
        print(
            f"final states          {(wanted - missed) / wanted:.2%} of {wanted:,} delivered, {len(late)} clients late"
        )
        print(
            f"to be up to date      p50 {cuts[49] * 1e3:.0f} ms, p99 {cuts[98] * 1e3:.0f} ms, max {max(times) * 1e3:.0f} ms"
        )
        print(
            f"versions seen         {sum(one.heard for one in followers):,}, none twice, none older than one before"
        )
        print(f"CPU of the gateway    {(after['cpu'] - before['cpu']) / SECONDS:.0%} of a core")
        print(f"worst stall           {after['stall'] * 1e3:.0f} ms")
        for task in running:
            task.cancel()
        failed = [
            error
            for task in running
            if task.done() and not task.cancelled() and (error := task.exception())
        ]
        if failed:
            raise failed[0]
    finally:
        server.close()


if __name__ == "__main__":
    uvloop.run(main())
