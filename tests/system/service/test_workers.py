"""Several gateways on one port, under one parent."""

import asyncio
import contextlib
import os
import re
import signal
import socket
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from psutil import NoSuchProcess, Process  # type: ignore[import-untyped]  # carries no types

from tests.support import webhooks
from tests.support.broker import free_port
from tests.support.command import tidings
from tests.support.conditions import eventually
from tests.support.tidings_process import TidingsProcess, serving
from tests.support.webhooks import SECRET, reaches, signed, watching
from tests.system.service.test_stopping import SOON, silent
from tidings import open_store
from tidings.streams.log.factory import open_log
from tidings.streams.log.protocol import EVENTS, NewRecord

pytestmark = pytest.mark.kafka


@pytest.fixture
def kafka_settings(kafka_url: str, topic_prefix: str) -> dict[str, str]:
    return {
        "TIDINGS_LOG": kafka_url,
        "TIDINGS_TOPIC_PREFIX": topic_prefix,
        "TIDINGS_PARTITIONS": "4",
        "TIDINGS_REPLICATE_SECRET": SECRET,
    }


def children(service: TidingsProcess) -> dict[str, int]:
    """The process ids of the workers by name, as they are now."""
    assert service.process is not None
    found = {}
    for child in Process(service.process.pid).children():
        with contextlib.suppress(NoSuchProcess):
            line = child.cmdline()
            if "--role" in line:  # which one that has just been forked has not yet
                found[f"{line[line.index('--role') + 1]}-{child.pid}"] = child.pid
    return found


def gateways(service: TidingsProcess) -> set[int]:
    return {pid for name, pid in children(service).items() if name.startswith("gateway-")}


def free_ports(count: int) -> int:
    """The first of so many ports in a row that nobody listens on."""
    while True:
        first = free_port()
        with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
            for port in range(first, first + count):
                stack.enter_context(socket.socket()).bind(("127.0.0.1", port))
            return first


async def post(url: str, body: bytes) -> int:
    """Post a webhook on a connection of its own, so that any of the workers may get it."""
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{url}/api/webhooks/replicate", data=body, headers=signed(body)) as response,
    ):
        return response.status


async def test_workers_share_a_port_and_are_replaced(
    tmp_path: Path, kafka_settings: dict[str, str]
) -> None:
    """Three gateways and one process for the rest: each change reaches sessions of all; one that is killed is replaced."""
    async with (
        serving(tmp_path, kafka_settings, arguments=("serve", "--workers", "3")) as service,
        contextlib.AsyncExitStack() as stack,
    ):
        assert len(gateways(service)) == 3
        assert len(children(service)) == 4
        watchers = [
            await stack.enter_async_context(watching(service.ws_url, all=True)) for _ in range(12)
        ]
        assert await post(service.url, webhooks.report("p1")) == 200
        for watcher in watchers:
            await watcher.version("p1", "succeeded")
        for name, pid in children(service).items():
            os.kill(pid, signal.SIGKILL)

            async def replaced(gone: int = pid) -> bool:
                now = children(service)
                return gone not in now.values() and len(now) == 4

            await eventually(replaced, 60)
            assert name not in children(service)

        async def answers() -> bool:
            with contextlib.suppress(aiohttp.ClientError):
                return await post(service.url, webhooks.report("p2")) == 200
            return False

        await eventually(answers, 60)
        async with aiohttp.ClientSession() as session:
            await reaches(session, service.url, "p2", "succeeded")
        before = children(service)
        assert service.process is not None
        code = await service.stop()
        assert code == 0
        assert [pid for pid in before.values() if _lives(pid)] == []


def _lives(pid: int) -> bool:
    with contextlib.suppress(NoSuchProcess):
        return str(Process(pid).status()) != "zombie"
    return False


@pytest.mark.parametrize("chosen", ["any port", "a port"])
async def test_a_hangup_replaces_all_without_turning_anybody_away(
    tmp_path: Path, kafka_settings: dict[str, str], chosen: str
) -> None:
    """SIGHUP starts successors one by one; requests on new connections are answered all the while, and sessions are told."""
    port = 0 if chosen == "any port" else free_ports(4)
    async with serving(
        tmp_path, kafka_settings, arguments=("serve", "--workers", "2"), port=port
    ) as service:
        before = children(service)
        answered: list[int] = []
        done = asyncio.Event()

        async def steadily() -> None:
            while not done.is_set():
                answered.append(await post(service.url, webhooks.report(f"p{len(answered)}")))

        async with watching(service.ws_url, all=True) as watcher:
            work = asyncio.create_task(steadily())
            farewell = asyncio.create_task(watcher.until("bye"))
            service.signal(signal.SIGHUP)

            async def replaced() -> bool:
                now = children(service)
                return len(now) == 3 and not set(now) & set(before)

            await eventually(replaced, 90)
            if port:
                assert await answers_for_health(port + 3)
            done.set()
            await work
            assert (await asyncio.wait_for(farewell, 20))["retryAfter"] >= 0
        assert answered
        assert set(answered) == {200}
        async with aiohttp.ClientSession() as session:
            for number in range(len(answered)):
                await reaches(session, service.url, f"p{number}", "succeeded")


