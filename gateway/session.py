"""One client's session: what it may see, what it watches, and what it still has to get.

Independent of the transport, which is an `Output`. A session that only listens and keeps up takes the short way in
`deliver`: one write of bytes that it shares with all who match alike. Anything that has to be looked at change by
change (a snapshot under way, a version that is known already, a right that hangs on the record, a transport that
takes nothing) puts it on the long way until it is settled.
"""

import asyncio
import math
from typing import TYPE_CHECKING, Protocol

from gateway import protocol
from gateway.hub import Delivery
from gateway.outbox import Outbox
from gateway.permissions import NOBODY, OPEN, Permissions, TokenRefused
from gateway.protocol import Auth, Close, Ping, Subscribe, Unsubscribe, change_frame, frame
from storage.errors import StorageError
from storage.prediction import valid_id
from streams.changes import Change

if TYPE_CHECKING:
    from gateway.sessions import Sessions

TAKE_BYTES = 65_536
"""Bytes per write while a backlog drains: one fill of the kernel's buffer."""


REFILL_PAUSE = 1.0
"""Seconds between attempts to read what a session has to get from a store that does not answer."""


class Output(Protocol):
    """The transport of a session."""

    def write(self, data: bytes) -> None:
        """Send whole frames; dropped where the connection is going away."""

    def close(self, code: int, reason: str = "") -> None:
        """Close the connection with this code; the session hears `closed` at once."""

    def cork(self) -> bool:
        """Collect what is written until `uncork`; False where that is done already."""

    def uncork(self) -> None:
        """Write what was collected, at once."""

    def hold(self) -> None:
        """Read nothing more for now."""

    def release(self) -> None:
        """Undo `hold`."""


