"""The main job with its state in Postgres and in Valkey: the processor killed at each step, the server killed under load."""

import asyncio
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chaos.crashes.test_crashes import KEY, check_complete, loaded_gateway, mortal
from tests.support.conditions import eventually
from tests.support.servers import Postgres, Server, Valkey
from tests.support.tidings_process import serving

PROCESSOR = ("serve", "--role", "processor")


@pytest.fixture(params=[Postgres, Valkey])
def server(request: pytest.FixtureRequest) -> Iterator[Postgres | Valkey]:
    """A server of the test's own."""
    server: Postgres | Valkey = request.param()
    server.start()
    yield server
    server.close()


@pytest.fixture
def settings(settings: dict[str, str], server: Postgres | Valkey) -> dict[str, str]:
    """Those of the main job, with the store there."""
    return {**settings, "TIDINGS_STORE": server.url}


async def test_killed_at_each_step_of_the_commit(tmp_path: Path, settings: dict[str, str]) -> None:
    """SIGKILL as each numbered step ends, the first time or the third: afterwards everything is there exactly once."""
    async with loaded_gateway(tmp_path, settings) as (gateway, load, watcher):
        for step in range(1, 7):
            doomed = mortal(tmp_path, settings, step, count=1 + 2 * (step % 2))
            await doomed.launch()
            assert await doomed.ended(60) == -signal.SIGKILL, doomed.output
        async with serving(tmp_path, {**settings, **KEY}, arguments=PROCESSOR):
            await eventually(lambda: len(load.finished) > 4, 30)
            await check_complete(gateway, load, watcher)


async def test_the_server_killed_and_frozen_under_load(
    tmp_path: Path, settings: dict[str, str], server: Server
) -> None:
    """Killed twice and frozen once: webhooks are taken all the while, the processor waits, and nothing is lost."""
    async with (
        loaded_gateway(tmp_path, settings) as (gateway, load, watcher),
        serving(tmp_path, {**settings, **KEY}, arguments=PROCESSOR),
    ):
        for harm, mend in (
            (server.kill, server.start),
            (server.freeze, server.thaw),
            (server.kill, server.start),
        ):
            before = len(watcher.messages)
            await eventually(lambda before=before: len(watcher.messages) > before + 30, 60)  # type: ignore[misc]
            await asyncio.to_thread(harm)
            accepted = len(load.finished)
            await eventually(lambda accepted=accepted: len(load.finished) > accepted, 60)  # type: ignore[misc]
            await asyncio.to_thread(mend)
        await check_complete(gateway, load, watcher)


@pytest.mark.kafka
async def test_a_frozen_processor_thaws_after_the_takeover(
    tmp_path: Path, settings: dict[str, str], log_settings: dict[str, str]
) -> None:
    """Two processes fight over partitions on one server: the one that stood still finds its versions taken, and yields."""
    if not log_settings:
        pytest.skip("two processors share a log only where that is Kafka")
    async with (
        loaded_gateway(tmp_path, settings) as (gateway, load, watcher),
        serving(tmp_path, {**settings, **KEY}, arguments=PROCESSOR) as first,
    ):
        await eventually(lambda: len(load.finished) > 4, 60)
        first.signal(signal.SIGSTOP)
        async with serving(tmp_path, {**settings, **KEY}, arguments=PROCESSOR):
            seen = len(watcher.messages)
            await eventually(lambda: len(watcher.messages) > seen + 20, 60)
            first.signal(signal.SIGCONT)
            seen = len(watcher.messages)
            await eventually(lambda: len(watcher.messages) > seen + 20, 60)
            await check_complete(gateway, load, watcher)
