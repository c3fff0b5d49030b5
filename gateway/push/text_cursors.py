"""How much of each growing text one client has, if it asked for pieces.

Pure. A client has an entry once it was sent a whole record that it may see, so a piece needs no
further check of rights; without an entry it is sent the next record as a whole. Whoever is in step
shares its entry with the text itself.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol

from tidings.gateway.push.growing_text import GrowingText
from tidings.gateway.push.hub import RoutedChange, RoutedText
from tidings.gateway.push.protocol import frame
from tidings.storage.prediction import TERMINAL
from tidings.streams.changes.codec import Change

MOST = 10_000
"""Texts of which one client's place is known; of others it is sent whole records."""

_TERMINAL = frozenset(status.value for status in TERMINAL)


class TextAudience:
    """Who is sent pieces of texts over one kind of connection, and how much."""

    __slots__ = ("_behind", "bytes", "pieces")

    def __init__(self) -> None:
        self.pieces = 0
        """Messages with pieces so far, counted once for each reader."""
        self.bytes = 0
        """Their bytes."""
        self._behind: dict[object, Callable[[], int]] = {}

    def __len__(self) -> int:
        return len(self._behind)

    def join(self, reader: object, behind: Callable[[], int]) -> None:
        """Count a reader until it leaves; `behind` says how many bytes of texts it is still to be sent."""
        self._behind[reader] = behind

    def leave(self, reader: object) -> None:
        """Undo `join`. Idempotent."""
        self._behind.pop(reader, None)

    def sent(self, size: int) -> None:
        """One reader was sent a piece."""
        self.pieces += 1
        self.bytes += size

    def behind(self) -> tuple[int, int]:
        """How many readers are behind at the moment, and by how many bytes together."""
        found = [size for one in self._behind.values() if (size := one())]
        return len(found), sum(found)


class TextSession(Protocol):
    """A session that pieces are written to."""

    @property
    def takes_texts(self) -> bool:
        """Whether a piece can be written right now."""

    def send_pieces(self, frames: bytes) -> None:
        """Send frames of pieces, where `takes_texts` says so."""

    def resend(self, prediction_id: str) -> None:
        """Send the record as it stands."""


class Texts(Protocol):
    """The growing texts of a gateway."""

    @property
    def audiences(self) -> Mapping[str, TextAudience]:
        """By kind of connection: websocket, events, stream."""

    def get(self, prediction_id: str) -> GrowingText | None:
        """The text, if it is followed."""

    def begin(self, prediction_id: str, encoded: bytes) -> tuple[int, int] | None:
        """Follow the text of a record that a client was sent; the epoch and length that it has.

        None: nothing is appended to it any more.
        """

    def length_of(self, change: Change) -> tuple[int, int]:
        """The epoch and the length of the text in a record that has been announced."""


