"""A store that lost its last writes with the machine's power: nobody reads from it before they are made again."""

import asyncio
import shutil
import socket
import sqlite3
from pathlib import Path

import httpx
import pytest

import tidings
from tests.support.conditions import eventually
from tidings.storage.memory import MemoryStore
from tidings.storage.prediction import Prediction, Source, Status, encode
from tidings.storage.store import Write
from tidings.streams.changes.codec import announcement
from tidings.streams.changes.recovery import missing_writes, recovered
from tidings.streams.log.memory import MemoryLog
from tidings.streams.log.protocol import CHANGES, EVENTS, NewRecord, Position
from tidings.streams.processing.batch import BatchInFlight
from tidings.streams.processing.processor import GROUP, Processor


def record(offset: int) -> Prediction:
    return Prediction(
        prediction_id=f"p{offset}",
        status=Status.PROCESSING,
        version=1,
        created_at=1,
        updated_at=2,
        source=Source("memory", {"0": offset}),
    )


async def announced(offset: int) -> MemoryLog:
    """A log with so many events and one more, whose last one was announced."""
    log = MemoryLog()
    await log.append(EVENTS, [NewRecord(b"p", b"{}")] * (offset + 1))
    one = record(offset)
    await log.append(CHANGES, [announcement(one, encode(one), position=Position(0, offset))])
    return log


async def write(store: MemoryStore, offset: int) -> None:
    one = record(offset)
    assert await store.write([Write(one, encode(one), 0)]) == [None]


async def commit(log: MemoryLog, offset: int) -> None:
    consumer = log.consume(EVENTS, GROUP)
    await consumer.fetch(1, 0)
    await consumer.commit({0: offset})
    await consumer.close()


async def stands(client: httpx.AsyncClient) -> bool:
    return (await client.get("/api/predictions/p1")).status_code == 200


async def test_what_was_announced_and_is_not_there_is_waited_for() -> None:
    """It returns once the store holds the last change's position, and not before."""
    log, store = await announced(5), MemoryStore()
    await write(store, 3)
    await commit(log, 4)
    assert await missing_writes(log, store, GROUP) == {0: 5}
    waiting = asyncio.create_task(recovered(log, store, GROUP))
    await asyncio.sleep(0)
    await write(store, 4)
    _, pending = await asyncio.wait([waiting], timeout=0.1)
    assert pending
    await write(store, 5)
    assert await asyncio.wait_for(waiting, 5) == {}


async def test_an_ordinary_start_waits_for_nothing() -> None:
    """A store that has all, one of a log without changes, and another one behind committed offsets: nothing to wait for."""
    log, store = await announced(5), MemoryStore()
    await write(store, 5)
    assert await missing_writes(log, store, GROUP) == {}
    assert await missing_writes(MemoryLog(), MemoryStore(), GROUP) == {}
    await commit(log, 6)
    assert await missing_writes(log, MemoryStore(), GROUP) == {}


async def test_without_a_processor_it_is_waited_for_a_while_only() -> None:
    """Webhooks must be taken: what is still missing after the limit is said, and no more."""
    assert await recovered(await announced(5), MemoryStore(), GROUP, limit=0.05) == {0: 5}


async def test_the_gateway_opens_once_lost_writes_are_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a power cut took the store's last commit, nobody is told an older version than before."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    data = tmp_path / "data"
    settings = tidings.Settings(
        port=port,
        log=f"sqlite:///{data}/log.db",
        store=f"sqlite:///{data}/store.db",
        assets=f"file://{data}/assets",
    )
    position = "FROM positions WHERE topic = 'predictions.events' AND member = 'tidings-processor'"
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
        async with tidings.service(settings) as running:
            event = NewRecord(b"p1", b'{"predictionId":"p1","status":"starting"}')
            await running.resources.log.append(EVENTS, [event])
            await eventually(lambda: stands(client), 10)
        shutil.copy(data / "store.db", tmp_path / "before")
        with sqlite3.connect(data / "log.db") as log:
            (committed,) = log.execute(f"SELECT next {position}").fetchone()
        async with tidings.service(settings):
            changed = await client.patch("/api/predictions/p1", json={"status": "processing"})
            assert changed.json()["data"]["version"] == 2
        # As after a power cut: the store has lost its last commit, so its offset was not committed.
        for file in data.glob("store.db*"):
            file.unlink()
        shutil.copy(tmp_path / "before", data / "store.db")
        with sqlite3.connect(data / "log.db") as log:
            log.execute(
                f"UPDATE positions SET next = {committed} {position.removeprefix('FROM positions ')}"
            )

        held, go_on = asyncio.Event(), asyncio.Event()
        write_batch = Processor._write

        async def later(self: Processor, claim: object, batch: BatchInFlight) -> None:
            held.set()
            await go_on.wait()
            await write_batch(self, claim, batch)  # type: ignore[arg-type]

        monkeypatch.setattr(Processor, "_write", later)
        service = tidings.service(settings)
        starting = asyncio.ensure_future(service.__aenter__())
        await asyncio.wait_for(held.wait(), 10)
        _, pending = await asyncio.wait([starting], timeout=0.3)
        assert pending
        with pytest.raises(httpx.ConnectError):
            await client.get("/api/predictions/p1")
        go_on.set()
        await eventually(starting.done, 10)
        starting.result()
        answer = await client.get("/api/predictions/p1")
        await service.__aexit__(None, None, None)
    assert answer.json()["data"]["version"] == 2
