"""A database dropped under load: webhooks go on being taken, and what is rebuilt has all of them."""

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest

from tests.chaos.crashes.test_crashes import KEY, check_complete, loaded_gateway
from tests.support.command import tidings
from tests.support.conditions import eventually
from tests.support.servers import Postgres
from tests.support.tidings_process import serving
from tests.system.operator.replaying_page import commands

NAME = "predictions"


@pytest.fixture
def server() -> Iterator[Postgres]:
    """A server of the test's own."""
    server = Postgres()
    server.start()
    yield server
    server.close()


async def administer(server: Postgres, *statements: str) -> None:
    """Run statements beside the database that they are about."""
    connection = await asyncpg.connect(server.url)
    try:
        for statement in statements:
            await connection.execute(statement)
    finally:
        await connection.close()


@pytest.mark.parametrize("restarted", [False, True], ids=["waiting", "restarted"])
async def test_a_database_dropped_under_load(
    tmp_path: Path,
    log_settings: dict[str, str],
    settings: dict[str, str],
    server: Postgres,
    *,
    restarted: bool,
) -> None:
    """Every webhook is answered with 200 all the while, and each is in the rebuilt database exactly once.

    A processor that runs on writes nothing into the new tables before they are filled; then it goes on by itself.
    """
    assert log_settings.items() <= settings.items()
    await administer(server, f"CREATE DATABASE {NAME}")
    with_store = {
        **settings,
        **KEY,
        "TIDINGS_STORE": urlunsplit(urlsplit(server.url)._replace(path=f"/{NAME}")),
    }
    async with loaded_gateway(tmp_path, with_store) as (gateway, load, watcher):
        async with serving(
            tmp_path, with_store, arguments=("serve", "--role", "processor")
        ) as processor:
            await eventually(lambda: len(load.finished) > 4, 60)
            await administer(server, f"DROP DATABASE {NAME} WITH (FORCE)")
            accepted = len(load.finished)
            await eventually(lambda: len(load.finished) > accepted + 2, 60)
            if restarted:
                await processor.kill()
            await administer(server, f"CREATE DATABASE {NAME}")
            accepted = len(load.finished)
            await eventually(lambda: len(load.finished) > accepted + 2, 60)
            (replay, *_others) = commands("A lost database")
            done = await tidings(tmp_path, *replay, settings=with_store)
            assert done.code == 0, done.err
            if restarted:
                await processor.start(60)
            told = len(watcher.messages)
            await eventually(lambda: len(watcher.messages) > told, 60)
            await check_complete(gateway, load, watcher)
        verified = await tidings(tmp_path, "replay", "--verify", "--json", settings=with_store)
        assert (verified.code, verified.json["faults"]) == (0, 0), verified.out
