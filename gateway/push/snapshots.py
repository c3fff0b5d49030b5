"""What a new subscriber is told of the present: snapshots newer than it knows, and what is gone.

The subscription is in the hub before anything is read here, and a session leaves out what is not
newer than what it was sent. So there is neither a gap nor a duplicate. A store is written before a
change is announced, so a snapshot is never older than what was announced.
"""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Protocol

from msgspec import structs

from tidings.gateway.http.held_bytes import HeldAccount, HeldBytes, Kind
from tidings.gateway.push import protocol
from tidings.gateway.push.conflation import ConflationQueue
from tidings.gateway.push.hub import Hub
from tidings.gateway.push.pages import FIRST, PAGE_BYTES, PageReader, decode_named, persist, room
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

STALE_PAUSE = 0.1
"""Seconds before reading again from a store that is behind what was announced."""


class RecordReader(Protocol):
    """The store behind its cache, as sessions read it."""

    @property
    def capabilities(self) -> Capabilities:
        """What it lists by."""

    def peek(self, prediction_id: str) -> Stored | None:
        """What the cache holds and may show right now; None: it must be read."""

    async def get(self, prediction_id: str) -> Stored | None:
        """An outside read, from the cache if it is fresh."""

    async def get_fresh(self, prediction_id: str) -> Stored | None:
        """An outside read that passes the cache by."""

    async def load(self, prediction_ids: Sequence[str]) -> dict[str, Stored]:
        """Records as they stand, tombstones and expired ones included."""

    async def list(self, query: Query) -> Page:
        """A page of what `get` would show."""


