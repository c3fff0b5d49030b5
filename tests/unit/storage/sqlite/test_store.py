"""What is the SQLite store's own: the file, its faults, its thread, and other processes on it."""

import asyncio
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import pytest

from tests.support.conditions import eventually
from tests.support.storage.samples import creation, fresh, prediction, tombstone, writing
from tidings.storage.errors import StorageError, StoreMisconfigured, StoreUnavailable
from tidings.storage.factory import open_store
from tidings.storage.prediction import Prediction, Source, Status
from tidings.storage.sqlite.interpreter import switch_interval
from tidings.storage.sqlite.listing import listing
from tidings.storage.sqlite.schema import FORMAT
from tidings.storage.sqlite.store import SqliteStore
from tidings.storage.store import Conflict, Ownership, Query


async def opened(path: Path, parameters: str = "") -> SqliteStore:
    return await SqliteStore.open(f"sqlite:///{path}{parameters}")


async def limit_pages(store: SqliteStore, pages: int) -> None:
    """As a disk that is full after so many pages."""
    await store._writer.run(
        lambda connection: connection.execute(f"PRAGMA max_page_count = {pages}")
    )


async def test_full_disk(tmp_path: Path) -> None:
    """A full disk is `StoreUnavailable`, nothing of the batch is kept, and the same call succeeds once there is room."""
    store = await opened(tmp_path / "s.db")
    kept = creation(fresh())
    await store.write([kept])
    await limit_pages(store, 20)
    batch = [
        creation(fresh(), prompt="x" * 100_000, source=Source("l", {"0": 7})),
        creation(fresh()),
    ]
    for _ in range(2):
        with pytest.raises(StoreUnavailable, match="full"):
            await store.write(batch)
    ids = [write.record.prediction_id for write in [kept, *batch]]
    assert list(await store.load(ids)) == ids[:1]
    assert await store.positions() == {}
    await limit_pages(store, 1_000_000)
    assert await store.write(batch) == [None, None]
    assert await store.positions() == {0: 7}
    await store.close()


async def test_locked_by_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While another program holds the file for too long writes are `StoreUnavailable`.

    Reads go on; then all is well.
    """
    monkeypatch.setattr("tidings.storage.sqlite.writer.BUSY_TIMEOUT", 0.05)
    store = await opened(tmp_path / "s.db")
    other = sqlite3.connect(tmp_path / "s.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    write = creation(fresh())
    with pytest.raises(StoreUnavailable, match="locked"):
        await store.write([write])
    assert await store.get(write.record.prediction_id) is None
    other.execute("ROLLBACK")
    assert await store.write([write]) == [None]
    other.close()
    await store.close()


async def test_damaged_file(tmp_path: Path) -> None:
    """A damaged file is no reason to retry: the error says how to rebuild it."""
    store = await opened(tmp_path / "s.db")
    ids = [fresh() for _ in range(200)]
    await store.write([creation(one, prompt="x" * 500) for one in ids])
    await store.close()
    with (tmp_path / "s.db").open("r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * 200_000)

    async def read() -> None:
        store = await opened(tmp_path / "s.db")
        try:
            await store.load(ids)
        finally:
            await store.close()

    with pytest.raises(StoreMisconfigured, match=r"damaged.*replay"):
        await read()


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("sqlite://", "names no file"),
        ("sqlite:///", "names no file"),
        ("sqlite://host/file.db", "names no file"),
        ("sqlite:///{tmp}/s.db?synchronous=off", "synchronous=off"),
        ("sqlite:///{tmp}/s.db?mode=ro", "mode=ro"),
        ("sqlite:///{tmp}", "name a file|unable to open"),
        ("sqlite:///{tmp}/text/s.db", "folder"),
        ("sqlite:///{tmp}/text", "not a SQLite file"),
        ("sqlite:///{tmp}/foreign.db", "another program"),
        ("sqlite:///{tmp}/newer.db", f"format {FORMAT + 1}, this version reads {FORMAT}"),
        ("mysql://host/name", "no store goes by mysql://.*sqlite://"),
        ("store.db", "without a scheme"),
        ("memory://somewhere", "no path"),
    ],
)
async def test_bad_urls(tmp_path: Path, url: str, message: str) -> None:
    """A wrong URL, or a file that is something else, is one line that names it and what to do; the file stays as it is."""
    (tmp_path / "text").write_text("a shopping list, and certainly no database " * 100)
    with sqlite3.connect(tmp_path / "foreign.db") as foreign:
        foreign.execute("CREATE TABLE things (name)")
    foreign.close()
    await (await opened(tmp_path / "newer.db")).close()
    with sqlite3.connect(tmp_path / "newer.db") as newer:
        newer.execute(f"PRAGMA user_version = {FORMAT + 1}")
    newer.close()
    before = (tmp_path / "text").read_bytes()
    with pytest.raises(StoreMisconfigured, match=message) as caught:
        await open_store(url.replace("{tmp}", str(tmp_path)))
    assert "\n" not in str(caught.value)
    assert (tmp_path / "text").read_bytes() == before


async def test_relative_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three slashes name a file relative to the working folder, four an absolute one.

    Missing folders are made.
    """
    monkeypatch.chdir(tmp_path)
    await (await open_store("sqlite:///data/a%20b.db?synchronous=normal")).close()
    assert (tmp_path / "data" / "a b.db").exists()
    await (await open_store(f"sqlite:////{str(tmp_path).lstrip('/')}/c.db")).close()
    assert (tmp_path / "c.db").exists()


