"""Stores the files of one finished prediction.

1. load the record; what is kept, has failed for good, or is gone is left
2. write down which folder it gets, for the day when it is deleted
3. put each file into object storage
4. append `archive`
5. load the record again: if it was deleted meanwhile, the files go

A repeat after a crash puts the same files at the same places; the second `archive` says nothing
new.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

import msgspec
from msgspec import Raw, Struct

from tidings.storage.clock import SYSTEM_CLOCK, Clock
from tidings.storage.object_storage import ObjectStorage
from tidings.storage.prediction import Prediction
from tidings.storage.resilience.backoff import Backoff
from tidings.storage.store import Stored
from tidings.streams.archive.content_types import HEAD, shown_inline, sniff
from tidings.streams.archive.downloader import DownloadError, Downloads, Interrupted, Missing
from tidings.streams.archive.output_urls import (
    MAX_OUTPUTS,
    Asset,
    data_of,
    is_data,
    needs_archiving,
    shown_source,
    urls_in,
)
from tidings.streams.archive.paths import AssetPaths, index_of
from tidings.streams.log.consumer_loop import Claim
from tidings.streams.log.protocol import RecordTooLarge
from tidings.streams.rules import large_fields as blobs
from tidings.streams.rules.event import Archive
from tidings.streams.submission.event_publisher import EventPublisher

AT_ONCE = 2 * 1024 * 1024
"""Bytes of a file that is put in one piece; a larger one streams through."""
TRANSFERS, LARGE_TRANSFERS = 8, 2
"""Files under way at once, and those among them larger than `AT_ONCE`.

