"""Backups of the embedded data while it is in use, and what comes out of them."""

import asyncio
import sqlite3
import tarfile
from pathlib import Path

import aiohttp
import pytest

from tests.support import webhooks
from tests.support.command import tidings
from tests.support.conditions import eventually
from tests.support.tidings_process import serving
from tests.support.webhooks import SECRET, get, reaches, signed

SETTINGS = {"TIDINGS_REPLICATE_SECRET": SECRET}


async def post(session: aiohttp.ClientSession, url: str, body: bytes) -> None:
    async with session.post(
        f"{url}/api/webhooks/replicate", data=body, headers=signed(body)
    ) as response:
        assert response.status == 200


async def test_a_backup_under_load_holds_everything_acknowledged(tmp_path: Path) -> None:
    """What was answered 200 before the backup began is in the restored service, byte for byte as a replay gives it."""
    old, new = tmp_path / "old", tmp_path / "new"
    old.mkdir()
    new.mkdir()
    file = tmp_path / "backup.tar"
    acknowledged: list[str] = []
    done = asyncio.Event()
    async with aiohttp.ClientSession() as session:
        async with serving(old, SETTINGS) as service:

            async def steadily() -> None:
                while not done.is_set():
                    name = f"p{len(acknowledged)}"
                    await post(session, service.url, webhooks.report(name))
                    acknowledged.append(name)

            work = asyncio.create_task(steadily())
            await eventually(lambda: len(acknowledged) > 50, 30)
            (old / "data" / "assets" / "ab").mkdir(parents=True)
            (old / "data" / "assets" / "ab" / "0").write_bytes(b"a picture")
            before = list(acknowledged)
            made = await tidings(old, "backup", str(file), "--json", settings=SETTINGS)
            assert made.code == 0, made.err
            assert made.json["assets"] >= 1
            await eventually(lambda: len(acknowledged) > len(before) + 20, 30)
            done.set()
            await work
        assert file.stat().st_mode & 0o077 == 0  # it holds secrets
        restored = await tidings(new, "restore", "--yes", str(file), "--json", settings=SETTINGS)
        assert restored.code == 0, restored.err
        assert (new / "data" / "assets" / "ab" / "0").read_bytes() == b"a picture"
        assert (new / "data" / "webhook.key").read_text() == (
            old / "data" / "webhook.key"
        ).read_text()
        async with serving(new, SETTINGS) as service:
            for name in before:
                await reaches(session, service.url, name, "succeeded")
            await post(session, service.url, webhooks.report("new"))
            await reaches(session, service.url, "new", "succeeded")
            for name in ("p0", before[-1]):
                record = await get(session, service.url, name)
                assert record is not None
                assert record["version"] == 1  # nothing was applied twice
            verified = await tidings(new, "replay", "--verify", "--json", settings=SETTINGS)
            assert (verified.code, verified.json["faults"]) == (0, 0), verified.out
    for part in ("log.db", "store.db"):
        connection = sqlite3.connect(new / "data" / part)
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        connection.close()


async def test_a_backup_behind_its_log_is_caught_up(tmp_path: Path) -> None:
    """The groups of the copy stand where they stood before the store was copied, so no event falls in between."""
    async with aiohttp.ClientSession() as session:
        async with serving(tmp_path, SETTINGS) as service:
            for number in range(20):
                await post(session, service.url, webhooks.report(f"p{number}"))
            await reaches(session, service.url, "p19", "succeeded")
            assert (await tidings(tmp_path, "backup", "b.tar", settings=SETTINGS)).code == 0
        with tarfile.open(tmp_path / "b.tar") as tar:
            tar.extract("log.db", tmp_path, filter="data")
            tar.extract("store.db", tmp_path, filter="data")
        log = sqlite3.connect(tmp_path / "log.db")
        position = dict(log.execute("SELECT member, next FROM positions"))["tidings-processor"]
        log.close()
        assert position <= 20


