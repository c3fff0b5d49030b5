"""The index of a SQLite store follows its writes, whatever they are."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from tests.support.storage.samples import creation, prediction, tombstone, writing
from tidings.storage.errors import IndexBehind
from tidings.storage.prediction import Usage
from tidings.storage.sqlite import index, schema
from tidings.storage.sqlite.store import SqliteStore
from tidings.storage.store import Query


def count(file: Path, table: str) -> int:
    with closing(sqlite3.connect(file)) as connection:
        return int(connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0])


async def test_an_older_file_is_indexed_in_the_background(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file of the format before opens at once; step by step its records come into the index, new ones first."""
    file = tmp_path / "s.db"
    with monkeypatch.context() as before:
        before.setattr(schema, "FORMAT", 1)
        before.setattr(schema, "INDEX_TABLES", "")
        before.setattr(schema, "_make_words", lambda _: None)
        before.setattr("tidings.storage.sqlite.writer._notes", lambda _: [])
        old = await SqliteStore.open(f"sqlite:///{file}")
        await old._writer.write(
            [creation(f"p{n}", provider="fal", prompt=f"heron {n}") for n in range(2500)]
        )
        await old.close()
    store = await SqliteStore.open(f"sqlite:///{file}")
    assert count(file, "facts") == 0
    await store.write([creation("new", provider="luma")])
    assert await store.index() == 2500
    assert await store.index() == 2000
    assert (count(file, "facts"), count(file, "words")) == (501, 501)
    with monkeypatch.context() as hurried:
        hurried.setattr("tidings.storage.sqlite.store.CATCH_UP", -1.0)
        with pytest.raises(IndexBehind, match="1500 records"):
            await store.usage(Query(), ())
        assert (await store.facts())["index"] == "1500 records behind"
    assert sum((await store.count(Query(provider="fal"), 10_000) or {}).values()) == 2500
    page = await store.find("HERON 7", Query(limit=3))
    assert page is not None
    assert len(page.items) == 3
    assert (await store.facts())["index"] == "up to date"
    await store.close()


async def test_what_is_deleted_leaves_the_index_at_once(tmp_path: Path) -> None:
    """An erased prompt is in no table of the index when its tombstone stands, whoever looks after the index."""
    store = await SqliteStore.open(f"sqlite:///{tmp_path}/s.db")
    await store.write([creation("p1", prompt="a secret heron"), creation("p2")])
    assert await store.index() == 0
    await store.write([writing(tombstone("p1", 2), 1)])
    assert (count(tmp_path / "s.db", "facts"), count(tmp_path / "s.db", "words_content")) == (1, 1)
    await store.close()


async def test_notes_do_not_pile_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program that only writes, one record at a time, indexes them as it goes."""
    monkeypatch.setattr("tidings.storage.sqlite.writer.MOST_NOTES", 8)
    store = await SqliteStore.open(f"sqlite:///{tmp_path}/s.db")
    for version in range(1, 40):
        await store.write(
            [writing(prediction("p1", version, usage=Usage(images=version)), version - 1)]
        )
    assert count(tmp_path / "s.db", "unindexed") < 8
    await store.close()


async def test_a_step_is_bounded_in_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Large records are taken apart a few at a time, however many were written at once."""
    monkeypatch.setattr(index, "BYTES_AT_ONCE", 10_000)
    monkeypatch.setattr("tidings.storage.sqlite.writer.BYTES_AT_ONCE", 10_000)
    store = await SqliteStore.open(f"sqlite:///{tmp_path}/s.db")
    await store.write([creation(f"p{n}", prompt="x" * 4_000) for n in range(10)])
    assert await store.index() == 8
    await store.close()


async def test_a_sqlite_without_trigrams_looks_through(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where FTS5 is missing, the store opens, lists and sums; only words are not looked up."""
    monkeypatch.setattr(schema, "WORDS", "CREATE VIRTUAL TABLE words USING no_such_module(id);")
    store = await SqliteStore.open(f"sqlite:///{tmp_path}/s.db")
    await store.write([creation("p1", provider="fal", prompt="a heron", usage=Usage(images=1))])
    assert await store.find("heron", Query()) is None
    assert len((await store.list(Query(provider="fal"))).items) == 1
    assert (await store.usage(Query(), ()) or {})[()].images == 1
    await store.close()
    monkeypatch.undo()
    again = await SqliteStore.open(f"sqlite:///{tmp_path}/s.db")
    page = await again.find("heron", Query())
    assert page is not None
    assert len(page.items) == 1
    await again.close()
