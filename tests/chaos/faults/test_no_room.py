"""The store's server runs out of room under load: the processor waits and says why, and goes on when there is room."""

import asyncio
import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import redis.asyncio

from tests.chaos.crashes.test_crashes import KEY, check_complete, loaded_gateway
from tests.support.conditions import eventually
from tests.support.servers import Postgres, Valkey
from tests.support.tidings_process import serving
from tests.support.webhooks import SECRET

PROCESSOR = ("serve", "--role", "processor")


class Room:
    """Takes a server's room, and gives it back."""

    url = ""
    told = ""
    """What the line of the processor says of the reason."""

    async def take(self) -> None:
        raise AssertionError("each server has its own")

    async def give(self) -> None:
        raise AssertionError("each server has its own")


class Disk(Room):
    """Postgres with its data on a small file system of its own."""

    told = "No space left on device"

    def __init__(self, server: Postgres, folder: Path) -> None:
        self.url = server.url
        self._server = server
        self._ballast = folder / "ballast"

    async def take(self) -> None:
        await asyncio.to_thread(self._fill)

    def _fill(self) -> None:
        with self._ballast.open("wb", buffering=0) as file, suppress(OSError):
            while True:
                os.write(file.fileno(), bytes(1 << 16))

    async def give(self) -> None:
        self._ballast.unlink()
        # Without room for its write-ahead log Postgres ends itself, and whoever watches over it starts it anew.
        await asyncio.to_thread(self._server.restart)


class Memory(Room):
    """Valkey with a bound of its memory."""

    told = "has reached its maxmemory"

    def __init__(self, server: Valkey) -> None:
        self.url = server.url
        self._direct = redis.asyncio.Redis(port=server.port)

    async def take(self) -> None:
        await self._direct.config_set("maxmemory", "1")

    async def give(self) -> None:
        await self._direct.config_set("maxmemory", "0")
        await self._direct.aclose()


@contextmanager
def _small_disk(size: str) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="tidings-disk-") as name:
        options = ("-t", "tmpfs", "-o", f"size={size},mode=0777", "tidings-tests", name)
        done = subprocess.run(("mount", *options), capture_output=True, check=False)
        if done.returncode:
            pytest.skip(
                f"a file system of the test's own cannot be mounted here: {done.stderr.decode().strip()}"
            )
        try:
            yield Path(name)
        finally:
            subprocess.run(("umount", "-l", name), capture_output=True, check=False)


@pytest.fixture(params=["postgres", "valkey"])
def room(request: pytest.FixtureRequest) -> Iterator[Room]:
    """A server of the test's own that can be full."""
    if request.param == "valkey":
        valkey = Valkey()
        valkey.start()
        yield Memory(valkey)
        valkey.close()
        return
    with _small_disk("192m") as folder:
        postgres = Postgres(folder)
        postgres.start()
        yield Disk(postgres, folder)
        postgres.close()


async def test_a_full_server_is_waited_for(tmp_path: Path, room: Room) -> None:
    """Webhooks are taken while the store has no room, one line says why nothing is applied, and nothing is lost."""
    settings = {"TIDINGS_REPLICATE_SECRET": SECRET, "TIDINGS_STORE": room.url}
    async with (
        loaded_gateway(tmp_path, settings) as (gateway, load, watcher),
        serving(tmp_path, {**settings, **KEY}, arguments=PROCESSOR) as processor,
    ):
        await eventually(lambda: len(watcher.messages) > 30, 60)
        await room.take()

        def paused() -> list[str]:
            return [line for line in processor.output.splitlines() if "processor.paused" in line]

        await eventually(paused, 60)
        accepted = len(load.finished)
        await eventually(lambda: len(load.finished) > accepted + 5, 60)
        assert any(room.told in line for line in paused()), paused()
        await room.give()
        await check_complete(gateway, load, watcher)
        assert "Traceback" not in processor.output
