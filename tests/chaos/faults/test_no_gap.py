"""No gap, no duplicate, no step back: clients on two gateways that restart in turn, while everything changes."""

import asyncio
import contextlib
import itertools
import random
import time
from collections import Counter
from contextlib import AsyncExitStack
from pathlib import Path

import aiohttp
import jwt
import msgspec
import pytest

from tests.support.conditions import eventually
from tests.support.gateway.follower import JWT_SECRET, Follower, Plan
from tests.support.tidings_process import TidingsProcess, serving
from tidings.streams.log.factory import open_log
from tidings.streams.log.protocol import EVENTS, Log, NewRecord

pytestmark = pytest.mark.kafka

TICK = 0.02
"""Seconds between two batches of events."""


class Form(msgspec.Struct, frozen=True):
    """How much of everything."""

    clients: int
    predictions: int
    rate: int
    """Events a second, in all."""
    seconds: float
    restart_every: float
    plan: Plan


SHORT = Form(60, 40, 300, 9.0, 3.0, Plan(stays=(1.0, 3.0), off=0.3, token=2.5, slow=1.0))
FULL = Form(500, 200, 2000, 60.0, 8.0, Plan(stays=(5.0, 15.0), off=2.0, token=10.0, slow=4.0))


def report(name: str, number: int, **fields: object) -> NewRecord:
    event = {"predictionId": name, "owner": f"o{number % 4}", **fields}
    return NewRecord(name.encode(), msgspec.json.encode(event), [])


async def change_everything(log: Log, names: list[str], form: Form) -> None:
    """Report on random predictions at the rate of the form, and then end or delete each."""
    choice = random.Random(1)
    loop = asyncio.get_running_loop()
    begun = loop.time()
    serial = itertools.count()
    sent = 0
    while (spent := loop.time() - begun) < form.seconds:
        due = int(spent * form.rate) - sent
        sent += due
        numbers = [choice.randrange(len(names)) for _ in range(due)]
        await log.append(
            EVENTS,
            [
                report(names[one], one, status="processing", imageUrl=f"https://x/{next(serial)}")
                for one in numbers
            ],
        )
        await asyncio.sleep(TICK)
    last = [
        report(name, one, type="delete")
        if choice.random() < 0.25
        else report(name, one, status="succeeded")
        for one, name in enumerate(names)
    ]
    await log.append(EVENTS, last)


async def restart_in_turn(
    gateways: list[TidingsProcess], every: float, enough: asyncio.Event
) -> None:
    """Stop one gateway after the other, in order or on the spot, and start it again on its port."""
    for number in itertools.count():
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(enough.wait(), every)
        if enough.is_set():
            return
        gateway = gateways[number % len(gateways)]
        await (gateway.kill() if number % 4 > 1 else gateway.stop())
        await gateway.start(60)


async def final_versions(url: str, names: list[str]) -> dict[str, int | None]:
    """The last version of each, as the HTTP side tells it once each has come to its end; None: deleted."""
    token = jwt.encode(
        {"scope": "read:all", "exp": time.time() + 600}, JWT_SECRET, algorithm="HS256"
    )
    final: dict[str, int | None] = {}

    async def ended(session: aiohttp.ClientSession, name: str) -> bool:
        async with session.get(f"{url}/api/predictions/{name}") as response:
            if response.status == 404:
                final[name] = None
                return True
            record = (await response.json())["data"]
            final[name] = record["version"]
            return bool(record["status"] == "succeeded")

    async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {token}"}) as session:
        for name in names:
            await eventually(lambda name=name: ended(session, name), 60)  # type: ignore[misc]
    return final


async def follow(tmp_path: Path, kafka_url: str, topic_prefix: str, form: Form) -> None:
    names = [f"p{number}" for number in range(form.predictions)]
    settings = {
        "TIDINGS_LOG": kafka_url,
        "TIDINGS_TOPIC_PREFIX": topic_prefix,
        "TIDINGS_PARTITIONS": "4",
        "TIDINGS_WEBHOOK_KEY": "a key of the tests, of thirty-two bytes",
        "TIDINGS_JWT_SECRET": JWT_SECRET,
    }
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(
            serving(tmp_path, settings, arguments=("serve", "--role", "processor"))
        )
        gateways = []
        for _ in range(2):
            started = serving(tmp_path, settings, arguments=("serve", "--role", "gateway"))
            gateways.append(await stack.enter_async_context(started))
        log = await open_log(kafka_url, topic_prefix=topic_prefix, partitions=4, create=False)
        stack.push_async_callback(log.close)
        # Known to the log before anybody follows: a client cannot be told of the end of what it never heard of.
        await log.append(
            EVENTS, [report(name, one, status="starting") for one, name in enumerate(names)]
        )
        ports = [gateway.port for gateway in gateways]
        followers = [Follower(number, ports, names, form.plan) for number in range(form.clients)]
        async with asyncio.timeout(form.seconds + 150), asyncio.TaskGroup() as group:
            enough = asyncio.Event()
            restarting = group.create_task(restart_in_turn(gateways, form.restart_every, enough))
            for follower in followers:
                group.create_task(follower.run())
            await change_everything(log, names, form)
            enough.set()
            await restarting
            final = await final_versions(gateways[0].url, names)
            for follower in followers:
                follower.final = final
    codes = sum((follower.codes for follower in followers), Counter[int | None]())
    assert set(codes) <= {None, 1001, 1012, 4102}, codes
    assert sum(follower.heard for follower in followers) > form.clients * form.seconds
    assert min(follower.connections for follower in followers) > 1


async def test_every_client_ends_with_the_newest(
    tmp_path: Path, kafka_url: str, topic_prefix: str
) -> None:
    """Through cuts, slow reading, renewals and restarts versions only rise, and each client gets the end of everything."""
    await follow(tmp_path, kafka_url, topic_prefix, SHORT)


@pytest.mark.long
async def test_every_client_of_many_ends_with_the_newest(
    tmp_path: Path, kafka_url: str, topic_prefix: str
) -> None:
    """The same for a minute with 500 clients, and 200 predictions that change 2,000 times a second in all."""
    await follow(tmp_path, kafka_url, topic_prefix, FULL)
