"""Waiting for a prediction's next change within one request: `Prefer: wait=30` (RFC 7240, 4.3)."""

import re

from tidings.gateway.auth.permissions import Permissions
from tidings.gateway.http.problems import not_found
from tidings.gateway.push.changes_reader import ChangesReader
from tidings.storage.clock import SYSTEM_CLOCK, Clock
from tidings.storage.prediction import Status
from tidings.storage.store import Stored
from tidings.streams.changes.codec import Change

WRITE_WAIT = 5.0
"""Seconds that a write waits for the change it caused."""
MAX_WAIT = 60.0
"""Seconds: proxies cut what is silent for longer."""

_wait = re.compile(r"(?:^|[,;\s])wait\s*=\s*\"?(\d{1,6})\"?", re.IGNORECASE)


def wait_preferred(header: str | None) -> float:
    """The seconds that a `Prefer` header asks to wait, at most `MAX_WAIT`; 0: none."""
    if header is None:
        return 0.0
    match = _wait.search(header)
    return 0.0 if match is None else min(float(match[1]), MAX_WAIT)


async def next_change(
    reader: ChangesReader,
    permissions: Permissions,
    prediction_id: str,
    known: Stored,
    wait: float,
    clock: Clock = SYSTEM_CLOCK,
) -> Stored | None:
    """The record once it is newer than what the caller knows.

    Returns:
        The newer record; None if nothing has changed within `wait` seconds, or before the
        caller's token expired.

    Raises:
        Problem: 404 if it was deleted meanwhile, or is no longer the caller's to see.
    """
    if permissions.expires_at is not None:  # what comes later is not for this token
        wait = max(0.0, min(wait, permissions.expires_at - clock.ms() / 1000))
    change = await reader.wait_for_version(prediction_id, known.version, wait)
    if change is None:
        return None
    if not (
        permissions.may_read(prediction_id, change.owner, change.model, change.tags)
        or permissions.covers_attempt(change.value)
    ):
        raise not_found()
    return announced(change)


def announced(change: Change) -> Stored:
    """The record that a change carries.

    Raises:
        Problem: 404 if it says that the prediction is gone.
    """
    if change.deleted or change.status is None:
        raise not_found()
    return Stored(
        change.version, Status(change.status), change.value, change.expires_at, change.owner
    )
