"""What looks after the processes of `tidings serve --workers`, with real ones that need no Kafka."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import structlog

from tests.support.conditions import eventually
from tests.support.root import ROOT
from tests.support.tidings_process import environment
from tidings.runtime.process import supervisor as workers
from tidings.runtime.process.supervisor import Worker, WorkerPlan

NOTHING = "/nothing/python"
"""A program that the machine cannot start, as it can none where processes, files or memory have run out."""


@pytest.fixture
async def worker(tmp_path: Path) -> AsyncIterator[Worker]:
    """A process that runs."""
    settings = {
        "TIDINGS_LOG": f"sqlite:////{tmp_path}/log.db",
        "TIDINGS_STORE": f"sqlite:////{tmp_path}/store.db",
        "TIDINGS_ASSETS": f"file:////{tmp_path}/assets",
        "TIDINGS_WEBHOOK_KEY": "k" * 32,
        "PYTHONPATH": str(ROOT),
    }
    plan = WorkerPlan("rest", ("--role", "processor", "--port", "0"), None)
    worker = Worker(plan, tmp_path, environment(settings))
    await worker.start()
    yield worker
    await worker.stop()


async def test_a_worker_comes_back_once_the_machine_starts_processes_again(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that ends while no process can be started is started anew as soon as one can."""
    first = worker.pid
    assert first is not None
    keepers = asyncio.create_task(worker.keep())
    with structlog.testing.capture_logs() as lines:
        with monkeypatch.context() as patch:
            patch.setattr(sys, "executable", NOTHING)
            os.kill(first, signal.SIGKILL)
            await eventually(lambda: "worker.not_started" in [line["event"] for line in lines], 20)
        await eventually(lambda: worker.pid != first, 30)
    assert not keepers.done()
    keepers.cancel()
    [line] = [line for line in lines if line["event"] == "worker.not_started"][:1]
    assert NOTHING in line["error"]


async def test_what_cannot_be_replaced_goes_on(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hangup while no process can be started is told in one line, and the process that serves goes on."""
    first = worker.pid
    assert first is not None
    monkeypatch.setattr(sys, "executable", NOTHING)
    with structlog.testing.capture_logs() as lines:
        await workers.replace_workers([worker], asyncio.Event())
    assert [line["event"] for line in lines] == ["worker.not_replaced"]
    assert worker.pid == first
    os.kill(first, 0)
