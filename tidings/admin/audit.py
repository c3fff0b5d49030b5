"""The audit trail as a list.

Every step of every prediction, and what operators did to them, in the order of time.

Steps come from the records in the store, hidden ones included; deletions, erasures, repairs and
redrives from the log, as far back as it goes. The lines are put in order in a temporary file, so
that memory stays small however many there are.
"""

import sqlite3
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Literal

import msgspec
from msgspec import Struct

from tidings.admin.erasure import ERASURE_SOURCE
from tidings.storage.prediction import Standing, Tombstone, Usage
from tidings.storage.store import PredictionStore, Query
from tidings.streams.log.headers import ATTEMPT, DELIVERY_HEADER, PROVIDER_HEADER
from tidings.streams.log.protocol import CHANGES, EVENTS, Log, Record
from tidings.streams.log.read_until_end import read_until_end
from tidings.streams.processing.decoder import decode_event
from tidings.streams.providers.protocol import Provider
from tidings.streams.rules.event import Event, EventType, OtherResource, Poison

AT_ONCE = 200
"""Records loaded at once: each may have half a megabyte."""

Kind = Literal["transition", "deletion", "erasure", "repair", "redrive"]
COLUMNS = (
    "predictionId",
    "kind",
    "from",
    "to",
    "at",
    "eventId",
    "source",
    "position",
    "owner",
    "version",
    "usage",
)

_SCHEMA = """
CREATE TABLE seen (prediction TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE lines (
    prediction TEXT, name TEXT, at INTEGER, step INTEGER, doc BLOB, PRIMARY KEY (prediction, name)
) WITHOUT ROWID;
"""


class AuditLine(
    Struct,
    frozen=True,
    kw_only=True,
    rename={"prediction_id": "predictionId", "event_id": "eventId", "from_": "from"},
):
    """One thing that happened to a prediction."""

    prediction_id: str
    kind: Kind
    from_: str | None = None
    to: str | None = None
    at: int
    """In ms since the epoch."""
    event_id: str | None = None
    source: str | None = None
    """Who said so."""
    position: str | None = None
    """`partition:offset` of the event."""
    owner: str | None = None
    version: int | None = None
    """That the record got by it, if that is known: of deletions and repairs."""
    usage: Usage | None = None
    """Of a prediction's last step: what it has used."""


class AuditFilter(Struct, frozen=True, kw_only=True):
    """Which lines; None: all."""

    since: int | None = None
    """From this time on, in ms."""
    until: int | None = None
    """Before this time, in ms."""
    owner: str | None = None
    only: str | None = None
    """Of this prediction."""

    def __contains__(self, line: AuditLine) -> bool:
        return (
            (self.since is None or line.at >= self.since)
            and (self.until is None or line.at < self.until)
            and self.owner in (None, line.owner)
            and self.only in (None, line.prediction_id)
        )


class AuditTrail:
    """The lines found so far, in a temporary file that goes with it.

    Args:
        wanted: What is kept of them.
    """

    def __init__(self, wanted: AuditFilter) -> None:
        self.wanted = wanted
        self._folder = tempfile.TemporaryDirectory(prefix="tidings-audit-")
        self._file = sqlite3.connect(Path(self._folder.name) / "trail.db", isolation_level=None)
        self._file.executescript("PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF;" + _SCHEMA)
        self._file.execute(
            "BEGIN"
        )  # one transaction for all: each line by itself would be written to the disk

    def __enter__(self) -> "AuditTrail":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._file.close()
        self._folder.cleanup()

    def new(self, ids: Iterable[str]) -> list[str]:
        """Those of the ids that were not asked about before, each once."""
        asked = [one for one in dict.fromkeys(ids) if self.wanted.only in (None, one)]
        insert = "INSERT OR IGNORE INTO seen VALUES (?)"
        return [one for one in asked if self._file.execute(insert, (one,)).rowcount]

    def add(self, line: AuditLine, name: str, step: int = 0) -> None:
        """Keep a line; another one of the same name about the same prediction goes.

        Args:
            line: Left out if it is not wanted.
            name: What tells it from the prediction's others.
            step: Its place among lines of the same time.
        """
        if line in self.wanted:
            row = (line.prediction_id, name, line.at, step, msgspec.json.encode(line))
            self._file.execute("INSERT OR REPLACE INTO lines VALUES (?, ?, ?, ?, ?)", row)

    def lines(self) -> Iterator[bytes]:
        """All of them as JSON, by time, then prediction, then step."""
        ordered = "SELECT doc FROM lines ORDER BY at, prediction, step, name"
        yield from (row[0] for row in self._file.execute(ordered))


