"""A text as it grows: pieces at byte offsets, and whole texts, against what a record has. Pure.

A piece says how long the text is before it, so repeats, overlaps and gaps are told apart whatever order they come in.

Up to `PART` bytes the text stands in the record. Of a longer one every full part, cut at the last whole character, lies
in object storage under its hash; the record lists the parts and carries the rest. Where it is cut depends on the text
alone: a rebuild makes the same bytes. What lies in a part is not at hand here, so an overlap within one counts as the
same; whole texts are compared part by part, by their hashes.
"""

import hashlib
import zlib
from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from tidings.storage.prediction import ABSENT, Prediction, Producer, Status, TextPart, Tombstone
from tidings.streams.log.protocol import Place
from tidings.streams.rules.decision import (
    Applied,
    Decision,
    RefusalCode,
    Rejected,
    Stale,
    applied,
    other_prediction,
    stepped,
)
from tidings.streams.rules.event import Event
from tidings.streams.rules.merging import set_once

PART = 32 * 1024
"""Bytes of a text that a record holds, and of one part of a longer one."""
TEXT_MAX = 1024 * 1024
"""Bytes of a text."""
PRODUCERS = 16
"""Writers whose last number a record keeps."""
PREFIX = "sha256-"

_NO_CONTENTS: Mapping[str, bytes] = {}


class Text(Struct, frozen=True, gc=False):
    """A text as a record holds it."""

    parts: tuple[TextPart, ...] = ()
    tail: bytes = b""

    @property
    def start(self) -> int:
        """Bytes before the tail."""
        return sum([part.bytes for part in self.parts]) if self.parts else 0

    @property
    def length(self) -> int:
        """Bytes of the whole."""
        return self.start + len(self.tail)

    @property
    def crc(self) -> int:
        """CRC-32 of the whole."""
        return zlib.crc32(self.tail, self.parts[-1].crc if self.parts else 0)


EMPTY = Text()


def text_of(record: Prediction) -> Text:
    """The text of a record; of one that has none the empty text."""
    if record.text_parts:
        return Text(record.text_parts, (record.text_tail or "").encode())
    return Text((), record.text.encode()) if record.text else EMPTY


def grow(text: Text, more: bytes) -> tuple[Text, Mapping[str, bytes]]:
    """The text with more at its end, and the parts that became full by it, by hash.

    Args:
        text: What stands.
        more: Whole characters in UTF-8.
    """
    tail = text.tail + more
    if len(tail) <= PART:
        return Text(text.parts, tail), _NO_CONTENTS
    parts, contents = list(text.parts), {}
    crc, at = parts[-1].crc if parts else 0, 0
    while len(tail) - at > PART:
        end = at + PART
        while tail[end] & 0xC0 == 0x80:  # within a character
            end -= 1
        content = tail[at:end]
        crc, at = zlib.crc32(content, crc), end
        name = f"{PREFIX}{hashlib.sha256(content).hexdigest()}"
        parts.append(TextPart(name, len(content), crc))
        contents[name] = content
    return Text(tuple(parts), tail[at:]), contents


def begins_with(text: Text, beginning: Text) -> bool:
    """Whether a text begins with another one, as far as hashes and what is at hand tell."""
    count = len(beginning.parts)
    if beginning.length > text.length or text.parts[:count] != beginning.parts:
        return False
    # The longer one has cut a part where the shorter one has its tail: that is not at hand.
    return len(text.parts) > count or text.tail.startswith(beginning.tail)


def changes_to(text: Text) -> dict[str, Any]:
    """The record's fields for this text."""
    tail = text.tail.decode()
    if text.parts:
        return {
            "text": None,
            "text_length": text.length,
            "text_parts": text.parts,
            "text_tail": tail,
        }
    return {"text": tail, "text_length": len(text.tail), "text_parts": (), "text_tail": None}


# ---- append ----


