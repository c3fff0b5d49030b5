"""One text that grows, as a gateway knows it: the last written record, and the pieces since.

Pure. A piece names the *written* version of the record that it continues, and says where in the
text it begins. So pieces and records, which come from two topics, can be put together in any order:
what overlaps is left out, and nothing is ever put behind a gap.
"""

import zlib

import msgspec
from msgspec import Struct

from tidings.gateway.push.protocol import append_message, frame
from tidings.storage.prediction import TERMINAL, Producer, Status, TextPart
from tidings.streams.changes.text_codec import Piece

AHEAD_BYTES = 65_536
AHEAD_MS = 2_000
"""What is kept of pieces whose written version has not come yet, and for how long."""


class TextHead(Struct, rename="camel"):
    """What a record says of its text."""

    version: int
    status: Status
    updated_at: int = 0
    pending: Status | None = None
    text: str | None = None
    text_length: int | None = None
    text_epoch: int | None = None
    text_parts: tuple[TextPart, ...] = ()
    text_tail: str | None = None
    text_closed: bool = False
    text_type: str | None = None
    text_producers: tuple[Producer, ...] = ()
    owner: str | None = None
    model: str | None = None
    tags: tuple[str, ...] = ()

    @property
    def ended(self) -> bool:
        """Whether nothing is appended any more."""
        return self.text_closed or (self.pending or self.status) in TERMINAL

    @property
    def content_type(self) -> str:
        """As it was given when the text began."""
        return self.text_type or "text/plain"

    @property
    def start(self) -> int:
        """The bytes that lie in object storage."""
        return sum([part.bytes for part in self.text_parts])

    @property
    def epoch(self) -> int:
        """The version at which it was last replaced; 0: never."""
        return self.text_epoch or 0

    @property
    def tail(self) -> bytes:
        """Those that the record carries."""
        return ((self.text_tail if self.text_parts else self.text) or "").encode()


_heads = msgspec.json.Decoder(TextHead)


def text_head(encoded: bytes) -> TextHead:
    """What a record says of its text; nothing if it is no record."""
    try:
        return _heads.decode(encoded)
    except msgspec.DecodeError:
        return TextHead(0, Status.FAILED)


class Reach(tuple[int, int]):
    """How much of a text somebody has: its epoch, and the bytes.

    Whoever is in step shares one object with the text, so that one comparison of identities tells.
    """

    __slots__ = ()

    def __new__(cls, epoch: int, length: int) -> "Reach":
        """The epoch of the text, and how many of its bytes."""
        return super().__new__(cls, (epoch, length))