@pytest.mark.parametrize("what", ["there", "foreign", "cut", "missing"])
async def test_what_cannot_be_restored_is_refused_in_one_line(tmp_path: Path, what: str) -> None:
    """Data that is there is never overwritten.

    A file that is no whole backup is refused; one line names it.
    """
    async with serving(tmp_path, SETTINGS):
        pass
    file = tmp_path / "b.tar"
    assert (await tidings(tmp_path, "backup", "b.tar")).code == 0
    again = await tidings(tmp_path, "backup", "b.tar")
    assert again.code == 1
    assert "b.tar: is there already" in again.line
    place = tmp_path
    if what != "there":
        place = tmp_path / "new"
        place.mkdir()
    if what == "foreign":
        file.write_bytes(b"something else" * 1000)
    elif what == "cut":
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    elif what == "missing":
        file.unlink()
    refused = await tidings(place, "restore", "--yes", str(file))
    assert refused.code == 1
    assert ("log.db" if what == "there" else "b.tar") in refused.line
    assert not (tmp_path / "new" / "data" / "log.db").exists()


@pytest.mark.parametrize("left", ["log.db-wal", "store.db-wal", "store.db-shm", "log.db-journal"])
async def test_nothing_of_a_lost_database_is_mixed_in(tmp_path: Path, left: str) -> None:
    """What SQLite left beside a file that is gone would be read into the restored one.

    It is named, and nothing restored.
    """
    async with serving(tmp_path, SETTINGS):
        pass
    assert (await tidings(tmp_path, "backup", "b.tar")).code == 0
    for file in (tmp_path / "data").iterdir():
        if file.is_file():
            file.unlink()
    beside = tmp_path / "data" / left
    beside.write_bytes(b"of another file")
    refused = await tidings(tmp_path, "restore", "--yes", "b.tar")
    assert refused.code == 1
    assert f"{left}: was left by an earlier" in refused.line
    assert "move it away" in refused.line
    assert [file for file in (tmp_path / "data").iterdir() if file.is_file()] == [beside]
    beside.unlink()
    assert (await tidings(tmp_path, "restore", "--yes", "b.tar")).code == 0


async def test_places_with_a_space_are_backed_up(tmp_path: Path) -> None:
    """A `%20` in a URL is a space in the file's name, for the service, its backup and what is restored from it."""
    settings = {
        **SETTINGS,
        "TIDINGS_LOG": "sqlite:///my%20data/log%231.db",
        "TIDINGS_STORE": "sqlite:///my%20data/store%20one.db",
        "TIDINGS_ASSETS": "file:///my%20assets",
    }
    body = webhooks.report("p1", output="x" * 40_000)  # too large for an event: kept as a file
    async with serving(tmp_path, settings) as service, aiohttp.ClientSession() as session:
        await post(session, service.url, body)
        await reaches(session, service.url, "p1", "succeeded")
        made = await tidings(tmp_path, "backup", "b.tar", "--json", settings=settings)
        assert made.code == 0, made.err
    kept = [
        file.relative_to(tmp_path) for file in (tmp_path / "my assets").rglob("*") if file.is_file()
    ]
    assert kept
    assert made.json["assets"] == len(kept)
    assert sorted(file.name for file in (tmp_path / "my data").glob("*.db")) == [
        "log#1.db",
        "store one.db",
    ]
    assert not (tmp_path / "my%20assets").exists()
    assert not (tmp_path / "my%20data").exists()
    new = tmp_path / "new"
    new.mkdir()
    restored = await tidings(new, "restore", "--yes", str(tmp_path / "b.tar"), settings=settings)
    assert restored.code == 0, restored.err
    assert all((new / file).is_file() for file in kept)
    async with serving(new, settings) as service, aiohttp.ClientSession() as session:
        await reaches(session, service.url, "p1", "succeeded")


@pytest.mark.parametrize("command", ["backup", "restore"])
@pytest.mark.parametrize(
    ("name", "url"),
    [
        ("TIDINGS_LOG", "kafka://kafka:9092?sasl_plain_password=secret"),
        ("TIDINGS_STORE", "postgresql://user:secret@db/x"),
        ("TIDINGS_STORE", "valkey://:secret@cache:6379"),
    ],
)
async def test_only_embedded_data_is_backed_up(
    tmp_path: Path, command: str, name: str, url: str
) -> None:
    """With Kafka or a server as the store either command says whose part that is, without its secrets, and ends with 2."""
    refused = await tidings(tmp_path, command, "b.tar", settings={name: url})
    assert refused.code == 2
    assert refused.line.startswith(f"tidings: {name}: ")
    assert "is not embedded; back up a server by its own means" in refused.line
    assert "secret" not in refused.line
