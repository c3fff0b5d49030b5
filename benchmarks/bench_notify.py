"""Webhooks to other servers: how late the others are while one hangs, fails, redirects or takes 30 s.

Two notifiers on SQLite, each a process, run at the same time, so that both have the same machine.
Each tells one address at a steady rate, beside four others that get as much: those of one answer,
those of the other are bad. Lateness is from the change's append to its arrival.

    python -m benchmarks.bench_notify [--rounds 3] [--seconds 15] [--rate 40]
"""

import argparse
import asyncio
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from statistics import median, quantiles

import aiohttp
import msgspec
import uvloop
from aiohttp import web
from msgspec import Raw, Struct

from tests.support.conditions import eventually
from tidings.storage.prediction import Prediction, Status, Transition, encode
from tidings.streams.changes.codec import announcement
from tidings.streams.log.factory import open_log
from tidings.streams.log.protocol import CHANGES, Log, NewRecord, Position
from tidings.streams.notifications.address import AddressBook, Sealed
from tidings.streams.notifications.dispatcher import Dispatcher
from tidings.streams.notifications.notifier import Notifier
from tidings.streams.notifications.sender import WebhookSender

BAD = ("hangs", "fails", "redirects", "slow")
KEY = b"a webhook key of thirty-two bytes"
WARM_UP = 20


class Round(Struct, frozen=True):
    """What one round measured."""

    late: list[float]
    """Of each webhook to the address that is measured, in ms."""
    cpu: float
    """Seconds of the notifier's process."""
    failed: int
    followed: int
    """Redirects that were followed, to a server on loopback."""


# ---- the receivers, in a process of their own ----


def receivers() -> None:
    """Serve one address of each kind; prints the port."""
    arrived: dict[str, dict[str, float]] = {}
    followed = [0]

    async def measured(request: web.Request) -> web.Response:
        there = arrived.setdefault(request.match_info["kind"], {})
        there.setdefault(request.headers["webhook-id"], time.time())
        await request.read()
        return web.Response()

    async def well(request: web.Request) -> web.Response:
        await request.read()
        return web.Response()

    async def hangs(_: web.Request) -> web.Response:
        await asyncio.Event().wait()
        raise AssertionError

    async def fails(_: web.Request) -> web.Response:
        return web.Response(status=500)

    async def redirects(request: web.Request) -> web.Response:
        inner = f"http://127.0.0.1:{request.url.port}/inner"
        return web.Response(status=307, headers={"Location": inner})

    async def slow(_: web.Request) -> web.Response:
        await asyncio.sleep(30)
        return web.Response()

    async def inner(_: web.Request) -> web.Response:
        followed[0] += 1
        return web.Response()

    async def figures(request: web.Request) -> web.Response:
        there = arrived.pop(request.match_info["kind"], {})
        return web.json_response({"arrived": there, "followed": followed[0]})

    async def serve() -> None:
        app = web.Application()
        for handler in (hangs, fails, redirects, slow):
            app.router.add_post(f"/{handler.__name__}", handler)
        app.router.add_post("/inner", inner)
        app.router.add_get("/figures/{kind}", figures)
        app.router.add_post("/measured/{kind}", measured)
        app.router.add_post("/{name:well.*}", well)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        print(runner.addresses[0][1], flush=True)
        await asyncio.Event().wait()

    uvloop.run(serve())


