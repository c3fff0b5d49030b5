"""Whether a store holds what was announced of it: after a power cut its last writes may be missing.

A store on SQLite follows the log to the disk. Its commits do not wait, because the processor makes
them again from the events, whose offsets it commits only once the store is on the disk. Until it
has, a read would give an older record than its reader has seen, or none.
"""

import asyncio
from collections.abc import Mapping
from time import monotonic

from tidings.storage.loggers import get_logger
from tidings.storage.store import PredictionStore
from tidings.streams.changes.codec import parse
from tidings.streams.log.protocol import CHANGES, EVENTS, Log

LIMIT = 10.0
"""Seconds to wait at most: without a processor nothing is made again, and webhooks must be taken."""
PAUSE = 0.02
"""Seconds between two looks at the store's positions, which are one row a partition."""

logger = get_logger(__name__)


async def missing_writes(log: Log, store: PredictionStore, group: str) -> dict[int, int]:
    """Per partition the position that the store is behind, and that the processor comes to again.

    What lies before the group's committed offset is not read again, whatever the store has: it was
    on the disk, or the store is another one.

    Args:
        log: Where the changes were announced.
        store: What they were announced of.
        group: The processor's.

    Raises:
        LogError, StorageError: One of them does not answer.
    """
    bounds = await log.bounds(CHANGES)
    ends = {partition: end - 1 for partition, (first, end) in bounds.items() if end > first}
    last = await log.read_at(CHANGES, ends) if ends else {}
    announced: dict[int, int] = {}
    for record in last.values():
        change = parse(record)
        if change is not None and change.position is not None:
            announced[change.position.partition] = change.position.offset
    if not announced:
        return {}
    committed = await log.committed(EVENTS, group)
    return await _behind(
        store, {p: offset for p, offset in announced.items() if offset >= committed.get(p, 0)}
    )


async def recovered(
    log: Log, store: PredictionStore, group: str, limit: float = LIMIT
) -> dict[int, int]:
    """Wait until the store holds what was announced; what it still lacks after `limit` seconds.

    Args:
        log: As `missing_writes`.
        store: As `missing_writes`.
        group: As `missing_writes`.
        limit: Seconds.

    Raises:
        LogError, StorageError: One of them does not answer.
    """
    missing = await missing_writes(log, store, group)
    if not missing:
        return missing
    logger.warning("store.behind", positions=missing)
    until = monotonic() + limit
    while missing and monotonic() < until:
        await asyncio.sleep(PAUSE)
        missing = await _behind(store, missing)
    if missing:
        logger.error("store.still_behind", positions=missing, seconds=limit)
    else:
        logger.info("store.recovered")
    return missing


async def _behind(store: PredictionStore, wanted: Mapping[int, int]) -> dict[int, int]:
    there = await store.positions() if wanted else {}
    return {p: offset for p, offset in wanted.items() if there.get(p, -1) < offset}
