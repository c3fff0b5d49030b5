"""Reads what a topic holds as of now: for commands and start-ups that need all of it once."""

import asyncio
import heapq
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence

from tidings.streams.log.protocol import Log, Record


async def read_until_end(
    log: Log,
    topic: str,
    *,
    start: Mapping[int, int] | None = None,
    end: Mapping[int, int] | None = None,
) -> AsyncIterator[Sequence[Record]]:
    """The records between two positions, in batches, in order within each partition; what comes meanwhile is left out.

    One batch at a time is in memory here. It ends however much is appended meanwhile, and if the last offsets hold no
    records any more.

    Args:
        log: Where the topic is.
        topic: Its name.
        start: Per partition the first offset to read; partitions left out, and None: from their beginning.
        end: Per partition the first offset that is not read; partitions left out are not read. None: the ends as of
            now.

    Raises:
        LogError: As the log does.
    """
    bounds = await log.bounds(topic)
    first = {number: begin for number, (begin, _) in bounds.items()} | dict(start or {})
    last = {number: stop for number, (_, stop) in bounds.items()} if end is None else end
    until = {number: stop for number, stop in last.items() if stop > first.get(number, 0)}
    async for batch in _read(log, topic, first, until):
        yield batch


async def read_by_time(
    log: Log, topic: str, start: Mapping[int, int], end: Mapping[int, int]
) -> AsyncIterator[Sequence[Record]]:
    """As `read_until_end`, with the partitions merged by the records' times: about as they were read when they came.

    Within a partition the order is that of the log, whatever the times say. One batch of each partition is in memory.

    Raises:
        LogError: As the log does.
    """
    until = {number: stop for number, stop in end.items() if stop > start.get(number, 0)}
    if len(until) <= 1:
        async for batch in _read(log, topic, start, until):
            yield batch
        return
    readers = [_read(log, topic, start, {number: stop}) for number, stop in until.items()]
    heads: list[tuple[int, int, int, Sequence[Record]]] = []
    """Of each partition the time of its next record, which reader it is of, the index in its batch, and the batch."""
    try:
        first = await asyncio.gather(*(_following(reader) for reader in readers))
        for number, batch in enumerate(first):
            if batch:
                heapq.heappush(heads, (batch[0].timestamp, number, 0, batch))
        merged: list[Record] = []
        while heads:
            _, number, index, batch = heapq.heappop(heads)
            limit = heads[0][0] if heads else None
            # On with this one for as long as no other partition's next record is older.
            while index < len(batch) and (limit is None or batch[index].timestamp <= limit):
                merged.append(batch[index])
                index += 1
            if index == len(batch):
                if merged:
                    yield merged
                    merged = []
                batch, index = await _following(readers[number]), 0
            if batch:
                heapq.heappush(heads, (batch[index].timestamp, number, index, batch))
        if merged:
            yield merged
    finally:
        for reader in readers:
            await reader.aclose()


async def _following(batches: AsyncIterator[Sequence[Record]]) -> Sequence[Record]:
    """The next batch, empty at the end; `anext` with an empty tuple as its default fails in Python 3.11."""
    async for batch in batches:
        return batch
    return ()


async def _read(
    log: Log, topic: str, start: Mapping[int, int], until: Mapping[int, int]
) -> AsyncGenerator[Sequence[Record], None]:
    if not until:
        return
    batches = log.follow(topic, start, until)
    try:
        async for batch in batches:
            if batch:
                yield batch
    finally:
        # At once, not when it is collected: it holds a connection.
        if (close := getattr(batches, "aclose", None)) is not None:
            await close()
