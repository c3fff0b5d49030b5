"""Reads what a topic holds as of now: for commands and start-ups that need all of it once."""

from collections.abc import AsyncIterator, Mapping, Sequence

from tidings.streams.log.protocol import Log, Record


async def read_until_end(
    log: Log,
    topic: str,
    *,
    start: Mapping[int, int] | None = None,
    end: Mapping[int, int] | None = None,
) -> AsyncIterator[Sequence[Record]]:
    """The records between two positions, in batches, in order within each partition; what comes meanwhile is left out.

    One batch at a time is in memory here. It ends however much is appended meanwhile, and where the last offsets hold no
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
    if not until:
        return
    batches = log.follow(topic, first, until)
    try:
        async for batch in batches:
            if batch:
                yield batch
    finally:
        # At once, not when it is collected: it holds a connection.
        if (close := getattr(batches, "aclose", None)) is not None:
            await close()
