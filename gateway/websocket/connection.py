"""A WebSocket connection that costs little: an `asyncio.Protocol` without task, queue or timer.

How incoming frames are read is said in `frames`; what goes out are frames built beforehand.
"""

import asyncio
from collections.abc import Callable
from time import monotonic
from typing import cast

from websockets.frames import Close as CloseFrame
from websockets.frames import Frame, Opcode
from websockets.protocol import Protocol as FrameParser

from tidings.gateway.auth.permissions import Permissions
from tidings.gateway.push.protocol import Close
from tidings.gateway.push.session import Session
from tidings.gateway.push.session_registry import SessionRegistry
from tidings.gateway.websocket.frames import (
    FEED_BYTES,
    ParserPool,
    between_frames,
    forget,
    whole_text,
)
from tidings.gateway.websocket.read_probe import ReadProbe

PING = b"\x89\x00"

EMPTY_PONG = b"\x8a\x80"
"""How the usual answer to `PING` begins: four bytes of mask follow, and nothing else."""


def _nowhere(data: bytes) -> None:
    """The connection is going away, or not open yet."""


class WebSocketConnection(asyncio.Protocol):
    """One WebSocket after its handshake.

    Args:
        sessions: What all sessions share.
        parsers: Shared, too.
        on_lost: Called with the reason when the connection is gone, for the transport's former
            protocol.
        leave: Called then, too, for whoever admitted it.
    """

    __slots__ = (
        "_backlog",
        "_closing_since",
        "_corked",
        "_group",
        "_holds",
        "_leave",
        "_on_lost",
        "_opened",
        "_overdrawn",
        "_parser",
        "_parsers",
        "_parts",
        "_probe",
        "_progress",
        "_sessions",
        "_spent",
        "_transport",
        "heard",
        "session",
        "write",
    )

    def __init__(
        self,
        sessions: SessionRegistry,
        parsers: ParserPool,
        on_lost: Callable[[Exception | None], None] | None = None,
        leave: Callable[[], None] | None = None,
    ) -> None:
        self._sessions = sessions
        self._parsers = parsers
        self._on_lost = on_lost
        self._leave = leave
        self._transport: asyncio.Transport | None = None
        self._parser: FrameParser | None = None
        self._parts: list[bytes | bytearray | memoryview] | None = None
        """The fragments of an incomplete text message."""
        self._corked: list[bytes] | None = None
        """What is to be written once the bytes at hand are read, in one write."""
        self.write: Callable[[bytes], None] = _nowhere
        """Sends whole frames: the transport's own `write` while it is open, that of what is corked,
        or nowhere. To ask each time which of them it is took 2% of a delivery."""
        self._backlog = b""
        """Bytes that wait until the session may read again."""
        self._holds = 0
        self._spent = 0
        self._overdrawn = False
        """Whether it is held for what it, or its owner, has sent beyond the rate."""
        self._group = -1
        self._closing_since: float | None = None
        self._opened = 0.0
        self._progress: tuple[int, float] | None = None
        """Bytes in the transport's buffer, and since when there were as many."""
        self._probe: ReadProbe | None = None  # None: it was sent no piece of a text yet
        self.heard = True
        self.session: Session = sessions.new_session(self)

    def open(
        self,
        transport: asyncio.Transport,
        response: bytes,
        proof: str | Permissions | None,
        rest: bytes,
        too_many: str = "",
    ) -> None:
        """Take over a transport after the handshake.

        Args:
            transport: Its protocol is this connection already.
            response: The answer to the handshake, not yet written.
            proof: The token in the handshake's headers, or what it was found to give already.
            rest: Bytes that came behind the handshake.
            too_many: Why it is one too many: it is closed with 4104 at once.
        """
        self._transport = transport
        self._group = self._sessions.add(self)
        self._corked = [response]
        self.write = self._corked.append
        if too_many:
            self.close(Close.TOO_MANY, too_many)
            return
        checking = self.session.start(proof)
        if not self.session.authenticated:
            self._opened = asyncio.get_running_loop().time()
            self._sessions.watch_deadlines(self)
        if rest:
            self.data_received(rest)
        if not checking:
            self.uncork()  # else once the token is checked, in one write with what comes then

    # asyncio.Protocol

    def data_received(self, data: bytes) -> None:
        """Read what came, or keep it while the session is behind."""
        if self._closing_since is not None:
            return
        if (
            self._parser is None
            and len(data) == 6
            and data.startswith(EMPTY_PONG)
            and not self._holds
        ):
            self.heard = True  # most of what idle connections ever send
            if self._probe is not None:
                self._has_read(self._probe)
        elif self._holds or self._backlog:
            self._backlog += data
        elif self._parser is None and (message := whole_text(data)) is not None:
            self._take_whole(message)
        else:
            self._feed(data)

    def eof_received(self) -> None:
        """The client sends nothing more: the transport closes itself."""
        self.write = _nowhere

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone."""
        self.write = _nowhere
        self.session.closed()
        self._sessions.remove(self, self._group)
        self._transport = None
        if self._parser is not None:
            forget(self._parser)
        self._parser = self._parts = None
        on_lost, leave, self._on_lost, self._leave = self._on_lost, self._leave, None, None
        if on_lost is not None:
            on_lost(exc)
        if leave is not None:
            leave()

    def pause_writing(self) -> None:
        """The transport's buffer is full."""
        self.session.pause()
        if self._closing_since is None:
            self._sessions.watch_deadlines(self)

    def resume_writing(self) -> None:
        """The transport takes more."""
        self._progress = None
        self.session.resume()

    # What came in

    def _feed(self, data: bytes) -> None:
        self.heard = True
        parser = self._parser
        if parser is None:
            parser = self._parser = self._parsers.take()
        corked = self.cork()
        for start in range(0, len(data), FEED_BYTES):
            parser.receive_data(
                data[start : start + FEED_BYTES] if len(data) > FEED_BYTES else data
            )
            self._take(parser)
            if self._closing_since is not None:
                return
            if self._holds:
                self._backlog = data[start + FEED_BYTES :]
                break
        if between_frames(parser):
            self._parser = None
            self._parsers.give_back(parser)
        if corked:
            self.uncork()

    def _take_whole(self, message: bytes) -> None:
        """As `_feed`, of one frame that is whole."""
        self.heard = True
        corked = self.cork()
        cost = self._message(message)
        if self._closing_since is None:
            self._spend(1 + cost)
            if corked:
                self.uncork()

    def _take(self, parser: FrameParser) -> None:
        spent = 0
        for frame in parser.events_received():
            spent += 1 + self._take_frame(cast("Frame", frame))
            if self._closing_since is not None:
                return
        for data in parser.data_to_send():
            if data:
                self.write(data)
            else:
                self._end(parser)
                return
        self._spend(spent)

    def _take_frame(self, frame: Frame) -> int:
        """Handle one frame (the parser answers control frames); returns its cost beyond itself."""
        opcode = frame.opcode
        if opcode is Opcode.TEXT and frame.fin:
            return self._message(frame.data)
        if opcode is Opcode.TEXT:
            self._parts = [frame.data]
        elif opcode is Opcode.CONT and self._parts is not None:
            if frame.data:
                self._parts.append(frame.data)
            if frame.fin:
                message, self._parts = b"".join(self._parts), None
                return self._message(message)
        elif opcode is Opcode.BINARY:
            self.close(Close.MALFORMED, "messages are text frames")
        elif opcode is Opcode.PONG and self._probe is not None:
            self._has_read(self._probe)
        return 0

    def _message(self, data: bytes | bytearray | memoryview) -> int:
        message = data if isinstance(data, bytes | bytearray) else bytes(data)
        if not message.isascii():
            try:
                message.decode()
            except UnicodeDecodeError as error:
                self.close(Close.INVALID_DATA, f"{error.reason} at position {error.start}")
                return 0
        return self.session.receive(message)

    def _has_read(self, probe: ReadProbe) -> None:
        probe.answered()
        self.session.catch_up()

    def _spend(self, cost: int) -> None:
        if not cost:
            return
        self._spent += cost
        owner_over = self.session.spend(cost)
        if not self._overdrawn and (
            owner_over or self._spent > self._sessions.limits.frames_per_second
        ):
            self._overdrawn = True
            self.hold()
        if self._overdrawn or self._spent == cost:
            self._sessions.watch_deadlines(self)

    @property
    def reading(self) -> bool:
        """Whether it listens to the client right now."""
        return not self._holds

    def hold(self) -> None:
        """Read nothing more for now; each hold is undone by one `release`."""
        self._holds += 1
        if self._holds == 1 and self._transport is not None and self._closing_since is None:
            self._transport.pause_reading()

    def release(self) -> None:
        """Undo one `hold`."""
        self._holds -= 1
        if self._holds or self._transport is None or self._closing_since is not None:
            return
        backlog, self._backlog = self._backlog, b""
        if backlog:
            self._feed(backlog)
        if not self._holds and self._closing_since is None:
            self._transport.resume_reading()

    # What goes out

    def write_pieces(self, data: bytes) -> bool:
        """Send frames of pieces of texts if it reads; now and then with a ping that asks whether it does."""
        if (probe := self._probe) is None:
            probe = self._probe = ReadProbe()
        elif probe.overdue_at is not None and not self.takes_pieces:
            return False
        probe.left -= 1
        self.write(data if probe.left or not probe.asks(monotonic()) else data + PING)
        return True

    @property
    def takes_pieces(self) -> bool:
        """Whether it reads what it is sent; while it is not listened to nobody knows."""
        late = None if (probe := self._probe) is None else probe.overdue_at
        return late is None or bool(self._holds) or monotonic() < late

    def cork(self) -> bool:
        """Collect what is written from now on; False if that is done already."""
        if self._corked is not None or self.write is _nowhere:
            return False
        self._corked = []
        self.write = self._corked.append
        return True

    def uncork(self) -> None:
        """Write what was collected, at once."""
        corked, self._corked = self._corked, None
        if corked is None or self.write is _nowhere or self._transport is None:
            return
        self.write = self._transport.write
        if corked:
            self.write(corked[0] if len(corked) == 1 else b"".join(corked))

    def ping(self) -> None:
        """Send a WebSocket ping without payload (RFC 6455, 5.5.2)."""
        self.write(PING)

    # The end

    def close(self, code: int, reason: str = "") -> None:
        """Close with this code; the reason is cut to a close frame's 123 bytes (RFC 6455, 5.5)."""
        if self._closing_since is not None or self._transport is None:
            return
        short = reason.encode()[:120].decode(errors="ignore")
        self._sessions.count_close(code)
        self.say_bye(b"", code, short)

    def say_bye(self, farewell: bytes, code: int, reason: str = "") -> None:
        """Send these frames, then the close frame, and end the sending side."""
        if self._closing_since is not None or self._transport is None:
            return
        close = Frame(Opcode.CLOSE, CloseFrame(code, reason).serialize()).serialize(mask=False)
        self.uncork()
        self.write(farewell + close)
        self._finish()

    def _end(self, parser: FrameParser) -> None:
        """The parser has closed: it answered the client's close frame, or found a violation."""
        if parser.close_rcvd is None and parser.close_sent is not None:
            self._sessions.count_close(parser.close_sent.code)
        self.uncork()
        self._finish()

    def _finish(self) -> None:
        """End our side of the connection, and give the client some time to end its own."""
        self._closing_since = asyncio.get_running_loop().time()
        self.write = _nowhere
        self.session.closed()
        self._backlog = b""
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        transport.write_eof()
        if self._holds:
            transport.resume_reading()
        self._sessions.watch_deadlines(self)

    def abort(self) -> None:
        """Cut the connection."""
        self.write = _nowhere
        if self._transport is not None:
            self._transport.abort()

    def check_deadlines(self, now: float) -> bool:
        """See `Deadlined.check_deadlines`."""
        limits = self._sessions.limits
        if self._transport is None:
            return False
        if self._closing_since is not None:
            if now - self._closing_since > limits.closing:
                self.abort()
                return False
            return True
        waiting = self._earn(limits.frames_per_second * limits.heartbeat / 100)
        if self.session.authenticated:
            self._opened = 0.0
        else:
            waiting = True
            if now - self._opened > limits.authentication:
                self.close(
                    Close.NOT_AUTHENTICATED, f"no token came within {limits.authentication:g} s"
                )
        if self.session.backed_up:
            waiting = True
            self._watch_progress(now, limits.progress)
        return waiting or self._closing_since is not None

    def _earn(self, amount: float) -> bool:
        """Forgive some of what was spent; True if there is more to forgive."""
        self._spent = max(0, self._spent - round(amount))
        if (
            self._overdrawn
            and self._spent <= self._sessions.limits.frames_per_second
            and not self.session.spend(0)
        ):
            self._overdrawn = False
            self.release()
        return self._overdrawn or self._spent > 0

    def _watch_progress(self, now: float, limit: float) -> None:
        """Close a connection to which nothing at all got through for the limit."""
        if self._transport is None:
            return
        buffered = self._transport.get_write_buffer_size()
        if self._progress is None or self._progress[0] != buffered:
            self._progress = (buffered, now)
        elif buffered and now - self._progress[1] > limit:
            self.close(Close.NO_PROGRESS, f"nothing got through for {limit:g} s")