def append(
    current: Prediction | Tombstone | None, event: Event, position: Place | None, log: str | None
) -> Decision:
    """What a piece does to what stands."""
    if isinstance(current, Tombstone):
        return Stale(refusal="deleted")
    if current is not None and (contradiction := other_prediction(current, event)) is not None:
        return contradiction
    stands = current or _blank(event)
    taken = _take_number(stands.text_producers, event.producer)
    if isinstance(taken, Stale):
        return taken
    sequence = event.text_seq
    if sequence is not None and sequence.encode() <= (stands.text_seq or "").encode():
        return Stale(refusal="text-seq")
    named: dict[str, Any] = {}
    set_once(stands, event, named, override=False)
    if event.tags and len(tags := {*stands.tags, *event.tags}) > len(stands.tags):
        named["tags"] = tuple(sorted(tags))
    if not named and current is not None and taken is None and sequence is None:
        usual = _at_the_end(current, event, position, log)
        if usual is not None:
            return usual
    piece = _Piece(stands, event, named, taken)
    if (stands.pending or stands.status).terminal:
        return piece.after_the_end(position, log)
    return piece.judged(position, log, new=current is None)


def _at_the_end(
    current: Prediction, event: Event, position: Place | None, log: str | None
) -> Applied | None:
    """The usual piece, judged without reading the text: it belongs at the end of one that is in the record.

    None: it has to be looked at more closely. `_Piece` would decide the same, in twice the time.
    """
    text, length, more = current.text, current.text_length, event.text
    if (
        not text
        or not more
        or length is None
        or (event.offset is not None and event.offset != length)
        or event.text_closed
        or current.status is not Status.PROCESSING
        or current.pending is not None
        or current.text_missing is not None
    ):
        return None
    data = more.encode()
    if length + len(data) > PART:
        return None
    changes = {"text": text + more, "text_length": length + len(data)}
    record = applied(current, changes, event, position, log).record
    return Applied(record, False, growth=True, added=data)


