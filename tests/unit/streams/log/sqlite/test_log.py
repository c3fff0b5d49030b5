"""What only the log in an SQLite file has: other processes, a disk that fails, retention, the file's format."""

import asyncio
import contextlib
import sqlite3
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.conditions import eventually
from tidings.streams.log.factory import open_log
from tidings.streams.log.protocol import (
    CHANGES,
    DEAD_LETTERS,
    EVENTS,
    TEXT,
    Log,
    LogError,
    LogMisconfigured,
    LogUnavailable,
    NewRecord,
    Record,
)
from tidings.streams.log.sqlite import consumer as sqlite_consumer
from tidings.streams.log.sqlite import schema as sqlite_file
from tidings.streams.log.sqlite.log import SqliteLog
from tidings.streams.log.sqlite.schema import APPLICATION_ID, connect

DAY = 86_400_000


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "folder" / "log.db"


@pytest.fixture
async def log(path: Path) -> AsyncIterator[SqliteLog]:
    opened = await open_at(path)
    yield opened
    await opened.close()


async def open_at(path: Path, **options: int | bool) -> SqliteLog:
    opened = await open_log(f"sqlite:///{path}", **options)  # type: ignore[arg-type]
    assert isinstance(opened, SqliteLog)
    return opened


async def read(log: Log, topic: str, since: dict[int, int] | None = None) -> list[Record]:
    """Everything that the topic holds now."""
    records: list[Record] = []
    async for batch in log.follow(topic, since or {}):
        if not batch:
            break
        records += batch
    return records


def python(source: str, *arguments: str) -> subprocess.Popen[str]:
    """Another process with this program."""
    return subprocess.Popen(
        (sys.executable, "-c", source, *arguments), stdout=subprocess.PIPE, text=True
    )


APPENDER = """
import asyncio, sys
from tidings.streams.log.protocol import EVENTS, NewRecord
from tidings.streams.log.factory import open_log

async def main():
    log = await open_log("sqlite:///" + sys.argv[1])
    for number in range(int(sys.argv[2])):
        await log.append(EVENTS, [NewRecord(b"key", b"%d" % number)])
    await log.close()

asyncio.run(main())
"""


