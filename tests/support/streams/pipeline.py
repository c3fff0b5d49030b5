"""A log, a store and a running processor, for tests."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Any

import msgspec

from tests.support.conditions import eventually
from tidings.storage.object_storage import ObjectStorage
from tidings.storage.prediction import Prediction
from tidings.storage.store import PredictionStore
from tidings.storage.wrappers.cache import CachedStore
from tidings.streams.changes import codec as changes
from tidings.streams.changes.codec import Change
from tidings.streams.log.protocol import (
    CHANGES,
    DEAD_LETTERS,
    EVENTS,
    Log,
    NewRecord,
    Position,
    Record,
)
from tidings.streams.processing.processor import Processor
from tidings.streams.providers.protocol import Provider
from tidings.streams.rules.reducer import Expiry, StorePolicy


class Pipeline:
    """What a test holds of a running processor."""

    def __init__(self, log: Log, store: PredictionStore, processor: Processor) -> None:
        self.log = log
        self.store = store
        self.processor = processor

    async def send(
        self, *events: dict[str, Any] | bytes, key: str | bytes | None = "p1", **headers: str
    ) -> list[Position]:
        """Append events, given as fields or as raw values."""
        named = key.encode() if isinstance(key, str) else key
        pairs = tuple(
            (name.replace("tidings_", "tidings-"), text.encode()) for name, text in headers.items()
        )
        values = [e if isinstance(e, bytes) else msgspec.json.encode(e) for e in events]
        return await self.log.append(EVENTS, [NewRecord(named, value, pairs) for value in values])

    async def settled(self, within: float = 20) -> None:
        """Wait until every event appended so far is committed."""
        ends = {p: end for p, (_, end) in (await self.log.bounds(EVENTS)).items() if end}

        async def committed() -> bool:
            done = await self.log.committed(EVENTS, "tidings-processor")
            return all(done.get(partition, 0) >= end for partition, end in ends.items())

        await eventually(committed, within)

    async def prediction(self, prediction_id: str = "p1") -> Prediction:
        """The record, as an outside read shows it."""
        stored = await self.store.get(prediction_id)
        assert stored is not None
        standing = stored.standing()
        assert isinstance(standing, Prediction)
        return standing

    async def changes(self) -> list[Change]:
        """Everything announced so far."""
        return [
            change
            for record in await read(self.log, CHANGES)
            if (change := changes.parse(record)) is not None
        ]

    async def letters(self) -> list[Record]:
        """The dead letters so far."""
        return await read(self.log, DEAD_LETTERS)


async def read(log: Log, topic: str) -> list[Record]:
    """Everything in a topic."""
    records: list[Record] = []
    async for batch in log.follow(topic, "beginning"):
        if not batch:
            break
        records += batch
    return records


def codes(letters: Iterable[Record]) -> list[str]:
    """The reasons of dead letters."""
    return [dict(letter.headers)["tidings-error"].decode() for letter in letters]


@asynccontextmanager
async def pipeline(
    log: Log,
    store: PredictionStore,
    *,
    cached: bool = True,
    providers: dict[str, Provider] | None = None,
    expiry: Expiry | None = None,
    objects: ObjectStorage | None = None,
    strict: bool = False,
    record_max: int = 524_288,
    reached: Callable[[int], None] | None = None,
) -> AsyncIterator[Pipeline]:
    """Run a processor between them until the block ends."""
    inner: PredictionStore = CachedStore(store) if cached else store
    policy = StorePolicy(await log.identity(), strict, record_max)
    processor = Processor(
        log, inner, providers or {}, policy, expiry=expiry, objects=objects, reached=reached
    )
    task = asyncio.create_task(processor.run())
    try:
        yield Pipeline(log, inner, processor)
    finally:
        processor.stop()
        await asyncio.wait_for(task, 20)
