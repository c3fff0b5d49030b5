"""Removes expired and orphaned objects from the object storage.

Files with a time to live; large fields that purged records left behind; files of a prediction whose
deletion nobody saw, because its id was used again within the same batch.
"""

import asyncio

from tidings.storage.clock import SYSTEM_CLOCK, Clock
from tidings.storage.errors import StorageError
from tidings.storage.loggers import get_logger
from tidings.storage.object_storage import ObjectStorage, StoredObject
from tidings.storage.prediction import Prediction
from tidings.streams.archive.paths import INDEX, is_asset_path
from tidings.streams.archive.transfer import FileTransfer, Load
from tidings.streams.rules import large_fields as blobs

LEAST, MOST = 1.0, 3600.0
"""Seconds between sweeps; in between, a quarter of the time to live."""
LOADED = 500
PARTS = 16
"""Sweeps in which every prediction with files is looked at once.

One with several folders is at each.
"""
SETTLED = 600.0
"""Seconds after which the prediction of a folder must be in the store."""

logger = get_logger(__name__)


class GarbageCollector:
    """Sweeps the object storage until it is cancelled.

    Args:
        objects: What is swept.
        load: Reads records.
        assets_ttl: Seconds that files are kept; 0: as long as their prediction.
        records_live: Seconds that a record is kept at least after its last change; None: records
            are never purged.
        transfer: Knows where files lie, and removes them; None: files of replaced predictions are
            left.
        clock: Tells the time.
    """

    def __init__(
        self,
        objects: ObjectStorage,
        load: Load,
        *,
        assets_ttl: float = 0,
        records_live: float | None = None,
        transfer: FileTransfer | None = None,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._objects, self._load, self._clock = objects, load, clock
        self._assets_ttl, self._records_live, self._transfer = assets_ttl, records_live, transfer
        self._part = 0

    async def run(self) -> None:
        """Sweep until cancelled; outages are waited out."""
        period = min(MOST, max(LEAST, self._assets_ttl / 4)) if self._assets_ttl else MOST
        while True:
            await asyncio.sleep(period)
            try:
                files, fields = (
                    await self.remove_expired_files(),
                    await self.remove_orphaned_fields(),
                )
                replaced = await self.remove_replaced_files()
            except StorageError as error:
                logger.warning("archiver.sweep_failed", error=str(error))
            else:
                if files or fields or replaced:
                    logger.info(
                        "archiver.swept", files=files, predictions=fields, replaced=replaced
                    )

    async def remove_expired_files(self) -> int:
        """Remove the files that are older than their time to live; returns how many."""
        if not self._assets_ttl:
            return 0
        before = (self._clock.ms() / 1000 - self._assets_ttl) * 1000
        removed = 0
        async for portion in self._objects.list():
            old = [
                f.path
                for f in portion
                if f.modified_at < before and not f.path.startswith(f"{blobs.FOLDER}/")
            ]
            await self._objects.delete(old)
            removed += sum(1 for path in old if is_asset_path(path))
        return removed

    async def remove_orphaned_fields(self) -> int:
        """Remove the large fields of predictions whose records were purged.

        Returns of how many predictions.
        """
        if self._records_live is None:
            return 0
        before = (self._clock.ms() / 1000 - self._records_live) * 1000
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
        orphans = [
            folder for name, folder in owners.items() if name not in known or known[name].deleted
        ]
        for folder in orphans:
            await self._objects.delete_folder(folder)
        return len(orphans)

    async def remove_replaced_files(self) -> int:
        """Remove files of predictions whose id was used again; returns of how many."""
        if self._transfer is None:
            return 0
        before = int((self._clock.ms() / 1000 - SETTLED) * 1000)
        folders: dict[str, list[str]] = {}
        async for portion in self._objects.list(INDEX):
            for found in portion:
                if found.modified_at < before:
                    folders.setdefault(found.path.rpartition("/")[0], []).append(found.path)
        self._part = (self._part + 1) % PARTS
        chosen = [
            index
            for index, paths in folders.items()
            if len(paths) > 1 or _part_of(index) == self._part
        ]
        removed = 0
        for start in range(0, len(chosen), LOADED):
            some = [folders[index] for index in chosen[start : start + LOADED]]
            removed += await self._remove_replaced(some, before)
        return removed

    async def _remove_replaced(self, indexed: list[list[str]], before: int) -> int:
        assert self._transfer is not None
        owners: dict[str, list[str]] = {}
        for paths in indexed:
            written = await self._objects.get(paths[0])
            if written:  # the id; earlier versions wrote nothing
                owners[written.decode("utf-8", "replace")] = paths
        removed = 0
        for name, stored in (await self._load(list(owners))).items():
            standing = stored.standing()
            mine = self._transfer.folder(standing) if isinstance(standing, Prediction) else ""
            if any(path.rpartition("/")[2] != mine for path in owners[name]):
                await self._transfer.remove(name, before)
                removed += 1
        return removed


def _part_of(index: str) -> int:
    return int(index.rpartition("/")[2][:1] or "0", 16) % PARTS


def _note(found: StoredObject, newest: dict[str, int]) -> None:
    folder = found.path.rpartition("/")[0]
    newest[folder] = max(newest.get(folder, 0), found.modified_at)
