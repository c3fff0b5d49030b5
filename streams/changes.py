"""The changes topic: full records, keyed by prediction, with headers that carry what routing and permission need.

Pure. A reader routes a change without decoding its value.
"""

from collections.abc import Sequence

from msgspec import Struct

from storage.prediction import Standing, Tombstone
from streams.log import NewRecord, Position, Record


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

    @property
    def deleted(self) -> bool:
        """Whether the prediction is gone."""
        return not self.value


def announcement(
    record: Standing,
    encoded: bytes,
    *,
    position: Position,
    expires_at: int | None = None,
    traceparent: bytes | None = None,
) -> NewRecord:
    """The record to append to the changes topic, at the partition number of its event."""
    headers: list[tuple[str, bytes]] = [("v", b"%d" % record.version)]
    deleted = isinstance(record, Tombstone)
    if not isinstance(record, Tombstone):
        headers.append(("s", record.status.encode()))
    if record.owner is not None:
        headers.append(("o", record.owner.encode()))
    if record.model is not None:
        headers.append(("m", record.model.encode()))
    headers.extend(("t", tag.encode()) for tag in record.tags)
    headers.append(("p", b"%d:%d" % (position.partition, position.offset)))
    if expires_at is not None and not deleted:
        headers.append(("x", b"%d" % expires_at))
    if traceparent is not None:
        headers.append(("traceparent", traceparent))
    return NewRecord(record.prediction_id.encode(), b"" if deleted else encoded, headers, position.partition)


def parse(record: Record) -> Change | None:
    """The change in a record of the topic; None where it is none of ours (no key, no version)."""
    if record.key is None:
        return None
    version = 0
    tags: list[str] = []
    one: dict[str, str] = {}
    try:
        for name, value in record.headers:
            if name == "v":
                version = int(value)
            elif name == "t":
                tags.append(value.decode())
            else:
                one[name] = value.decode()
        if not version:
            return None
        return Change(
            record.key.decode(),
            version,
            record.value or b"",
            one.get("s"),
            one.get("o"),
            one.get("m"),
            tuple(tags),
            Position.parse(one["p"]) if "p" in one else None,
            int(one["x"]) if "x" in one else None,
            one.get("traceparent"),
        )
    except ValueError:
        return None


def newest(records: Sequence[Record]) -> dict[str, Change]:
    """Per prediction the change with the highest version among these records."""
    result: dict[str, Change] = {}
    for record in records:
        change = parse(record)
        if change is not None and ((seen := result.get(change.prediction_id)) is None or change.version > seen.version):
            result[change.prediction_id] = change
    return result
