"""Server-Sent Events, as a reader takes them apart. Pure.

Source: the HTML standard, 9.2.6 "Interpreting an event stream".
"""

import codecs

from msgspec import Struct

MAX_EVENT = 4 * 1024 * 1024
"""Characters of one event; a sender that goes on without an end is no event stream."""


class ServerEvent(Struct, frozen=True):
    """One event."""

    kind: str
    data: str


class EventStreamReader:
    """Gives the events in bytes that come in pieces, wherever they are cut."""

    def __init__(self) -> None:
        self._characters = codecs.getincrementaldecoder("utf-8")("replace")
        self._line = ""
        self._kind, self._data = "", list[str]()
        self._size = 0
        self._after_return = False

    def feed(self, piece: bytes) -> list[ServerEvent]:
        """The events that end within this piece.

        Raises:
            ValueError: An event is larger than `MAX_EVENT`.
        """
        text = self._characters.decode(piece)
        if text and self._after_return:  # the rest of a line break that was cut in two
            text, self._after_return = text.removeprefix("\n"), False
        self._after_return = self._after_return or text.endswith("\r")
        # Not `splitlines`: other separators, such as U+2028, are part of a line here.
        *lines, rest = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
        found = []
        for line in lines:
            event = self._take(self._line + line)
            self._line = ""
            if event is not None:
                found.append(event)
        self._line += rest
        if self._size + len(self._line) > MAX_EVENT:
            raise ValueError(f"an event of over {MAX_EVENT} characters")
        return found

    def _take(self, line: str) -> ServerEvent | None:
        if not line:
            kind, data = self._kind, self._data
            self._kind, self._data, self._size = "", [], 0
            return ServerEvent(kind or "message", "\n".join(data)) if data else None
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "data":
            self._data.append(value)
            self._size += len(value) + 1
        elif name == "event":
            self._kind = value
        return None