class _Piece:
    """A piece against the record that it is about.

    Args:
        stands: The record; a blank one if there is none yet.
        event: The piece.
        changes: What else it says.
        producers: The record's writers once it is taken; None: it has no number.
    """

    def __init__(
        self,
        stands: Prediction,
        event: Event,
        changes: dict[str, Any],
        producers: tuple[Producer, ...] | None,
    ) -> None:
        self.stands, self.event, self.changes, self.producers = stands, event, changes, producers
        self.growth = not changes
        self.text = text_of(stands)
        self.data = (event.text or "").encode()
        self.length = self.text.length
        # If pieces are missing, a piece without an offset belongs behind them; a mere end closes what there is.
        missing = stands.text_missing if self.data else None
        end = self.length if missing is None or missing < self.length else missing
        self.offset = event.offset if event.offset is not None else end
        self.end = self.offset + len(self.data)

    def judged(self, position: Place | None, log: str | None, *, new: bool) -> Decision:
        """While the prediction runs."""
        if self.offset > self.length:
            return self._missed("text-gap", position, log, new=new)
        if not self._overlaps():
            return self._mismatch()
        more = self.data[self.length - self.offset :]
        if self.length + len(more) > TEXT_MAX:
            return self._missed("text-too-long", position, log, new=new)
        changes, contents = self.changes, _NO_CONTENTS
        if more or (self.stands.text_length is None and not self.event.text_closed):
            grown, contents = grow(self.text, more)
            changes |= changes_to(grown)
        if self.producers is not None:
            changes["text_producers"] = self.producers
        if self.event.text_seq is not None:
            changes["text_seq"] = self.event.text_seq
        missing = self.stands.text_missing
        if missing is not None and self.length + len(more) >= missing:
            changes["text_missing"] = None
            self.growth = False
        decision = self._applied(position, log, new=new)
        if isinstance(decision, Applied) and more:
            return Applied(
                decision.record, decision.step, decision.growth, more, contents=contents or None
            )
        return decision

    def _applied(self, position: Place | None, log: str | None, *, new: bool) -> Decision:
        """The record with what has changed; it is `processing` now, or ends if the text is closed."""
        stands, event, changes = self.stands, self.event, self.changes
        if event.text_closed:
            changes["text_closed"] = True
            ends = event.status is not None and event.status.terminal
            wanted = event.status if ends and event.status is not None else Status.SUCCEEDED
            return stepped(stands, wanted, changes, event, position, log, new=new)
        if new or stands.status is Status.STARTING:
            return stepped(stands, Status.PROCESSING, changes, event, position, log, new=new)
        if not changes:
            return Stale(refusal="stale")
        decision = applied(stands, changes, event, position, log)
        return Applied(decision.record, False, growth=True) if self.growth else decision

    def after_the_end(self, position: Place | None, log: str | None) -> Decision:
        """Once it has ended: nothing is added; that something is missing is noted once."""
        stands, changes = self.stands, self.changes
        known = self.event.offset is not None and self.end <= self.length
        # If the provider's stream is read, the provider's word for the end is the last one.
        closed = stands.text_closed or bool(stands.stream)
        refusal: RefusalCode = "text-closed" if closed else "text-late"
        if known or not self.data:
            if known and not self._overlaps():
                return self._mismatch()
            refusal = "stale" if known or not closed else "text-closed"
        elif not closed and stands.text_missing is None:
            changes["text_missing"] = self.end
            reason = f"a piece up to byte {self.end} after the end, whose text has {self.length}"
            decision = applied(stands, changes, self.event, position, log)
            return replace(decision, refusal=refusal, letter=Rejected("text-late", reason))
        if changes:
            return replace(applied(stands, changes, self.event, position, log), refusal=refusal)
        return Stale(refusal=refusal)

    def _missed(
        self, code: RefusalCode, position: Place | None, log: str | None, *, new: bool
    ) -> Decision:
        """Something lies between the text and this piece, or it is too much: how far it reaches is noted."""
        stands, changes, missing = self.stands, self.changes, self.stands.text_missing
        letter = None
        if missing is None or missing <= self.length:
            if code == "text-gap":
                letter = Rejected(
                    "text-gap",
                    f"a piece at byte {self.offset} of a text of {self.length} bytes; send what is missing",
                )
            else:
                letter = Rejected(
                    "text-too-long", f"the text would have {self.end} bytes, over {TEXT_MAX}"
                )
        if letter is not None or missing is None or self.end > missing:
            changes["text_missing"] = self.end
        growth = self.growth and letter is None
        if new or stands.status is Status.STARTING:
            decision: Decision = stepped(
                stands, Status.PROCESSING, changes, self.event, position, log, new=new
            )
        elif changes:
            decision = applied(stands, changes, self.event, position, log)
        else:
            return Stale(refusal=code)
        assert isinstance(decision, Applied)
        return replace(decision, growth=growth and not decision.step, refusal=code, letter=letter)

    def _mismatch(self) -> Rejected:
        return Rejected(
            "text-mismatch",
            f"the piece at byte {self.offset} differs from the text of {self.length} bytes that stands there",
        )

    def _overlaps(self) -> bool:
        """Whether the piece says the same if the text has something already; within a part it does."""
        start = self.text.start
        first = max(self.offset, start)
        upto = min(self.end, self.length)
        if upto <= first:
            return True
        said = self.data[first - self.offset : upto - self.offset]
        return said == self.text.tail[first - start : upto - start]


def _blank(event: Event) -> Prediction:
    return Prediction(
        prediction_id=event.prediction_id,
        status=Status.STARTING,
        version=0,
        created_at=event.at,
        updated_at=event.at,
    )


