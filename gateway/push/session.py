"""One client's session: its messages, the changes it gets, and what waits while its transport takes nothing.

Independent of the transport, which is an `Output`. A session that only listens and keeps up takes the short way in
`deliver`: one write of bytes that it shares with all who match alike.
"""

import asyncio
import math
from typing import TYPE_CHECKING

from tidings.gateway.auth.permissions import NOBODY, OPEN, Authenticator, Permissions, TokenRefused
from tidings.gateway.auth.quotas import Owner
from tidings.gateway.push import protocol
from tidings.gateway.push.conflation import Outbox
from tidings.gateway.push.hub import Delivery
from tidings.gateway.push.protocol import (
    Auth,
    Close,
    Ping,
    Subscribe,
    Unsubscribe,
    change_frame,
    frame,
)
from tidings.gateway.push.subscriptions import Watcher
from tidings.gateway.push.transport import GONE, Output
from tidings.storage.errors import StorageError
from tidings.storage.prediction import valid_id

if TYPE_CHECKING:
    from tidings.gateway.push.session_registry import Sessions

TAKE_BYTES = 65_536
"""Bytes per write while a backlog drains: one fill of the kernel's buffer."""

REFILL_PAUSE = 1.0
"""Seconds between attempts to read what a session has to get from a store that does not answer."""