class Session:
    """One client. All methods run on the event loop's thread and return without waiting."""

    __slots__ = (
        "_checked",
        "_drained",
        "_floors",
        "_inbox",
        "_open",
        "_outbox",
        "_output",
        "_paused",
        "_plain",
        "_refilling",
        "_sessions",
        "_syncing",
        "_unproven",
        "expires_at",
        "keys",
        "permissions",
    )

    def __init__(self, sessions: "Sessions", output: Output) -> None:
        self._sessions = sessions
        self._output = output
        self._open = True
        self.permissions: Permissions = NOBODY
        self.expires_at = math.inf
        """Seconds since the epoch at which the token ends."""
        self.keys: dict[str, None] | None = None
        """What it watches, as the hub's keys."""
        self._plain = True
        self._checked = False
        """Each change must be asked about: it watches a tag or a model that also nobody's records may carry."""
        self._floors: dict[str, int] | None = None
        """Versions that the client has or was sent while the hub has not announced them yet."""
        self._unproven: set[str] | None = None
        """Watched predictions of which it is not known yet whether the client may see them."""
        self._syncing = 0
        self._outbox: Outbox | None = None
        self._paused = False
        self._refilling = False
        self._drained: asyncio.Future[None] | None = None
        self._inbox: list[bytes] | None = None

    # The connection's life

    def start(self, token: str | None) -> bool:
        """Begin, after the handshake.

        Args:
            token: From a header; None: the client has to send one first, where any is needed.

        Returns:
            Whether the token is being checked: the output is uncorked after that.
        """
        if self._sessions.authenticator is None:
            self._welcome(OPEN)
            return False
        if token is None:
            return False
        self._authenticate(token)
        return True

    def fail(self) -> None:
        """Something of ours went wrong in this session: let the client come back to a new one."""
        self._output.close(Close.RESTART, "internal error")

    def closed(self) -> None:
        """The connection is gone or going: let go of everything."""
        if not self._open:
            return
        self._open = False
        for key in self.keys or ():
            self._sessions.hub.unsubscribe(key, self)
        self.keys = None
        self._outbox = self._inbox = None
        self._wake()

    @property
    def open(self) -> bool:
        """Whether the client can still be sent anything."""
        return self._open

    @property
    def authenticated(self) -> bool:
        """Whether the client was welcomed."""
        return self.permissions is not NOBODY

    @property
    def backed_up(self) -> bool:
        """Whether something waits for the transport."""
        return self._outbox is not None

    # What the client says

    def receive(self, data: bytes | bytearray) -> int:
        """Take one text message, whole and valid UTF-8; returns what it costs, 1 for a small one."""
        if self._inbox is not None:
            self._inbox.append(bytes(data))
            return 1
        try:
            message = protocol.parse(data)
        except protocol.Malformed as error:
            self._output.close(Close.MALFORMED, str(error))
            return 1
        cost = 1 + len(data) // 4096
        if isinstance(message, Auth):
            self._authenticate(message.token)
        elif not self.authenticated:
            self._output.close(Close.NOT_AUTHENTICATED, "send a message of type auth first")
        elif isinstance(message, Ping):
            self.reply(protocol.pong_message(message.ref))
        elif isinstance(message, Subscribe):
            cost += self._subscribe(message)
        else:
            self._unsubscribe(message)
        return cost

    def _authenticate(self, token: str) -> None:
        if self._sessions.authenticator is None:
            return
        self._inbox = []
        self._output.hold()
        self._sessions.spawn(self._await_permissions(token))

    async def _await_permissions(self, token: str) -> None:
        authenticator = self._sessions.authenticator
        if authenticator is None:
            return
        try:
            permissions = await authenticator.authenticate(token)
        except TokenRefused as error:
            # Where the keys cannot be had nothing is known against the token: come back with it.
            self._output.close(Close.RESTART if error.retryable else Close.TOKEN_REFUSED, error.reason)
            return
        except Exception:
            self.fail()
            raise
        if not self._open:
            return
        self._output.cork()
        if self.authenticated:
            self._narrow(permissions)
        else:
            self._welcome(permissions)
        waiting, self._inbox = self._inbox or (), None
        for position, data in enumerate(waiting):
            if self._inbox is not None:
                self._inbox.extend(waiting[position:])
                break
            self.receive(data)
        self._output.uncork()
        self._output.release()

    def _welcome(self, permissions: Permissions) -> None:
        self._use(permissions)
        self.reply(protocol.welcome_message(self._sessions.name(), self._sessions.limits.heartbeat_ms))

    def _use(self, permissions: Permissions) -> None:
        self.permissions = permissions
        self.expires_at = math.inf if permissions.expires_at is None else permissions.expires_at

    def _narrow(self, permissions: Permissions) -> None:
        """Go on under another token: end what it does not cover, and ask again about every named prediction."""
        self._use(permissions)
        for key in list(self.keys or ()):
            kind, _, name = key.partition(":")
            if kind == "prediction":
                self._distrust(name)
            elif not self._may(key):
                self._drop(key)
                self.reply(protocol.error_message(None, "forbidden", f"the new token does not cover {key}"))
        self._check_wide()
        self._prune_outbox()
        self._settle()

    # What it watches

    def _subscribe(self, message: Subscribe) -> int:
        """Take a subscription; returns what it costs beyond the message itself."""
        for prediction_id in message.predictions or ():
            if not valid_id(prediction_id):
                text = f"{prediction_id[:80]!r} is no prediction id: 1 to 256 bytes without spaces, commas and controls"
                self.reply(protocol.error_message(message.ref, "invalid", text))
                return 0
        keys = protocol.keys(message)
        if message.predictions is None and not self._may(keys[0]):
            self.reply(protocol.error_message(message.ref, "forbidden", f"the token does not let you watch {keys[0]}"))
            return 0
        if not self._room(len(keys), len(message.known)):
            return 0
        if self.keys is None:
            self.keys = {}
        for key in keys:
            if key not in self.keys:
                self.keys[key] = None
                self._sessions.hub.subscribe(key, self)
        for prediction_id in message.predictions or ():
            self._distrust(prediction_id)
        for prediction_id, version in message.known.items():
            self.has(prediction_id, version)
        self._check_wide()
        self._settle()
        self.reply(protocol.subscribed_message(message.ref))
        self._sessions.sync(self, message)
        return (len(keys) + len(message.known)) // 50

    def _room(self, keys: int, known: int) -> bool:
        limit = self._sessions.limits.subscriptions
        if len(self.keys or ()) + keys <= limit and len(self._floors or ()) + known <= 2 * limit:
            return True
        self._output.close(Close.TOO_MANY, f"more than {limit} subscriptions; watch an owner or a tag instead")
        return False

    def _unsubscribe(self, message: Unsubscribe) -> None:
        for key in protocol.keys(message):
            self._drop(key)
        self._prune_outbox()
        self._check_wide()
        self._settle()
        self.reply(protocol.unsubscribed_message(message.ref))

    def _drop(self, key: str) -> None:
        if self.keys is None or key not in self.keys:
            return
        del self.keys[key]
        self._sessions.hub.unsubscribe(key, self)
        if self._unproven is not None:
            self._unproven.discard(key.partition(":")[2])

    def _may(self, key: str) -> bool:
        """Whether the token lets the client watch by this owner, tag, model or everything."""
        kind, _, name = key.partition(":")
        permissions = self.permissions
        if kind == "owner":
            return permissions.may_watch_owner(name)
        if kind == "tag":
            return permissions.may_watch_tag(name)
        if kind == "model":
            return permissions.may_watch_model(name)
        return permissions.may_watch_all()

    def _check_wide(self) -> None:
        self._checked = not self.permissions.may_watch_all() and any(
            key.startswith(("tag:", "model:")) for key in self.keys or ()
        )

    def _distrust(self, prediction_id: str) -> None:
        """Ask about this prediction at its next change, unless the token covers it whoever owns it."""
        if not self.permissions.may_watch(prediction_id, None, None, ()):
            if self._unproven is None:
                self._unproven = set()
            self._unproven.add(prediction_id)

    # What it gets

    def deliver(self, delivery: Delivery) -> None:
        """Take the changes of one batch, from the hub."""
        if self._plain and not (delivery.deletes and self._unproven_after_deletion()):
            self._output.write(delivery.joined(change_frame))
            return
        items = [item for item in delivery.items if self._admit(item.change)]
        outbox = self._outbox
        if outbox is not None:
            for item in items:
                outbox.put(item)
        elif items:
            self._output.write(b"".join([item.rendered(change_frame) for item in items]))
        self._settle()

    def _unproven_after_deletion(self) -> bool:
        return not self.permissions.may_watch_all()

    def _admit(self, change: Change) -> bool:
        """Whether the client gets this change: it is news to it, and it may see it."""
        prediction_id = change.prediction_id
        floors = self._floors
        if floors is not None and change.version <= floors.get(prediction_id, 0):
            return False
        if not self._sees(change):
            return False
        if self._syncing:
            self.has(prediction_id, change.version)
        elif floors is not None:
            floors.pop(prediction_id, None)
        if change.deleted and self.keys is not None and "prediction:" + prediction_id in self.keys:
            self._distrust(prediction_id)
        return True

    def _sees(self, change: Change) -> bool:
        unproven = self._unproven
        asked = unproven is not None and change.prediction_id in unproven
        if not asked and not self._checked:
            return True
        if not self.permissions.may_watch(change.prediction_id, change.owner, change.model, change.tags):
            return False
        if asked and unproven is not None:
            unproven.discard(change.prediction_id)
        return True

    def has(self, prediction_id: str, version: int) -> bool:
        """Remember that the client has this version; False where it has it, or a newer one, already."""
        if self._floors is None:
            self._floors = {}
        if self._floors.get(prediction_id, 0) >= version:
            return False
        self._floors[prediction_id] = version
        return True

    def version(self, prediction_id: str) -> int:
        """The version up to which nothing more is sent, as far as it must be remembered for this client alone."""
        return 0 if self._floors is None else self._floors.get(prediction_id, 0)

    def proven(self, prediction_id: str) -> None:
        """The client may see this prediction, by its record."""
        if self._unproven is not None:
            self._unproven.discard(prediction_id)

    def syncing(self, begun: bool) -> None:
        """A snapshot begins or ends; while one runs, the versions that go out are remembered."""
        limit = self._sessions.limits.snapshots
        if begun and self._syncing == limit:
            self._output.hold()
        self._syncing += 1 if begun else -1
        if not begun and self._syncing == limit:
            self._output.release()
        self.settle_floors()

    def settle_floors(self) -> None:
        """Forget the versions that the hub itself will not announce again."""
        floors = self._floors
        if not self._syncing and floors is not None:
            version = self._sessions.hub.version
            for prediction_id in [one for one, floor in floors.items() if version(one) >= floor]:
                del floors[prediction_id]
        self._settle()

    def _settle(self) -> None:
        """Take the short way again where nothing needs the long one."""
        if not self._floors:
            self._floors = None
        if not self._unproven:
            self._unproven = None
        self._plain = not (self._syncing or self._checked or self._floors or self._unproven or self._outbox is not None)

    def reply(self, payload: bytes) -> None:
        """Send one message."""
        self.send(frame(payload))

    def send(self, frames: bytes) -> None:
        """Send whole frames, behind what waits already."""
        if self._outbox is not None:
            self._outbox.send(frames)
        elif self._open:
            self._output.write(frames)

    # A transport that takes nothing

    def pause(self) -> None:
        """The transport is full: keep the newest of each prediction from now on."""
        self._paused = True
        if self._outbox is None and self._open:
            limits = self._sessions.limits
            self._outbox = Outbox(change_frame, limits.pending_records, limits.pending_bytes)
            self._plain = False
            self._output.hold()

    def resume(self) -> None:
        """The transport takes more: write what waits, until it is full again."""
        self._paused = False
        outbox = self._outbox
        while outbox is not None and not self._paused and self._open:
            data = outbox.take(TAKE_BYTES)
            if data:
                self._output.write(data)
            elif outbox:
                self._refill(outbox)
                return
            else:
                self._sessions.conflated += outbox.conflated
                self._outbox = outbox = None
                self._settle()
                self._output.release()
                self._wake()

    def _refill(self, outbox: Outbox) -> None:
        if not self._refilling:
            self._refilling = True
            self._sessions.spawn(self._read_missing(outbox))

    async def _read_missing(self, outbox: Outbox) -> None:
        try:
            await self._sessions.snapshots.refill(outbox, self)
        except StorageError:
            await asyncio.sleep(REFILL_PAUSE)  # what waits is kept, and read when the store answers again
        finally:
            self._refilling = False
        if not self._paused:
            self.resume()

    async def writable(self) -> bool:
        """Wait until nothing waits for the transport; False where the client is gone."""
        while self._open and self._outbox is not None:
            if self._drained is None:
                self._drained = asyncio.get_running_loop().create_future()
            await asyncio.shield(self._drained)
        return self._open

    def _wake(self) -> None:
        if self._drained is not None:
            self._drained.set_result(None)
            self._drained = None

    def _prune_outbox(self) -> None:
        if self._outbox is not None:
            self._outbox.keep(self.covers, self._covers_id)

    def covers(self, change: Change) -> bool:
        """Whether a change that waits is still watched, and may still be seen."""
        keys = self.keys or {}
        watched = (
            "all" in keys
            or "prediction:" + change.prediction_id in keys
            or (change.owner is not None and "owner:" + change.owner in keys)
            or (change.model is not None and "model:" + change.model in keys)
            or any("tag:" + tag in keys for tag in change.tags)
        )
        return watched and self.permissions.may_watch(change.prediction_id, change.owner, change.model, change.tags)

    def _covers_id(self, prediction_id: str) -> bool:
        """As `covers`, where only the id is left; in doubt the record decides when it is read."""
        keys = self.keys or {}
        return "prediction:" + prediction_id in keys or any(not key.startswith("prediction:") for key in keys)
