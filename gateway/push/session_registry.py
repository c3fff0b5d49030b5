"""All sessions of a gateway: what they share, the one sweep that looks after them, and their end.

There is no task, queue or timer per connection. A single timer pings the connections in 100 groups over one heartbeat
period, closes those that said nothing since, ends expired tokens, and visits the few that asked for attention.
"""

import asyncio
import contextlib
import random
import time
import uuid
from collections.abc import Callable, Coroutine
from typing import Protocol

import structlog
from msgspec import Struct

from tidings.gateway.auth.permissions import Authenticator
from tidings.gateway.auth.quotas import Owners
from tidings.gateway.push import protocol
from tidings.gateway.push.event_stream import EventStream
from tidings.gateway.push.hub import Hub, Sink
from tidings.gateway.push.protocol import Close, Subscribe, frame
from tidings.gateway.push.session import Session
from tidings.gateway.push.snapshots import Records, Snapshots

GROUPS = 100
SPREAD = 20
"""Groups over which connections that open at the same moment are spread, so that their pings are no burst."""

SLICE = 500

LAST_HEADS = 0.5
"""Seconds at the end for the requests of connections that were accepted just before: they are served like the others."""

_log = structlog.get_logger()


class SessionLimits(Struct, frozen=True, kw_only=True):
    """What one session may use, and how long it may stay silent. Times are in seconds."""

    heartbeat: float = 25.0
    """Between two pings. A connection that said nothing between two pings is closed with 4001."""
    authentication: float = 10.0
    progress: float = 30.0
    """A connection to which nothing at all got through for this long is closed with 4000."""
    closing: float = 5.0
    """For the client to answer a close before the connection is cut."""
    head: float = 10.0
    """For a connection's first request head to arrive whole."""
    message_bytes: int = 256 * 1024
    subscriptions: int = 10_000
    snapshots: int = 8
    """Snapshots under way at once; more wait unread."""
    pending_records: int = 1_000
    pending_bytes: int = 4 * 1024 * 1024
    frames_per_second: int = 200
    """Frames (and 4 KiB pieces of messages) of one client; what is more waits unread."""

    @property
    def heartbeat_ms(self) -> int:
        """The heartbeat as the welcome says it."""
        return round(self.heartbeat * 1000)


class Visited(Protocol):
    """What the sweep looks at every quarter of a second, on its own request."""

    def visit(self, now: float) -> bool:
        """Look at what is due at `now` (the loop's clock); False: no more visits are needed."""

    def abort(self) -> None:
        """Cut the connection."""


class Connection(Visited, Protocol):
    """A connection as the registry knows it."""

    session: Session
    heard: bool
    """Whether anything came since the last ping."""

    @property
    def reading(self) -> bool:
        """Whether it listens to the client right now."""

    def ping(self) -> None:
        """Send a WebSocket ping."""

    def close(self, code: int, reason: str = "") -> None:
        """Close with this code."""

    def say_bye(self, farewell: bytes, code: int) -> None:
        """Send these frames and close with the code."""


class Sessions:
    """The sessions of one gateway.

    Args:
        hub: Who is told about which change.
        records: Where snapshots come from.
        authenticator: Turns tokens into permissions; None: everything is allowed.
        limits: Of each session.
        now: Seconds since the epoch, for expiry.
        owners: What the sessions of one owner may use together.
    """

    def __init__(
        self,
        hub: Hub,
        records: Records,
        authenticator: Authenticator | None = None,
        limits: SessionLimits | None = None,
        now: Callable[[], float] = time.time,
        owners: Owners | None = None,
    ) -> None:
        self.hub = hub
        self.owners = Owners() if owners is None else owners
        self.limits = limits or SessionLimits()
        self.authenticator = authenticator
        self.snapshots = Snapshots(records, hub, lambda: int(now() * 1000))
        self.conflated = 0
        """Changes that a newer one replaced while a session was backed up."""
        self.opened = 0
        self.closed: dict[int, int] = {}
        """Per close code how many connections this side closed."""
        self.refusing = False
        """Whether new connections are turned away: the gateway is shutting down."""
        self._now = now
        self._prefix = uuid.uuid4().hex[:12]
        self._groups: list[set[Connection]] = [set() for _ in range(GROUPS)]
        self._attention: dict[Visited, None] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._tick = 0
        self._gone: asyncio.Event | None = None
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return sum(map(len, self._groups))

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

    def name(self) -> str:
        """A name for a session, unique among all gateways."""
        self.opened += 1
        return f"{self._prefix}-{self.opened:x}"

    def spawn(self, work: Coroutine[object, object, None]) -> None:
        """Run some work of a session; it looks for itself whether the session is still open."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("session.failed", exc_info=error)

    def sync(self, session: Session, message: Subscribe) -> None:
        """Send a subscription's snapshots, at once where they are at hand."""
        frames = None if session.backed_up else self.snapshots.at_hand(session, message)
        if frames is None:
            session.begin_sync()
            self.spawn(self.snapshots.sync(session, message))
        else:
            session.send(frames)
            named = message.predictions
            session.forget_announced(named if named is None else (*named, *message.known))

    # The registry

    def add(self, connection: Connection) -> int:
        """Look after a connection from now on; returns the number of its group, for `remove`."""
        group = (self._tick - int(random.random() * SPREAD)) % GROUPS  # noqa: S311 -- spreads load, guards nothing
        self._groups[group].add(connection)
        return group

    def remove(self, connection: Connection, group: int) -> None:
        """Forget a connection."""
        self._groups[group].discard(connection)
        self._attention.pop(connection, None)
        if self._gone is not None and not len(self):
            self._gone.set()

    def attend(self, visited: Visited) -> None:
        """Visit this at every tick until it says that it is done."""
        self._attention[visited] = None

    def dismiss(self, visited: Visited) -> None:
        """Stop visiting."""
        self._attention.pop(visited, None)

    def count_close(self, code: int) -> None:
        """Count a close from this side."""
        self.closed[code] = self.closed.get(code, 0) + 1

    def failed(self, sink: Sink, error: Exception) -> None:
        """A sink of the hub raised; for `Hub(on_error=...)`. Its client is to come back, and hears nothing until then."""
        _log.error("session.delivery_failed", exc_info=error)
        if isinstance(sink, Session):
            sink.fail()
        elif isinstance(sink, EventStream):
            sink.end()

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
                # A pong could not be seen, but a client that is gone is noticed. Of one that is backed up counts
                # whether anything gets through.
                if not connection.session.backed_up:
                    connection.ping()
            elif connection.heard:
                connection.heard = False
                connection.ping()
            else:
                connection.close(Close.NO_PONG, "no answer to a ping")
        self._expire()
        now = asyncio.get_running_loop().time()
        for visited in list(self._attention):
            if not visited.visit(now):
                self._attention.pop(visited, None)

    def _expire(self) -> None:
        """End expired tokens, a quarter of the connections each time."""
        now = self._now()
        for group in self._groups[self._tick % 4 :: 4]:
            for connection in [one for one in group if one.session.expires_at <= now]:
                connection.close(Close.TOKEN_REFUSED, "the token has expired")

    # The end

    def resync(self) -> None:
        """Close every connection with 1012: changes were missed for good, and a new subscription gets what is newest."""
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
        while self._attention and loop.time() < until:  # noqa: ASYNC110 - what is visited leaves without a word
            await asyncio.sleep(0.02)
        for visited in list(self._attention):
            visited.abort()
        await self._finish(max(0.1, deadline - loop.time()))

    async def _finish(self, limit: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._tasks:
            _, left = await asyncio.wait(self._tasks, timeout=limit)
            for task in left:
                task.cancel()