@asynccontextmanager
async def receiving() -> AsyncIterator[str]:
    """The address of the receivers."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "benchmarks.bench_notify", "--receivers"),
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        yield f"127.0.0.1:{int(await process.stdout.readline())}"
    finally:
        process.kill()
        await process.wait()


# ---- a round ----


def change(name: str, address: Sealed) -> NewRecord:
    """The announcement of a prediction that has ended, about 1 KB."""
    now = int(time.time() * 1000)
    steps = (None, Status.STARTING, Status.PROCESSING, Status.SUCCEEDED)
    record = Prediction(
        prediction_id=name,
        status=Status.SUCCEEDED,
        version=3,
        created_at=now,
        updated_at=now,
        prompt="a photograph of a red kite above a harbour at dusk " * 8,
        transitions=tuple(
            Transition(steps[n], steps[n + 1] or Status.STARTING, now, position=f"0:{n}")
            for n in range(3)
        ),
        webhook=Raw(msgspec.json.encode(address)),
    )
    return announcement(record, encode(record), position=Position(0, 3))


@asynccontextmanager
async def notifying(place: str) -> AsyncIterator[tuple[Log, AddressBook, Dispatcher]]:
    """A notifier that knows nothing yet."""
    with tempfile.TemporaryDirectory() as folder:
        log = await open_log(f"sqlite:////{Path(folder)}/log.db", deliveries=True)
        book = AddressBook(KEY, [place])
        sender = WebhookSender([b"a secret of twenty-four bytes"], [place])
        dispatcher = Dispatcher(log, sender.send, book)
        notifier = Notifier(log, dispatcher, book)
        task = asyncio.create_task(notifier.run())
        try:
            await eventually(
                lambda: notifier._assigned, 10
            )  # it begins with what comes from here on
            yield log, book, dispatcher
        finally:
            task.cancel()
            await asyncio.wait([task])
            await sender.close()
            await log.close()


async def round_of(place: str, kind: str, seconds: float, rate: int) -> Round:
    """Tell one address beside four of this kind."""
    others = BAD if kind == "bad" else [f"well{n}" for n in range(4)]
    async with notifying(place) as (log, book, dispatcher), aiohttp.ClientSession() as http:
        addresses = [book.seal(f"http://{place}/{name}") for name in others]
        well = book.seal(f"http://{place}/measured/{kind}")
        await log.append(CHANGES, [change(f"warm-{n}", well) for n in range(WARM_UP)])
        await eventually(lambda: dispatcher.delivered >= WARM_UP, 10)
        appended: dict[str, float] = {}
        cpu, began, count = time.process_time(), time.monotonic(), int(seconds * rate)
        for n in range(count):
            await asyncio.sleep(max(0.0, began + n / rate - time.monotonic()))
            appended[f"p{n}"] = time.time()
            batch = [change(f"o{n}-{m}", one) for m, one in enumerate(addresses)]
            await log.append(CHANGES, [*batch, change(f"p{n}", well)])
        arrived: dict[str, float] = {}
        followed = 0

        async def all_there() -> bool:
            nonlocal followed
            async with http.get(f"http://{place}/figures/{kind}") as answer:
                figures = await answer.json()
            followed = figures["followed"]
            arrived.update({key.partition(":")[0]: at for key, at in figures["arrived"].items()})
            return appended.keys() <= arrived.keys()

        await eventually(all_there, 30)
        late = [(arrived[name] - at) * 1000 for name, at in appended.items()]
        return Round(late, time.process_time() - cpu, dispatcher.failed, followed)


async def beside(place: str, kind: str, seconds: float, rate: int) -> Round:
    """A round in a process of its own."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "benchmarks.bench_notify", "--kind", kind, "--place", place),
        *("--seconds", str(seconds), "--rate", str(rate)),
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        output, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
    return msgspec.json.decode(output.splitlines()[-1], type=Round)


async def measure(rounds: int, seconds: float, rate: int) -> None:
    """Print the table."""
    found: dict[str, list[Round]] = {"good": [], "bad": []}
    async with receiving() as place:
        for number in range(rounds):
            order = sorted(found, reverse=bool(number % 2))  # neither is always first
            running = [beside(place, kind, seconds, rate) for kind in order]
            for kind, one in zip(order, await asyncio.gather(*running), strict=True):
                found[kind].append(one)
    print(f"{rounds} rounds of {seconds:g} s; {rate} webhooks/s to each of five addresses")
    print()
    print(
        "| four addresses beside it | p50 ms | p99 ms | failed tries | redirects followed | CPU s |"
    )
    print("|---|---|---|---|---|---|")
    p99 = {}
    for kind, label in (("good", "answer"), ("bad", "hang, say 500, redirect, take 30 s")):
        late = [one for measured in found[kind] for one in measured.late]
        p99[kind] = quantiles(late, n=100)[98]
        print(
            f"| {label} | {median(late):.1f} | {p99[kind]:.1f} "
            f"| {sum(one.failed for one in found[kind])} "
            f"| {max(one.followed for one in found[kind])} "
            f"| {median(one.cpu for one in found[kind]):.2f} |"
        )
    print()
    print(f"p99 beside bad addresses: {p99['bad'] / p99['good']:.2f}x that beside good ones.")


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=15)
    parser.add_argument("--rate", type=int, default=40)
    parser.add_argument("--receivers", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--kind", help=argparse.SUPPRESS)
    parser.add_argument("--place", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.receivers:
        receivers()
    elif arguments.kind:
        one = round_of(arguments.place, arguments.kind, arguments.seconds, arguments.rate)
        print(msgspec.json.encode(uvloop.run(one)).decode())
    else:
        uvloop.run(measure(arguments.rounds, arguments.seconds, arguments.rate))


if __name__ == "__main__":
    main()
