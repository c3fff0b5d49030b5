"""Calls share transactions, keep their order, and are answered once their work is committed."""

import asyncio
import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.conditions import eventually
from tidings.storage.sqlite import group_commit
from tidings.storage.sqlite.group_commit import FEW, SHORT, SMALL_BYTES, CommitRequest, GroupCommit

Step = Callable[[sqlite3.Connection], Any]
LARGE = SMALL_BYTES + 1


class Failed(Exception):
    """What a call raises here."""


class Bench:
    """A file with one table, and what was done to it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.batches: list[int] = []
        self.opened = 0
        self.commits = GroupCommit[Step](
            self.connect(),
            reconnect=self.connect,
            execute=self.execute,
            explain=lambda error, shared: Failed(str(error), shared),
            path=path,
            busy_timeout=1.0,
        )

    def connect(self) -> sqlite3.Connection:
        self.opened += 1
        connection = sqlite3.connect(self.path, isolation_level=None, check_same_thread=False)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("CREATE TABLE IF NOT EXISTS entries (value)")
        return connection

    def execute(self, connection: sqlite3.Connection, steps: Sequence[Step]) -> list[Any]:
        results = [step(connection) for step in steps]
        self.batches.append(len(steps))
        return results

    def add(self, value: object, **options: Any) -> "asyncio.Future[Any]":
        def step(connection: sqlite3.Connection) -> object:
            connection.execute("INSERT INTO entries VALUES (?)", (value,))
            return value

        return self.commits.submit(CommitRequest(step, **{"size": 1, "quick": True, **options}))

    def entries(self) -> list[Any]:
        """What another connection sees: committed entries alone."""
        reader = sqlite3.connect(self.path)
        try:
            return [
                value for (value,) in reader.execute("SELECT value FROM entries ORDER BY rowid")
            ]
        finally:
            reader.close()


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path / "file.db")


@pytest.mark.parametrize("durable", [True, False])
@pytest.mark.parametrize("size", [1, LARGE])
async def test_answered_after_the_commit(bench: Bench, durable: bool, size: int) -> None:
    """Whoever makes the transaction, a call that was answered is there for everybody else."""
    for value in range(20):
        assert await bench.add(value, durable=durable, size=size) == value
        assert bench.entries() == list(range(value + 1))
    await bench.commits.close()


async def test_calls_of_one_turn_share_a_transaction(bench: Bench) -> None:
    """A hundred calls at once take one transaction, and what comes meanwhile the next one."""
    first = [bench.add(value) for value in range(100)]
    await asyncio.sleep(0)
    second = [bench.add(value) for value in range(100, 200)]
    await asyncio.gather(*first, *second)
    assert bench.batches == [100, 100]
    await bench.commits.close()


@pytest.mark.parametrize(
    ("seconds", "calls", "hops"), [(0.0002, 1, 0), (0.0002, FEW + 1, 1), (2 * SHORT, 1, 1)]
)
async def test_only_a_fast_disk_is_waited_for_in_the_loop(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, seconds: float, calls: int, hops: int
) -> None:
    """Few calls are committed where they are made while commits are short; else the thread waits."""
    waited: list[object] = []
    put = bench.commits._batches.put

    def counted(item: Any) -> None:
        waited.append(item)
        put(item)

    batches = SimpleNamespace(put=counted, get=bench.commits._batches.get)
    bench.commits._commit_seconds = seconds
    monkeypatch.setattr(bench.commits, "_batches", batches)
    await asyncio.gather(*(bench.add(value) for value in range(calls)))
    assert len(waited) == hops
    monkeypatch.undo()
    await bench.commits.close()


async def test_one_slow_commit_sends_the_next_to_the_thread(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loop is held up once by a disk that has become slow, and no second time."""
    bench.commits._commit_seconds = 0.0
    now = iter([0.0, 0.03])
    monkeypatch.setattr(group_commit, "perf_counter", lambda: next(now, 1.0))
    await bench.add(1)
    await bench.add(2)
    assert bench.commits._commit_seconds > SHORT
    await bench.commits.close()


async def test_what_need_not_wait_for_the_disk_is_done_at_once(bench: Bench) -> None:
    """A small call that is not durable is answered before it returns, and is there for everybody."""
    done = bench.add(1, durable=False)
    assert done.done()
    assert bench.entries() == [1]
    behind = [bench.add(2), bench.add(3, durable=False)]
    await asyncio.gather(*behind)
    assert bench.entries() == [1, 2, 3]
    await bench.commits.close()


async def test_equal_keys_do_not_share(bench: Bench) -> None:
    """A second write of a record begins the next transaction, and what came behind it stays behind it."""
    for value, keys in enumerate((["a"], ["b"], ["a", "c"], ["d"])):
        bench.add(value, keys=keys)
    await bench.add(4, alone=True)
    await bench.add(5)
    assert bench.batches == [2, 2, 1, 1]
    assert bench.entries() == [0, 1, 2, 3, 4, 5]
    await bench.commits.close()


