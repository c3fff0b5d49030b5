"""The topic of growing texts: pieces between two written versions, so that readers see a text while it grows.

Pure. A version is shown once it stands in the store; growth in between has none of its own. A piece
says which written version it continues (`b`), how long the text is before it (`n`), and the CRC-32
of that text (`c`). So a reader knows whether it continues what it has. A piece that was refused is
told as an empty one with a code (`r`).

| header | meaning |
|---|---|
| `b` | the written version that it stands on; 0: there is no record |
| `n` | bytes of the text before it |
| `c` | CRC-32 of the text before it |
| `e` | `textEpoch` of that version; left out if it has none |
| `p` | `partition:offset` of the last event in it |
| `r` | why the event at `p` did not become part of the text (see `RefusalCode`); left out if it did |
| `o`, `m`, `t` | as in the changes |

A change has the header `g` if it differs from the former written version, which it names, in nothing but the text.
"""

import zlib
from collections.abc import Sequence

from msgspec import Struct

from tidings.storage.prediction import Prediction, Standing
from tidings.streams.log.protocol import NewRecord, Place, Position, Record
from tidings.streams.rules.reducer import Refusal
from tidings.streams.rules.text import text_of

GROWN_HEADER = "g"
"""Of a change: the former written version, from which it differs in nothing but the text."""
REFUSED_HEADER = "r"
"""Of a piece: why it is no part of the text. Of a change, repeated: `partition:offset:code`."""


class Piece(Struct, frozen=True, gc=False):
    """A piece of a text as announced."""

    prediction_id: str
    base: int
    """The written version that it stands on."""
    before: int
    """Bytes of the text before it."""
    crc: int
    """CRC-32 of the text before it."""
    text: bytes
    """Whole characters in UTF-8; empty if it was refused, or only numbers of writers have changed."""
    position: Position
    """Of the last event in it."""
    epoch: int | None = None
    """`textEpoch` of the version it stands on."""
    refusal: str | None = None
    """Why the event is no part of the text."""
    owner: str | None = None
    model: str | None = None
    tags: tuple[str, ...] = ()

    @property
    def after(self) -> int:
        """Bytes of the text with it."""
        return self.before + len(self.text)

    @property
    def crc_after(self) -> int:
        """CRC-32 of the text with it."""
        return zlib.crc32(self.text, self.crc)


def text_length(record: Prediction) -> int:
    """Bytes of a record's text."""
    return record.text_length or 0


def text_crc(record: Prediction) -> int:
    """CRC-32 of a record's text: that which the next piece's `c` says."""
    return text_of(record).crc


def piece(
    record: Standing,
    base: int,
    text: bytes,
    *,
    before: int,
    crc: int,
    position: Place,
    refusal: str | None = None,
) -> NewRecord:
    """The record to append to the topic, at the partition number of its event.

    Args:
        record: As it stands; whose prediction it is, and the text's epoch.
        base: The written version.
        text: Whole characters.
        before: Bytes of the text before it.
        crc: CRC-32 of the text before it.
        position: Of the last event in it.
        refusal: Why the event is no part of the text.
    """
    headers: list[tuple[str, bytes]] = [
        ("b", b"%d" % base),
        ("n", b"%d" % before),
        ("c", b"%d" % crc),
        ("p", b"%d:%d" % (position.partition, position.offset)),
    ]
    if isinstance(record, Prediction) and record.text_epoch is not None:
        headers.insert(3, ("e", b"%d" % record.text_epoch))
    if refusal is not None:
        headers.append((REFUSED_HEADER, refusal.encode()))
    if record.owner is not None:
        headers.append(("o", record.owner.encode()))
    if record.model is not None:
        headers.append(("m", record.model.encode()))
    if record.tags:
        headers.extend(("t", tag.encode()) for tag in record.tags)
    return NewRecord(record.prediction_id.encode(), text, headers, position.partition)


def refused(record: Standing, base: int, refusals: Sequence[Refusal]) -> list[NewRecord]:
    """What tells the writers of pieces that were refused; `n` is the length that stood then."""
    return [
        piece(record, base, b"", before=r.length, crc=0, position=r.position, refusal=r.code)
        for r in refusals
    ]


def parse_piece(record: Record) -> Piece | None:
    """The piece in a record of the topic; None if it is none of ours."""
    key = record.key
    if key is None:
        return None
    base = before = crc = None
    position = epoch = refusal = owner = model = None
    tags: list[str] = []
    try:
        for name, value in record.headers:  # every gateway does this for every piece
            if name == "b":
                base = int(value)
            elif name == "n":
                before = int(value)
            elif name == "c":
                crc = int(value)
            elif name == "p":
                partition, _, offset = value.partition(b":")
                position = Position(int(partition), int(offset))
            elif name == "o":
                owner = value.decode()
            elif name == "m":
                model = value.decode()
            elif name == "t":
                tags.append(value.decode())
            elif name == "e":
                epoch = int(value)
            elif name == "r":
                refusal = value.decode()
        if base is None or before is None or crc is None or position is None:
            return None
        return Piece(
            key.decode(),
            base,
            before,
            crc,
            record.value or b"",
            position,
            epoch,
            refusal,
            owner,
            model,
            tuple(tags),
        )
    except (ValueError, TypeError, AttributeError):  # a header of Kafka's may be null
        return None


def refusals_of(record: Record) -> dict[Position, str]:
    """The refusals that a change tells, by the position of their events: it may be read before their pieces are."""
    found = {}
    for name, value in record.headers:
        if name == REFUSED_HEADER and value and value.count(b":") == 2:
            partition, offset, code = value.split(b":")
            found[Position(int(partition), int(offset))] = code.decode()
    return found
