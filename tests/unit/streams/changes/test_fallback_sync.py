"""The fallback store is filled from the changes, by version, through outages and restarts."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from tests.support.conditions import eventually
from tests.support.storage.samples import HOUR, prediction, tombstone
from tidings.storage.errors import StoreUnavailable
from tidings.storage.memory import MemoryStore
from tidings.storage.prediction import Prediction, Status, Tombstone, encode
from tidings.storage.store import Outcome, Write
from tidings.streams.changes.codec import announcement
from tidings.streams.changes.fallback_sync import FallbackSync
from tidings.streams.log.memory import MemoryLog
from tidings.streams.log.protocol import CHANGES, Position


class Copy(MemoryStore):
    """A copy that is away while `away` is set."""

    away = False

    async def write(self, writes: Sequence[Write]) -> list[Outcome]:
        if self.away:
            raise StoreUnavailable("away")
        return await super().write(writes)


@asynccontextmanager
async def syncing(log: MemoryLog, copy: MemoryStore) -> AsyncIterator[FallbackSync]:
    sync = FallbackSync(log, copy, keep=HOUR)
    task = asyncio.create_task(sync.run())
    try:
        yield sync
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def announce(log: MemoryLog, *records: Prediction | Tombstone) -> None:
    await log.append(
        CHANGES,
        [announcement(record, encode(record), position=Position(0, 0)) for record in records],
    )


async def version(copy: MemoryStore, prediction_id: str) -> int:
    found = await copy.load([prediction_id])
    return found[prediction_id].version if found else 0


async def test_newest_states() -> None:
    """The copy gets each prediction's newest bytes, deletions too, and an older announcement changes nothing."""
    log, copy = MemoryLog(), Copy()
    second = prediction("p", 2, Status.PROCESSING, owner="o")
    await announce(log, prediction("p"), second, prediction("q"))
    async with syncing(log, copy) as sync:
        await eventually(lambda: sync.caught_up)
        found = await copy.load(["p", "q"])
        assert found["p"].encoded == encode(second)
        await announce(log, prediction("p"), tombstone("q", 2))

        async def deleted() -> bool:
            return await version(copy, "q") == 2

        await eventually(deleted)
        assert await copy.get("q") is None
        assert await version(copy, "p") == 2


async def test_outage_of_the_copy() -> None:
    """What is announced while the copy is away is written once it is back."""
    log, copy = MemoryLog(), Copy()
    async with syncing(log, copy):
        copy.away = True
        await announce(log, prediction("p"))
        await asyncio.sleep(0)
        await announce(log, prediction("q", 3))
        copy.away = False

        async def there() -> bool:
            return await version(copy, "p") == 1 and await version(copy, "q") == 3

        await eventually(there)


async def test_restart() -> None:
    """A mirror that starts again brings the copy up to date with what it missed, and writes nothing twice."""
    log, copy = MemoryLog(), Copy()
    await announce(log, prediction("p"))
    async with syncing(log, copy) as first:
        await eventually(lambda: first.written == 1)
    await announce(log, prediction("p", 2), prediction("q"))
    async with syncing(log, copy) as second:
        await eventually(lambda: second.written == 2)
        assert await version(copy, "p") == 2
    async with syncing(log, copy) as third:
        await eventually(lambda: third.caught_up)
        assert third.written == 0
