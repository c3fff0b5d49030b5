"""What a new subscriber is told of the present: snapshots newer than it knows, and what is gone.

The subscription stands in the hub before anything is read here, and a session leaves out what is
not newer than what it was sent: neither a gap nor a duplicate. A store is written before a change
is announced, so a snapshot is never older than what was announced.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import ParamSpec, Protocol, TypeVar

import msgspec
from msgspec import Struct

from tidings.gateway.push import protocol
from tidings.gateway.push.conflation import ConflationQueue
from tidings.gateway.push.hub import Hub
from tidings.gateway.push.protocol import Subscribe, frame
from tidings.gateway.push.session import Session
from tidings.storage.clock import SYSTEM_CLOCK, Clock
from tidings.storage.errors import StorageError
from tidings.storage.prediction import Prediction, Standing
from tidings.storage.store import Capabilities, Page, Query, Stored, hidden
from tidings.streams.changes.codec import Change

CHUNK = 100
"""Predictions read at once for named subscriptions."""

FLUSH_BYTES = 65_536
"""Snapshots joined per write."""

REFILL = 16
"""Records read at once for a session that drains: 8 MiB with records of the largest size."""

PAGE = 200

RETRIES = (0.05, 0.2, 0.8, 2.0)
"""Seconds before each further try of a read that failed in a way that may pass."""

STALE_PAUSE = 0.1
"""Seconds before reading again from a store that is behind what was announced."""

T = TypeVar("T")
P = ParamSpec("P")


class RecordReader(Protocol):
    """The store behind its cache, as sessions read it."""

    @property
    def capabilities(self) -> Capabilities:
        """What it lists by."""

    def peek(self, prediction_id: str) -> Stored | None:
        """What the cache holds and may show right now; None: it must be read."""

    async def get(self, prediction_id: str) -> Stored | None:
        """An outside read, from the cache where it is fresh."""

    async def get_fresh(self, prediction_id: str) -> Stored | None:
        """An outside read that passes the cache by."""

    async def load(self, prediction_ids: Sequence[str]) -> dict[str, Stored]:
        """Records as they stand, tombstones and expired ones included."""

    async def list(self, query: Query) -> Page:
        """A page of what `get` would show."""


class _Named(Struct, gc=False, rename="camel"):
    prediction_id: str


_named = msgspec.json.Decoder(_Named)


class SnapshotReader:
    """Reads records for sessions.

    Args:
        records: Where from.
        hub: Knows what was announced.
        clock: For expiry.
    """

    def __init__(self, records: RecordReader, hub: Hub, clock: Clock = SYSTEM_CLOCK) -> None:
        self._records = records
        self._hub = hub
        self._clock = clock

    def at_hand(self, session: Session, message: Subscribe) -> bytes | None:
        """All frames of a subscription's answer, where the cache holds every record; else None.

        Most subscriptions name one prediction that is in the cache: no task and no wait is needed.
        """
        if not message.snapshot:
            return _synced(message, more=False)
        if message.predictions is None or len(message.predictions) > CHUNK:
            return None
        found: list[Stored] = []
        size = 0
        for prediction_id in message.predictions:
            stored = self._records.peek(prediction_id)
            if stored is None or stored.version < message.known.get(prediction_id, 0):
                return None
            found.append(stored)
            size += len(stored.encoded)
        if size > FLUSH_BYTES:
            return None
        frames = [
            self._answer(session, message, prediction_id, stored)
            for prediction_id, stored in zip(message.predictions, found, strict=True)
        ]
        frames.append(_synced(message, more=False))
        return b"".join(frames)

    async def sync(self, session: Session, message: Subscribe) -> None:
        """Send a subscription's snapshots and `synced`, waiting while the transport is full.

        The caller has told the session that a snapshot begins; here it is told that it has ended.
        """
        try:
            more = False
            names = message.known if message.predictions is None else message.predictions
            sent = await self._send(
                session, self._by_name(session, message, list(dict.fromkeys(names)))
            )
            if sent and (unlistable := self._unlistable(message)) is not None:
                session.reply(protocol.error_message(message.ref, "unsupported", unlistable))
                return
            if sent and message.predictions is None:
                listing = _Listing(message)
                sent = await self._send(session, self._listed(session, message, listing))
                more = listing.more
            if sent:
                session.send(_synced(message, more))
        except StorageError:
            text = (
                "the store does not answer; the subscription stands, "
                "subscribe again for the snapshots"
            )
            session.reply(protocol.error_message(message.ref, "unavailable", text))
        except Exception:
            session.fail()
            raise
        finally:
            session.end_snapshot()

    async def refill(self, session: Session, queue: ConflationQueue) -> None:
        """Read some of the predictions of which a backed-up session kept only ids and versions."""
        missing = queue.missing(REFILL)
        loaded = await _persist(self._records.load, list(missing))
        for prediction_id, version in missing.items():
            change = _change(prediction_id, version, loaded.get(prediction_id))
            if session.wants(change):
                queue.restore(change)
            queue.forget(prediction_id, change.version)
        if queue.missing(1).items() <= missing.items():
            await asyncio.sleep(STALE_PAUSE)  # the store is behind what was announced

    async def _send(self, session: Session, frames: AsyncIterator[bytes]) -> bool:
        """Write frames as the transport takes them; False where the client is gone.

        Each is written before anything is waited for: a newer change that came during the wait
        would be sent first, and the older snapshot would then take the client back.
        """
        async for data in frames:
            session.send(data)
            await asyncio.sleep(0)
            if not await session.writable():
                return False
        return session.open

    async def _by_name(
        self, session: Session, message: Subscribe, names: Sequence[str]
    ) -> AsyncIterator[bytes]:
        if not message.snapshot:
            return
        for start in range(0, len(names), CHUNK):
            chunk = names[start : start + CHUNK]
            found = await self._read(chunk, message.known)
            if not await session.writable():
                return
            parts = _Parts()
            for prediction_id in chunk:
                if data := parts.add(
                    self._answer(session, message, prediction_id, found.get(prediction_id))
                ):
                    yield data
            if data := parts.take():
                yield data

    async def _read(self, names: Sequence[str], known: dict[str, int]) -> dict[str, Stored]:
        """The records, never older than what the client knows where the store has that."""
        found = {name: stored for name in names if (stored := self._records.peek(name)) is not None}
        missing = [name for name in names if name not in found]
        if len(missing) == 1 and missing[0] not in known:
            stored = await _persist(self._records.get, missing[0])
            if stored is not None:
                found[missing[0]] = stored
        elif missing:
            found.update(await _persist(self._records.load, missing))
        for name, stored in list(found.items()):
            if stored.version < known.get(name, 0):
                fresh = await _persist(self._records.get_fresh, name)
                if fresh is not None and fresh.version > stored.version:
                    found[name] = fresh
        return found

    def _answer(
        self, session: Session, message: Subscribe, prediction_id: str, stored: Stored | None
    ) -> bytes:
        """The frame about a prediction that the client named; empty where it knows as much."""
        known = message.known.get(prediction_id, 0)
        if stored is not None and not _sees(session, prediction_id, stored):
            stored = None  # what one may not see does not exist
        if stored is not None and not hidden(stored, self._clock.ms()):
            session.verified(prediction_id)
            if message.predictions is None and not _matches(message, stored):
                return b""
            return self._snapshot(session, prediction_id, stored)
        if not known:
            return (
                frame(protocol.unknown_message(prediction_id))
                if message.predictions is not None
                else b""
            )
        version = max(known, stored.version if stored is not None else 0)
        if (
            stored is not None
            and stored.deleted
            and not session.raise_floor(prediction_id, version)
        ):
            return b""  # the client knows of the deletion, or was told meanwhile
        return frame(protocol.deleted_message(prediction_id, version))

    def _snapshot(self, session: Session, prediction_id: str, stored: Stored) -> bytes:
        if not session.raise_floor(prediction_id, stored.version):
            return b""
        return frame(protocol.snapshot_message(stored.encoded))

    async def _listed(
        self, session: Session, message: Subscribe, listing: "_Listing"
    ) -> AsyncIterator[bytes]:
        """The newest of an owner, a tag, a model or all, of those that the client does not know."""
        cursor: str | None = None
        key = protocol.wide_key(message)
        while message.snapshot:
            query = Query(
                owner=message.owner,
                tag=message.tag,
                model=message.model,
                limit=listing.page(),
                cursor=cursor,
            )
            page = await _persist(self._records.list, query)
            if not await session.writable() or key not in (session.keys or ()):
                return
            parts = _Parts()
            cursor = page.cursor
            for stored in page.items:
                prediction_id = _named.decode(stored.encoded).prediction_id
                if prediction_id in message.known or not _sees(session, prediction_id, stored):
                    continue
                if not listing.take():
                    cursor = None
                    break
                if data := parts.add(self._snapshot(session, prediction_id, stored)):
                    yield data
            if data := parts.take():
                yield data
            if cursor is None:
                return

    def _unlistable(self, message: Subscribe) -> str | None:
        """Why this store cannot give the snapshots of a wide subscription; None: it can."""
        if message.predictions is not None or not message.snapshot:
            return None
        capabilities = self._records.capabilities
        kind = protocol.wide_key(message).partition(":")[0]
        if capabilities.lists and (kind == "all" or kind in capabilities.filters):
            return None
        return (
            f'this store cannot list by {kind}: the subscription stands, ask with "snapshot":false'
        )


class _Parts:
    """Frames to be written together."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._size = 0

    def add(self, data: bytes) -> bytes:
        """Keep one more; what was kept, once it is enough for a write."""
        self._parts.append(data)
        self._size += len(data)
        return self.take() if self._size >= FLUSH_BYTES else b""

    def take(self) -> bytes:
        """What was kept, joined."""
        taken = b"".join(self._parts)
        self._parts.clear()
        self._size = 0
        return taken


