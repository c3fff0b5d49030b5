"""A replay of many events, killed on the spot three times and resumed: the bytes of the store that the service wrote."""

import asyncio
import json
import signal
import sqlite3
import sys
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path

import msgspec
import pytest

from tests.chaos.crashes.test_crashes import KEY
from tests.support.command import tidings
from tests.support.conditions import eventually
from tests.support.root import ROOT
from tests.support.tidings_process import environment, serving
from tidings.streams.log.factory import open_log
from tidings.streams.log.protocol import EVENTS, Log, NewRecord
from tidings.streams.processing.processor import GROUP

KILLS = 3
CHUNK = 5000
"""Events appended at once."""
APART = 600
"""Predictions that go on side by side: one's events lie so far apart that many fall into different batches."""
ROWS = "SELECT id, version, status, owner, model, created_at, expires_at, purge_at, tags, doc FROM {}.predictions"


class Form(msgspec.Struct, frozen=True):
    """How much of everything."""

    events: int
    die_at: int
    """The write of the rebuilt store that each killed replay dies in."""
    within: float


SHORT = Form(20_000, 3, 90.0)
FULL = Form(1_000_000, 120, 1800.0)


def event(number: int, step: int) -> bytes:
    """One of the four events of a prediction: begun, under way, ended (or deleted), and something that comes too late."""
    fields: dict[str, object] = {"predictionId": f"p{number:07}", "id": f"e{number}-{step}"}
    if step == 0:
        fields |= {
            "type": "create",
            "prompt": "a lighthouse in a storm",
            "model": "acme/paint",
            "owner": f"o{number % 99}",
        }
    elif step == 1:
        fields |= {
            "status": "processing",
            "progress": 0.5,
            "logs": "Using seed: 7710683\n",
            "tags": [f"t{number % 9}"],
        }
    elif step == 2:
        fields |= (
            {"type": "delete"} if number % 7 == 0 else {"status": "succeeded", "output": [number]}
        )
    else:
        fields |= {
            "status": ("processing", "failed", "succeeded")[number % 3],
            "generationTime": 5247,
        }
    return json.dumps(fields).encode()


def events(count: int) -> Iterator[NewRecord]:
    """So many, of predictions that go on side by side."""
    total = count // 4
    for first in range(0, total, APART):
        numbers = range(first, min(first + APART, total))
        for step in range(4):
            for number in numbers:
                yield NewRecord(b"p%07d" % number, event(number, step))


async def fill(log: Log, count: int) -> None:
    """Append them."""
    chunk: list[NewRecord] = []
    for new in events(count):
        chunk.append(new)
        if len(chunk) == CHUNK:
            await log.append(EVENTS, chunk)
            chunk = []
    if chunk:
        await log.append(EVENTS, chunk)


async def log_of(folder: Path, settings: Mapping[str, str]) -> Log:
    """The log of these settings."""
    return await open_log(
        settings.get("TIDINGS_LOG", f"sqlite:///{folder}/data/log.db"),
        topic_prefix=settings.get("TIDINGS_TOPIC_PREFIX", ""),
        partitions=int(settings.get("TIDINGS_PARTITIONS", "12")),
    )


async def processed(log: Log, within: float) -> None:
    """Wait until the processor has committed everything."""
    ends = {partition: end for partition, (_, end) in (await log.bounds(EVENTS)).items()}

    async def committed() -> bool:
        done = await log.committed(EVENTS, GROUP)
        return all(done.get(partition, 0) >= end for partition, end in ends.items())

    await eventually(committed, within)


async def killed(folder: Path, settings: Mapping[str, str], form: Form, *arguments: str) -> None:
    """Run a replay that is killed on the spot."""
    process = await asyncio.create_subprocess_exec(
        *(
            sys.executable,
            "-m",
            "tests.chaos.crashes.mortal_replay",
            str(form.die_at),
            "replay",
            *arguments,
        ),
        cwd=folder,
        env=environment({"PYTHONPATH": str(ROOT), **settings}),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    _, said = await asyncio.wait_for(process.communicate(), form.within)
    assert process.returncode == -signal.SIGKILL, said.decode()


def differing(folder: Path, one: str, other: str) -> tuple[int, int]:
    """How many rows the first store has, and how many rows of either the other has not exactly so."""
    with closing(sqlite3.connect(":memory:")) as database:
        database.execute("ATTACH ? AS one", (str(folder / one),))
        database.execute("ATTACH ? AS other", (str(folder / other),))
        rows = database.execute("SELECT count(*) FROM one.predictions").fetchone()[0]
        there, here = ROWS.format("one"), ROWS.format("other")
        both = f"SELECT (SELECT count(*) FROM ({there} EXCEPT {here})) + (SELECT count(*) FROM ({here} EXCEPT {there}))"
        return rows, database.execute(both).fetchone()[0]


async def replay_at_size(folder: Path, settings: dict[str, str], form: Form) -> None:
    """Fill, process, replay with interruptions, compare."""
    log = await log_of(folder, settings)
    await fill(log, form.events)
    async with serving(folder, {**settings, **KEY}, arguments=("serve", "--role", "processor")):
        await processed(log, form.within)
    await log.close()
    into = ("--into", "sqlite:///rebuilt.db")
    for attempt in range(KILLS):
        await killed(folder, settings, form, *into, *(("--resume",) if attempt else ()))
        rows, missing = differing(folder, "data/store.db", "rebuilt.db")
        assert missing > 0
    done = await tidings(
        folder, "replay", *into, "--resume", "--json", settings=settings, within=form.within
    )
    assert done.code == 0, done.err
    assert done.json["resumed"] is True
    rows, missing = differing(folder, "data/store.db", "rebuilt.db")
    assert (rows, missing) == (form.events // 4, 0)


async def test_a_replay_that_is_killed_is_resumed(
    tmp_path: Path, log_settings: dict[str, str]
) -> None:
    """Killed three times amid its writes and resumed, a replay ends in the very rows of the running store."""
    await replay_at_size(tmp_path, log_settings, SHORT)


@pytest.mark.long
async def test_a_replay_of_a_million_events(tmp_path: Path, log_settings: dict[str, str]) -> None:
    """So it does with 1,000,000 events."""
    await replay_at_size(tmp_path, log_settings, FULL)
