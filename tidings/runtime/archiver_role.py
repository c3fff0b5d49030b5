"""The archiver's role, put together as the settings say."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tidings.config.settings import Settings, SettingsError
from tidings.runtime.resources import Resources
from tidings.streams.archive.downloader import Downloads
from tidings.streams.archive.garbage_collector import GarbageCollector
from tidings.streams.archive.paths import AssetPaths
from tidings.streams.archive.transfer import FileTransfer, Load
from tidings.streams.archive.worker import Archiver
from tidings.streams.rules.event import Archive
from tidings.streams.submission.event_publisher import EventPublisher

SOURCE = "tidings-archiver"
"""Who says so, in the audit trail."""

READY_SOON = 5.0
"""Seconds within which the archiver must go round to count as ready."""


class ArchiverRole:
    """A running archiver.

    Args:
        archiver: As put together.
        task: In which it runs.
    """

    def __init__(self, archiver: Archiver, task: asyncio.Task[None]) -> None:
        self.archiver = archiver
        self.task = task

    async def ready(self) -> str | None:
        """What is in the way of archiving; None: nothing."""
        silent = time.monotonic() - self.archiver.last_alive
        return (
            f"the archiver has not gone round for {silent:.0f} s"
            if silent > READY_SOON
            else self.archiver.obstacle
        )


@asynccontextmanager
async def archiver_role(
    settings: Settings, resources: Resources, load: Load
) -> AsyncIterator[ArchiverRole]:
    """Archive until the block ends.

    Args:
        settings: With a webhook key.
        resources: What is open.
        load: Reads records past any cache that may be behind.

    Raises:
        SettingsError: There is no key to name files by.
    """
    if not settings.webhook_key:
        raise SettingsError(
            "TIDINGS_WEBHOOK_KEY: is missing; the archiver names files by it: openssl rand -hex 32"
        )
    mode = Archive(settings.archive)
    downloads = Downloads(settings.assets_allow)
    work = FileTransfer(
        load,
        resources.objects,
        AssetPaths(settings.webhook_key.encode(), resources.objects.public),
        downloads,
        EventPublisher(resources.log, mode, SOURCE),
        mode=mode,
    )
    archiver = Archiver(resources.log, work)
    live = _records_live(settings)
    sweep = GarbageCollector(
        resources.objects, load, assets_ttl=settings.assets_ttl, records_live=live, transfer=work
    )
    task = asyncio.create_task(archiver.run(), name="archiver")
    sweeper = asyncio.create_task(sweep.run(), name="storage-sweep")
    try:
        yield ArchiverRole(archiver, task)
    finally:
        archiver.stop()
        sweeper.cancel()
        try:
            await asyncio.wait([task], timeout=4)
        finally:
            task.cancel()
            await downloads.close()


def _records_live(settings: Settings) -> float | None:
    """Seconds after its last change before which no record is purged; None: none ever is."""
    if not settings.ttl or not settings.ttl_running:
        return None
    return settings.retention + min(settings.ttl, settings.ttl_running)