async def test_concurrent_calls_share_commits(tmp_path: Path) -> None:
    """A hundred calls that come at once take a few commits, and each gets its own outcomes."""
    store = await opened(tmp_path / "s.db")
    commits: list[str] = []
    standing = fresh()
    await store.write([creation(standing)])
    await store._writer.run(
        lambda connection: connection.set_trace_callback(
            lambda sql: commits.append(sql) if sql == "COMMIT" else None
        )
    )
    batches = [[creation(fresh()), creation(fresh())] for _ in range(100)]
    batches[50] = [creation(fresh()), creation(standing)]
    results = await asyncio.gather(*(store.write(batch) for batch in batches))
    assert results == [[None, None]] * 50 + [[None, Conflict(1)]] + [[None, None]] * 49
    assert len(commits) < 20
    await store.close()


async def test_deferred_writes_reach_the_disk_with_persist(tmp_path: Path) -> None:
    """A deferred write does not wait for the disk; `persist` does, once for all before it, and not for nothing."""
    modes: list[int] = []
    store = await SqliteStore.open(f"sqlite:///{tmp_path}/s.db", deferred=True)
    commits = store._writer._commits
    connection = commits._connection
    assert connection is not None

    def noted(batch: Sequence[object]) -> None:
        modes.extend(connection.execute("PRAGMA synchronous").fetchone()[0] for _ in batch)

    commits.on_finished = noted
    await store.write([creation(fresh())])
    await store.write([creation(fresh())])
    await store.persist()
    await store.persist()
    normal, full = 1, 2
    assert modes == [normal, normal, full]
    commits.on_finished = None
    await store.close()
    durable = await opened(tmp_path / "s.db")
    durable._writer._commits.on_finished = lambda batch: modes.append(len(batch))
    await durable.persist()
    assert len(modes) == 3
    await durable.close()


async def test_close_finishes_what_was_submitted(tmp_path: Path) -> None:
    """Writes that were under way when the store is closed are done; later calls are refused."""
    store = await opened(tmp_path / "s.db")
    writes = [creation(fresh()) for _ in range(50)]
    tasks = [asyncio.create_task(store.write([write])) for write in writes]
    await asyncio.sleep(0)
    await store.close()
    assert await asyncio.gather(*tasks) == [[None]] * 50
    with pytest.raises(StorageError, match="closed"):
        await store.write(writes)
    with pytest.raises(StorageError, match="closed"):
        await store.get("p")


async def test_cancelled_caller(tmp_path: Path) -> None:
    """A caller that is cancelled while it waits harms nobody; its write is done."""
    store = await opened(tmp_path / "s.db")
    first, second = creation(fresh()), creation(fresh())
    task = asyncio.create_task(store.write([first]))
    await asyncio.sleep(0)
    task.cancel()
    assert await store.write([second]) == [None]
    assert len(await store.load([first.record.prediction_id, second.record.prediction_id])) == 2
    await store.close()


async def test_listings_have_what_somebody_else_has_written(tmp_path: Path) -> None:
    """A record that a person's own SQL has changed is text in the file, and is listed whole with those around it."""
    store = await open_store(f"sqlite:///{tmp_path}/store.db")
    names = ["p1", "p2", "p3"]
    made = [creation(name, prompt="wörd 🎉") for name in names]
    assert await store.write(made) == [None] * 3
    with sqlite3.connect(tmp_path / "store.db") as file:
        file.execute("UPDATE predictions SET doc = replace(doc, 'wörd', 'bïrd') WHERE id = 'p2'")
    file.close()
    page = await store.list(Query(limit=10))
    found = {one.prediction_id: one for item in page.items if (one := item.standing())}
    assert {name: one.prompt for name, one in found.items() if isinstance(one, Prediction)} == {
        "p1": "wörd 🎉",
        "p2": "bïrd 🎉",
        "p3": "wörd 🎉",
    }
    await store.close()