class SnapshotReader:
    """Reads records for sessions.

    Args:
        records: Where they are read.
        hub: Knows what was announced.
        clock: For expiry.
        held: The budget for what is read and not sent yet.
    """

    def __init__(
        self,
        records: RecordReader,
        hub: Hub,
        clock: Clock = SYSTEM_CLOCK,
        held: HeldBytes | None = None,
    ) -> None:
        self._records = records
        self._hub = hub
        self._clock = clock
        self._held = HeldBytes() if held is None else held
        self._pages = PageReader(records)
        self._waiting: dict[Session, list[list[Subscribe]]] = {}
        """Per session what is to be sent, in order; alike subscriptions are answered together."""

    def at_hand(self, session: Session, message: Subscribe) -> bytes | None:
        """All frames of a subscription's answer, if the cache holds every record; else None.

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

    def enqueue(self, session: Session, message: Subscribe) -> bool:
        """Put a subscription's snapshots behind those that the session waits for already.

        One is under way at a time in a session: each holds a page while the client reads. Repeats
        of one that has not begun are answered with it.

        Returns:
            Whether `send_waiting` has to be started for the session.
        """
        waiting = self._waiting.get(session)
        if waiting is None:
            self._waiting[session] = [[message]]
            return True
        for group in waiting:
            if _alike(group[0], message):
                group.append(message)
                return False
        waiting.append([message])
        return False

    async def send_waiting(self, session: Session) -> None:
        """Send what `enqueue` has put down, until nothing is left."""
        try:
            with self._held.account(session.permissions.subject) as account:
                while session.open and (waiting := self._waiting[session]):
                    await self._sync(session, waiting.pop(0), account)
        finally:
            del self._waiting[session]

    async def _sync(
        self, session: Session, messages: Sequence[Subscribe], account: HeldAccount
    ) -> None:
        """Send the snapshots of alike subscriptions, waiting while the transport is full.

        The caller has told the session that a snapshot begins; here it is told that it has ended.
        """
        message = messages[0]
        if len(messages) > 1:
            known = {name: version for one in messages for name, version in one.known.items()}
            message = structs.replace(message, known=known)
        try:
            more = False
            names = message.known if message.predictions is None else message.predictions
            sent = await self._send(
                session, self._by_name(session, message, list(dict.fromkeys(names)), account)
            )
            if sent and (unlistable := self._unlistable(message)) is not None:
                for one in messages:
                    session.reply(protocol.error_message(one.ref, "unsupported", unlistable))
                return
            if sent and message.predictions is None:
                listing = _Listing(message)
                sent = await self._send(session, self._listed(session, message, listing, account))
                more = listing.more
            if sent:
                session.send(b"".join([_synced(one, more) for one in messages]))
        except StorageError:
            text = (
                "the store does not answer; the subscription stands, "
                "subscribe again for the snapshots"
            )
            for one in messages:
                session.reply(protocol.error_message(one.ref, "unavailable", text))
        except Exception:
            session.fail()
            raise
        finally:
            for _ in messages:
                session.end_snapshot()

    async def refill(self, session: Session, queue: ConflationQueue) -> None:
        """Read some of the predictions of which a backed-up session kept only ids and versions."""
        missing = queue.missing(REFILL)
        loaded = await persist(self._records.load, list(missing))
        progress = False
        for prediction_id, version in missing.items():
            change = _change(prediction_id, version, loaded.get(prediction_id))
            if session.wants(change):
                progress |= queue.restore(change)
                if change.version > version:
                    # The store has it before it is announced: the announcement would bring it again.
                    session.raise_floor(prediction_id, change.version)
            else:
                queue.forget(prediction_id, change.version)
                progress = True
        if not progress:
            await asyncio.sleep(STALE_PAUSE)  # the store is behind what was announced

    async def _send(self, session: Session, frames: AsyncGenerator[bytes]) -> bool:
        """Write frames as the transport takes them; False if the client is gone.

        Each is written before anything is waited for: a newer change that came during the wait
        would be sent first, and the older snapshot would then take the client back.
        """
        async with aclosing(
            frames
        ):  # what it holds is given back at once, not when it is collected
            async for data in frames:
                session.send(data)
                await asyncio.sleep(0)
                if not await session.writable():
                    return False
        return session.open

    async def _by_name(
        self, session: Session, message: Subscribe, names: Sequence[str], account: HeldAccount
    ) -> AsyncGenerator[bytes]:
        start, size = 0, FIRST
        while message.snapshot and start < len(names):
            chunk = names[start : start + size]
            start += len(chunk)
            held = PAGE_BYTES
            await room(account, held)
            try:
                found = await self._read(chunk, message.known, account.owner)
                size_found = sum(len(stored.encoded) for stored in found.values())
                account.count(Kind.SNAPSHOTS, size_found - held)
                held = size_found
                if not await session.writable():
                    return
                parts = _Parts()
                for prediction_id in chunk:
                    stored = found.get(prediction_id)
                    if data := parts.add(self._answer(session, message, prediction_id, stored)):
                        yield data
                if data := parts.take():
                    yield data
            finally:
                account.give_back(Kind.SNAPSHOTS, held)
            size = min(CHUNK, 2 * size, max(1, PAGE_BYTES * len(chunk) // max(1, held)))

    async def _read(
        self, names: Sequence[str], known: dict[str, int], owner: str | None
    ) -> dict[str, Stored]:
        """The records, never older than what the client knows if the store has that."""
        found = {name: stored for name in names if (stored := self._records.peek(name)) is not None}
        missing = [name for name in names if name not in found]
        if len(missing) == 1 and missing[0] not in known:
            stored = await persist(self._records.get, missing[0])
            if stored is not None:
                found[missing[0]] = stored
        elif missing:
            async with self._pages.turn(owner):
                found.update(await persist(self._records.load, missing))
        for name, stored in list(found.items()):
            if stored.version < known.get(name, 0):
                fresh = await persist(self._records.get_fresh, name)
                if fresh is not None and fresh.version > stored.version:
                    found[name] = fresh
        return found

    def _answer(
        self, session: Session, message: Subscribe, prediction_id: str, stored: Stored | None
    ) -> bytes:
        """The frame about a prediction that the client named; empty if it knows as much."""
        known = message.known.get(prediction_id, 0)
        if stored is not None and not _sees(session, prediction_id, stored):
            stored = None  # what one may not see does not exist
        if stored is not None and not hidden(stored, self._clock.ms()):
            session.verified(prediction_id)
            if message.predictions is None and not _matches(message, stored):
                return b""
            _has(session, prediction_id, stored)
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
        expired = stored is not None and not stored.deleted
        return frame(protocol.deleted_message(prediction_id, version, expired))

    def _snapshot(self, session: Session, prediction_id: str, stored: Stored) -> bytes:
        if stored.expires_at is not None:
            self._hub.expect_expiry(prediction_id, stored.expires_at)
        if not session.raise_floor(prediction_id, stored.version):
            return b""
        return frame(protocol.snapshot_message(stored.encoded))

    async def _listed(
        self, session: Session, message: Subscribe, listing: "_Listing", account: HeldAccount
    ) -> AsyncGenerator[bytes]:
        """The newest of an owner, a tag, a model or all, of those that the client does not know."""
        key = protocol.wide_key(message)
        # One beyond the limit tells whether there is more.
        first = min(FIRST, message.limit + 1)
        query = Query(owner=message.owner, tag=message.tag, model=message.model, limit=first)
        if not message.snapshot:
            return
        async with aclosing(self._pages.pages(query, account)) as pages:
            async for items in pages:
                if not await session.writable() or key not in (session.keys or ()):
                    return
                parts = _Parts()
                for stored in items:
                    prediction_id = decode_named(stored.encoded).prediction_id
                    if prediction_id in message.known or not _sees(session, prediction_id, stored):
                        continue
                    if not listing.take():
                        break
                    _has(session, prediction_id, stored)
                    if data := parts.add(self._snapshot(session, prediction_id, stored)):
                        yield data
                if data := parts.take():
                    yield data
                if listing.more:
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

    def take(self) -> bool:
        """Count one; False if the limit is used up, and so there is more."""
        if not self._left:
            self.more = True
            return False
        self._left -= 1
        return True


def _alike(one: Subscribe, other: Subscribe) -> bool:
    """Whether two subscriptions of a session are answered with the same snapshots."""
    return (
        one.limit == other.limit
        and one.snapshot == other.snapshot
        and protocol.keys(one) == protocol.keys(other)
    )


def _synced(message: Subscribe, more: bool) -> bytes:
    return frame(protocol.synced_message(message.ref, more))


def _record(stored: Stored) -> Standing | None:
    """The record decoded; None for a tombstone that was announced without one."""
    return stored.standing() if stored.encoded else None


def _sees(session: Session, prediction_id: str, stored: Stored) -> bool:
    """Whether the client may see this record; decoded only if its owner does not decide."""
    permissions = session.permissions
    if permissions.may_watch(prediction_id, stored.owner, None, ()):
        return True
    if permissions.covers_attempt(stored.encoded):
        return True
    if not permissions.needs_record or (record := _record(stored)) is None:
        return False
    return permissions.may_watch(prediction_id, record.owner, record.model, record.tags)


def _has(session: Session, prediction_id: str, stored: Stored) -> None:
    """The session is sent this record, or has it: from here on its text can come in pieces."""
    if session.texts is not None and stored.status is not None:
        session.texts.sent(prediction_id, stored.encoded)


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