class Session(Watcher):
    """One client. All methods run on the event loop's thread."""

    __slots__ = (
        "_drained",
        "_inbox",
        "_open",
        "_outbox",
        "_output",
        "_owner",
        "_paused",
        "_plain",
        "_refilling",
        "_sessions",
        "expires_at",
    )

    def __init__(self, sessions: "Sessions", output: Output) -> None:
        super().__init__(sessions.hub)
        self._sessions = sessions
        self._output: Output = output
        self._open = True
        self.expires_at = math.inf
        """Seconds since the epoch at which the token ends."""
        self._plain = True
        """Settled, and nothing waits: a batch is written as it is."""
        self._outbox: Outbox | None = None
        self._paused = False
        self._refilling = False
        self._drained: asyncio.Future[None] | None = None
        self._owner: Owner | None = None
        self._inbox: list[bytes] | None = None
        """Messages that came while a token is checked."""

    # The connection's life

    def start(self, token: str | None) -> bool:
        """Begin, after the handshake.

        Args:
            token: From a header; None: the client has to send one first, where any is needed.

        Returns:
            Whether the token is still being checked: the output is uncorked after that.
        """
        if self._sessions.authenticator is None:
            self._welcome(OPEN)
        elif token is not None:
            self._authenticate(token)
        return self._inbox is not None

    def fail(self) -> None:
        """Something of ours went wrong in this session: let the client come back to a new one."""
        self._output.close(Close.RESTART, "internal error")

    def closed(self) -> None:
        """The connection is gone or going: let go of everything."""
        if self._open:
            self._open = False
            if self._owner is not None:
                self._sessions.owners.leave(self._owner, self.count)
                self._owner = None
            self.leave(self)
            self._outbox = self._inbox = None
            self._output = GONE  # the output refers to this session: both go at once, and wait for no collection
            self._wake()

    @property
    def pending(self) -> int:
        """Messages that wait for the transport."""
        return 0 if self._outbox is None else len(self._outbox)

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
        authenticator = self._sessions.authenticator
        if authenticator is None:
            return
        try:
            permissions = authenticator.at_once(token)
        except TokenRefused as error:
            self._refuse(error)
            return
        if permissions is not None:
            self._grant(permissions)
            return
        self._inbox = []
        self._output.hold()
        self._sessions.spawn(self._check(authenticator, token))

    async def _check(self, authenticator: Authenticator, token: str) -> None:
        """Check a token, then go on with what came meanwhile."""
        try:
            permissions = await authenticator.authenticate(token)
        except TokenRefused as error:
            self._refuse(error)
            return
        except Exception:
            self.fail()
            raise
        if not self._open:
            return
        self._output.cork()
        self._grant(permissions)
        waiting, self._inbox = self._inbox or (), None
        for position, data in enumerate(waiting):
            if not self._open:
                break  # by one of them
            if self._inbox is not None:
                self._inbox.extend(waiting[position:])
                break
            self.receive(data)
        self._output.uncork()
        self._output.release()

    def _refuse(self, error: TokenRefused) -> None:
        # Where the keys cannot be had nothing is known against the token: come back with it.
        self._output.close(Close.RESTART if error.retryable else Close.TOKEN_REFUSED, error.reason)

    def _grant(self, permissions: Permissions) -> None:
        if not self._belong(permissions.subject):
            self._output.close(Close.TOO_MANY, "too many connections of this owner; close some")
        elif self.authenticated:
            self._renew(permissions)
        else:
            self._welcome(permissions)

    def _belong(self, subject: str | None) -> bool:
        """Count as a session of this owner from now on; False where that is one too many."""
        former, owners = self._owner, self._sessions.owners
        if former is not None and former.subject == subject:
            return True
        self._owner = None
        if former is not None:
            owners.leave(former, self.count)
        if subject is not None:
            self._owner = owners.enter(subject, self.count)
        return subject is None or self._owner is not None

    def spend(self, cost: int) -> bool:
        """Count what the client sent; whether its owner sends too much altogether."""
        owner = self._owner
        if owner is None:
            return False
        rate = self._sessions.owners.limits.messages_per_second
        return owner.spend(cost, rate, asyncio.get_running_loop().time())

    def _count(self, more: int) -> None:
        if self._owner is not None:
            self._owner.subscriptions += more

    def _use(self, permissions: Permissions) -> None:
        self.expires_at = math.inf if permissions.expires_at is None else permissions.expires_at

    def _welcome(self, permissions: Permissions) -> None:
        self.permissions = permissions
        self._use(permissions)
        self.reply(
            protocol.welcome_message(self._sessions.name(), self._sessions.limits.heartbeat_ms)
        )

    def _renew(self, permissions: Permissions) -> None:
        self._use(permissions)
        ended = self.narrow(permissions, self)
        self._count(-len(ended))
        for key in ended:
            self.reply(
                protocol.error_message(None, "forbidden", f"the new token does not cover {key}")
            )
        self._prune()

    def _subscribe(self, message: Subscribe) -> int:
        """Take a subscription; returns what it costs beyond the message itself."""
        for prediction_id in message.predictions or ():
            if not valid_id(prediction_id):
                text = f"{prediction_id[:80]!r} is no prediction id: 1 to 256 bytes without spaces, commas and controls"
                self.reply(protocol.error_message(message.ref, "invalid", text))
                return 0
        keys = protocol.keys(message)
        if message.predictions is None and not self.may(keys[0]):
            self.reply(
                protocol.error_message(
                    message.ref, "forbidden", f"the token does not let you watch {keys[0]}"
                )
            )
            return 0
        limit = self._sessions.limits.subscriptions
        if self.count + len(keys) > limit or self.claims + len(message.known) > 2 * limit:
            self._output.close(
                Close.TOO_MANY, f"more than {limit} subscriptions; watch an owner or a tag instead"
            )
            return 0
        most = self._sessions.owners.limits.subscriptions
        if self._owner is not None and self._owner.subscriptions + len(keys) > most:
            self._output.close(
                Close.TOO_MANY,
                f"more than {most} subscriptions of this owner; watch the owner instead",
            )
            return 0
        before = self.count
        self.watch(keys, message.known, self)
        self._count(self.count - before)
        self.reply(protocol.subscribed_message(message.ref))
        self._sessions.sync(self, message)
        return (len(keys) + len(message.known)) // 50

    def _unsubscribe(self, message: Unsubscribe) -> None:
        before = self.count
        self.drop(protocol.keys(message), self)
        self._count(self.count - before)
        self._prune()
        self.reply(protocol.unsubscribed_message(message.ref))

    # What it gets

    def deliver(self, delivery: Delivery) -> None:
        """Take the changes of one batch, from the hub."""
        if self._plain and not (delivery.deletes and not self.permissions.may_watch_all()):
            self._output.write(delivery.joined(change_frame))
            return
        items = [item for item in delivery.items if self.admits(item.change)]
        outbox = self._outbox
        if outbox is not None:
            for item in items:
                outbox.put(item)
        elif items:
            self._output.write(b"".join([item.rendered(change_frame) for item in items]))
        self.settle()

    def settle(self) -> None:
        """See `Watcher.settle`."""
        super().settle()
        self._plain = self.settled and self._outbox is None

    def begin_sync(self) -> int:
        """See `Watcher.begin_sync`; with too many at once nothing more is read."""
        self._plain = False
        running = super().begin_sync()
        if running == self._sessions.limits.snapshots:
            self._output.hold()
        return running

    def end_sync(self) -> int:
        """See `Watcher.end_sync`."""
        running = super().end_sync()
        if running == self._sessions.limits.snapshots - 1:
            self._output.release()
        return running

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
                self.settle()
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
            await asyncio.sleep(
                REFILL_PAUSE
            )  # what waits is kept, and read when the store answers again
        except Exception:
            self.fail()
            raise
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

    def _prune(self) -> None:
        """Let nothing wait that is not watched, or may not be seen any more."""
        if self._outbox is not None:
            self._outbox.keep(self.covers, self.covers_id)