@settings(max_examples=30, deadline=None)
@given(
    calls=st.lists(
        st.fixed_dictionaries(
            {
                "size": st.sampled_from([1, 1000, LARGE]),
                "quick": st.booleans(),
                "durable": st.booleans(),
                "alone": st.booleans(),
                "keys": st.sets(st.sampled_from("ab")),
            }
        ),
        max_size=30,
    ),
    pauses=st.lists(st.booleans(), max_size=30),
)
def test_order_stands(
    tmp_path_factory: pytest.TempPathFactory, calls: list[dict[str, Any]], pauses: list[bool]
) -> None:
    """However calls are sized and mixed, entries lie in the order of the calls, each once."""

    async def run() -> None:
        bench = Bench(tmp_path_factory.mktemp("order") / "file.db")
        futures = []
        for number, options in enumerate(calls):
            futures.append(bench.add(number, **options))
            if number < len(pauses) and pauses[number]:
                await asyncio.sleep(0)
        assert await asyncio.gather(*futures) == list(range(len(calls)))
        await bench.commits.close()
        assert bench.entries() == list(range(len(calls)))

    asyncio.run(run())


async def test_a_fault_reaches_all_who_shared(bench: Bench) -> None:
    """Where one step fails nothing of the batch is kept.

    Each caller gets an error of its own, and the next call works.
    """

    def fail(_connection: sqlite3.Connection) -> None:
        raise ValueError("no number")

    futures = [
        bench.add(1),
        bench.commits.submit(CommitRequest(fail, size=1, quick=True)),
        bench.add(2),
    ]
    results = await asyncio.gather(*futures, return_exceptions=True)
    assert [str(result) for result in results] == ["('no number', True)"] * 3
    assert len({id(result) for result in results}) == 3
    assert bench.entries() == []
    assert await bench.add(3) == 3
    with pytest.raises(Failed, match="False"):
        await bench.commits.submit(CommitRequest(fail))
    await bench.commits.close()


async def test_waits_for_another_process(bench: Bench) -> None:
    """A small call that meets a lock is done by the thread, which waits.

    Beyond its patience the call fails.
    """
    other = sqlite3.connect(bench.path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    waiting = bench.add(1)
    await asyncio.sleep(0.05)
    assert not waiting.done()
    other.execute("COMMIT")
    assert await waiting == 1
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(Failed, match="locked"):
        await bench.add(2)
    other.execute("COMMIT")
    other.close()
    await bench.commits.close()
    assert bench.entries() == [1]


async def test_a_cancelled_call_is_done(bench: Bench) -> None:
    """Who gives up waiting keeps nobody else from going on, and the work is done."""
    bench.add(1, size=LARGE).cancel()
    assert await bench.add(2) == 2
    assert bench.entries() == [1, 2]
    await bench.commits.close()


async def test_a_connection_that_cannot_roll_back_is_replaced(bench: Bench) -> None:
    """After a transaction whose end failed too, the next call has another connection."""
    broken = bench.commits._connection
    assert broken is not None

    def lose(connection: sqlite3.Connection) -> None:
        connection.close()
        raise ValueError("lost")

    with pytest.raises(Failed):
        await bench.commits.submit(CommitRequest(lose))
    assert await bench.add(1) == 1
    assert (bench.opened, bench.entries()) == (2, [1])
    await bench.commits.close()


async def test_work_between_transactions(bench: Bench) -> None:
    """What needs a connection that nobody writes through is done once, even if nobody calls, and may fail."""
    seen: list[bool] = []

    def check(connection: sqlite3.Connection) -> None:
        seen.append(connection.in_transaction)
        raise sqlite3.OperationalError("busy")

    bench.commits.between_transactions(check)
    await eventually(lambda: seen == [False])
    bench.add(1, size=LARGE)
    bench.commits.between_transactions(check)
    assert [await bench.add(2), await bench.add(3)] == [2, 3]
    assert seen == [False, False]
    await bench.commits.close()


async def test_close_finishes_what_was_submitted(bench: Bench) -> None:
    """All calls before it are answered, the file is closed, and closing twice does nothing."""
    futures = [bench.add(value, size=LARGE) for value in range(10)]
    await bench.commits.close()
    assert [future.result() for future in futures] == list(range(10))
    assert bench.commits.closing
    await bench.commits.close()


def test_several_loops_one_after_another(bench: Bench) -> None:
    """A loop that ends with a call under way stops nobody.

    The next loop's calls are done, in their order.
    """

    async def leave(value: int) -> None:
        bench.add(value, size=LARGE if value % 2 else 1)
        if value % 3:
            await asyncio.sleep(0)

    async def last() -> None:
        assert await bench.add("end") == "end"
        await bench.commits.close()

    for value in range(30):
        asyncio.run(leave(value))
    asyncio.run(last())
    assert bench.entries()[-1] == "end"


def test_several_loops_at_once(bench: Bench) -> None:
    """Loops in several threads share the one writer, and each gets its own answers."""

    async def use(name: str) -> None:
        for number in range(50):
            value = f"{name}{number}"
            assert await bench.add(value, size=LARGE if number % 7 == 0 else 1) == value

    async def all_of_them() -> None:
        await asyncio.gather(
            *(asyncio.to_thread(asyncio.run, use(name)) for name in ("a", "b", "c"))
        )
        await bench.commits.close()

    asyncio.run(all_of_them())
    assert sorted(bench.entries()) == sorted(f"{n}{i}" for n in "abc" for i in range(50))
