"""What is done with a prediction's part of a batch that a store will never take: it is judged and written by event."""

from collections.abc import Awaitable, Callable

from tidings.streams.processing.batch import Entry
from tidings.streams.rules.reducer import Expiry, Rules


async def event_by_event(
    entry: Entry, rules: Rules, expiry: Expiry, attempt: Callable[[Entry], Awaitable[None]]
) -> list[Entry]:
    """Judge the events one by one, each by what became of those before it; returns an entry of each.

    Args:
        entry: What the store refused as a whole; left as it is.
        rules: Of the log and the store.
        expiry: When records are hidden and purged.
        attempt: Writes an entry of one event where it changes something; takes its `folded` away where the store
            refuses that too.
    """
    singles = []
    before = entry.before
    for event, record in entry.events:
        single = Entry()
        single.contents = entry.contents
        single.add(event, record)
        single.fold(before, rules)
        await attempt(single)
        if single.changed:
            before = single.write(expiry).stored
        singles.append(single)
    return singles