def _take_number(
    producers: tuple[Producer, ...], given: Producer | None
) -> tuple[Producer, ...] | Stale | None:
    """The writers once this piece is taken, or why it is not; None: it has no number.

    Durable Streams 1.0, "Idempotent producers": an older epoch is fenced off, and a newer one
    begins at 0. Within one the numbers follow one another, and a number that was taken is a repeat.
    """
    if given is None:
        return None
    known = next((one for one in producers if one.id == given.id), None)
    if known is not None and given.epoch < known.epoch:
        return Stale(refusal="producer-fenced")
    if known is not None and given.epoch == known.epoch:
        if given.seq <= known.seq:
            return Stale(refusal="stale")
        if given.seq != known.seq + 1:
            return Stale(refusal="producer-gap")
    elif given.seq != 0:
        return Stale(refusal="producer-gap")
    others = [one for one in producers if one.id != given.id]
    return (*others[-(PRODUCERS - 1) :], given)


# ---- whole texts in reports ----


class Whole(Struct, frozen=True, gc=False):
    """What became of the whole text in a report."""

    letter: Rejected | None = None
    contents: Mapping[str, bytes] = _NO_CONTENTS


def report_text(
    current: Prediction, event: Event, changes: dict[str, Any], *, final: bool
) -> Whole | None:
    """Let the text of a report count, or what its output says if that is the text.

    While the prediction runs, of two with a common beginning the longer counts, else the later; at the end the report's
    does. An output that says the same as the text is not kept beside it. None: the report says nothing of the text.

    Args:
        current: The record.
        event: The report.
        changes: What the report changes so far; the text's fields are added.
        final: Whether the report tells the end, or the prediction has ended.
    """
    if event.text is None and (current.text_length is None or not event.output):
        return None
    old = new = text_of(current)
    output = _text_in_output(event)
    data = event.text.encode() if event.text is not None else None
    contents = _NO_CONTENTS
    if data is not None and len(data) > TEXT_MAX:
        reason = f"a text of {len(data)} bytes, over {TEXT_MAX}"
        return Whole(Rejected("text-too-long", reason))
    if data is None and output is not None and len(output) <= TEXT_MAX and old.length:
        said = grow(EMPTY, output)[0]
        if begins_with(said, old) or begins_with(old, said):  # else it is about something else
            data = output
    if data is not None and not current.text_closed:
        given, contents = grow(EMPTY, data)
        if final or not (given.length < old.length and begins_with(old, given)):
            new = given
            _replace_text(current, old, new, changes, final=final)
    if output is not None and ("output" in changes or current.output):
        said = grow(EMPTY, output)[0]
        if said == new and current.output:
            changes["output"] = ABSENT  # what came of it before there was a text goes, too
        elif said == new or (
            new.length and begins_with(new, said) and (not final or current.text_closed)
        ):
            changes.pop("output", None)
    return Whole(None, contents)


def _replace_text(
    current: Prediction, old: Text, new: Text, changes: dict[str, Any], *, final: bool
) -> None:
    if new != old or current.text_length is None:
        changes.update(changes_to(new))
        if not begins_with(new, old):
            changes["text_epoch"] = current.version + 1
    if final:
        changes["text_closed"] = True
    missing = current.text_missing
    if missing is not None and (final or new.length >= missing):
        changes["text_missing"] = None


def with_whole(decision: Decision, whole: Whole | None) -> Decision:
    """The decision on a report, with what became of its text."""
    if whole is None or not isinstance(decision, Applied):
        if whole is not None and whole.letter is not None and isinstance(decision, Stale):
            return whole.letter
        return decision
    if whole.letter is None and not whole.contents:
        return decision
    return replace(decision, letter=whole.letter, contents=whole.contents or None)


def _text_in_output(event: Event) -> bytes | None:
    """The text in an output: a string, a list of strings, which are its pieces, or what its provider's mapping says."""
    if event.output_text is not None:
        return event.output_text.encode()
    output = event.whole_output or event.output
    if bytes(output)[:1] not in (b'"', b"["):
        return None
    try:
        value = msgspec.json.decode(output, type=str | list[str])
    except (msgspec.DecodeError, RecursionError):
        return None
    return (value if isinstance(value, str) else "".join(value)).encode()
