"""A pipeline with an archiver on it, for tests."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from tests.support.conditions import eventually
from tests.support.streams.pipeline import Pipeline, pipeline
from tidings.storage.memory import MemoryStore
from tidings.storage.object_storage import ObjectStorage
from tidings.storage.prediction import Prediction
from tidings.storage.store import PredictionStore
from tidings.streams.archive.downloader import Downloads, Limits
from tidings.streams.archive.paths import AssetPaths
from tidings.streams.archive.transfer import FileTransfer, RetryPolicy
from tidings.streams.archive.worker import GROUP, Archiver
from tidings.streams.log.memory import MemoryLog
from tidings.streams.log.protocol import CHANGES, Log
from tidings.streams.rules.event import Archive
from tidings.streams.submission.event_publisher import EventPublisher

KEY = b"a key of the archiver's"
SOON = RetryPolicy(first=0.02, longest=0.1, until=3600, tries=3)


class Archived:
    """What a test holds."""

    def __init__(
        self,
        pipe: Pipeline,
        objects: ObjectStorage,
        archiving: FileTransfer,
        archiver: Archiver,
        task: asyncio.Task[None],
    ) -> None:
        self.pipe, self.objects, self.archiver, self.task = pipe, objects, archiver, task
        self.archiving = archiving

    async def send(self, *events: dict[str, Any], key: str = "p1", mode: str = "after") -> None:
        await self.pipe.send(*events, key=key, tidings_archive=mode)

    async def dealt_with(self, prediction_id: str = "p1") -> Prediction:
        """The record once it has files or a reason why not."""

        async def there() -> Prediction | None:
            stored = await self.pipe.store.get(prediction_id)
            standing = stored.standing() if stored is not None else None
            if isinstance(standing, Prediction) and (
                standing.assets or standing.assets_error is not None
            ):
                return standing
            return None

        record = await eventually(there, 20)
        assert record is not None
        return record

    async def idle(self) -> None:
        """Wait until every change so far is dealt with, and everything said about it is applied."""

        async def quiet() -> bool:
            await self.pipe.settled()
            bounds = await self.pipe.log.bounds(CHANGES)
            done = await self.pipe.log.committed(CHANGES, GROUP)
            return all(done.get(p, 0) >= end for p, (_, end) in bounds.items() if end)

        await eventually(quiet, 30)

    async def files(self) -> dict[str, bytes]:
        """Every file, by path."""
        found = [f.path async for portion in self.objects.list() for f in portion]
        return {path: await self.objects.get(path) or b"" for path in found}


@asynccontextmanager
async def archiving(
    *allow: str,
    log: Log | None = None,
    store: PredictionStore | None = None,
    objects: ObjectStorage | None = None,
    mode: str = "after",
    retry: RetryPolicy = SOON,
    limits: Limits | None = None,
    **more: Any,
) -> AsyncIterator[Archived]:
    """Run a processor and an archiver until the block ends."""
    log = log or MemoryLog()
    objects = objects or ObjectStorage("memory://")
    downloads = Downloads(allow, limits or Limits(total=5, silence=5))
    async with pipeline(log, store or MemoryStore(), objects=objects) as pipe:
        work = FileTransfer(
            pipe.store.load,
            objects,
            AssetPaths(KEY),
            downloads,
            EventPublisher(log, Archive(mode), "archiver"),
            mode=Archive(mode),
            retry=retry,
            **more,
        )
        archiver = Archiver(log, work)
        task = asyncio.create_task(archiver.run())
        try:
            yield Archived(pipe, objects, work, archiver, task)
        finally:
            archiver.stop()
            await asyncio.wait_for(task, 20)
            await downloads.close()