class _Listing:
    """Counts what a wide subscription's limit still allows."""

    def __init__(self, message: Subscribe) -> None:
        self._left = message.limit
        self.more = False

    def page(self) -> int:
        """How many to ask for: one beyond the limit tells whether there is more."""
        return min(PAGE, self._left + 1)

    def take(self) -> bool:
        """Count one; False where the limit is used up, and so there is more."""
        if not self._left:
            self.more = True
            return False
        self._left -= 1
        return True


async def _persist(read: Callable[P, Awaitable[T]], *args: P.args, **kwargs: P.kwargs) -> T:
    """The read's result, tried again where the store says that a retry helps."""
    for delay in RETRIES:
        try:
            return await read(*args, **kwargs)
        except StorageError as error:
            if not error.retryable:
                raise
        await asyncio.sleep(delay)
    return await read(*args, **kwargs)


def _synced(message: Subscribe, more: bool) -> bytes:
    return frame(protocol.synced_message(message.ref, more))


def _record(stored: Stored) -> Standing | None:
    """The record decoded; None for a tombstone that was announced without one."""
    return stored.standing() if stored.encoded else None


def _sees(session: Session, prediction_id: str, stored: Stored) -> bool:
    """Whether the client may see this record; decoded only where its owner does not decide."""
    permissions = session.permissions
    if permissions.may_watch(prediction_id, stored.owner, None, ()):
        return True
    if not permissions.needs_record or (record := _record(stored)) is None:
        return False
    return permissions.may_watch(prediction_id, record.owner, record.model, record.tags)


def _matches(message: Subscribe, stored: Stored) -> bool:
    """Whether a record belongs to a wide subscription."""
    if message.all:
        return True
    if message.owner is not None:
        return stored.owner == message.owner
    record = _record(stored)
    if record is None:
        return False
    return (
        record.model == message.model if message.model is not None else message.tag in record.tags
    )


def _change(prediction_id: str, version: int, stored: Stored | None) -> Change:
    """What is announced about a prediction whose bytes were read again."""
    if stored is None:
        return Change(prediction_id, version, b"")
    record = _record(stored)
    value = stored.encoded if isinstance(record, Prediction) else b""
    if record is None:
        return Change(prediction_id, stored.version, b"", owner=stored.owner)
    return Change(
        prediction_id, stored.version, value, stored.status, record.owner, record.model, record.tags
    )
