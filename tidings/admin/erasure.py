"""Erasing what is kept of a person's predictions, and saying when each trace of them is gone."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterable, Sequence

from msgspec import Struct

from tidings.storage.prediction import Tombstone
from tidings.storage.store import PredictionStore, Query
from tidings.streams.changes.codec import parse
from tidings.streams.log.protocol import (
    CHANGES,
    EVENTS,
    TEXT_SECONDS,
    Log,
    NewRecord,
)
from tidings.streams.log.read_until_end import read_until_end
from tidings.streams.notifications.delivery_index import KEPT, DeliveryIndex
from tidings.streams.processing.dead_letters import read_dead_letters
from tidings.streams.rules.reducer import DAY

ERASURE_SOURCE = "tidings erase"
"""The source of an event that erases: what tells it from other deletions in the audit trail."""
DELETE = b'{"type":"delete","source":"tidings erase"}'
BATCH = 500
PAGE = 1_000
TEXT_KEPT = (TEXT_SECONDS + 600) * 1000
"""In ms; pieces go by segments of a minute, which a broker looks for every five minutes."""
DEAD_LETTERS_KEPT = 14 * DAY
"""In ms; how long that topic keeps its records."""


class Trace(Struct, frozen=True, rename="camel"):
    """One place where something is, or was."""

    place: str
    count: int
    gone: str
    """`now`, or what happens by then."""
    by: int | None = None
    """In ms since the epoch, at the latest."""


class Erasure(Struct, frozen=True, rename="camel"):
    """What became of a person's predictions."""

    owner: str
    predictions: int
    deleted: int
    """Seen to be gone from the store."""
    traces: tuple[Trace, ...]

    @property
    def complete(self) -> bool:
        """Whether all are gone from the store."""
        return self.deleted == self.predictions


async def find(log: Log, store: PredictionStore, owner: str) -> list[str]:
    """The ids of everything that is this owner's.

    What the store lists, hidden ones too, and what the changes tell of.

    Raises:
        LogError, StorageError: They cannot be read.
    """
    found: dict[str, None] = {}
    cursor: str | None = None
    while store.capabilities.lists:
        page = await store.list(Query(owner=owner, limit=PAGE, cursor=cursor, hidden=True))
        found.update((stored.standing().prediction_id, None) for stored in page.items)
        cursor = page.cursor
        if cursor is None:
            break
    async for ids in _ids_in_changes(log, owner):
        found.update(ids)
    return await _still_there(store, list(found), owner)


async def _ids_in_changes(log: Log, owner: str) -> AsyncIterator[dict[str, None]]:
    async for batch in read_until_end(log, CHANGES):
        changes = [change for record in batch if (change := parse(record)) is not None]
        yield {change.prediction_id: None for change in changes if change.owner == owner}


async def _still_there(store: PredictionStore, ids: Sequence[str], owner: str) -> list[str]:
    """Of these the ones that are there, and this owner's."""
    standing = []
    for some in _portions(ids):
        for prediction_id, stored in (await store.load(some)).items():
            record = stored.standing()
            if not isinstance(record, Tombstone) and record.owner == owner:
                standing.append(prediction_id)
    return standing


async def erase(log: Log, store: PredictionStore, ids: Sequence[str], within: float) -> int:
    """Have these deleted, and wait until the store has none of them any more.

    Args:
        log: Takes a deletion of each.
        store: Of the service that processes them.
        ids: Of predictions.
        within: Seconds to wait.

    Returns:
        How many are gone.
    """
    for some in _portions(ids):
        await log.append(
            EVENTS, [NewRecord(prediction_id.encode(), DELETE) for prediction_id in some]
        )
    deadline = time.monotonic() + within
    while True:
        left = 0
        for some in _portions(ids):
            loaded = await store.load(some)
            left += sum(not isinstance(stored.standing(), Tombstone) for stored in loaded.values())
        if not left or time.monotonic() > deadline:
            return len(ids) - left
        await asyncio.sleep(0.1)


async def count_dead_letters(log: Log, ids: Iterable[str]) -> int:
    """How many dead letters are about these predictions, webhooks that were given up among them."""
    wanted = frozenset(ids)
    count = 0
    async for letter in read_dead_letters(log):
        count += letter.prediction_id in wanted
    return count


async def count_deliveries(log: Log, ids: Iterable[str]) -> int:
    """How many webhooks to other servers wait of these predictions; there must be such a topic."""
    wanted = frozenset(ids)
    index = DeliveryIndex(log)
    await index.refresh()
    return sum(one.prediction_id in wanted for one in index.newest(KEPT))


def traces(
    predictions: int,
    letters: int,
    now: int,
    *,
    retention: int,
    cache_ttl: float,
    deliveries: int | None = None,
) -> tuple[Trace, ...]:
    """When each trace is gone.

    Args:
        predictions: How many.
        letters: Dead letters with their keys.
        now: In ms.
        retention: Of the events, in ms.
        cache_ttl: Seconds for which a cache may believe what it has if it does not follow the
            changes.
        deliveries: Webhooks of them that wait; None: no other server is told.
    """
    purged = now + retention + DAY
    return (
        Trace("store: records", predictions, "now"),
        Trace(
            "store: tombstones (id, owner, model, tags)",
            predictions,
            "purged after the retention and a day",
            purged,
        ),
        Trace(
            "caches of gateways and processors",
            predictions,
            "with the change they read",
            now + int(cache_ttl * 1000),
        ),
        Trace("assets and large fields", predictions, "by the archiver, with the change it reads"),
        Trace(
            "topic predictions.changes",
            predictions,
            "when it is compacted, its deletions a day later",
        ),
        Trace(
            "topic predictions.events: reports as they came",
            predictions,
            "after the retention",
            now + retention,
        ),
        Trace(
            "topic predictions.text: pieces of growing texts",
            predictions,
            "after ten minutes, on Kafka with their segment",
            now + TEXT_KEPT,
        ),
        *(
            ()
            if deliveries is None
            else (
                Trace(
                    "topic predictions.deliveries: webhooks that wait",
                    deliveries,
                    "by the notifier, with the change it reads; when it is compacted, a day later",
                ),
            )
        ),
        Trace("topic predictions.dead-letters", letters, "after 14 days", now + DEAD_LETTERS_KEPT),
        Trace("backups made before", predictions, "when you remove them"),
    )


def _portions(ids: Sequence[str]) -> Iterable[Sequence[str]]:
    return (ids[start : start + BATCH] for start in range(0, len(ids), BATCH))
