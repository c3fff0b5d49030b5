"""Reading a client's frames (RFC 6455, 5.2), by the sans-I/O parser of the `websockets` library.

A parser is needed only while a frame or a fragmented message is incomplete, so connections between
frames share a few. The usual small message needs none.
"""

import logging

from websockets.frames import apply_mask  # type: ignore[attr-defined]  # in C, if it was built
from websockets.protocol import SERVER
from websockets.protocol import Protocol as FrameParser

FEED_BYTES = 4096
"""Bytes parsed at once: at most 700 frames, so a flood of tiny ones is noticed within 10 ms."""

SPARE_PARSERS = 16

logger = logging.getLogger("tidings.websocket")


class ParserPool:
    """Parsers of incoming frames; between frames one holds nothing of a connection."""

    def __init__(self, max_size: int) -> None:
        self._max_size = max_size
        self._spare: list[FrameParser] = []

    def take(self) -> FrameParser:
        """A parser that has read nothing yet."""
        return (
            self._spare.pop()
            if self._spare
            else FrameParser(SERVER, max_size=self._max_size, logger=logger)
        )

    def give_back(self, parser: FrameParser) -> None:
        """Keep a parser that is `between_frames` for another connection."""
        if len(self._spare) < SPARE_PARSERS:
            self._spare.append(parser)


def whole_text(data: bytes) -> bytes | None:
    """The message, if these bytes are exactly one small text frame of a client's; else None.

    Nearly all that clients send is: masked, not fragmented, with the shortest length (RFC 6455, 5.2).
    Anything else is the library's to read or to refuse, which takes five times as long.
    """
    if not 6 <= len(data) <= FEED_BYTES or data[0] != 0x81 or data[1] < 0x80:
        return None
    length, start = data[1] - 0x80, 2
    if length == 126:
        length, start = int.from_bytes(data[2:4], "big"), 4
        if length < 126:
            return None
    elif length == 127:
        return None
    begin = start + 4
    if len(data) != begin + length:
        return None
    message: bytes = apply_mask(data[begin:], data[start:begin])
    return message


def forget(parser: FrameParser) -> None:
    """Release a parser whose connection is gone: its generator, or its error, refers to itself."""
    parser.parser.close()
    parser.parser_exc = None


def between_frames(parser: FrameParser) -> bool:
    """Whether it holds no part of a frame or message: its generator waits for a next frame."""
    waiting = getattr(parser.parser, "gi_yieldfrom", None)
    return parser.current_size is None and waiting is not None and waiting.__name__ == "at_eof"
