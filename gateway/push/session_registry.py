"""All sessions of a gateway: what they share, the sweep that checks their deadlines, and their end.

There is no task, queue or timer per connection. A single timer pings the connections in 100 groups
over one heartbeat period, and closes those that have said nothing since. It ends expired tokens,
and checks the deadlines of the few connections that have any.
"""

import asyncio
import contextlib
import math
import random
import uuid
from collections.abc import Coroutine
from typing import Protocol

from tidings.gateway.auth.permissions import Authenticator
from tidings.gateway.auth.quotas import OwnerQuotas, SessionLimits
from tidings.gateway.http.held_bytes import HeldBytes
from tidings.gateway.push import protocol
from tidings.gateway.push.event_stream import EventStream
from tidings.gateway.push.hub import Hub, Subscriber
from tidings.gateway.push.protocol import Close, Subscribe, frame
from tidings.gateway.push.session import Session, SessionContext
from tidings.gateway.push.snapshots import RecordReader, SnapshotReader
from tidings.gateway.push.text_cursors import TextCursors, Texts
from tidings.gateway.push.transport import Output
from tidings.storage.clock import SYSTEM_CLOCK, Clock
from tidings.storage.loggers import get_logger

GROUPS = 100
SPREAD = 20
"""Groups over which connections that open at one moment are spread: their pings are no burst."""

SLICE = 500
"""Farewells between two yields to the event loop."""

LAST_HEADS = 0.5
"""Seconds at the end for the first requests of connections that were accepted just before."""

logger = get_logger(__name__)


class Deadlined(Protocol):
    """What has deadlines for the sweep to check, every quarter of a second."""

    def check_deadlines(self, now: float) -> bool:
        """Do what is due at `now` (the loop's clock); False: there are no deadlines any more."""

    def abort(self) -> None:
        """Cut the connection."""


class SessionConnection(Deadlined, Protocol):
    """A connection as the registry knows it."""

    session: Session
    heard: bool
    """Whether anything came since the last ping."""

    @property
    def reading(self) -> bool:
        """Whether it reads what the client sends right now."""

    def ping(self) -> None:
        """Send a WebSocket ping."""

    def close(self, code: int, reason: str = "") -> None:
        """Close with this code."""

    def say_bye(self, farewell: bytes, code: int) -> None:
        """Send these frames and close with the code."""