class TextCursors:
    """What one client has of each text.

    Args:
        texts: Of the gateway.
        kind: Of the client's connection.
    """

    __slots__ = ("_audience", "_reached", "_texts", "behind")

    def __init__(self, texts: Texts, kind: str) -> None:
        self._texts = texts
        self._audience = texts.audiences[kind]
        self._reached: dict[str, tuple[int, int]] = {}
        self.behind: dict[str, None] = {}
        """Texts of which it has to be sent what has come meanwhile."""

    def wanted(self, items: Iterable[RoutedChange]) -> list[RoutedChange]:
        """The changes that it has to be sent: those of a text alone are left out if it has it."""
        wanted = []
        for item in items:
            change = item.change
            name = change.prediction_id
            if not change.value or change.status in _TERMINAL:
                self.forget(name)  # nothing follows
            else:
                if change.grown_from is not None and self._in_step(change, change.grown_from):
                    continue
                self._whole(name, *self._texts.length_of(change))
            wanted.append(item)
        return wanted

    def _in_step(self, change: Change, grown_from: int) -> bool:
        """Whether the client has, or gets, everything of this record but its version."""
        text = self._texts.get(change.prediction_id)
        reach = self._reached.get(change.prediction_id)
        return (
            text is not None
            and reach is not None
            and reach[0] == text.epoch
            and text.since <= grown_from
        )

    def sent(self, prediction_id: str, encoded: bytes) -> None:
        """It was sent this record, or has it."""
        begun = self._texts.begin(prediction_id, encoded)
        if begun is None:
            self.forget(prediction_id)
        else:
            self._whole(prediction_id, *begun)
            self.behind[prediction_id] = None

    def _whole(self, prediction_id: str, epoch: int, length: int) -> None:
        there = self._reached.get(prediction_id)
        if there is not None and there[0] >= epoch:
            if there[0] > epoch:
                return
            # While it grows, a record that is behind the pieces does not shorten what is there.
            length = max(length, there[1])
        text = self._texts.get(prediction_id)
        reach = (epoch, length)
        self._reached[prediction_id] = (
            text.told if text is not None and text.told == reach else reach
        )
        if len(self._reached) > MOST:
            self.forget(next(iter(self._reached)))

    def advance(self, text: GrowingText, write: Callable[[bytes], bool]) -> bool:
        """Write one step of a text to a client that is in step and reads; False: it is not, or does not.

        As `step`, without its calls: most pieces go this way.
        """
        name, reached = text.prediction_id, self._reached
        message, framed = text.step
        if reached.get(name) is not text.before or not write(framed):
            return False
        reached[name] = text.told
        audience = self._audience
        audience.pieces += 1
        audience.bytes += len(message)
        return True

    def deliver(self, session: "TextSession", grown: Sequence[RoutedText]) -> None:
        """Send one step of these texts; what does not fit now is sent by `catch_up`."""
        if not session.takes_texts:
            for item in grown:
                self.lag(item.text)
            return
        frames = [item.text.step[1] for item in grown if self.step(item.text)]
        if frames:
            session.send_pieces(frames[0] if len(frames) == 1 else b"".join(frames))
        if self.behind:
            self.catch_up(session)

    def catch_up(self, session: "TextSession") -> None:
        """Send what texts have grown by while nothing of them could be sent."""
        if not self.behind or not session.takes_texts:
            return
        messages, whole = self.rest()
        if messages:
            session.send_pieces(b"".join([frame(message) for _, message in messages]))
        for name in whole:
            session.resend(name)

    def retain(self, wanted: Callable[[str], bool]) -> None:
        """Forget the texts that are not subscribed to any more."""
        for name in [name for name in self._reached if not wanted(name)]:
            self.forget(name)

    def step(self, text: GrowingText) -> bool:
        """Whether one step of the text brings the client up to date; then it is taken as sent."""
        name = text.prediction_id
        reach = self._reached.get(name)
        if reach is text.before:
            self._reached[name] = text.told
            self._audience.sent(len(text.step[0]))
            return True
        if reach is not None:
            self.behind[name] = None
        return False

    def lag(self, text: GrowingText) -> None:
        """It cannot be sent anything now: it gets what has come once it can."""
        if text.prediction_id in self._reached:
            self.behind[text.prediction_id] = None

    def rest(self) -> tuple[list[tuple[GrowingText, bytes]], list[str]]:
        """What it has to be sent of the texts that it is behind with.

        Returns:
            The messages, taken as sent; and the predictions whose whole record it has to be sent.
        """
        messages: list[tuple[GrowingText, bytes]] = []
        whole: list[str] = []
        for name in self.behind:
            reach, text = self._reached.get(name), self._texts.get(name)
            if reach is None or text is None:
                continue  # its record says the rest
            message = text.message_since(reach)
            if message is None:
                del self._reached[name]
                whole.append(name)
            elif message:
                self._reached[name] = text.told
                self._audience.sent(len(message))
                messages.append((text, message))
        self.behind.clear()
        return messages, whole

    def _behind_by(self) -> int:
        """Bytes of texts that it is still to be sent."""
        total = 0
        for name in self.behind:
            reach, text = self._reached.get(name), self._texts.get(name)
            if reach is not None and text is not None:
                total += max(0, text.length - (reach[1] if reach[0] == text.epoch else 0))
        return total

    def open(self) -> None:
        """Count the client among the readers until `close`."""
        self._audience.join(self, self._behind_by)

    def close(self) -> None:
        """The client is gone."""
        self._audience.leave(self)

    def forget(self, prediction_id: str) -> None:
        """It has to be sent the next record as a whole."""
        self._reached.pop(prediction_id, None)
        self.behind.pop(prediction_id, None)

    def clear(self) -> None:
        """As `forget`, of all: its rights have changed."""
        self._reached.clear()
        self.behind.clear()
