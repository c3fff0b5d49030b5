"""A WebSocket of a host's server as the transport that `WebSocketConnection` writes to.

The connection, with every rule of it, is the one of our own listener. The server does the framing:
what the connection writes are whole frames, taken apart here; what the client says is framed again
for its parser, which costs little, as clients say little.
"""

import asyncio
import contextlib
from collections import deque
from typing import Any

from websockets.frames import Frame, Opcode

from tidings.gateway.asgi.scope import Message, Receive, Send
from tidings.gateway.websocket.connection import EMPTY_PONG

HIGH = 64 * 1024
"""Bytes that wait for a slow client before the session keeps only what is newest."""

NO_STATUS = 1005
"""The close code of a close without one (RFC 6455, 7.1.5), which is never sent."""


class AsgiTransport(asyncio.Transport):
    """One WebSocket that is accepted already.

    Args:
        receive: The connection's `receive`.
        send: The connection's `send`.
    """

    def __init__(self, receive: Receive, send: Send) -> None:
        super().__init__()
        self._receive = receive
        self._send = send
        self._protocol: Any = None
        self._queue: deque[bytes] = deque()
        self._queued = 0
        self._paused = False
        self._closing = False
        self._wake = asyncio.Event()
        self._may_read = asyncio.Event()
        self._may_read.set()
        self._ended = asyncio.get_running_loop().create_future()

    async def run(self) -> None:
        """Carry messages both ways until the connection is gone."""
        carrying = [asyncio.create_task(self._read()), asyncio.create_task(self._write_out())]
        try:
            await asyncio.wait([self._ended, *carrying], return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._closing = True
            for task in carrying:
                task.cancel()
            await asyncio.gather(*carrying, return_exceptions=True)
            self._protocol.connection_lost(None)

    # asyncio.Transport, as far as the connection uses it

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """Tell this protocol what comes."""
        self._protocol = protocol

    def get_protocol(self) -> asyncio.BaseProtocol:
        """The one that is told."""
        return self._protocol  # type: ignore[no-any-return]

    def get_extra_info(self, name: str, default: Any = None) -> Any:  # noqa: ARG002
        """Nothing is known of the socket."""
        return default

    def is_closing(self) -> bool:
        """Whether nothing more is sent."""
        return self._closing

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Send whole frames, in their order."""
        if not data or self._closing:
            return
        self._queue.append(bytes(data))
        self._queued += len(data)
        self._wake.set()
        if self._queued > HIGH and not self._paused:
            self._paused = True
            self._protocol.pause_writing()

    def write_eof(self) -> None:
        """A close frame, which has gone before, ends our side."""

    def can_write_eof(self) -> bool:
        """As a connection has it."""
        return True

    def get_write_buffer_size(self) -> int:
        """Bytes that the server has not taken yet."""
        return self._queued

    def pause_reading(self) -> None:
        """Take no more messages for now."""
        self._may_read.clear()

    def resume_reading(self) -> None:
        """Take messages again."""
        self._may_read.set()

    def close(self) -> None:
        """End the connection."""
        self.abort()

    def abort(self) -> None:
        """End the connection at once; the server closes it as this application returns."""
        if not self._ended.done():
            self._ended.set_result(None)

    # The two ways

    async def _read(self) -> None:
        while True:
            await self._may_read.wait()
            message = await self._receive()
            if message["type"] == "websocket.disconnect":
                return
            self._protocol.data_received(_frame_of(message))

    async def _write_out(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._queue:
                data = self._queue.popleft()
                if not await self._send_frames(data):
                    return
                self._queued -= len(data)
                if self._paused and not self._queue:
                    self._paused = False
                    self._protocol.resume_writing()

    async def _send_frames(self, data: bytes) -> bool:
        """Send each frame as the message that it is; False after a close frame."""
        start = 0
        while start < len(data):
            opcode, begin, end = _next_frame(data, start)
            start = end
            if opcode == Opcode.TEXT:
                await self._send({"type": "websocket.send", "text": data[begin:end].decode()})
            elif opcode == Opcode.PING:
                # The server looks after the connection itself, and tells us when it is gone.
                if self._may_read.is_set():
                    self._protocol.data_received(EMPTY_PONG + bytes(4))
            elif opcode == Opcode.CLOSE:
                code = int.from_bytes(data[begin : begin + 2], "big") or NO_STATUS
                reason = data[begin + 2 : end].decode()
                with contextlib.suppress(OSError, RuntimeError):  # it is gone already
                    await self._send({"type": "websocket.close", "code": code, "reason": reason})
                return False
        return True


def _frame_of(message: Message) -> bytes:
    """The frame that a client would have sent."""
    text = message.get("text")
    if text is not None:
        return Frame(Opcode.TEXT, text.encode()).serialize(mask=True)
    return Frame(Opcode.BINARY, message.get("bytes") or b"").serialize(mask=True)


def _next_frame(data: bytes, start: int) -> tuple[int, int, int]:
    """Opcode, begin and end of the payload of a frame of ours: not masked, not fragmented."""
    opcode, length = data[start] & 0x0F, data[start + 1]
    begin = start + 2
    if length == 126:
        begin += 2
        length = int.from_bytes(data[begin - 2 : begin], "big")
    elif length == 127:
        begin += 8
        length = int.from_bytes(data[begin - 8 : begin], "big")
    return opcode, begin, begin + length
