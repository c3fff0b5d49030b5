"""The changes topic: full records, keyed by prediction, with headers that carry what routing and permission need.

Pure. A reader routes a change without decoding its value.
"""

from collections.abc import Sequence

from msgspec import Struct

from tidings.storage.prediction import (
    Source,
    Standing,
    Status,
    Tombstone,
    decode,
    encode,
    without_report,
)
from tidings.storage.store import Write
from tidings.streams.log.protocol import NewRecord, Place, Position, Record
from tidings.streams.rules.reducer import DAY, Refusal

_RARE = frozenset({"traceparent", "k"})
_NOTHING: dict[str, str] = {}
_NUMBERS = frozenset({"x", "u", "g", "d", "q"})
_STATUS_HEADERS = {status: ("s", status.encode()) for status in Status}


EXPIRED = "expired"
"""Instead of the status, of a prediction that is hidden by its time to live."""


class Change(Struct, frozen=True, gc=False):
    """A prediction's newest state as announced."""

    prediction_id: str
    version: int
    value: bytes
    """The record's encoding; empty: deleted."""
    status: str | None = None
    owner: str | None = None
    model: str | None = None
    tags: tuple[str, ...] = ()
    position: Position | None = None
    """Of the last event applied, in the events topic."""
    expires_at: int | None = None
    traceparent: str | None = None
    deleted_at: int | None = None
    """A tombstone's `updatedAt`."""
    grown_from: int | None = None
    """The former written version, if it differs from that in its text alone."""
    deadline: int | None = None
    """When it fails unless it has ended, in ms."""
    kind: str | None = None
    """`group`, of a group."""
    quiet: int | None = None
    """So many transitions, from the first on, came by a repair: no other server is told of them."""

    @property
    def deleted(self) -> bool:
        """Whether the prediction is gone."""
        return not self.value

    @property
    def expired(self) -> bool:
        """Whether it is only hidden, by its time to live: a gateway's own word, in no topic."""
        return not self.value and self.status == EXPIRED


def awaited_deadline(record: Standing) -> int | None:
    """When the record fails unless it has ended, in ms; None: it has ended, or may take forever."""
    if isinstance(record, Tombstone) or record.deadline is None:
        return None
    return None if (record.pending or record.status).terminal else record.deadline


def announcement(
    record: Standing,
    encoded: bytes,
    *,
    position: Place,
    expires_at: int | None = None,
    traceparent: bytes | None = None,
    grown_from: int | None = None,
    refusals: Sequence[Refusal] = (),
    quiet: int = 0,
) -> NewRecord:
    """The record to append to the changes topic, at the partition number of its event.

    Args:
        record: What stands.
        encoded: Its encoding.
        position: Of the last event applied.
        expires_at: When it is hidden, in ms.
        traceparent: The trace to go on with.
        grown_from: The former written version, if nothing but the text has changed since.
        refusals: Pieces that did not become part of the text.
        quiet: Transitions that a repair brought.
    """
    headers: list[tuple[str, bytes]] = [("v", b"%d" % record.version)]
    add = headers.append
    prediction = None if isinstance(record, Tombstone) else record
    if prediction is not None:
        add(_STATUS_HEADERS[prediction.status])
    if record.owner is not None:
        add(("o", record.owner.encode()))
    if record.model is not None:
        add(("m", record.model.encode()))
    if record.tags:
        headers.extend(("t", tag.encode()) for tag in record.tags)
    add(("p", b"%d:%d" % (position.partition, position.offset)))
    if prediction is None:
        add(("u", b"%d" % record.updated_at))
    elif expires_at is not None:
        add(("x", b"%d" % expires_at))
    if grown_from is not None:
        add(("g", b"%d" % grown_from))
    for refusal in refusals:
        place = refusal.position
        add(("r", b"%d:%d:%s" % (place.partition, place.offset, refusal.code.encode())))
    if prediction is not None:
        if prediction.deadline is not None and (at := awaited_deadline(record)) is not None:
            add(("d", b"%d" % at))
        if prediction.kind is not None:
            add(("k", prediction.kind.encode()))
    if quiet:
        add(("q", b"%d" % quiet))
    if traceparent is not None:
        add(("traceparent", traceparent))
    return NewRecord(
        record.prediction_id.encode(),
        b"" if prediction is None else encoded,
        headers,
        position.partition,
    )


def parse(record: Record) -> Change | None:
    """The change in a record of the topic; None if it is none of ours (no key, no version)."""
    key = record.key
    if key is None:
        return None
    version = 0
    status = owner = model = position = None
    rare: dict[str, str] = _NOTHING
    numbers: dict[str, int] = {}
    tags: list[str] = []
    try:
        for name, value in record.headers:  # every gateway does this for every change
            if name == "v":
                version = int(value)
            elif name == "s":
                status = value.decode()
            elif name == "o":
                owner = value.decode()
            elif name == "p":
                partition, _, offset = value.partition(b":")
                position = Position(int(partition), int(offset))
            elif name == "m":
                model = value.decode()
            elif name == "t":
                tags.append(value.decode())
            elif name in _NUMBERS:
                numbers[name] = int(value)
            elif name in _RARE and value:
                # Older processors carried on whatever a sender had written: it must hide no change.
                rare = {**rare, name: value.decode("ascii", "replace")}
        if not version:
            return None
        text = without_report(record.value) if record.value else b""
        return Change(
            key.decode(),
            version,
            text,
            status,
            owner,
            model,
            tuple(tags),
            position,
            numbers.get("x"),
            rare.get("traceparent"),
            numbers.get("u"),
            numbers.get("g"),
            numbers.get("d"),
            rare.get("k"),
            numbers.get("q"),
        )
    except (ValueError, TypeError, AttributeError):  # a header of Kafka's may be null
        return None


def newest(records: Sequence[Record]) -> dict[str, Change]:
    """Per prediction the change with the highest version among these records."""
    result: dict[str, Change] = {}
    for record in records:
        change = parse(record)
        if change is not None and (
            (seen := result.get(change.prediction_id)) is None or change.version > seen.version
        ):
            result[change.prediction_id] = change
    return result


def restored(change: Change, *, log: str, announced_at: int, retention: int) -> Write:
    """What was written to the store before this change was announced, byte for byte.

    Args:
        change: As read from the topic.
        log: The id of the log that the store belongs to.
        announced_at: The time of the change's own record, in ms.
        retention: Of the events, in ms; with it comes when the row may be purged.

    Raises:
        msgspec.DecodeError: The value is no record.
    """
    expected = change.version - 1
    if change.value:
        purge_at = None if change.expires_at is None else change.expires_at + retention + DAY
        return Write(decode(change.value), change.value, expected, change.expires_at, purge_at)
    at = change.position
    tombstone = Tombstone(
        prediction_id=change.prediction_id,
        deleted=True,
        version=change.version,
        updated_at=announced_at if change.deleted_at is None else change.deleted_at,
        owner=change.owner,
        model=change.model,
        tags=change.tags,
        source=Source(log, {str(at.partition): at.offset} if at is not None else {}),
    )
    return Write(tombstone, encode(tombstone), expected, None, announced_at + retention + DAY)
