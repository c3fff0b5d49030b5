"""The changes of a running service as an async iterator, for the program that runs it."""

import asyncio
from collections.abc import AsyncGenerator, Sequence

from msgspec import structs

from tidings.client.progress import Deleted, Selection
from tidings.gateway.push.hub import Delivery, Hub
from tidings.storage.prediction import Prediction, decode, for_readers
from tidings.storage.store import Query
from tidings.storage.wrappers.cache import CachedStore
from tidings.streams.changes.codec import Change


class _Newest:
    """A subscriber of the hub that keeps the newest change of each prediction until it is taken."""

    def __init__(self) -> None:
        self.waiting: dict[str, Change] = {}
        self.told = asyncio.Event()

    def deliver(self, delivery: Delivery) -> None:
        """Take the changes of one batch, from the hub."""
        for item in delivery.items:
            self.waiting[item.change.prediction_id] = item.change
        self.told.set()


def keys_of(selection: Selection) -> list[str]:
    """What is watched, as the hub's keys."""
    for kind in ("owner", "tag", "model"):
        if (name := getattr(selection, kind)) is not None:
            return [f"{kind}:{name}"]
    return ["all"] if selection.all else ["prediction:" + name for name in selection.predictions]


async def changes(
    hub: Hub, store: CachedStore, selection: Selection, limit: int
) -> AsyncGenerator[Prediction | Deleted]:
    """What stands, then what changes; see `Service.changes`."""
    newest, known = _Newest(), dict[str, int]()
    keys = keys_of(selection)
    # Subscribed first: what changes while the records are read waits, and none falls between.
    for key in keys:
        hub.subscribe(key, newest)
    try:
        for record in await _standing(store, selection, limit):
            known[record.prediction_id] = record.version
            yield record
        while True:
            await newest.told.wait()
            newest.told.clear()
            waiting, newest.waiting = newest.waiting, {}
            for change in waiting.values():
                if change.version <= known.pop(change.prediction_id, 0):
                    continue
                if change.deleted:
                    yield Deleted(change.prediction_id, change.version)
                else:
                    yield decode(for_readers(change.value))
    finally:
        for key in keys:
            hub.unsubscribe(key, newest)


async def _standing(store: CachedStore, selection: Selection, limit: int) -> Sequence[Prediction]:
    if selection.predictions:
        found = [await store.get(name) for name in selection.predictions]
        standing = [stored.standing() for stored in found if stored is not None]
        return [record for record in standing if isinstance(record, Prediction)]
    query = Query(owner=selection.owner, tag=selection.tag, model=selection.model)
    page = await store.list(structs.replace(query, limit=limit))
    return page.predictions