async def answers_for_health(port: int) -> bool:
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"http://127.0.0.1:{port}/healthz") as response,
    ):
        return response.status == 200


async def test_a_port_that_other_workers_share_is_in_use(
    tmp_path: Path, kafka_settings: dict[str, str]
) -> None:
    """A second command on the same port is refused with one line, and does not take a part of the connections."""
    async with serving(
        tmp_path, kafka_settings, arguments=("serve", "--workers", "2"), port=free_ports(4)
    ) as service:
        other = tmp_path / "other"
        other.mkdir()
        arguments = ("serve", "--workers", "2", "--port", str(service.port))
        ended = await tidings(other, *arguments, settings=kafka_settings)
        assert ended.code == 1
        assert "in use" in ended.line
        assert await post(service.url, webhooks.report("p1")) == 200


async def test_a_signal_ends_workers_that_have_not_come_up(
    tmp_path: Path, kafka_settings: dict[str, str]
) -> None:
    """Told to stop while the first of them waits for a store that says nothing, all of it ends, in order."""
    async with silent() as (port, came):
        settings = {**kafka_settings, "TIDINGS_STORE": f"valkey://127.0.0.1:{port}?timeout=300"}
        service = TidingsProcess(tmp_path, settings, ("serve", "--workers", "2"))
        await service.launch()
        await asyncio.wait_for(came.wait(), 40)
        left = children(service)
        service.signal(signal.SIGTERM)
        assert await service.ended(SOON) == 0
        assert left
        await eventually(lambda: not any(_lives(pid) for pid in left.values()))


async def test_workers_end_with_their_parent(
    tmp_path: Path, kafka_settings: dict[str, str]
) -> None:
    """Workers whose parent is killed end by themselves, and leave the port to the next."""
    service = await TidingsProcess(tmp_path, kafka_settings, ("serve", "--workers", "2")).start()
    left = children(service)
    await service.kill()

    async def gone() -> bool:
        return not any(_lives(pid) for pid in left.values())

    await eventually(gone, 30)


async def test_a_setting_that_no_worker_takes_is_said_once(
    tmp_path: Path, kafka_settings: dict[str, str]
) -> None:
    """What stops the first process stops the command, with its exit code and its line, and no worker is left."""
    wrong: dict[str, Any] = {
        **kafka_settings,
        "TIDINGS_STORE": "sqlite:////proc/nothing/store.db",
        "TIDINGS_WEBHOOK_KEY": "k" * 32,
    }
    service = TidingsProcess(tmp_path, wrong, ("serve", "--workers", "2"))
    await service.launch()
    assert await service.ended(40) in {1, 2}
    assert "Traceback" not in service.output
    lines = [line for line in service.output.splitlines() if re.match("tidings: ", line)]
    assert len(lines) <= 2
    assert "store.db" in service.output


async def test_processors_share_the_partitions(
    tmp_path: Path, kafka_settings: dict[str, str]
) -> None:
    """Two processors on one SQLite store apply every event once; one that is killed is replaced meanwhile."""
    log = await open_log(
        kafka_settings["TIDINGS_LOG"],
        topic_prefix=kafka_settings["TIDINGS_TOPIC_PREFIX"],
        partitions=4,
    )
    ids = [f"p{number}" for number in range(400)]
    store = f"sqlite:///{tmp_path}/store.db"
    settings = {**kafka_settings, "TIDINGS_STORE": store, "TIDINGS_WEBHOOK_KEY": "0b" * 32}
    arguments = ("serve", "--role", "processor", "--workers", "2")
    async with serving(tmp_path, settings, arguments=arguments) as service:
        assert len(children(service)) == 2
        for status in ("starting", "processing", "succeeded"):
            value = b'{"status":"%s"}' % status.encode()
            await log.append(EVENTS, [NewRecord(one.encode(), value) for one in ids])
            if status == "processing":
                os.kill(next(iter(children(service).values())), signal.SIGKILL)

        async def applied_once() -> bool:
            opened = await open_store(store)
            try:
                found = await opened.load(ids)
                return len(found) == len(ids) and {one.version for one in found.values()} == {3}
            finally:
                await opened.close()

        await eventually(applied_once, 60)
        await eventually(lambda: len(children(service)) == 2, 30)
    await log.close()
