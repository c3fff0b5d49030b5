"""One client's stream of Server-Sent Events: what it is owed, apart from its connection.

The same rules as on the WebSocket: subscribed first, then the snapshot, and nothing at or below a
version that was sent or is known follows; what is not taken in time is conflated to the newest of
each prediction.
"""

import asyncio
from collections.abc import Callable, Sequence

from tidings.gateway.auth.permissions import Permissions
from tidings.gateway.http.held_bytes import HeldAccount, HeldBytes
from tidings.gateway.push.conflation import ConflationQueue
from tidings.gateway.push.hub import Delivery, Hub, Render, RoutedText
from tidings.gateway.push.protocol import (
    change_message,
    deleted_message,
    snapshot_message,
    unknown_message,
)
from tidings.gateway.push.text_cursors import TextCursors
from tidings.storage.prediction import TERMINAL
from tidings.storage.store import Stored
from tidings.streams.changes.codec import Change

PING = b":\n\n"
TOLD_DELETED = b"-deleted"
"""What follows the version in the id of a deletion on the stream of one prediction."""

_TERMINAL = frozenset(status.value for status in TERMINAL)


def event(name: bytes, data: bytes, identifier: int | None = None) -> bytes:
    """One event. A record's own line breaks, between JSON's tokens, become lines of the data."""
    if b"\n" in data or b"\r" in data:
        data = data.replace(b"\r", b" ").replace(b"\n", b"\ndata: ")
    if identifier is None:
        return b"event: %b\ndata: %b\n\n" % (name, data)
    return b"event: %b\nid: %d\ndata: %b\n\n" % (name, identifier, data)


def render(change: Change) -> bytes:
    """A change on a stream of several predictions."""
    return event(b"change" if change.value else b"deleted", change_message(change))


def render_with_id(change: Change) -> bytes:
    """A change on the stream of one prediction: its version is what `Last-Event-ID` says later."""
    return event(b"change" if change.value else b"deleted", change_message(change), change.version)


class EventStream:
    """A subscriber of the hub, for one client.

    Args:
        permissions: What the client may watch.
        single: The prediction that the stream is of; None: of several.
        account: Counts what is held for it.
        texts: What it has of each text, if it asked for pieces.
    """

    def __init__(
        self,
        permissions: Permissions,
        single: str | None = None,
        account: HeldAccount | None = None,
        texts: TextCursors | None = None,
    ) -> None:
        self.permissions = permissions
        self.single = single
        self.wake = asyncio.Event()
        self.finished = False
        """Nothing more is owed once what waits is sent."""
        self._render: Render = render if single is None else render_with_id
        self.account = HeldBytes().account() if account is None else account
        self.queue = ConflationQueue(self._render, account=self.account)
        self._texts = texts
        self._floors: dict[str, int] = {}
        self._keys: list[str] = []
        self._expect_expiry: Callable[[str, int], None] | None = None

    def watch(self, hub: Hub, keys: list[str]) -> None:
        """Subscribe to these keys of the hub."""
        self._keys = keys
        self._expect_expiry = hub.expect_expiry
        if self._texts is not None:
            hub.append_to(self)
            self._texts.open()
        for key in keys:
            hub.subscribe(key, self)

    def leave(self, hub: Hub) -> None:
        """Undo `watch`."""
        for key in self._keys:
            hub.unsubscribe(key, self)
        self.account.close()
        hub.append_no_more(self)
        if self._texts is not None:
            self._texts.close()

    def end(self) -> None:
        """Let the stream end after what waits."""
        self.finished = True
        self.wake.set()

    def deliver(self, delivery: Delivery) -> None:
        """Take the changes of one batch, from the hub."""
        items = delivery.items
        if self._texts is not None:
            items = self._texts.wanted([item for item in items if self._may_watch(item.change)])
        for item in items:
            change = item.change
            if change.version + change.expired <= self._floors.get(change.prediction_id, 0):
                continue
            if not self._may_watch(change):
                continue
            self._floors.pop(change.prediction_id, None)
            if not self.queue.put(item):
                self.end()  # too far behind: the client comes back and gets what is newest
                return
            if self.single is not None and (change.deleted or change.status in _TERMINAL):
                self.finished = True
        self.wake.set()

    def _may_watch(self, change: Change) -> bool:
        return self.permissions.may_watch(
            change.prediction_id, change.owner, change.model, change.tags
        ) or self.permissions.covers_attempt(change.value)

    def deliver_texts(self, grown: Sequence[RoutedText]) -> None:
        """Take one step of these texts, from the hub: what they say is sent when it can be."""
        if self._texts is not None:
            for item in grown:
                self._texts.lag(item.text)
            if self._texts.behind:
                self.wake.set()

    def text_events(self) -> tuple[bytes, list[str]]:
        """What texts have grown by since, and the predictions whose record is to be sent instead."""
        if self._texts is None or not self._texts.behind:
            return b"", []
        messages, whole = self._texts.rest()
        events = [self._named(b"append", message, text.version) for text, message in messages]
        return b"".join(events), whole

    def knows(self, prediction_id: str, version: int) -> bool:
        """The client has this version; False if it has it, or a newer one, already."""
        if self._floors.get(prediction_id, 0) >= version:
            return False
        self._floors[prediction_id] = version
        return True

    def snapshot(self, prediction_id: str, stored: Stored) -> bytes:
        """The event of a record as it stands; empty if the client has it."""
        if self._texts is not None:
            self._texts.sent(prediction_id, stored.encoded)
        if self.single is not None and stored.status is not None and stored.status.terminal:
            self.finished = True
        if stored.expires_at is not None and self._expect_expiry is not None:
            self._expect_expiry(prediction_id, stored.expires_at)
        if not self.knows(prediction_id, stored.version):
            return b""
        return self._named(b"snapshot", snapshot_message(stored.encoded), stored.version)

    def again(self, prediction_id: str, stored: Stored) -> bytes:
        """The event of a record whose text cannot be brought in pieces any more."""
        assert self._texts is not None
        self._texts.sent(prediction_id, stored.encoded)
        return self._named(b"snapshot", snapshot_message(stored.encoded), stored.version)

    def known(self, prediction_id: str) -> int:
        """The version that the client has; 0: none that is remembered."""
        return self._floors.get(prediction_id, 0)

    def gone(self, prediction_id: str, *, was_visible: bool) -> bytes:
        """The event for a named prediction that is not there, or that the client may not see.

        The id of a deletion says that it was told, so that a browser that comes back with it need
        not be told again.

        Args:
            prediction_id: Of the prediction.
            was_visible: Whether the client might see it while it was there; to others a prediction
                that is not theirs and one that never was are alike.
        """
        known = self.known(prediction_id)
        if not known or not was_visible:
            return event(b"unknown", unknown_message(prediction_id))
        self.finished = self.single is not None
        self._floors[prediction_id] = known + 1
        data = event(b"deleted", deleted_message(prediction_id, known + 1))
        return data if self.single is None else b"id: %d%b\n%b" % (known + 1, TOLD_DELETED, data)

    def settle(self) -> None:
        """The snapshot is through: drop what waits and is no news any more."""
        floors = self._floors
        self.queue.retain(
            lambda change: change.version > floors.get(change.prediction_id, 0),
            lambda prediction_id: True,  # noqa: ARG005 - judged when its bytes are read
        )

    def _named(self, name: bytes, data: bytes, version: int) -> bytes:
        return event(name, data, None if self.single is None else version)