class SessionRegistry:
    """The sessions of one gateway.

    Args:
        hub: Delivers the changes.
        records: Where snapshots are read from.
        authenticator: Turns tokens into permissions; None: everything is allowed.
        limits: Of each session.
        clock: For expiry.
        owners: What the sessions of one owner may use together.
        held: The budget for what is held in memory until clients read it.
        texts: That grow; None: everybody is sent whole records.
    """

    def __init__(
        self,
        hub: Hub,
        records: RecordReader,
        authenticator: Authenticator | None = None,
        limits: SessionLimits | None = None,
        clock: Clock = SYSTEM_CLOCK,
        owners: OwnerQuotas | None = None,
        held: HeldBytes | None = None,
        texts: Texts | None = None,
        public_url: str | None = None,
    ) -> None:
        held = HeldBytes() if held is None else held
        self.limits = limits or SessionLimits()
        self.snapshots = SnapshotReader(records, hub, clock, held)
        self._context = SessionContext(
            hub=hub,
            limits=self.limits,
            held=held,
            quotas=OwnerQuotas() if owners is None else owners,
            authenticator=authenticator,
            send_snapshots=self._send_snapshots,
            refill=self.snapshots.refill,
            spawn=self.spawn,
            new_name=self._new_name,
            public_url=public_url,
            granted=self._granted,
            new_cursors=lambda: None if texts is None else TextCursors(texts, "websocket"),
        )
        self.opened = 0
        self.closed: dict[int, int] = {}
        """Per close code how many connections this side closed."""
        self.refusing = False
        """Whether new connections are turned away: the gateway is shutting down."""
        self._clock = clock
        self._prefix = uuid.uuid4().hex[:12]
        self._groups: list[set[SessionConnection]] = [set() for _ in range(GROUPS)]
        self._earliest = [math.inf] * GROUPS
        """Per group when the first of its tokens expires, as it was looked at last."""
        self._next_expiry = math.inf
        """Of the tokens that were given since."""
        self._deadlined: dict[Deadlined, None] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._tick = 0
        self._gone: asyncio.Event | None = None
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return sum(map(len, self._groups))

    @property
    def conflated(self) -> int:
        """Changes that a newer one replaced while a session was backed up."""
        return self._context.conflated

    def backlog(self) -> tuple[int, int]:
        """How many sessions are backed up at the moment, and how many messages wait in them."""
        waiting = [
            pending for group in self._groups for one in group if (pending := one.session.pending)
        ]
        return len(waiting), sum(waiting)

    def start(self) -> None:
        """Start the sweep; called on the running loop."""
        if self._timer is None:
            self._arm()

    # What sessions ask for

    def new_session(self, output: Output) -> Session:
        """A session that writes to this output."""
        return Session(self._context, output)

    def _new_name(self) -> str:
        """A name for a session, unique among all gateways."""
        self.opened += 1
        return f"{self._prefix}-{self.opened:x}"

    def _granted(self, expires_at: float) -> None:
        self._next_expiry = min(self._next_expiry, expires_at)

    def spawn(self, work: Coroutine[object, object, None]) -> None:
        """Run some work of a session; it looks for itself whether the session is still open."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("session.failed", exc_info=error)

    def _send_snapshots(self, session: Session, message: Subscribe) -> None:
        """Send a subscription's snapshots, at once if they are at hand."""
        frames = None if session.backed_up else self.snapshots.at_hand(session, message)
        if frames is None:
            session.begin_snapshot()
            if self.snapshots.enqueue(session, message):
                self.spawn(self.snapshots.send_waiting(session))
        else:
            session.send(frames)
            session.catch_up()
            named = message.predictions
            session.drop_announced_floors(named if named is None else (*named, *message.known))

    # The registry

    def add(self, connection: SessionConnection) -> int:
        """Look after a connection from now on; returns the number of its group, for `remove`."""
        spread = int(random.random() * SPREAD)  # noqa: S311 - spreads load, guards nothing
        group = (self._tick - spread) % GROUPS
        self._groups[group].add(connection)
        return group

    def remove(self, connection: SessionConnection, group: int) -> None:
        """Forget a connection."""
        self._groups[group].discard(connection)
        self._deadlined.pop(connection, None)
        if self._gone is not None and not len(self):
            self._gone.set()

    def watch_deadlines(self, one: Deadlined) -> None:
        """Check its deadlines at every tick until it has none."""
        self._deadlined[one] = None

    def unwatch_deadlines(self, one: Deadlined) -> None:
        """Check its deadlines no more."""
        self._deadlined.pop(one, None)

    def count_close(self, code: int) -> None:
        """Count a close from this side."""
        self.closed[code] = self.closed.get(code, 0) + 1

    def failed(self, subscriber: Subscriber, error: Exception) -> None:
        """For `Hub(on_error=...)`: a subscriber raised, and its client is to come back."""
        logger.error("session.delivery_failed", exc_info=error)
        if isinstance(subscriber, Session):
            subscriber.fail()
        elif isinstance(subscriber, EventStream):
            subscriber.end()

    # The sweep

    def _arm(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(
            self.limits.heartbeat / GROUPS, self._sweep
        )

    def _sweep(self) -> None:
        self._arm()
        self._tick = (self._tick + 1) % GROUPS
        for connection in list(self._groups[self._tick]):
            if not connection.reading:
                # A pong could not be seen, but the ping notices a client that is gone. If the
                # session is backed up, what counts is whether anything gets through.
                if not connection.session.backed_up:
                    connection.ping()
            elif connection.heard:
                connection.heard = False
                connection.ping()
            else:
                connection.close(Close.NO_PONG, "no answer to a ping")
        self._expire()
        now = asyncio.get_running_loop().time()
        for one in list(self._deadlined):
            if not one.check_deadlines(now):
                self._deadlined.pop(one, None)

    def _expire(self) -> None:
        """End expired tokens, in a quarter of the groups each time.

        Only groups in which one is due are looked at. To visit every session once a second costs as
        much as all pings, because by then nothing of it is in the CPU's caches.
        """
        now = self._clock.ms() / 1000
        earliest = self._earliest
        if self._next_expiry <= now:  # it may be in any group
            self._next_expiry = math.inf
            earliest[:] = [now] * GROUPS
        for number in range(self._tick % 4, GROUPS, 4):
            if earliest[number] > now:
                continue
            group = self._groups[number]
            for connection in [one for one in group if one.session.expires_at <= now]:
                connection.close(Close.TOKEN_REFUSED, "the token has expired")
            left = [one.session.expires_at for one in group]
            earliest[number] = min([at for at in left if at > now], default=math.inf)

    # The end

    def resync(self) -> None:
        """Close every connection with 1012: changes were missed for good, snapshots fix that."""
        for connection in [one for group in self._groups for one in group]:
            connection.close(Close.RESTART, "changes were missed; subscribe again")

    async def drain(self, retry_after_spread: float, limit: float = 3.0) -> None:
        """Say `bye` to everybody, close, and wait until they are gone.

        Args:
            retry_after_spread: Seconds over which the clients are asked to spread their return.
            limit: Seconds after which what is left is cut.
        """
        self.refusing = True
        for count, connection in enumerate([one for group in self._groups for one in group], 1):
            retry_after = round(random.uniform(0, retry_after_spread) * 1000)  # noqa: S311
            connection.say_bye(frame(protocol.bye_message(retry_after)), Close.RESTART)
            if count % SLICE == 0:
                await asyncio.sleep(0)
        loop = asyncio.get_running_loop()
        deadline = loop.time() + limit
        if len(self):
            self._gone = asyncio.Event()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(limit):
                    await self._gone.wait()
        for connection in [one for group in self._groups for one in group]:
            connection.abort()
        until = min(deadline, loop.time() + LAST_HEADS)
        while self._deadlined and loop.time() < until:  # noqa: ASYNC110 - they leave silently
            await asyncio.sleep(0.02)
        for one in list(self._deadlined):
            one.abort()
        await self._finish(max(0.1, deadline - loop.time()))

    async def _finish(self, limit: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._tasks:
            _, left = await asyncio.wait(self._tasks, timeout=limit)
            for task in left:
                task.cancel()