@pytest.mark.parametrize(
    "query",
    [
        Query(),
        Query(status=Status.FAILED),
        Query(owner="o"),
        Query(owners=("o",)),
        Query(model="m"),
        Query(tag="t"),
        Query(tag="t", owner="o", status=Status.FAILED),
    ],
)
@pytest.mark.parametrize("cursor", [None, "MTIzOng"])
async def test_listings_walk_an_index(tmp_path: Path, query: Query, cursor: str | None) -> None:
    """Each filter's listing walks an index in its order.

    No table is scanned and nothing is sorted.
    """
    store = await opened(tmp_path / "s.db")
    sql, values = listing(
        Query(
            **{**{name: getattr(query, name) for name in query.__struct_fields__}, "cursor": cursor}
        ),
        0,
    )
    assert store._reader is not None
    plan = "\n".join(row[3] for row in store._reader.execute("EXPLAIN QUERY PLAN " + sql, values))
    assert "TEMP B-TREE" not in plan
    steps = [line for line in plan.splitlines() if line.startswith(("SCAN", "SEARCH"))]
    indexed = "INDEX" in steps[0] or "PRIMARY KEY" in steps[0]
    assert indexed, plan
    if query != Query() or cursor:
        assert steps[0].startswith("SEARCH"), plan
    await store.close()


OPEN = """
import asyncio, sys
from tidings.storage.factory import open_store
from tidings.storage.store import Ownership
async def main():
    store = await open_store(sys.argv[1])
    print((await store.claim(Ownership(log=sys.argv[2]))).log)
    await store.close()
asyncio.run(main())
"""


def test_processes_open_at_once(tmp_path: Path) -> None:
    """Several processes that open a new file at once all succeed, and agree on whose it is."""
    url = f"sqlite:///{tmp_path}/s.db"
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", OPEN, url, f"log-{n}"], stdout=subprocess.PIPE, text=True
        )
        for n in range(4)
    ]
    answers = {process.communicate(timeout=60)[0] for process in processes}
    assert [process.returncode for process in processes] == [0] * 4
    assert len(answers) == 1


WRITE = """
import asyncio, sys
from tidings.storage.factory import open_store
from tests.support.storage.samples import creation
async def main():
    store = await open_store(sys.argv[1])
    for number in range(1_000_000):
        await store.write([creation(f"p{number}-{n}", tags=("t",)) for n in range(10)])
        print(number, flush=True)
asyncio.run(main())
"""


