"""The main job with its state in Durable Objects: the processor killed at each step, and workerd killed under load."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chaos.crashes.test_crashes import KEY, check_complete, loaded_gateway, mortal
from tests.support import workerd
from tests.support.conditions import eventually
from tests.support.tidings_process import serving
from tests.support.workerd import TOKEN, Workerd


@pytest.fixture
def worker() -> Iterator[Workerd]:
    """A workerd of the test's own."""
    workerd.needed()
    worker = Workerd(shards=8)
    worker.start()
    yield worker
    worker.close()


@pytest.fixture
def settings(settings: dict[str, str], worker: Workerd) -> dict[str, str]:
    """Those of the main job, with the store on workerd."""
    return {
        **settings,
        "TIDINGS_STORE": f"durable-objects+{worker.url}",
        "TIDINGS_WORKER_TOKEN": TOKEN,
    }


async def test_killed_at_each_step_of_the_commit(tmp_path: Path, settings: dict[str, str]) -> None:
    """SIGKILL as each numbered step ends, the first time or the third: afterwards everything is there exactly once."""
    async with loaded_gateway(tmp_path, settings) as (gateway, load, watcher):
        for step in range(1, 7):
            doomed = mortal(tmp_path, settings, step, count=1 + 2 * (step % 2))
            await doomed.launch()
            assert await doomed.ended(40) == -9, doomed.output
        async with serving(
            tmp_path, {**settings, **KEY}, arguments=("serve", "--role", "processor")
        ):
            await eventually(lambda: len(load.finished) > 4, 20)
            await check_complete(gateway, load, watcher)


async def test_workerd_killed_under_load(
    tmp_path: Path, settings: dict[str, str], worker: Workerd
) -> None:
    """The store's server killed and started again under load: the processor waits it out, and nothing is lost."""
    async with (
        loaded_gateway(tmp_path, settings) as (gateway, load, watcher),
        serving(tmp_path, {**settings, **KEY}, arguments=("serve", "--role", "processor")),
    ):
        for _ in range(3):
            before = len(watcher.messages)
            await eventually(lambda before=before: len(watcher.messages) > before + 50, 60)  # type: ignore[misc]
            worker.kill()
            accepted = len(load.finished)
            await eventually(lambda accepted=accepted: len(load.finished) > accepted, 60)  # type: ignore[misc]
            await asyncio.to_thread(worker.start)
        await check_complete(gateway, load, watcher)
