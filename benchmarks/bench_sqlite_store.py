"""The SQLite store beside bare `sqlite3` on the same tables. `python -m benchmarks.bench_sqlite_store`.

Batches of 500 compare-and-sets from within a running uvloop loop; medians of interleaved rounds, each of which writes
500 new predictions and moves each of them on twice.
"""

import asyncio
import sqlite3
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import uvloop

from tidings.storage.clock import SYSTEM_CLOCK
from tidings.storage.prediction import Prediction, Status, Transition, encode
from tidings.storage.sqlite import writer as sqlite_writer
from tidings.storage.sqlite.schema import GET, LOAD, open_reader, open_writer
from tidings.storage.sqlite.store import SqliteStore
from tidings.storage.store import Write

BATCH = 500
ROUNDS = 40
START = SYSTEM_CLOCK.ms()
STATUSES = (Status.STARTING, Status.PROCESSING, Status.SUCCEEDED)
INSERT = "INSERT INTO predictions VALUES (?,?,?,?,?,?,?,?,?,?) ON CONFLICT DO NOTHING"
UPDATE = "UPDATE predictions SET version = ?, status = ?, expires_at = ?, purge_at = ?, doc = ? WHERE id = ? AND version = ?"


def write(number: int, version: int) -> Write:
    at = START + number
    record = Prediction(
        prediction_id=f"prediction-{number:012d}",
        status=STATUSES[version - 1],
        version=version,
        created_at=at,
        updated_at=at + version,
        owner=f"owner-{number % 100}",
        model=f"model-{number % 10}",
        payload=msgspec.Raw(b'{"prompt":"%s","seed":17454220438242315174}' % (b"x" * 300)),
        transitions=(Transition(None, Status.STARTING, at, "evt-1", None, f"0:{number}"),)
        * version,
    )
    return Write(
        record, encode(record), version - 1, at + version + 3_600_000, at + version + 694_800_000
    )


def bare(connection: sqlite3.Connection, writes: Sequence[Write]) -> None:
    """What a careful program without the store would do: a statement per record, the count checked, one commit."""
    connection.execute("BEGIN IMMEDIATE")
    records = [(one, one.record) for one in writes]
    if writes[0].expected == 0:
        rows = [
            (
                r.prediction_id,
                r.version,
                r.status,
                r.owner,
                r.model,
                r.created_at,
                w.expires_at,
                w.purge_at,
                None,
                w.encoded,
            )
            for w, r in records
            if isinstance(r, Prediction)
        ]
        count = connection.executemany(INSERT, rows).rowcount
    else:
        changes = [
            (r.version, r.status, w.expires_at, w.purge_at, w.encoded, r.prediction_id, w.expected)
            for w, r in records
            if isinstance(r, Prediction)
        ]
        count = connection.executemany(UPDATE, changes).rowcount
    assert count == len(writes)
    connection.execute("COMMIT")


def same(connection: sqlite3.Connection, prepared: Any) -> None:
    """The store's own statements, their values made ready outside the clock."""
    connection.execute("BEGIN IMMEDIATE")
    assert prepared.execute(connection)
    connection.execute("COMMIT")


async def busy(stop: asyncio.Event) -> None:
    """A loop with something to do all the time: a millisecond of Python at a turn, as a processor's other stages."""
    while not stop.is_set():
        end = time.perf_counter() + 0.001
        while time.perf_counter() < end:
            sum(range(50))
        await asyncio.sleep(0)


async def measure(folder: Path) -> dict[str, list[float]]:
    figures: dict[str, list[float]] = defaultdict(list)
    store = await SqliteStore.open(f"sqlite:///{folder}/store.db")
    loaded = await SqliteStore.open(f"sqlite:///{folder}/busy.db")
    connection = open_writer(folder / "bare.db", synchronous="FULL")
    twin = open_writer(folder / "twin.db", synchronous="FULL")
    reader = open_reader(folder / "bare.db")
    for number in range(ROUNDS):
        kind = ("created", "moved on", "moved on")
        for version in (1, 2, 3):
            writes = [write(number * BATCH + n, version) for n in range(BATCH)]
            start = time.perf_counter()
            await store.write(writes)
            middle = time.perf_counter()
            bare(connection, writes)
            end = time.perf_counter()
            prepared = sqlite_writer._Prepared(writes)
            begin = time.perf_counter()
            same(twin, prepared)
            figures[f"same, {kind[version - 1]}"].append(time.perf_counter() - begin)
            figures[f"store, {kind[version - 1]}"].append(middle - start)
            figures[f"bare, {kind[version - 1]}"].append(end - middle)
            if number < 10:
                stop = asyncio.Event()
                task = asyncio.create_task(busy(stop))
                await asyncio.sleep(0)
                start = time.perf_counter()
                await loaded.write(writes)
                figures[f"busy, {kind[version - 1]}"].append(time.perf_counter() - start)
                stop.set()
                await task
        ids = [one.record.prediction_id for one in writes]
        await reads(store, reader, ids, figures)
    await store.close()
    await loaded.close()
    connection.close()
    twin.close()
    reader.close()
    return figures


async def reads(
    store: SqliteStore, reader: sqlite3.Connection, ids: list[str], figures: dict[str, list[float]]
) -> None:
    wanted = msgspec.json.encode(ids).decode()
    start = time.perf_counter()
    for one in ids:
        await store.get(one)
    times = [start, time.perf_counter()]
    for one in ids:
        reader.execute(GET, (one,)).fetchone()
    times.append(time.perf_counter())
    await store.load(ids)
    times.append(time.perf_counter())
    reader.execute(LOAD, (wanted,)).fetchall()
    times.append(time.perf_counter())
    for name, before, after in zip(
        ("store, get", "bare, get", "store, load", "bare, load"), times, times[1:], strict=False
    ):
        figures[name].append(after - before)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        figures = uvloop.run(measure(Path(folder)))
    per = {name: statistics.median(values) / BATCH * 1e6 for name, values in figures.items()}
    print(f"{'SQLite store, FULL, batches of 500':<44}{'figure':>16}{'ratio to bare':>16}")
    for what in ("created", "moved on"):
        for side, label in (
            ("store", "store"),
            ("busy", "store, the loop busy"),
            ("same", "bare, the same statements"),
            ("bare", "bare, a statement each"),
        ):
            name = f"{what}: {label}"
            rate, ratio = (
                1e6 / per[f"{side}, {what}"],
                per[f"bare, {what}"] / per[f"{side}, {what}"],
            )
            print(f"{name:<44}{rate:>14,.0f}/s{ratio:>16.2f}")
    for what, label in (("get", "one get, inline"), ("load", "load of 500, a record")):
        for side in ("store", "bare"):
            ratio = per[f"{side}, {what}"] / per[f"bare, {what}"]
            print(f"{f'{label}: {side}':<44}{per[f'{side}, {what}']:>13.1f} µs{ratio:>16.2f}")


if __name__ == "__main__":
    main()
