"""Waiting for a prediction's next change within one request: `Prefer: wait=30` (RFC 7240, 4.3)."""

import asyncio
import re

from gateway.gateway import Gateway
from gateway.hub import Delivery
from gateway.permissions import Permissions
from gateway.problems import not_found
from storage.prediction import Status
from storage.store import Stored
from streams.changes import Change

MAX_WAIT = 60.0
"""Seconds: proxies cut what is silent for longer."""

_wait = re.compile(r"(?:^|[,;\s])wait\s*=\s*\"?(\d{1,6})\"?", re.IGNORECASE)


def wait_preferred(header: str | None) -> float:
    """The seconds that a `Prefer` header asks to wait, at most `MAX_WAIT`; 0 where it asks for none."""
    if header is None:
        return 0.0
    match = _wait.search(header)
    return 0.0 if match is None else min(float(match[1]), MAX_WAIT)


class _NextChange:
    """A sink for the first change beyond a version."""

    def __init__(self, version: int) -> None:
        self._version = version
        self.change: asyncio.Future[Change] = asyncio.get_running_loop().create_future()

    def deliver(self, delivery: Delivery) -> None:
        for item in delivery.items:
            if item.change.version > self._version and not self.change.done():
                self.change.set_result(item.change)


async def next_change(
    gateway: Gateway, permissions: Permissions, prediction_id: str, known: Stored, wait: float
) -> Stored | None:
    """The record once it is newer than what the caller knows.

    Returns:
        The newer record; None where nothing has changed within `wait` seconds.

    Raises:
        Problem: 404 where it was deleted meanwhile, or is no longer the caller's to see.
    """
    sink = _NextChange(known.version)
    key = "prediction:" + prediction_id
    gateway.hub.subscribe(key, sink)
    try:
        # A change may have come between the read and the subscription.
        stored = await gateway.store.get(prediction_id)
        if stored is not None and stored.version > known.version:
            return stored
        async with asyncio.timeout(wait):
            change = await sink.change
    except TimeoutError:
        return None
    finally:
        gateway.hub.unsubscribe(key, sink)
    if change.deleted or change.status is None:
        raise not_found()
    if not permissions.may_read(prediction_id, change.owner, change.model, change.tags):
        raise not_found()
    return Stored(change.version, Status(change.status), change.value, change.expires_at, change.owner)
