"""Files that a program makes through the library are its owner's alone, whatever the program's umask is."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.storage.samples import creation, fresh
from tidings.storage.factory import open_store
from tidings.storage.private_files import make_file, make_folder, open_to_others
from tidings.streams.log.factory import open_log
from tidings.streams.log.protocol import EVENTS, NewRecord


@pytest.fixture(autouse=True)
def usual_umask() -> Iterator[None]:
    """022, with which everybody may read what a program makes."""
    before = os.umask(0o022)
    yield
    os.umask(before)


def modes(folder: Path) -> dict[str, int]:
    return {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()}


async def test_sqlite_files(tmp_path: Path) -> None:
    """The store's and the log's file, their write-ahead logs and indexes, in a folder that was there already."""
    store = await open_store(f"sqlite:///{tmp_path}/store.db")
    await store.write([creation(fresh())])
    log = await open_log(f"sqlite:///{tmp_path}/log.db")
    await log.append(EVENTS, [NewRecord(b"key", b"value")])
    names = {"store.db", "store.db-wal", "store.db-shm", "log.db", "log.db-wal", "log.db-shm"}
    found = modes(tmp_path)
    assert names <= found.keys()
    assert set(found.values()) == {0o600}
    await store.close()
    await log.close()


def test_what_is_there_stays(tmp_path: Path) -> None:
    """Neither a file's contents nor rights that somebody gave on purpose are changed."""
    file = tmp_path / "file"
    file.write_bytes(b"contents")
    file.chmod(0o640)
    make_file(file)
    make_folder(tmp_path)
    assert (file.read_bytes(), stat.S_IMODE(file.stat().st_mode)) == (b"contents", 0o640)
    assert open_to_others(file)
    make_file(tmp_path / "new")
    assert not open_to_others(tmp_path / "new")
    make_folder(tmp_path / "a" / "b")
    assert not open_to_others(tmp_path / "a")
    assert not open_to_others(tmp_path / "a" / "b")
    assert not open_to_others(tmp_path / "nowhere")
