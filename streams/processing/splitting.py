"""What is done with a prediction's part of a batch that a store will never take: it is judged and written by event."""

from collections.abc import Awaitable, Callable

from tidings.streams.processing.batch import Entry
from tidings.streams.rules.reducer import Expiry, StorePolicy


async def event_by_event(
    entry: Entry, policy: StorePolicy, expiry: Expiry, attempt: Callable[[Entry], Awaitable[None]]
) -> list[Entry]:
    """Judge the events one by one, each by what became of those before it; returns an entry of each.

    Args:
        entry: What the store refused as a whole; left as it is.
        policy: Of the log and the store.
        expiry: When records are hidden and purged.
        attempt: Writes an entry of one event where it changes something; takes its `reduction` away where the store
            refuses that too.
    """
    singles = []
    before = entry.before
    for event, record in entry.events:
        single = Entry()
        single.contents = entry.contents
        single.add(event, record)
        single.reduce(before, policy)
        await attempt(single)
        if single.changed:
            before = single.write(expiry).stored
        singles.append(single)
    return singles
