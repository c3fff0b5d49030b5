"""The reader of the changes: into cache and hub, waiting for one change, and going on after failures."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

from tests.support.conditions import eventually
from tidings.gateway.push.changes_reader import ChangesReader
from tidings.gateway.push.hub import Delivery, Hub
from tidings.storage.memory import MemoryStore
from tidings.storage.prediction import Prediction, Status, Tombstone, encode
from tidings.storage.wrappers.cache import CachedStore
from tidings.streams.changes.codec import announcement
from tidings.streams.log.memory import MemoryLog
from tidings.streams.log.protocol import CHANGES, LogUnavailable, NewRecord, Position, Record, Since


class Flaky(MemoryLog):
    """A log that can be made to fail, and to have lost its beginning."""

    def __init__(self) -> None:
        super().__init__(partitions=2)
        self.down = False
        self.lost = 0
        self.follows: list[Since] = []

    async def bounds(self, topic: str) -> dict[int, tuple[int, int]]:
        if self.down:
            raise LogUnavailable("down")
        return {
            number: (max(first, self.lost), end)
            for number, (first, end) in (await super().bounds(topic)).items()
        }

    async def follow(
        self, topic: str, since: Since, until: Mapping[int, int] | None = None
    ) -> AsyncIterator[Sequence[Record]]:
        self.follows.append(dict(since) if isinstance(since, Mapping) else since)
        async for batch in super().follow(topic, since, until):
            if self.down:
                raise LogUnavailable("down")
            yield batch


class Kept:
    def __init__(self) -> None:
        self.got: list[int] = []

    def deliver(self, delivery: Delivery) -> None:
        self.got += [item.change.version for item in delivery.items]

    async def has(self, versions: list[int]) -> None:
        """Wait until these came, and nothing else."""
        await eventually(lambda: self.got == versions)


class Setup:
    def __init__(self, **options: Any) -> None:
        self.log = Flaky()
        self.memory = MemoryStore()
        self.cache = CachedStore(self.memory)
        self.hub = Hub()
        self.sink = Kept()
        self.hub.subscribe("all", self.sink)
        self.gaps = 0
        self.reader = ChangesReader(self.log, self.hub, self.cache, on_gap=self._gap, **options)

    def _gap(self) -> None:
        self.gaps += 1

    async def announce(self, version: int, at: int = 0, partition: int = 0) -> None:
        record = Prediction(
            prediction_id="p", status=Status.STARTING, version=version, created_at=1, updated_at=1
        )
        new = announcement(record, encode(record), position=Position(partition, at or version))
        await self.log.append(CHANGES, [new])


@asynccontextmanager
async def reading(**options: Any) -> AsyncIterator[Setup]:
    setup = Setup(**options)
    await setup.reader.start()
    try:
        await eventually(lambda: setup.reader.caught_up)
        yield setup
    finally:
        await setup.reader.close()


async def test_changes_go_into_the_cache_and_out_to_the_hub() -> None:
    """A change is in the cache by the time that sinks hear of it, and the cache is steady meanwhile."""
    async with reading() as setup:
        assert setup.cache.steady
        await setup.announce(1)
        await eventually(lambda: setup.sink.got == [1])
        stored = setup.cache.peek("p")
        assert stored is not None
        assert (stored.version, stored.status) == (1, Status.STARTING)
        assert await setup.reader.measure() == 0
    assert not setup.cache.steady


async def test_it_starts_at_the_ends() -> None:
    """What was there before the start is not announced; with `from_beginning` it is."""
    for options, expected in ({}, [2]), ({"from_beginning": True}, [1, 2]):
        setup = Setup(**options)
        await setup.announce(1)
        await setup.reader.start()
        await setup.announce(2)
        await setup.sink.has(expected)
        await setup.reader.close()


async def test_a_deletion_leaves_the_cache() -> None:
    """A deleted prediction is not served from the cache; where the store cannot be asked, its tombstone is kept."""
    for tombstones in (False, True):
        async with reading(tombstones=tombstones) as setup:
            await setup.announce(1)
            gone = Tombstone(prediction_id="p", deleted=True, version=2, updated_at=1)
            await setup.log.append(
                CHANGES, [announcement(gone, encode(gone), position=Position(0, 2))]
            )
            await setup.sink.has([1, 2])
            assert setup.cache.peek("p") is None
            assert ("p" in await setup.cache.load(["p"])) is tombstones


async def test_foreign_records_are_skipped() -> None:
    """A record that is no change of ours stops nothing."""
    async with reading() as setup:
        await setup.log.append(
            CHANGES, [NewRecord(None, b"x"), NewRecord(b"p", b"{}", [("v", b"x")])]
        )
        await setup.announce(1)
        await eventually(lambda: setup.sink.got == [1])


async def test_waiting_for_a_position() -> None:
    """`wait_for` answers with the change at or past the position, before or after it has come, and else in time."""
    async with reading() as setup:
        waiting = asyncio.create_task(setup.reader.wait_for("p", Position(0, 7), 10))
        await setup.announce(1, at=6)
        await setup.announce(2, at=9, partition=1)
        await setup.announce(3, at=8)
        change = await waiting
        assert change is not None
        assert change.version == 3
        assert (await setup.reader.wait_for("p", Position(0, 8), 0)) == change
        assert (await setup.reader.wait_for("p", Position(0, 9), 0.01)) is None
        assert not setup.reader._waiters


async def test_waiting_for_a_version() -> None:
    """`wait_for_version` answers with a version beyond the one that is known."""
    async with reading() as setup:
        waiting = [asyncio.create_task(setup.reader.wait_for_version("p", 1, 10)) for _ in range(3)]
        await setup.announce(1)
        await setup.announce(2)
        assert [change and change.version for change in await asyncio.gather(*waiting)] == [2, 2, 2]
        assert (await setup.reader.wait_for_version("p", 2, 0.01)) is None


async def test_an_outage_loses_nothing() -> None:
    """After the log was away it goes on from where it was, and the cache ages meanwhile."""
    async with reading() as setup:
        await setup.announce(1)
        await eventually(lambda: setup.sink.got == [1])
        setup.log.down = True
        await setup.announce(2)
        await eventually(lambda: not setup.reader.caught_up)
        assert not setup.cache.steady
        await setup.announce(3)
        setup.log.down = False
        await eventually(lambda: setup.sink.got == [1, 2, 3])
        await eventually(lambda: setup.reader.caught_up and setup.cache.steady)
        assert setup.gaps == 0


async def test_a_gap_is_noticed() -> None:
    """Where the topic has lost what comes next, the cache is cleared, and it goes on with what there is."""
    async with reading() as setup:
        await setup.announce(1)
        await eventually(lambda: setup.cache.peek("p"))
        setup.log.down = True
        await setup.announce(2)
        await eventually(lambda: not setup.reader.caught_up)
        await setup.announce(3)
        setup.log.lost = 2
        setup.log.down = False
        await eventually(lambda: setup.reader.caught_up)
        assert setup.gaps >= 1
        assert 2 not in setup.sink.got
