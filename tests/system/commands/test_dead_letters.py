"""`tidings dead-letters` where much lies there: what it holds in memory does not grow with it."""

import asyncio
import json
import tracemalloc
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path

import pytest

from tidings.cli.dead_letters import run_list, run_redrive
from tidings.cli.support import command
from tidings.streams.log.factory import open_log
from tidings.streams.log.protocol import DEAD_LETTERS, EVENTS, StoredRecord
from tidings.streams.processing import dead_letters
from tidings.streams.processing.dead_letters import dead_letter

LETTERS, EACH = 48, 1_000_000
SLICE = 4 * EACH
CHOICE = Namespace(config=None, as_json=True, reason=None, prediction=None)


@pytest.fixture
def crowded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder whose log has large dead letters."""
    (tmp_path / "data").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(dead_letters, "AT_ONCE_BYTES", SLICE, raising=False)
    monkeypatch.setattr(
        command, "_log_quietly", lambda: None
    )  # the logging of this process stays as it is
    asyncio.run(_fill(tmp_path))
    return tmp_path


async def _fill(folder: Path) -> None:
    log = await open_log(f"sqlite:///{folder}/data/log.db")
    for number in range(LETTERS):
        record = StoredRecord(
            EVENTS, 0, number, 55, b"p%d" % number, b"%d" % number + b"x" * EACH, ()
        )
        await log.append(DEAD_LETTERS, [dead_letter(record, "not-json", "no JSON")])
    await log.close()


async def _events(folder: Path) -> int:
    log = await open_log(f"sqlite:///{folder}/data/log.db")
    bounds = await log.bounds(EVENTS)
    await log.close()
    return sum(end - first for first, end in bounds.values())


def most_held(work: Callable[[], object]) -> int:
    """The most bytes that were allocated meanwhile."""
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_a_redrive_holds_one_slice_at_a_time(
    crowded: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every letter is appended again, while a few of them at most are in memory."""
    redrive = Namespace(**vars(CHOICE), positions=[], all=True, rate=None, dry_run=False)
    assert most_held(lambda: run_redrive(redrive)) < 4 * SLICE
    assert json.loads(capsys.readouterr().out) == {
        "redriven": LETTERS,
        "skipped": 0,
        "dryRun": False,
    }
    assert asyncio.run(_events(crowded)) == LETTERS


@pytest.mark.usefixtures("crowded")
def test_a_list_holds_what_it_prints(capsys: pytest.CaptureFixture[str]) -> None:
    """Letters are counted and named without being kept."""
    assert most_held(lambda: run_list(CHOICE)) < 2 * SLICE
    (group,) = json.loads(capsys.readouterr().out)["reasons"]
    assert (group["count"], len(group["letters"])) == (LETTERS, LETTERS)
