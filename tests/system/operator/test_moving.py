"""Moving from SQLite to Postgres as the page on replaying says.

The new store follows, and the service switches to it.
"""

import asyncio
import json
import signal
import sys
from asyncio.subprocess import Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg

from tests.chaos.crashes.test_crashes import KEY, check_complete, loaded_gateway
from tests.support.command import tidings
from tests.support.conditions import eventually
from tests.support.root import ROOT
from tests.support.servers import Postgres
from tests.support.tidings_process import environment, serving
from tests.system.operator.replaying_page import blocks, commands

HEADING = "Moving to another store"
PROCESSOR = ("serve", "--role", "processor")


@asynccontextmanager
async def postgres() -> AsyncIterator[str]:
    """The URL of a server of the test's own."""
    server = Postgres()
    await asyncio.to_thread(server.start)
    try:
        yield server.url
    finally:
        server.close()


async def in_the_new_store(url: str) -> int:
    """How many finished predictions it has; 0 also before its tables are there."""
    connection = await asyncpg.connect(url)
    try:
        return int(
            await connection.fetchval(
                "SELECT count(*) FROM tidings_predictions WHERE status = 'succeeded'"
            )
        )
    except asyncpg.UndefinedTableError:
        return 0
    finally:
        await connection.close()


@asynccontextmanager
async def following(
    folder: Path, arguments: list[str], settings: dict[str, str]
) -> AsyncIterator[Process]:
    """A replay that goes on until Ctrl-C."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tidings", *arguments),
        cwd=folder,
        env=environment({"PYTHONPATH": str(ROOT), **settings}),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def test_a_move_while_everything_goes_on(tmp_path: Path, settings: dict[str, str]) -> None:
    """Webhooks are taken all the while, applied before the switch and after it, and the new store has all of them."""
    (command,) = commands(HEADING)
    (old,) = [one for one in command if one.startswith("postgresql://")]
    assert f"TIDINGS_STORE={old} tidings serve" in "".join(blocks(HEADING, "sh"))
    async with postgres() as url, loaded_gateway(tmp_path, settings) as (_gateway, load, watcher):
        moved = {**settings, **KEY, "TIDINGS_STORE": url}
        arguments = [url if one == old else one for one in command]
        async with (
            serving(tmp_path, {**settings, **KEY}, arguments=PROCESSOR) as processor,
            following(tmp_path, [*arguments, "--json"], settings) as replay,
        ):
            await eventually(lambda: in_the_new_store(url), 60)
            await eventually(lambda: len(load.finished) > 8, 60)
            await processor.stop(30)
            accepted = len(load.finished)
            await eventually(lambda: len(load.finished) > accepted + 2, 60)
            replay.send_signal(signal.SIGINT)
            said, complained = await asyncio.wait_for(replay.communicate(), 60)
            assert replay.returncode == 0, complained.decode()
            assert json.loads(said)["rejected"] == 0
        async with (
            serving(tmp_path, moved, arguments=PROCESSOR),
            serving(tmp_path, moved, arguments=("serve", "--role", "gateway")) as switched,
        ):
            accepted = len(load.finished)
            await eventually(lambda: len(load.finished) > accepted + 2, 60)
            await check_complete(switched, load, watcher)
        verified = await tidings(tmp_path, "replay", "--verify", "--json", settings=moved)
        assert (verified.code, verified.json["faults"]) == (0, 0), verified.out
