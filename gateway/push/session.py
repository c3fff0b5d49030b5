"""One client's session: its messages, its changes, and what waits while its transport is full.

Independent of the transport, which is an `Output`. A session that only listens and keeps up takes
the short way in `deliver`: one write of bytes that it shares with all who match alike.
"""

import asyncio
import math
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from time import monotonic

from tidings.gateway.auth.permissions import NOBODY, OPEN, Authenticator, Permissions, TokenRefused
from tidings.gateway.auth.quotas import OwnerQuotas, SessionLimits
from tidings.gateway.http.held_bytes import HeldBytes
from tidings.gateway.push import protocol
from tidings.gateway.push.conflation import ConflationQueue
from tidings.gateway.push.counted_subscriptions import CountedSubscriptions
from tidings.gateway.push.hub import Delivery, Hub, RoutedText
from tidings.gateway.push.protocol import Auth, Close, Subscribe, Unsubscribe, change_frame, frame
from tidings.gateway.push.text_cursors import TextCursors
from tidings.gateway.push.transport import CLOSED, Output
from tidings.storage.errors import StorageError
from tidings.storage.prediction import valid_id

TAKE_BYTES = 65_536
"""Bytes per write while a queue drains: one fill of the kernel's buffer."""

REFILL_PAUSE = 1.0
"""Seconds between attempts to read what a session has to get from a store that does not answer."""


@dataclass(kw_only=True, slots=True)
class SessionContext:
    """What all sessions of a gateway share, as callbacks where it is work of somebody else's."""

    hub: Hub
    limits: SessionLimits
    held: HeldBytes
    """The budget for what is held in memory until clients read it."""
    quotas: OwnerQuotas
    authenticator: Authenticator | None
    """None: everything is allowed."""
    send_snapshots: Callable[["Session", Subscribe], None]
    """Sends the snapshots of a new subscription."""
    refill: Callable[["Session", ConflationQueue], Awaitable[None]]
    """Reads some of the records of which a queue keeps only ids and versions."""
    spawn: Callable[[Coroutine[object, object, None]], None]  # runs work in the background
    new_name: Callable[[], str]
    public_url: str | None  # where the service is for the outside
    granted: Callable[[float], None]  # told when a token that a session was given expires
    new_cursors: Callable[[], TextCursors | None]
    """For a session that asks for pieces of texts."""
    conflated: int = 0
    """Changes that a newer one replaced while a session's transport was full."""