@pytest.mark.parametrize("number", [1, 3, 33, 129, 257, 513, 1100])
async def test_rows_of_a_batch(tmp_path: Path, number: int) -> None:
    """However many rows a batch has, each is written once, and what is not said is NULL in the file."""
    store = await opened(tmp_path / "s.db")
    ids = [f"p{at}" for at in range(number)]
    assert await store.write([creation(one) for one in ids]) == [None] * number
    finished = [prediction(one, 2, Status.SUCCEEDED, owner="", created_at=5) for one in ids]
    assert await store.write([writing(one, 1) for one in finished]) == [None] * number
    gone = [writing(tombstone(one, 3), 2, purge_at=7) for one in ids[: number // 2]]
    assert await store.write(gone) == [None] * len(gone)
    await store.close()
    with closing(sqlite3.connect(tmp_path / "s.db")) as file:
        rows = file.execute(
            "SELECT version, status, owner, model, created_at, expires_at, purge_at, tags, typeof(doc), count(*)"
            " FROM predictions GROUP BY 1, 2, 3, 4, 5, 6, 7, 8, 9 ORDER BY version"
        ).fetchall()
    kept = (2, "succeeded", "", None, 5, None, None, None, "blob", number - len(gone))
    lost = (3, None, None, None, None, None, 7, None, "blob", len(gone))
    assert rows == [kept, lost] if gone else rows == [kept]


async def test_killed_while_writing(tmp_path: Path) -> None:
    """What was acknowledged before SIGKILL is there afterwards, and no batch is there in part."""
    url = f"sqlite:///{tmp_path}/s.db"
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", WRITE, url, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    last = -1
    async with asyncio.timeout(60):
        while last < 30:
            last = int(await process.stdout.readline())
        process.send_signal(signal.SIGKILL)
        rest = (await process.stdout.read()).split(b"\n")
        await process.wait()
    last = max([last, *(int(line) for line in rest[:-1])])
    store = await open_store(url)
    whole = [f"p{number}-{n}" for number in range(last + 1) for n in range(10)]
    assert len(await store.load(whole)) == len(whole)
    assert len(await store.load([f"p{last + 1}-{n}" for n in range(10)])) in {0, 10}
    await store.close()


async def test_reads_while_another_process_writes(tmp_path: Path) -> None:
    """A second opener sees each write as soon as it is acknowledged."""
    one, two = await opened(tmp_path / "s.db"), await opened(tmp_path / "s.db")
    for version in range(1, 20):
        await one.write([writing(prediction("p", version), version - 1)])
        found = await two.get("p")
        assert found is not None
        assert found.version == version
    await one.close()
    await two.close()


async def test_swept_files_stay_small(tmp_path: Path) -> None:
    """Space of rows that were swept is used again.

    The file does not grow with what has passed through it.
    """
    store = await opened(tmp_path / "s.db")

    async def turn() -> int:
        await store.write(
            [
                writing(prediction(fresh(), prompt="x" * 700, tags=("t",)), 0, purge_at=1)
                for _ in range(500)
            ]
        )
        assert await store.sweep(2, 500) == 500
        pages: int = (
            await store._writer.run(
                lambda connection: connection.execute("PRAGMA page_count").fetchone()
            )
        )[0]
        return pages

    pages = [await turn() for _ in range(8)]
    assert pages[-1] <= pages[1]
    assert (
        await store._writer.run(
            lambda connection: connection.execute("SELECT * FROM tags").fetchall()
        )
        == []
    )
    await store.close()


async def test_facts(tmp_path: Path) -> None:
    """An operator reads from the store itself where it is, how durable, and whose it is."""
    store = await opened(tmp_path / "s.db", "?synchronous=normal")
    assert (await store.facts())["ownership"] == "none yet"
    await store.claim(Ownership(log="log-7"))
    facts = await store.facts()
    assert "log-7" in facts["ownership"]
    assert "power" in facts["durability"]
    assert "s.db" in facts["file"]
    await store.close()


async def test_switch_interval_comes_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a process of ours threads switch more often only while a write is under way, of however many stores."""
    monkeypatch.setattr(switch_interval, "allowed", True)
    before = sys.getswitchinterval()
    stores = [await opened(tmp_path / f"{n}.db") for n in range(3)]
    during = [
        asyncio.create_task(store.write([creation(fresh())])) for store in stores for _ in range(10)
    ]
    await asyncio.sleep(0)  # they are called
    await asyncio.sleep(0)  # their transactions begin
    assert sys.getswitchinterval() < before
    await asyncio.gather(*during)
    await eventually(lambda: sys.getswitchinterval() == before)
    for store in stores:
        await store.close()
    assert sys.getswitchinterval() == before


async def test_small_and_large_writes_at_once_never_wait_for_each_other_for_ever(
    tmp_path: Path,
) -> None:
    """Callers that write in their event loop, the thread, and another process's transaction take turns: all is written."""
    store = await SqliteStore.open(f"sqlite:///{tmp_path}/store.db")
    other = sqlite3.connect(tmp_path / "store.db", isolation_level=None, timeout=5)
    failures = 0

    async def write(name: str, count: int) -> None:
        nonlocal failures
        for version in range(1, 16):
            writes = [
                writing(prediction(f"{name}-{number}", version), version - 1)
                for number in range(count)
            ]
            failures += sum(outcome is not None for outcome in await store.write(writes))

    async def disturb() -> None:
        for _ in range(20):
            other.execute("BEGIN IMMEDIATE")
            await asyncio.sleep(0.002)  # what the others wait for
            other.execute("COMMIT")
            await asyncio.sleep(0)

    async with asyncio.timeout(30), asyncio.TaskGroup() as group:
        for number in range(8):
            group.create_task(write(f"small{number}", 1))
            group.create_task(write(f"large{number}", 40))
        group.create_task(disturb())
    assert failures == 0
    found = await store.load([f"small{number}-0" for number in range(8)] + ["large7-39"])
    assert {stored.version for stored in found.values()} == {15}
    assert len(found) == 9
    other.close()
    await store.close()
