"""Files and tables of an older format are taken to this version's.

What no step leads from is left as it is.
"""

import sqlite3
from contextlib import closing
from pathlib import Path

import asyncpg
import pytest

from tests.support import servers
from tests.support.storage.samples import creation, fresh
from tidings.storage.errors import StoreMisconfigured
from tidings.storage.factory import open_store
from tidings.storage.postgres import schema as postgres_schema
from tidings.storage.sqlite import schema as sqlite_schema
from tidings.storage.sqlite.upgrade import reachable
from tidings.storage.store import Query

STEPS = {
    2: "CREATE TABLE notes (text TEXT);\nINSERT INTO notes VALUES ('one;two');\n",
    3: "DROP TABLE notes;\n",
}


def later(monkeypatch: pytest.MonkeyPatch, *, steps: dict[int, str] = STEPS) -> None:
    """This version becomes the one that reads format 4."""
    monkeypatch.setattr(sqlite_schema, "FORMAT", 4)
    monkeypatch.setattr(sqlite_schema, "STEPS", steps)


def format_of(file: Path) -> int:
    with closing(sqlite3.connect(file)) as connection:
        (found,) = connection.execute("PRAGMA user_version").fetchone()
        return int(found)


def test_steps_lead_forward_without_a_gap() -> None:
    """A format is reached by each step in turn, never backwards and over no gap."""
    assert reachable(1, 1, {})
    assert reachable(1, 3, {1: "", 2: ""})
    assert not reachable(1, 3, {1: ""})
    assert not reachable(1, 3, {2: ""})
    assert not reachable(4, 3, {1: "", 2: ""})


async def test_an_older_file_is_taken_along(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store that the previous version wrote is opened by this one, with everything in it, and so by the next."""
    url = f"sqlite:///{tmp_path}/s.db"
    store = await open_store(url)
    first = creation("p1")
    await store.write([first])
    await store.close()
    later(monkeypatch)
    for _ in range(2):
        store = await open_store(url)
        assert (await store.load(["p1"]))["p1"] == first.stored
        await store.close()
    assert format_of(tmp_path / "s.db") == 4


async def test_an_upgrade_that_fails_leaves_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step that cannot be done, and one that is missing, leave the old format, which the old version still reads."""
    file = tmp_path / "s.db"
    url = f"sqlite:///{file}"
    await (await open_store(url)).close()
    with monkeypatch.context() as newer:
        later(newer, steps={2: STEPS[2], 3: "DROP TABLE nothing;\n"})
        with pytest.raises(StoreMisconfigured, match="nothing"):
            await open_store(url)
        assert format_of(file) == 2
        later(newer, steps={3: STEPS[3]})
        with pytest.raises(StoreMisconfigured, match="has format 2, this version reads 4"):
            await open_store(url)
        with closing(sqlite3.connect(file)) as connection:
            assert (
                connection.execute("SELECT * FROM sqlite_schema WHERE name = 'notes'").fetchone()
                is None
            )
    await (await open_store(url)).close()


async def test_a_newer_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that a newer version has taken along is refused by an older one in a line that names both formats."""
    url = f"sqlite:///{tmp_path}/s.db"
    with monkeypatch.context() as newer:
        later(newer)
        await (await open_store(url)).close()
    with pytest.raises(
        StoreMisconfigured,
        match="has format 4, this version reads 2; use the version that wrote it",
    ):
        await open_store(url)


async def test_postgres_is_taken_along(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tables of an older format are altered once, whoever of several opens them first.

    A newer format is refused.
    """
    schema = fresh("t").replace("-", "_")
    url = f"{servers.postgres()}?schema={schema}&timeout=60"
    store = await open_store(url)
    first = creation("p1")
    await store.write([first])
    await store.close()
    with monkeypatch.context() as newer:
        newer.setattr(postgres_schema, "FORMAT", 4)
        with pytest.raises(StoreMisconfigured, match="have format 2, this version reads 4"):
            await open_store(url)
        step = "CREATE TABLE {s}tidings_notes (text text); ALTER TABLE {s}tidings_predictions ADD COLUMN note text"
        newer.setattr(postgres_schema, "STEPS", {2: step, 3: "DROP TABLE {s}nothing"})
        with pytest.raises(StoreMisconfigured, match="nothing"):
            await open_store(url)
        newer.setattr(postgres_schema, "STEPS", {2: step, 3: "DROP TABLE {s}tidings_notes"})
        for _ in range(2):
            store = await open_store(url)
            assert (await store.load(["p1"]))["p1"] == first.stored
            await store.close()
    with pytest.raises(
        StoreMisconfigured,
        match="have format 4, this version reads 2; use the version that made them",
    ):
        await open_store(url)
    connection = await asyncpg.connect(servers.postgres())
    await connection.execute(f"UPDATE {schema}.tidings_meta SET value = 'odd' WHERE key = 'format'")
    with pytest.raises(StoreMisconfigured, match="have format odd"):
        await open_store(url)
    await connection.close()


async def test_postgres_indexes_what_was_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tables of the format before index appear at the start, and their records come into it step by step."""
    schema = fresh("t").replace("-", "_")
    url = f"{servers.postgres()}?schema={schema}&timeout=60"
    with monkeypatch.context() as before:
        before.setattr(postgres_schema, "FORMAT", 1)
        before.setattr(postgres_schema, "INDEX_TABLES", "")
        before.setattr(postgres_schema, "make_words", _nothing)
        old = await open_store(url)
        records = [creation(f"p{n:03}", provider="fal", prompt=f"heron {n}") for n in range(120)]
        await old.write(records)
        await old.close()
    store = await open_store(url)
    await store.write([creation("new", provider="luma")])
    left = [await store.index()]
    while left[-1]:
        left.append(await store.index())
    assert len(left) > 3
    assert len((await store.list(Query(provider="fal", limit=200))).items) == 120
    page = await store.find("HERON 11", Query())
    assert page is not None
    assert len(page.items) == 11
    await store.close()
    connection = await asyncpg.connect(servers.postgres())
    await connection.execute(f"DROP SCHEMA {schema} CASCADE")
    await connection.close()


async def _nothing(*_: object) -> None: ...