Each holds some parts in memory.
"""
MOST_BYTES = 16 * 1024**3
"""Bytes of all files of one prediction, give or take those under way: 32 of the largest."""
REASONS = 5
"""Failures of one prediction that its record names."""

Load = Callable[[Sequence[str]], Awaitable[dict[str, Stored]]]
"""The newest records, past any cache. Raises `StorageError`."""


class RetryPolicy(Struct, frozen=True):
    """How often, and for how long, the download of a file is tried. Times in seconds."""

    first: float = 1.0
    longest: float = 60.0
    """The wait between two tries doubles from `first` up to this."""
    until: float = 3600.0
    """Since the prediction ended: links of Replicate are valid for an hour."""
    tries: int = 3
    """At least so many, however late; at most so many if the server says 404."""


class ArchiveTask(Struct, gc=False):
    """A prediction whose files are to be kept, or removed."""

    prediction_id: str
    version: int
    claims: list[Claim]
    """Claims on the offsets of its changes: they are committed once it is done."""
    traceparent: str | None = None
    """Of the change that it was begun for."""
    deleted_at: int | None = None
    """When its deletion was announced, in ms, until its files are removed."""
    tries: int = 0
    kept: dict[int, Asset] = {}
    """Files that earlier tries stored, by their index in the output."""
    failed: dict[int, str] = {}
    """Why a file cannot be had for good, by its index in the output."""


class RetryLater(Exception):
    """The task has to be tried again later; the message says why."""


class FileTransfer:
    """Downloads the files of a prediction and stores them.

    Args:
        load: Reads records.
        objects: Where files go.
        names: Where they lie and how they are reached.
        downloads: Fetches them.
        publisher: Where `archive` goes.
        mode: The archive mode in force.
        retry: How long a file is tried for before it counts as lost.
        clock: Tells the time.
        reached: Called with the number of each step as it ends.
    """

    def __init__(
        self,
        load: Load,
        objects: ObjectStorage,
        names: AssetPaths,
        downloads: Downloads,
        publisher: EventPublisher,
        *,
        mode: Archive = Archive.AFTER,
        retry: RetryPolicy | None = None,
        clock: Clock = SYSTEM_CLOCK,
        reached: Callable[[int], None] | None = None,
    ) -> None:
        self._load, self._objects, self._names, self._downloads = load, objects, names, downloads
        self._publisher, self._mode, self._clock = publisher, mode, clock
        self.retry = retry or RetryPolicy()
        self._backoff = Backoff.doubling(self.retry.first, self.retry.longest)
        self._reached = reached or (lambda _step: None)
        self._transfers = asyncio.Semaphore(TRANSFERS)
        self._large = asyncio.Semaphore(LARGE_TRANSFERS)
        self.files = 0
        self.bytes = 0
        self.failures = 0

    async def keep(self, work: ArchiveTask) -> None:
        """Store the files of a prediction and append `archive`.

        Raises:
            RetryLater: A repeat may help.
            StorageError, LogError: The store, the object storage or the log does not take it.
        """
        record = await self._record(work)  # 1
        self._reached(1)
        if record is None or not needs_archiving(record, self._mode):
            return
        found = await self._urls(record)
        if not found and record.pending is None:
            return
        folder = self.folder(record)
        if len(found) > MAX_OUTPUTS:
            await self._append_result(
                record, [], f"over {MAX_OUTPUTS} files, and at most so many are kept"
            )
            return
        if found:
            await self._objects.put(
                f"{index_of(work.prediction_id)}/{folder}", work.prediction_id.encode()
            )  # 2
            self._reached(2)
            await self._fetch_all(work, record, folder, found)  # 3
            self._reached(3)
        await self._append_result(
            record, [work.kept[i] for i in sorted(work.kept)], _reasons(work.failed, len(found))
        )  # 4
        self._reached(4)
        self.failures += len(work.failed)
        await self._check_still_there(record, folder)  # 5
        self._reached(5)

    def folder(self, record: Prediction) -> str:
        """The folder of this prediction's files."""
        return self._names.folder(record.prediction_id, record.created_at)

    def wait(self, tries: int) -> float:
        """Seconds before the next try."""
        return self._backoff.wait(tries)

    # ---- 1 ----

    async def _record(self, work: ArchiveTask) -> Prediction | None:
        stored = (await self._load([work.prediction_id])).get(work.prediction_id)
        if stored is None:
            return None
        if stored.version < work.version:
            raise RetryLater("the store is behind the changes")
        standing = stored.standing()
        return standing if isinstance(standing, Prediction) else None

    async def _urls(self, record: Prediction) -> list[str]:
        """The URLs of the record's output, each once; of too many, one more than are kept."""
        found: dict[str, None] = {}
        for portion in urls_in(record, await self._output(record)):
            found.update(dict.fromkeys(portion))
            if len(found) > MAX_OUTPUTS:
                break
            await asyncio.sleep(0)  # others have their turn: an output may have millions of values
        return list(found)

    async def _output(self, record: Prediction) -> Raw:
        blob = blobs.reference(record.output)
        if blob is None:
            return record.output
        content = await self._objects.get(blobs.path(record.prediction_id, blob.hash))
        if content is None:
            raise RetryLater(f"the output {blob.hash} is not in the object storage")
        return Raw(content)

    # ---- 3 ----

    async def _fetch_all(
        self, work: ArchiveTask, record: Prediction, folder: str, found: Sequence[str]
    ) -> None:
        todo = [i for i in range(len(found)) if i not in work.kept and i not in work.failed]
        last = self._is_last_try(work, record)
        reasons = []
        portion = TRANSFERS * 2
        for start in range(0, len(todo), portion):
            some = todo[start : start + portion]
            if sum(asset.bytes for asset in work.kept.values()) > MOST_BYTES:
                reason = f"the files before it have over {MOST_BYTES} bytes"
                work.failed.update(dict.fromkeys(todo[start:], reason))
                break
            outcomes = await asyncio.gather(*(self._fetch(found[i], f"{folder}/{i}") for i in some))
            for index, outcome in zip(some, outcomes, strict=True):
                if isinstance(outcome, Asset):
                    work.kept[index] = outcome
                    self.files += 1
                    self.bytes += outcome.bytes
                elif _worth_a_repeat(outcome, work.tries, last, self.retry):
                    reasons.append(str(outcome))
                elif (
                    standing := await self._already_stored(found[index], f"{folder}/{index}")
                ) is not None:
                    # Stored before a crash, and the link has died since.
                    work.kept[index] = standing
                else:
                    work.failed[index] = str(outcome)
        if reasons:
            raise RetryLater(reasons[0])

    def _is_last_try(self, work: ArchiveTask, record: Prediction) -> bool:
        ended = record.updated_at / 1000
        return (
            work.tries + 1 >= self.retry.tries
            and self._clock.ms() / 1000 - ended > self.retry.until
        )

    async def _fetch(self, url: str, path: str) -> Asset | DownloadError:
        async with self._transfers:
            try:
                if is_data(url):
                    # Undoing its escapes takes seconds if a hostile sender wrote ten megabytes
                    # of them.
                    content = await asyncio.to_thread(data_of, url)
                    return await self._put(url, path, content)
                async with self._downloads.fetch(url) as download:
                    return await self._transfer(url, path, download.chunks())
            except DownloadError as error:
                return error
            except ValueError as error:
                return DownloadError(str(error))

    async def _transfer(self, url: str, path: str, chunks: AsyncIterator[bytes]) -> Asset:
        beginning, size = [], 0
        async for chunk in chunks:
            beginning.append(chunk)
            size += len(chunk)
            if size > AT_ONCE:
                break
        else:
            return await self._put(url, path, b"".join(beginning))
        head = b"".join(beginning)
        del beginning
        content_type = sniff(head)
        count = len(head)

        async def whole() -> AsyncIterator[bytes]:
            nonlocal count, head
            yield head
            head = b""
            async for chunk in chunks:
                count += len(chunk)
                yield chunk

        async with self._large:
            await self._objects.put_stream(path, whole(), _headers(content_type))
        return self._asset(url, path, content_type, count)

    async def _put(self, url: str, path: str, content: bytes) -> Asset:
        if len(content) > self._downloads.limits.bytes:
            raise DownloadError(f"it is larger than {self._downloads.limits.bytes} bytes")
        content_type = sniff(content[:HEAD])
        await self._objects.put(path, content, _headers(content_type))
        return self._asset(url, path, content_type, len(content))

    async def _already_stored(self, url: str, path: str) -> Asset | None:
        there = await self._objects.find(path)
        if there is None:
            return None
        head = await self._objects.get(path, min(HEAD, there.size)) if there.size else b""
        return self._asset(url, path, sniff(head or b""), there.size)

    def _asset(self, url: str, path: str, content_type: str, size: int) -> Asset:
        return Asset(self._names.url(path), path, content_type, size, shown_source(url))

    # ---- 4 and 5 ----

    async def _append_result(
        self, record: Prediction, assets: list[Asset], reason: str | None
    ) -> None:
        if record.pending is not None and reason is not None:
            assets = []
        listed = Raw(msgspec.json.encode(assets)) if assets or reason is None else None
        said = {"type": "archive", "createdAt": record.created_at}
        try:
            await self._publisher.publish_event(
                record.prediction_id, **said, assets=listed, assetsError=reason
            )
        except RecordTooLarge:
            # A file's entry names two addresses: a list can be larger than the output that the log
            # took.
            reason = (
                f"the list of {len(assets)} files is larger than TIDINGS_MAX_BODY "
                f"({len(listed or b'')} bytes)"
            )
            await self._publisher.publish_event(record.prediction_id, **said, assetsError=reason)

    async def _check_still_there(self, record: Prediction, folder: str) -> None:
        stored = (await self._load([record.prediction_id])).get(record.prediction_id)
        if stored is None:
            return
        standing = stored.standing()
        if not isinstance(standing, Prediction) or standing.created_at != record.created_at:
            await self._objects.delete_folder(folder)
            await self._objects.delete([f"{index_of(record.prediction_id)}/{folder}"])

    # ---- removal ----

    async def remove(self, prediction_id: str, at: int) -> None:
        """Remove the files and large fields of a deleted prediction.

        One that has its id by now keeps its own.

        Args:
            prediction_id: Whose.
            at: When the deletion was announced, in ms.
        """
        stored = (await self._load([prediction_id])).get(prediction_id)
        standing = stored.standing() if stored is not None else None
        mine = ""
        if isinstance(standing, Prediction):
            mine = self.folder(standing)
        index = index_of(prediction_id)
        async for portion in self._objects.list(index):
            for entry in portion:
                folder = entry.path.rpartition("/")[2]
                if folder != mine:
                    await self._objects.delete_folder(folder)
                    await self._objects.delete([entry.path])
        kept = stored.encoded + blobs.NOTE.encode() if mine and stored is not None else b""
        async for portion in self._objects.list(blobs.folder(prediction_id)):
            await self._objects.delete(
                [
                    e.path
                    for e in portion
                    if e.modified_at <= at and e.path.rpartition("/")[2].encode() not in kept
                ]
            )


def _worth_a_repeat(error: DownloadError, tries: int, last: bool, retry: RetryPolicy) -> bool:
    if isinstance(error, Interrupted):
        return not last
    return isinstance(error, Missing) and tries + 1 < retry.tries


def _reasons(failed: dict[int, str], count: int) -> str | None:
    if not failed:
        return None
    told = [
        reason if count == 1 else f"output {index}: {reason}"
        for index, reason in sorted(failed.items())
    ]
    if len(told) > REASONS:
        told[REASONS:] = [f"and {len(told) - REASONS} more"]
    return "; ".join(told)


def _headers(content_type: str) -> dict[str, str]:
    """The headers with which a cloud serves the file."""
    headers = {"Content-Type": content_type, "Cache-Control": "public, max-age=31536000, immutable"}
    if not shown_inline(content_type):
        headers["Content-Disposition"] = "attachment"
    return headers