class Session(CountedSubscriptions):
    """One client. All methods run on the event loop's thread."""

    __slots__ = (
        "_context",
        "_drained",
        "_inbox",
        "_open",
        "_output",
        "_paused",
        "_queue",
        "_refilling",
        "_writes_through",
        "expires_at",
        "texts",
    )

    def __init__(self, context: SessionContext, output: Output) -> None:
        super().__init__(context.hub, context.quotas)
        self._context = context
        self._output: Output = output
        self._open = True
        self.expires_at = math.inf
        """Seconds since the epoch at which the token expires."""
        self._writes_through = True
        """Changes pass through and nothing waits: a batch is written as it is."""
        self._queue: ConflationQueue | None = None
        self._paused = False
        self._refilling = False
        self._drained: asyncio.Future[None] | None = None
        self.texts: TextCursors | None = None
        """What it has of each text, if it asked for pieces."""
        self._inbox: list[bytes] | None = None  # messages that came while a token is checked

    # The connection's life

    def start(self, proof: str | Permissions | None) -> bool:
        """Begin, after the handshake.

        Args:
            proof: A token from a header, or what was found to be given; None: a token comes first.

        Returns:
            Whether the token is still being checked: the output is uncorked after that.
        """
        if isinstance(proof, Permissions) or self._context.authenticator is None:
            self._grant(proof if isinstance(proof, Permissions) else OPEN)
        elif proof is not None:
            self._authenticate(proof)
        return self._inbox is not None

    def fail(self) -> None:
        """An error of ours: close, so that the client comes back to a new session."""
        self._output.close(Close.RESTART, "internal error")

    def closed(self) -> None:
        """The connection is gone or going: release everything."""
        if self._open:
            self._open = False
            self.count_for_nobody()
            self.clear(self)
            if self._queue is not None:
                self._queue.close()
            if self.texts is not None:
                self._context.hub.append_no_more(self)
                self.texts.close()
            self._queue = self._inbox = self.texts = None
            # The output refers to this session: without the cycle both are freed at once, and do
            # not wait for a garbage collection.
            self._output = CLOSED
            self._wake()

    @property
    def pending(self) -> int:
        """Messages that wait for the transport."""
        return 0 if self._queue is None else len(self._queue)

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
        return self._queue is not None

    # What the client says

    def receive(self, data: bytes | bytearray) -> int:
        """Take one text message, whole and valid UTF-8; returns its cost, 1 for a small one."""
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
            cost += self._authenticate(message.token)
        elif not self.authenticated:
            self._output.close(Close.NOT_AUTHENTICATED, "send a message of type auth first")
        elif isinstance(message, protocol.Ping):
            self.reply(protocol.pong_message(message.ref))
        elif isinstance(message, Subscribe):
            cost += self._subscribe(message)
        else:
            cost += self._unsubscribe(message)
        return cost

    def _authenticate(self, token: str) -> int:
        """Check a token; returns what it costs beyond the message itself."""
        authenticator = self._context.authenticator
        if authenticator is None:
            return 0
        try:
            permissions = authenticator.at_once(token)
        except TokenRefused as error:
            self._refuse(error)
            return 0
        cost = 1 + self.count // 50  # other rights are checked against every subscription
        if permissions is not None:
            self._grant(permissions)
            return cost
        self._inbox = []
        self._output.hold()
        self._context.spawn(self._check(authenticator, token))
        return cost

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
                break  # one of them closed it
            if self._inbox is not None:
                self._inbox.extend(waiting[position:])
                break
            self.receive(data)
        self._output.uncork()
        self._output.release()

    def _refuse(self, error: TokenRefused) -> None:
        # If the keys cannot be had nothing is known against the token: come back with it.
        self._output.close(Close.RESTART if error.retryable else Close.TOKEN_REFUSED, error.reason)

    def _grant(self, permissions: Permissions) -> None:
        if not self.count_for(permissions.subject):
            self._output.close(Close.TOO_MANY, "too many connections of this owner; close some")
        elif self.authenticated:
            self._renew(permissions)
        else:
            self._welcome(permissions)

    def spend(self, cost: int) -> bool:
        """See `CountedSubscriptions.overspends`."""
        return self._usage is not None and self.overspends(cost, monotonic())

    def _set_expiry(self, permissions: Permissions) -> None:
        self.expires_at = math.inf if permissions.expires_at is None else permissions.expires_at
        self._context.granted(self.expires_at)

    def _welcome(self, permissions: Permissions) -> None:
        self.permissions = permissions
        self._set_expiry(permissions)
        context = self._context
        name, beat, anonymous = context.new_name(), context.limits.heartbeat_ms, permissions is OPEN
        self.reply(protocol.welcome_message(name, beat, context.public_url, anonymous=anonymous))

    def _renew(self, permissions: Permissions) -> None:
        self._set_expiry(permissions)
        if self.texts is not None and not permissions.grants_like(self.permissions):
            self.texts.clear()
        ended = self.apply(permissions, self)
        self.count_subscriptions(-len(ended))
        for key in ended:
            text = f"the new token does not cover {key}"
            self.reply(protocol.error_message(None, "forbidden", text))
        self._prune()

    def _subscribe(self, message: Subscribe) -> int:
        """Take a subscription; returns what it costs beyond the message itself."""
        for prediction_id in message.predictions or ():
            if not valid_id(prediction_id):
                text = (
                    f"{prediction_id[:80]!r} is no prediction id: "
                    "1 to 256 bytes without spaces, commas and controls"
                )
                self.reply(protocol.error_message(message.ref, "invalid", text))
                return 0
        keys = protocol.keys(message)
        if message.predictions is None and not self.permissions.may_watch_key(keys[0]):
            text = f"the token does not let you watch {keys[0]}"
            self.reply(protocol.error_message(message.ref, "forbidden", text))
            return 0
        if (excess := self.excess(message, len(keys), self._context.limits)) is not None:
            self._output.close(Close.TOO_MANY, excess)
            return 0
        if message.text is not None and self.texts is None:
            if (texts := self._context.new_cursors()) is not None:
                self.texts = texts
                texts.open()
            self._context.hub.append_to(self)
        before = self.count
        self.subscribe(keys, message.known, self)
        self.count_subscriptions(self.count - before)
        self.reply(protocol.subscribed_message(message.ref))
        # The subscription stands in the hub before anything is read: a change that comes while the
        # snapshot is read reaches the session, and nothing falls between the two.
        self._context.send_snapshots(self, message)
        return (len(keys) + len(message.known)) // 50

    def _unsubscribe(self, message: Unsubscribe) -> int:
        """End a subscription; returns what it costs beyond the message itself."""
        before = self.count
        keys = protocol.keys(message)
        self.unsubscribe(keys, self)
        self.count_subscriptions(self.count - before)
        cost = (len(keys) + self.pending) // 50  # what waits is looked through, too
        self._prune()
        self.reply(protocol.unsubscribed_message(message.ref))
        return cost

    # What it gets

    def deliver(self, delivery: Delivery) -> None:
        """Take the changes of one batch, from the hub."""
        if self._writes_through and not (delivery.deletes and not self.permissions.may_watch_all()):
            self._output.write(delivery.joined(change_frame))
            return
        items, queue = delivery.items, self._queue
        if not self.passes_through or delivery.deletes:
            items = [item for item in items if self.accept(item.change)]
        if self.texts is not None:
            items = self.texts.wanted(items)
        if queue is not None:
            if not all(queue.put(item) for item in items):
                self._output.close(Close.RESTART, "too far behind; subscribe again")
                return
        elif items:
            self._output.write(b"".join([item.rendered(change_frame) for item in items]))
        self.update_pass_through()

    def deliver_texts(self, grown: Sequence[RoutedText]) -> None:
        """Take one step of these texts, from the hub; of one alone by the short way: a call less is 1% of it."""
        if (texts := self.texts) is not None:
            short = len(grown) == 1 and self._queue is None and not self._snapshots
            if not (short and texts.advance(grown[0].text, self._output.write_pieces)):
                texts.deliver(self, grown)

    def update_pass_through(self) -> None:
        """See `SubscriptionState.update_pass_through`."""
        super().update_pass_through()
        self._writes_through = self.passes_through and self._queue is None and self.texts is None

    def begin_snapshot(self) -> int:
        """See `SubscriptionState.begin_snapshot`; with too many at once nothing more is read."""
        self._writes_through = False
        running = super().begin_snapshot()
        if running == self._context.limits.snapshots:
            self._output.hold()
        return running

    def end_snapshot(self) -> int:
        """See `SubscriptionState.end_snapshot`."""
        running = super().end_snapshot()
        if running == self._context.limits.snapshots - 1:
            self._output.release()
        self.catch_up()
        return running

    def catch_up(self) -> None:
        """Send what texts have grown by while nothing of them could be sent."""
        if self.texts is not None:
            self.texts.catch_up(self)

    def resend(self, prediction_id: str) -> None:
        """Send a record as it stands: its text cannot be brought in pieces any more."""
        self._context.send_snapshots(self, Subscribe(predictions=(prediction_id,)))

    @property
    def takes_texts(self) -> bool:
        """Whether a piece can be written, and is read: no snapshot is under way."""
        return self._queue is None and not self._snapshots and self._output.takes_pieces

    def reply(self, payload: bytes) -> None:
        """Send one message."""
        self.send(frame(payload))

    def send(self, frames: bytes) -> None:
        """Send whole frames, behind what waits already."""
        if self._queue is not None:
            self._queue.put_reply(frames)
        elif self._open:
            self._output.write(frames)

    def send_pieces(self, frames: bytes) -> None:
        """Send frames of pieces, where `takes_texts` says so."""
        self._output.write_pieces(frames)

    # A full transport

    def pause(self) -> None:
        """The transport is full: keep the newest change of each prediction from now on."""
        self._paused = True
        if self._queue is None and self._open:
            context, limits = self._context, self._context.limits
            account = context.held.account(self.permissions.subject)
            # From here on a newer change replaces the one that waits. Nothing that was written
            # before can be overtaken: the queue drains into the same transport, in order.
            self._queue = ConflationQueue(
                change_frame, limits.pending_records, limits.pending_bytes, account
            )
            self._writes_through = False
            self._output.hold()

    def resume(self) -> None:
        """The transport takes more: write what waits, until it is full again."""
        self._paused = False
        queue = self._queue
        while queue is not None and not self._paused and self._open:
            data = queue.take(TAKE_BYTES)
            if data:
                self._output.write(data)
            elif queue:
                self._start_refill(queue)
                return
            else:
                self._context.conflated += queue.conflated
                queue.close()
                self._queue = queue = None
                self.update_pass_through()
                self._output.release()
                self._wake()
                self.catch_up()

    def _start_refill(self, queue: ConflationQueue) -> None:
        if not self._refilling:
            self._refilling = True
            self._context.spawn(self._refill(queue))

    async def _refill(self, queue: ConflationQueue) -> None:
        try:
            await self._context.refill(self, queue)
        except StorageError:
            # What waits is kept, and read when the store answers again.
            await asyncio.sleep(REFILL_PAUSE)
        except Exception:
            self.fail()
            raise
        finally:
            self._refilling = False
        if not self._paused:
            self.resume()

    async def writable(self) -> bool:
        """Wait until nothing waits for the transport; False if the client is gone."""
        while self._open and self._queue is not None:
            if self._drained is None:
                self._drained = asyncio.get_running_loop().create_future()
            await asyncio.shield(self._drained)
        return self._open

    def _wake(self) -> None:
        if self._drained is not None:
            self._drained.set_result(None)
            self._drained = None

    def _prune(self) -> None:
        """Drop what waits and is not subscribed to, or may not be seen, any more."""
        if self._queue is not None:
            self._queue.retain(self.wants, self.may_want)
        if self.texts is not None:
            self.texts.retain(self.may_want)