async def test_other_processes_append(log: SqliteLog, path: Path) -> None:
    """Two processes append at once; a consumer that waits in a third gets everything, each process's in its order."""
    consumer = log.consume(EVENTS, "processor")
    assert not await consumer.fetch(1, 0)
    others = [python(APPENDER, str(path), "100") for _ in range(2)]
    values: list[bytes | None] = []
    end = time.monotonic() + 60
    while len(values) < 200:
        assert time.monotonic() < end
        values += [record.value for record in await consumer.fetch(500, 1)]
    assert [other.wait(30) for other in others] == [0, 0]
    assert sorted(values, key=lambda value: int(value or b"")) == [
        b"%d" % (n // 2) for n in range(200)
    ]


HOLDER = """
import asyncio, sys
from tidings.streams.log.protocol import EVENTS
from tidings.streams.log.factory import open_log

async def main():
    log = await open_log("sqlite:///" + sys.argv[1])
    log.consume(EVENTS, "processor")
    print("consuming", flush=True)
    await asyncio.sleep(600)

asyncio.run(main())
"""


async def test_one_consumer_per_group(log: SqliteLog, path: Path) -> None:
    """A second process is told that the group is being consumed; after the first was killed it may."""
    holder = python(HOLDER, str(path))
    assert holder.stdout is not None
    try:
        assert await asyncio.to_thread(holder.stdout.readline) == "consuming\n"
        with pytest.raises(LogMisconfigured, match=r"being consumed already.*kafka://"):
            log.consume(EVENTS, "processor")
        log.consume(EVENTS, "reconciler")
    finally:
        holder.kill()
        holder.wait()
        holder.stdout.close()
    consumer = log.consume(EVENTS, "processor")
    with pytest.raises(LogMisconfigured, match="being consumed already"):
        log.consume(EVENTS, "processor")
    await consumer.close()
    log.consume(EVENTS, "processor")


async def test_a_full_disk(log: SqliteLog) -> None:
    """While the disk is full, appends are refused as worth a retry, reads go on, and afterwards all is well."""
    await log.append(EVENTS, [NewRecord(b"key", b"first")])
    writing = log._writer._commits._connection
    assert writing is not None
    (pages,) = writing.execute("PRAGMA page_count").fetchone()
    writing.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(LogUnavailable, match="no room"):
        await log.append(EVENTS, [NewRecord(b"key", bytes(1_000_000))])
    assert [record.value for record in await read(log, EVENTS)] == [b"first"]
    writing.execute("PRAGMA max_page_count = 1000000")
    [position] = await log.append(EVENTS, [NewRecord(b"key", b"second")])
    assert position.offset == 1


async def test_a_locked_file(log: SqliteLog, path: Path) -> None:
    """While another process holds the file, appends wait, and are refused after 5 s; afterwards all is well."""
    await log.append(EVENTS, [NewRecord(b"key", b"first")])
    other = connect(path)
    other.execute("BEGIN IMMEDIATE")
    short = asyncio.create_task(log.append(EVENTS, [NewRecord(b"key", b"waits")]))
    start = time.monotonic()
    with pytest.raises(LogUnavailable):
        await log.append(EVENTS, [NewRecord(b"key", b"waits too")])
    assert time.monotonic() - start < 9
    with pytest.raises(LogUnavailable):
        await short
    other.execute("ROLLBACK")
    other.close()
    await log.append(EVENTS, [NewRecord(b"key", b"last")])
    assert (await read(log, EVENTS))[-1].value == b"last"


async def test_concurrent_appends_share_transactions(log: SqliteLog) -> None:
    """100 appends at once are committed in a few transactions."""
    await log.append(EVENTS, [NewRecord(b"key", b"x")])
    commits: list[int] = []
    log._writer._commits.on_finished = lambda batch: commits.append(len(batch))
    await asyncio.gather(*[log.append(EVENTS, [NewRecord(b"key", b"x")]) for _ in range(100)])
    assert len(commits) <= 3
    assert sum(commits) == 100


async def test_readers_miss_nothing_between_two_writers(log: SqliteLog, path: Path) -> None:
    """Readers take from memory what their own process appended, and yet get what another one appended in between."""
    other = await open_at(path)
    seen: dict[str, list[bytes | None]] = {"own": [], "other": [], "group": []}

    async def follow(name: str, of: SqliteLog) -> None:
        async for batch in of.follow(EVENTS, "beginning"):
            seen[name] += [record.value for record in batch]

    async def consume() -> None:
        consumer = log.consume(EVENTS, "group")
        while len(seen["group"]) < 90:
            seen["group"] += [record.value for record in await consumer.fetch(7, 0.5)]

    tasks = [asyncio.create_task(follow("own", log)), asyncio.create_task(follow("other", other))]
    consuming = asyncio.create_task(consume())
    expected = []
    for number in range(90):
        writer = (log, log, other)[number % 3] if number < 60 else (log, other)[number % 2]
        value = b"%d" % number
        await writer.append(EVENTS, [NewRecord(b"k", value, [("h", value)])])
        expected.append(value)
        if number % 10 == 9:
            await eventually(lambda: all(values == expected for values in seen.values()))
    await consuming
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await other.close()


async def test_a_log_that_is_alone_looks_less_often(log: SqliteLog, path: Path) -> None:
    """Where no other process appends, a reader looks ten times a second; at once more often when one does."""
    seen: list[bytes | None] = []

    async def follow() -> None:
        async for batch in log.follow(EVENTS, "beginning"):
            seen.extend(record.value for record in batch)

    following = asyncio.create_task(follow())
    await log.append(EVENTS, [NewRecord(b"k", b"own")])
    await eventually(lambda: log._poll_interval == 0.1)
    other = await open_at(path)
    await other.append(EVENTS, [NewRecord(b"k", b"theirs")])
    await eventually(lambda: seen == [b"own", b"theirs"])
    await eventually(lambda: log._poll_interval == 0.025)
    following.cancel()
    await asyncio.gather(following, return_exceptions=True)
    await other.close()


async def test_records_in_memory_are_those_of_the_file(log: SqliteLog) -> None:
    """What a reader is given from memory is equal to what the file has, in bounded portions, and large ones are not kept."""
    headers = [("v", b"1"), ("t", b"a"), ("t", b"b")]
    for size in (0, 10, 400_000, 400_000, 400_000, 2_000_000, 5):
        await log.append(EVENTS, [NewRecord(b"k", b"x" * size, headers), NewRecord(None, None)])
    for position in range(14):
        kept, _ = log.read_on(EVENTS, position, 3)
        there, _ = log.read(EVENTS, position, 3)
        assert list(kept) == there[: len(kept)]
        assert kept
    await log.append(EVENTS, [NewRecord(b"k", b"%d" % number) for number in range(3000)])
    assert len(log._recent[EVENTS].read(0, 10_000)) == 0
    assert list(log.read_on(EVENTS, 20, 5)[0]) == log.read(EVENTS, 20, 5)[0]


async def test_what_is_flushed_to_the_disk(log: SqliteLog) -> None:
    """Events and dead letters are committed with an fsync; the rest leaves it to the next such commit."""
    modes: list[tuple[str, int]] = []
    commits = log._writer._commits
    writing = commits._connection
    assert writing is not None

    def noted(_batch: object) -> None:
        modes.append((topic, writing.execute("PRAGMA synchronous").fetchone()[0]))

    for topic in (EVENTS, CHANGES, DEAD_LETTERS, TEXT):
        await log.append(topic, [NewRecord(b"key", b"x")])
    commits.on_finished = noted
    for topic in (EVENTS, CHANGES, DEAD_LETTERS, TEXT):
        await log.append(topic, [NewRecord(b"key", b"x")])
    topic = "offsets"
    await log.consume(EVENTS, "group").commit({0: 1})
    full, normal = 2, 1
    assert modes == [
        (EVENTS, full),
        (CHANGES, normal),
        (DEAD_LETTERS, full),
        (TEXT, normal),
        ("offsets", normal),
    ]


async def test_large_records_are_read_in_portions(log: SqliteLog) -> None:
    """Many large records come all the same, without being held in memory at once."""
    for _ in range(5):
        await log.append(EVENTS, [NewRecord(b"key", bytes(2_000_000)) for _ in range(4)])
    sizes = [0]
    async for batch in log.follow(EVENTS, "beginning"):
        if not batch:
            break
        sizes.append(sum([len(record.value or b"") for record in batch]))
    assert sum(sizes) == 40_000_000
    assert max(sizes) <= 2_000_000


async def test_a_fetch_is_bounded_in_bytes(log: SqliteLog, monkeypatch: pytest.MonkeyPatch) -> None:
    """A consumer that is behind gets fewer records where they are large, and all of them in the end."""
    monkeypatch.setattr(sqlite_consumer, "FETCH_BYTES", 3_000_000)
    await log.append(EVENTS, [NewRecord(b"k", b"x" * 1_000_000)] * 10)
    consumer = log.consume(EVENTS, "g")
    sizes = []
    while records := await consumer.fetch(2000, 0.1):
        sizes.append(len(records))
    assert sum(sizes) == 10
    assert max(sizes) <= 4


async def test_a_read_that_fails_half_way_loses_nothing(
    log: SqliteLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a later portion of a fetch cannot be read, what was read before it comes, and then the rest."""
    monkeypatch.setattr(sqlite_consumer, "BATCH", 10)
    await log.append(EVENTS, [NewRecord(b"k", b"%d" % number) for number in range(25)])
    consumer = log.consume(EVENTS, "g")
    whole = log.read_on

    def failing(topic: str, position: int, limit: int) -> object:
        if position == 10:
            raise LogUnavailable("disk I/O error")
        return whole(topic, position, limit)

    monkeypatch.setattr(log, "read_on", failing)
    found = [record.offset for record in await consumer.fetch(2000, 0)]
    assert found == list(range(10))
    with pytest.raises(LogUnavailable):
        await consumer.fetch(2000, 0)
    monkeypatch.setattr(log, "read_on", whole)
    found += [record.offset for record in await consumer.fetch(2000, 0)]
    assert found == list(range(25))


async def test_a_record_that_cannot_be_written_stops_nobody(log: SqliteLog) -> None:
    """Whoever appends what no log can hold is told; those who append at the same time may try again, and then it works."""
    wrong = NewRecord(b"k", b"v", [("x", object())])  # type: ignore[list-item]
    right = NewRecord(b"k", b"v")
    with pytest.raises(LogError, match="cannot take a write") as alone:
        await log.append(EVENTS, [wrong])
    assert not alone.value.retryable
    first, second = await asyncio.gather(
        log.append(EVENTS, [wrong]), log.append(EVENTS, [right]), return_exceptions=True
    )
    assert isinstance(first, LogError)
    assert isinstance(second, LogUnavailable)
    assert [position.offset for position in await log.append(EVENTS, [right])] == [0]


async def test_old_records_are_removed(path: Path) -> None:
    """Trimming removes what is older than its topic is kept, each by its own time; offsets are not used again."""
    log = await open_at(path, retention=3600, changes_retention=7200)
    try:
        for topic in (EVENTS, CHANGES, DEAD_LETTERS, TEXT):
            for _ in range(3):
                await log.append(topic, [NewRecord(b"%d" % number, b"x") for number in range(500)])
        now = time.time_ns() // 1_000_000
        assert await log.trim(now + 590_000) == 1000  # replaced changes
        assert await log.trim(now + 610_000) == 1500
        assert await log.bounds(TEXT) == {0: (1500, 1500)}
        assert await log.trim(now + 3_700_000) == 1500
        assert await log.bounds(EVENTS) == {0: (1500, 1500)}
        assert (await log.bounds(CHANGES))[0] == (1000, 1500)
        assert await log.trim(now + 7_300_000) == 500
        assert len(await read(log, DEAD_LETTERS)) == 1500
        assert await log.trim(now + 15 * DAY) == 1500
        [position] = await log.append(EVENTS, [NewRecord(b"key", b"next")])
        assert position.offset == 1500
        assert [record.offset for record in await read(log, EVENTS)] == [1500]
    finally:
        await log.close()
    log = await open_at(path)
    assert await log.bounds(CHANGES) == {0: (1500, 1500)}
    await log.close()


async def test_changes_are_compacted(path: Path) -> None:
    """Of the changes the newest of each key stays, in order; deletions go a day later; readers in between go on."""
    log = await open_at(path, changes_retention=0)
    try:
        for version in range(4):
            changes = [NewRecord(b"%d" % number, b"%d" % version) for number in range(600)]
            await log.append(CHANGES, changes)
        await log.append(CHANGES, [NewRecord(b"0", b"", [("v", b"9")]), NewRecord(None, b"no key")])
        followed = log.follow(CHANGES, {0: 300})
        await anext(followed)
        now = time.time_ns() // 1_000_000
        assert await log.trim(now) == 1801
        kept = [(record.key, record.value) for record in await read(log, CHANGES)]
        newest = [(b"%d" % number, b"3") for number in range(1, 600)]
        assert kept == [*newest, (b"0", b""), (None, b"no key")]
        assert await log.trim(now + 2 * DAY) == 0
        await log.append(CHANGES, [NewRecord(b"new %d" % number, b"0") for number in range(1200)])
        assert await log.trim(now + 2 * DAY) == 1
        assert b"0" not in [record.key for record in await read(log, CHANGES)]
        rest: list[Record] = []
        async for batch in followed:
            rest += batch
            if not batch:
                break
        assert {record.key for record in rest} >= {key for key, _ in newest}
    finally:
        await log.close()


async def test_changes_that_aged_before_they_were_compacted(path: Path) -> None:
    """Where every change since the last compaction is too old by now, trimming ends, and so does the one after it."""
    log = await open_at(path, changes_retention=7200)
    try:
        await log.append(CHANGES, [NewRecord(b"%d" % number, b"x") for number in range(1200)])
        now = time.time_ns() // 1_000_000
        async with asyncio.timeout(20):
            assert await log.trim(now + 7_300_000) == 1200
            assert await log.trim(now + 7_300_000) == 0
        await log.append(
            CHANGES, [NewRecord(b"%d" % (number % 600), b"y") for number in range(1200)]
        )
        assert await log.trim(now) == 600
    finally:
        await log.close()


async def test_the_file_stays_small(log: SqliteLog, path: Path) -> None:
    """The write-ahead log is copied while appends go on, and does not grow without end."""
    for _ in range(60):
        await log.append(CHANGES, [NewRecord(b"key", bytes(500_000)) for _ in range(4)])

    def small() -> bool:
        return path.with_name("log.db-wal").stat().st_size < 100_000_000

    assert await eventually(small)
    assert len(await read(log, CHANGES)) == 240


async def test_a_foreign_file(tmp_path: Path) -> None:
    """A file of another kind, of another application or of another format is refused, and stays as it is."""
    text = tmp_path / "text.db"
    text.write_text("nothing of SQLite's" * 1000)
    foreign = tmp_path / "foreign.db"
    with contextlib.closing(sqlite3.connect(foreign)) as connection:
        connection.execute("CREATE TABLE theirs (x)")
    newer = tmp_path / "newer.db"
    with contextlib.closing(sqlite3.connect(newer)) as connection:
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute("PRAGMA user_version = 99")
    for path, named in (
        (text, "damaged or not"),
        (foreign, "not a log of Tidings"),
        (newer, "format 99"),
    ):
        with pytest.raises(LogMisconfigured, match=named) as caught:
            await open_at(path)
        assert str(path) in str(caught.value)
    with contextlib.closing(sqlite3.connect(foreign)) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("delete",)


async def test_an_older_file_is_taken_along(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A log of an older format is taken to this version's with its records and id; a newer one is refused with both named."""
    log = await open_at(path)
    await log.append(EVENTS, [NewRecord(b"key", b"value")])
    identity = await log.identity()
    await log.close()
    with monkeypatch.context() as newer:
        newer.setattr(sqlite_file, "FORMAT", 2)
        with pytest.raises(LogMisconfigured, match="has format 1 and this Tidings reads format 2"):
            await open_at(path)
        newer.setattr(sqlite_file, "STEPS", {1: "ALTER TABLE topics ADD COLUMN note TEXT;\n"})
        log = await open_at(path)
        assert [record.value for record in await read(log, EVENTS)] == [b"value"]
        assert await log.identity() == identity
        await log.close()
    with pytest.raises(LogMisconfigured, match="has format 2 and this Tidings reads format 1"):
        await open_at(path)


async def test_a_file_that_must_not_be_created(path: Path) -> None:
    """With `create=False` a missing file is named and stays missing."""
    with pytest.raises(LogMisconfigured, match="no log at"):
        await open_at(path, create=False)
    assert not await asyncio.to_thread(path.exists)


async def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    """Where the file's folder cannot be, the error names the file."""
    (tmp_path / "file").write_text("")
    with pytest.raises(LogMisconfigured, match=r"log\.db"):
        await open_at(tmp_path / "file" / "log.db")


async def test_killed_while_appending(path: Path) -> None:
    """What a process appended before it was killed is there, without gaps, and the log goes on."""
    log = await open_at(path)
    other = python(APPENDER, str(path), "1000000")
    try:
        consumer = log.consume(EVENTS, "processor")
        seen: list[bytes | None] = []
        while len(seen) < 20:
            seen += [record.value for record in await consumer.fetch(500, 5)]
    finally:
        other.kill()
        other.wait()
    await log.append(EVENTS, [NewRecord(b"key", b"after")])
    values = [record.value for record in await read(log, EVENTS)]
    assert values == [*(b"%d" % number for number in range(len(values) - 1)), b"after"]
    await log.close()


async def test_a_crowd_opens_at_once(path: Path) -> None:
    """Several processes that open a new file at the same moment agree on its identity."""
    logs = await asyncio.gather(*[open_at(path) for _ in range(8)])
    assert len({await log.identity() for log in logs}) == 1
    for log in logs:
        await log.close()


async def test_own_appends_wake_their_readers_once(log: SqliteLog) -> None:
    """What this process appends and commits wakes the readers of that topic alone, and is not found a second time."""
    waiting = asyncio.create_task(
        log.changed(log.notifier(CHANGES), log.notifier(CHANGES).sequence, None)
    )
    await log.append(EVENTS, [NewRecord(b"key", b"x")])
    await log.append(CHANGES, [NewRecord(b"key", b"x")])
    await asyncio.wait_for(waiting, 10)
    seen = {topic: log.notifier(topic).sequence for topic in (EVENTS, CHANGES)}
    waiting = asyncio.create_task(log.changed(log.notifier(CHANGES), seen[CHANGES], None))
    before = log._data_version
    for number in range(5):
        await log.append(EVENTS, [NewRecord(b"key", b"x")])
        await log.remember(EVENTS, "group", number)
    await eventually(lambda: log._data_version == log._look() != before, 10)
    assert log.notifier(EVENTS).sequence == seen[EVENTS] + 5
    assert log.notifier(CHANGES).sequence == seen[CHANGES]
    waiting.cancel()
