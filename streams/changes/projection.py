"""A store without compare-and-set, kept as a projection of the changes topic.

The truth about a prediction is its newest version in the compacted changes topic. For the partitions that a processor
is given it is copied from there, before any of their events is judged; the store is given all of it again, because
nobody knows what the former owner left there. From then on the topic is followed. A newer version,
from another member that believed the partition to be its own, is taken over. If an older one lands
behind a newer, from a process that stood still and woke up, the newest is announced again, so that
compaction keeps it. The store is given it again too.

Two members that both believe to own a partition do no harm: the same events make the same versions, byte for byte.
"""

import asyncio
import contextlib
import time
from collections.abc import Iterable, Sequence

import msgspec

from tidings.storage.loggers import get_logger
from tidings.storage.store import Stored
from tidings.streams.changes.codec import Change, announcement, parse, restored
from tidings.streams.changes.feed import ChangeFeed
from tidings.streams.changes.projecting import Projecting
from tidings.streams.log.protocol import (
    CHANGES,
    EVENTS,
    Log,
    LogError,
    LogMisconfigured,
    NewRecord,
    Position,
    Record,
)

_PRUNE_FROM = 10_000
"""Predictions beyond which it is looked through for those that the store has purged."""

logger = get_logger(__name__)


class Projection:
    """Keeps the copy of a projecting store for one processor.

    Args:
        log: Where the changes are.
        store: Whose copy.
        owner: The id of the log that the store belongs to.
        retention: Of the events, in ms.
    """

    def __init__(self, log: Log, store: Projecting, *, owner: str, retention: int) -> None:
        self._changes_log = log
        self._store = store
        self._owner = owner
        self._retention = retention
        self._partitions: frozenset[int] = frozenset()
        self._positions: dict[int, int] = {}
        """Up to where the partitions in `_seen` were taken over."""
        self._seen: dict[int, dict[str, int]] = {}
        self._behind: dict[str, int] = {}
        self._prune_at = _PRUNE_FROM
        self._task: asyncio.Task[None] | None = None
        self.restored = 0
        """Records taken from the topic so far."""
        self.repaired = 0
        """Times that the newest was announced again."""

    async def assign(self, partitions: frozenset[int]) -> None:
        """Copy these partitions from the topic and drop all others; returns when the copy is whole.

        Raises:
            LogMisconfigured: The changes have fewer partitions than the events. A change would lie in another partition
                than its event then, and whoever owns the event would not find it.
            LogError, StorageError: It could not; call it again.
        """
        count = await self._changes_log.partitions(CHANGES)
        if partitions and max(partitions) >= count:
            raise LogMisconfigured(
                f"{CHANGES} has {count} partitions and {EVENTS} has more: a Cloudflare KV store needs as many; "
                f"kafka-topics.sh --alter --topic {CHANGES} --partitions {max(partitions) + 1}"
            )
        await self.close()
        started = time.perf_counter()
        await self._store.restore(())  # from here on its copy alone counts, however little there is
        wanted = partitions | self._partitions
        if not wanted:
            return
        kept = [one for number in partitions & self._seen.keys() for one in self._seen[number]]
        # Those that are going are read to their ends too: what was written here and announced since is dropped as well.
        ends = {
            number: end for number, (_, end) in (await self._changes_log.bounds(CHANGES)).items()
        }
        since = {n: self._positions.get(n, 0) if n in wanted else end for n, end in ends.items()}
        whole: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._partitions = wanted

        async def take(batch: Sequence[Record]) -> None:
            await self._take([one for one in batch if one.partition in self._partitions])
            if whole.done():
                await self._repair()

        async def caught_up() -> None:
            if not whole.done():
                self._drop(self._seen.keys() - partitions)
                self._partitions = partitions
                whole.set_result(None)
            await self._repair()

        def interrupted(error: Exception) -> None:
            if not whole.done():
                whole.set_exception(error)
                raise error

        feed = ChangeFeed(
            self._changes_log, take, on_caught_up=caught_up, on_interruption=interrupted
        )
        feed.positions = since
        self._task = asyncio.create_task(feed.run(), name="projection")
        self._task.add_done_callback(lambda _: whole.done() or whole.cancel())
        await whole
        self._store.refresh(kept)
        logger.info(
            "projection.restored",
            partitions=sorted(partitions),
            records=sum(len(seen) for seen in self._seen.values()),
            seconds=round(time.perf_counter() - started, 3),
        )

    async def close(self) -> None:
        """Stop watching; the copy stays."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task])

    async def _take(self, records: Sequence[Record]) -> None:
        """Take over what is newer than the copy, and note what landed behind something newer."""
        newest: dict[str, tuple[Change, Record]] = {}
        for record in records:
            self._positions[record.partition] = record.offset + 1
            change = parse(record)
            if change is None:
                continue
            one = change.prediction_id
            seen = self._seen.setdefault(record.partition, {})
            if change.version >= seen.get(one, 0):
                seen[one] = change.version
                newest[one] = change, record
                if self._behind:
                    self._behind.pop(one, None)
            else:
                self._behind[one] = change.version
                newest.setdefault(one, (change, record))
        if not newest:
            return
        standing = await self._store.load(list(newest))
        writes = []
        for one, (change, record) in newest.items():
            stored = standing.get(one)
            if stored is None or stored.version < change.version:
                with contextlib.suppress(
                    msgspec.DecodeError
                ):  # somebody else's: it is none of ours to keep
                    writes.append(
                        restored(
                            change,
                            log=self._owner,
                            announced_at=record.timestamp,
                            retention=self._retention,
                        )
                    )
        if writes:
            self.restored += len(writes)
            await self._store.restore(writes)
        await self._prune()

    async def _repair(self) -> None:
        """Announce the newest again if an older version is what the topic has last."""
        if not self._behind:
            return
        behind, self._behind = self._behind, {}
        standing = await self._store.load(list(behind))
        again: list[NewRecord] = []
        for one, landed in behind.items():
            stored = standing.get(one)
            # A purged id that began again at version 1 is newer than what was seen of it before.
            if stored is not None and stored.version > landed:
                again.append(_announcement(stored))
        if not again:
            return
        try:
            await self._changes_log.append(CHANGES, again)
        except LogError:
            self._behind = behind | self._behind
            raise
        self.repaired += len(again)
        self._store.refresh(behind)
        logger.warning("projection.repaired", predictions=len(again), first=next(iter(behind)))

    def _drop(self, partitions: Iterable[int]) -> None:
        for number in list(partitions):
            seen = self._seen.pop(number, {})
            self._store.forget(seen)
            for one in seen:
                self._behind.pop(one, None)
        self._positions = {
            n: position for n, position in self._positions.items() if n in self._seen
        }

    async def _prune(self) -> None:
        if sum(map(len, self._seen.values())) < self._prune_at:
            return
        for number, seen in self._seen.items():
            standing = await self._store.load(list(seen))
            self._seen[number] = {one: version for one, version in seen.items() if one in standing}
        self._prune_at = max(_PRUNE_FROM, 2 * sum(map(len, self._seen.values())))


def _announcement(stored: Stored) -> NewRecord:
    record = stored.standing()
    offsets = record.source.offsets if record.source is not None else {}
    partition, offset = next(iter(offsets.items()), ("0", 0))
    position = Position(int(partition), offset)
    return announcement(record, stored.encoded, position=position, expires_at=stored.expires_at)
