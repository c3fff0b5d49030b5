"""The bodies that a record was made from, read back from the positions that it names."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.streams.pipeline import pipeline
from tidings.storage.memory import MemoryStore
from tidings.streams.log.factory import open_log
from tidings.streams.log.memory import MemoryLog
from tidings.streams.log.protocol import Log, Position
from tidings.streams.processing.raw_reports import positions_of, read_raw_reports


@pytest.fixture(params=["memory", "sqlite"])
async def log(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Log]:
    """A log of each embedded kind."""
    opened = (
        MemoryLog() if request.param == "memory" else await open_log(f"sqlite:///{tmp_path}/log.db")
    )
    yield opened
    await opened.close()


async def test_the_bodies_of_a_record_come_back_as_they_came(log: Log) -> None:
    """What moved the record is read back byte for byte, with nothing of other predictions in between."""
    bodies = [b'{"status": "processing"}', b'{"status":"succeeded", "output":"x"}']
    async with pipeline(log, MemoryStore()) as running:
        await running.send(b'{"status":"processing","prompt":"other"}', key="p0")
        await running.send(bodies[0])
        await running.send(b'{"status":"failed"}', key="p2")
        await running.send(bodies[1], x="kept")
        await running.settled()
        record = await running.prediction()
        assert positions_of(record) == [Position(0, 1), Position(0, 3)]
        reports = await read_raw_reports(log, record)
    assert [report.body for report in reports] == bodies
    assert [str(report.position) for report in reports] == ["0:1", "0:3"]
    assert [report.provider for report in reports] == [None, None]
    assert all(report.timestamp > 10**12 for report in reports)


async def test_what_the_log_no_longer_keeps_is_left_out() -> None:
    """A record whose events are gone by retention has no bodies to show, and nothing else is read in their place."""
    log = MemoryLog()
    async with pipeline(log, MemoryStore()) as running:
        await running.send({"status": "processing"})
        await running.settled()
        record = await running.prediction()
    assert await read_raw_reports(MemoryLog(), record) == []