class GrowingText:
    """The text of one prediction.

    Args:
        prediction_id: Whose.
    """

    __slots__ = (
        "_ahead",
        "_ahead_bytes",
        "_checks",
        "_told_version",
        "base",
        "before",
        "content_type",
        "data",
        "ended",
        "epoch",
        "model",
        "owner",
        "parts",
        "prediction_id",
        "readers",
        "since",
        "start",
        "step",
        "tags",
        "told",
        "touched",
        "updated_at",
        "version",
    )

    def __init__(self, prediction_id: str) -> None:
        self.prediction_id = prediction_id
        self.owner: str | None = None
        self.model: str | None = None
        self.tags: tuple[str, ...] = ()
        self.version = 0
        """The last written version that has come; 0: none yet."""
        self.since = 0
        """The version since which nothing but the text has changed."""
        self.updated_at = 0
        self.epoch = 0
        self.start = 0
        """Where `data` begins within the text: what lies before is in object storage."""
        self.parts: tuple[TextPart, ...] = ()
        """What lies in object storage."""
        self.content_type = ""
        self.touched = 0.0
        """When it last grew or was read, on the monotonic clock."""
        self.data = bytearray()
        self.ended = False
        """Whether nothing is appended any more."""
        self.readers = 0
        """Requests that read it right now."""
        self.base = 0
        """The length of the written text."""
        self._checks: dict[int, int] = {}
        """The CRC-32 of the text up to a boundary of the pieces since the written version."""
        self._ahead: list[tuple[int, Piece]] = []
        self._ahead_bytes = 0
        self.told = Reach(0, 0)
        """How much whoever is in step has been told."""
        self.before = self.told
        """The same before the last `advance`."""
        self._told_version = 0
        self.step = b"", b""
        """The message and the frame that bring whoever is in step from `before` to `told`."""

    @property
    def length(self) -> int:
        """The bytes of the text, as far as it has come."""
        return self.start + len(self.data)

    def written(self, head: TextHead, grown_from: int | None = None) -> bool:
        """Take a written record's text; False if it, or a newer one, is known.

        Args:
            head: What the record says of it.
            grown_from: The former version, if nothing else differs from that.
        """
        if head.version <= self.version:
            return False
        if grown_from is None or grown_from != self.version:
            self.since = head.version
        epoch, start, tail = head.epoch, head.start, head.tail
        replaced = epoch != self.epoch or not self.version
        self.version, self.updated_at, self.ended = head.version, head.updated_at, head.ended
        self.owner, self.model, self.tags = head.owner, head.model, head.tags
        self.epoch, self.start, self.base = epoch, start, start + len(tail)
        self.parts, self.content_type = head.text_parts, head.content_type
        self.data = bytearray(tail)
        if replaced or self.told[1] < start:
            # Everybody is told the whole record: of a text that is another one, or of one of which
            # what they have not got lies in object storage by now.
            self.told = Reach(epoch, self.base)
        self._checks.clear()
        ahead, self._ahead, self._ahead_bytes = self._ahead, [], 0
        for came, piece in ahead:
            self.piece(piece, came)
        return True

    def piece(self, piece: Piece, now: int) -> bool:
        """Take a piece; returns whether the text has grown.

        Args:
            piece: From the topic.
            now: ms, for how long a piece of a version that is to come is kept.
        """
        if piece.base < self.version or not piece.text:
            return False
        if piece.base > self.version:
            self._keep(piece, now)
            return False
        if (piece.epoch or 0) != self.epoch or not self.base <= piece.before <= self.length:
            return False  # behind a gap: the next whole record closes it
        if self._check_at(piece.before, piece.crc) != piece.crc:
            return False
        more = piece.text[self.length - piece.before :]
        self._checks[piece.after] = piece.crc_after
        if not more:
            return False
        self.data += more
        return True

    def _check_at(self, offset: int, claimed: int) -> int:
        """The CRC of the text up to an offset.

        All that is known of the written text is what the first piece behind it says. It has been
        written by now, and its writer has computed it from the same bytes.
        """
        known = self._checks.get(offset)
        if known is not None:
            return known
        if offset == self.base:
            self._checks[offset] = claimed
            return claimed
        if self.base not in self._checks:
            return claimed
        between = self.data[self.base - self.start : offset - self.start]
        return zlib.crc32(between, self._checks[self.base])

    def _keep(self, piece: Piece, now: int) -> None:
        self._ahead = [one for one in self._ahead if one[0] + AHEAD_MS > now]
        self._ahead.append((now, piece))
        self._ahead_bytes = sum(len(one.text) for _, one in self._ahead)
        while self._ahead_bytes > AHEAD_BYTES:
            self._ahead_bytes -= len(self._ahead.pop(0)[1].text)

    def read(self, start: int, end: int | None = None) -> bytes:
        """The bytes from an offset that lies at or beyond `start`, whole characters alone."""
        return bytes(self.data[start - self.start : None if end is None else end - self.start])

    # What sessions are told

    def advance(self) -> bool:
        """Tell whoever is in step what has come since; False: nothing has."""
        if self.length <= self.told[1]:
            return False
        self.before = self.told
        self.told = Reach(self.epoch, self.length)
        version = self.version if self.version != self._told_version else None
        self._told_version = self.version
        message = self._message(self.before[1], version)
        self.step = message, frame(message)
        return True

    def message_since(self, reach: tuple[int, int]) -> bytes | None:
        """The message that brings somebody who has so much to what is told.

        Returns:
            The message; empty: there is nothing to bring; None: it has to be told the whole record.
        """
        epoch, length = reach
        if epoch != self.epoch:
            # Of a newer text its record is on its way here; an older one is replaced as a whole.
            return b"" if epoch > self.epoch else None
        if length >= min(self.told[1], self.length):
            return b""
        if length < self.start:
            return None
        return self._message(length, self.version)

    def _message(self, offset: int, version: int | None) -> bytes:
        end = min(self.told[1], self.length)
        text = self.data[offset - self.start : end - self.start].decode()
        updated_at = None if version is None else self.updated_at
        return append_message(self.prediction_id, offset, text, version, updated_at)