async def collect(
    log: Log, store: PredictionStore, providers: Mapping[str, Provider], trail: AuditTrail
) -> None:
    """Find every line that is wanted, up to the ends of the log as of now.

    Raises:
        LogError, StorageError: They cannot be read.
    """
    if trail.wanted.only is not None:
        await _add_records(store, trail, [trail.wanted.only])
    async for batch in read_until_end(log, EVENTS):
        await _add_records(store, trail, _keys(batch))
        await _add_actions(
            store,
            trail,
            [found for record in batch if (found := _action(record, providers)) is not None],
        )
    async for batch in read_until_end(
        log, CHANGES
    ):  # older than the events that are kept, and in no list of the store
        await _add_records(store, trail, _keys(batch))
    cursor: str | None = None
    while store.capabilities.lists and trail.wanted.only is None:
        page = await store.list(
            Query(owner=trail.wanted.owner, limit=AT_ONCE, cursor=cursor, hidden=True)
        )
        await _add_records(store, trail, [stored.standing().prediction_id for stored in page.items])
        cursor = page.cursor
        if cursor is None:
            return


def _keys(batch: Sequence[Record]) -> list[str]:
    return [record.key.decode("utf-8", "replace") for record in batch if record.key]


# ---- records ----


async def _add_records(store: PredictionStore, trail: AuditTrail, ids: Iterable[str]) -> None:
    fresh = trail.new(ids)
    for start in range(0, len(fresh), AT_ONCE):
        for stored in (await store.load(fresh[start : start + AT_ONCE])).values():
            _add_steps(trail, stored.standing())


def _add_steps(trail: AuditTrail, record: Standing) -> None:
    if isinstance(record, Tombstone):
        line = AuditLine(
            prediction_id=record.prediction_id,
            kind="deletion",
            to="deleted",
            at=record.updated_at,
            position=_position(record),
            owner=record.owner,
            version=record.version,
        )
        trail.add(line, f"at {line.position}")
        return
    for step, one in enumerate(record.transitions):
        line = AuditLine(
            prediction_id=record.prediction_id,
            kind="transition",
            from_=one.from_,
            to=one.to,
            at=one.at,
            event_id=one.id,
            source=one.source,
            position=one.position,
            owner=record.owner,
            usage=record.usage if step == len(record.transitions) - 1 else None,
        )
        trail.add(line, f"step {step}", step)


def _position(record: Standing) -> str | None:
    """Of the last event applied, if all of them lie in one partition."""
    offsets = record.source.offsets if record.source is not None else {}
    return (
        next(f"{partition}:{offset}" for partition, offset in offsets.items())
        if len(offsets) == 1
        else None
    )


# ---- what operators did ----


def _action(
    record: Record, providers: Mapping[str, Provider]
) -> tuple[Record, Event | None] | None:
    """A record that deletes, repairs, or was tried again, with its event.

    None: it does nothing of that.
    """
    headers = dict(record.headers or ())
    redriven = ATTEMPT in headers
    value = record.value or b""
    plain = PROVIDER_HEADER not in headers and (
        b"delete" in value or b"repair" in value or "ce_type" in headers
    )
    if not redriven and not plain:
        return None
    try:
        event = decode_event(record, providers)
    except (Poison, OtherResource):
        return (record, None) if redriven else None
    return (
        (record, event) if redriven or event.type in {EventType.DELETE, EventType.REPAIR} else None
    )


async def _add_actions(
    store: PredictionStore, trail: AuditTrail, found: Sequence[tuple[Record, Event | None]]
) -> None:
    for start in range(0, len(found), AT_ONCE):
        some = found[start : start + AT_ONCE]
        ids = {_id(record, event) for record, event in some}
        standing = {
            one: stored.standing()
            for one, stored in (await store.load([i for i in ids if i])).items()
        }
        for record, event in some:
            name = _id(record, event)
            if name:
                line = _line_of(name, record, event, standing.get(name))
                trail.add(
                    line, f"at {line.position}" + (" again" if line.kind == "redrive" else "")
                )


def _id(record: Record, event: Event | None) -> str:
    return (
        event.prediction_id if event is not None else (record.key or b"").decode("utf-8", "replace")
    )


def _line_of(
    name: str, record: Record, event: Event | None, standing: Standing | None
) -> AuditLine:
    position = f"{record.partition}:{record.offset}"
    kind: Kind = "redrive"
    to = version = None
    if event is not None and event.type is EventType.DELETE:
        kind, to = ("erasure" if event.source == ERASURE_SOURCE else "deletion"), "deleted"
        if isinstance(standing, Tombstone) and _position(standing) == position:
            version = standing.version
    elif event is not None and event.type is EventType.REPAIR:
        kind, version = "repair", event.version
    delivery = next(
        (value for header, value in record.headers or () if header == DELIVERY_HEADER), None
    )
    told = event.id if event is not None else None
    return AuditLine(
        prediction_id=name,
        kind=kind,
        to=to,
        at=record.timestamp if event is None or kind == "redrive" else event.at,
        event_id=told or (delivery.decode("utf-8", "replace") if delivery else None),
        source=event.source if event is not None else None,
        position=position,
        owner=standing.owner if standing is not None else None,
        version=version,
    )
