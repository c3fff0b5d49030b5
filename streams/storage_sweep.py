"""Removing from object storage what is past its time: files with a time to live, and what purged records left behind."""

import asyncio
import time
from collections.abc import Callable

import structlog

from storage.errors import StorageError
from storage.objects import Found, ObjectStorage
from streams import blobs
from streams.archiving import Load
from streams.asset_names import is_asset_path

LEAST, MOST = 1.0, 3600.0
"""Seconds between sweeps; in between, a quarter of the time to live."""
LOADED = 500

log_ = structlog.get_logger("tidings.archiver")


class StorageSweep:
    """Sweeps for as long as it runs.

    Args:
        objects: What is swept.
        load: Reads records.
        assets_ttl: Seconds that files are kept; 0: as long as their prediction.
        records_live: Seconds that a record is kept at least after its last change; None: records are never purged.
        clock: Seconds since the epoch.
    """

    def __init__(
        self,
        objects: ObjectStorage,
        load: Load,
        *,
        assets_ttl: float = 0,
        records_live: float | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._objects, self._load, self._clock = objects, load, clock
        self._assets_ttl, self._records_live = assets_ttl, records_live

    async def run(self) -> None:
        """Sweep until cancelled; outages are waited out."""
        period = min(MOST, max(LEAST, self._assets_ttl / 4)) if self._assets_ttl else MOST
        while True:
            await asyncio.sleep(period)
            try:
                files, fields = await self.sweep_files(), await self.sweep_fields()
            except StorageError as error:
                log_.warning("archiver.sweep_failed", error=str(error))
            else:
                if files or fields:
                    log_.info("archiver.swept", files=files, predictions=fields)

    async def sweep_files(self) -> int:
        """Remove the files that are older than their time to live; returns how many."""
        if not self._assets_ttl:
            return 0
        before = (self._clock() - self._assets_ttl) * 1000
        removed = 0
        async for portion in self._objects.list():
            old = [f.path for f in portion if f.modified_at < before and not f.path.startswith(f"{blobs.FOLDER}/")]
            await self._objects.delete(old)
            removed += sum(1 for path in old if is_asset_path(path))
        return removed

    async def sweep_fields(self) -> int:
        """Remove the large fields of predictions whose records were purged; returns of how many predictions."""
        if self._records_live is None:
            return 0
        before = (self._clock() - self._records_live) * 1000
        newest: dict[str, int] = {}
        async for portion in self._objects.list(blobs.FOLDER):
            for found in portion:
                _note(found, newest)
        old = [folder for folder, modified_at in newest.items() if modified_at < before]
        removed = 0
        for start in range(0, len(old), LOADED):
            removed += await self._remove_orphans(old[start : start + LOADED])
        return removed

    async def _remove_orphans(self, folders: list[str]) -> int:
        owners: dict[str, str] = {}
        for folder in folders:
            written = await self._objects.get(f"{folder}/{blobs.NOTE}")
            if written is not None:
                owners[written.decode("utf-8", "replace")] = folder
        known = await self._load(list(owners))
        orphans = [folder for name, folder in owners.items() if name not in known or known[name].deleted]
        for folder in orphans:
            await self._objects.delete_folder(folder)
        return len(orphans)


def _note(found: Found, newest: dict[str, int]) -> None:
    folder = found.path.rpartition("/")[0]
    newest[folder] = max(newest.get(folder, 0), found.modified_at)
