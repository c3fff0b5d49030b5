"""The rules: what an event does to a prediction. Pure; the heart of the project.

```
starting   -> processing, failed, canceled
processing -> succeeded, failed, canceled
succeeded, failed, canceled: terminal
```

`decide` judges one event; it never raises, reads no clock and no setting but `strict`, so the same events give the same
bytes whenever they are replayed.
"""

import re
from collections.abc import Callable
from typing import Any, Literal

import msgspec
from msgspec import Raw, Struct
from msgspec.structs import replace

from tidings.storage.prediction import Prediction, Source, Standing, Status, Tombstone, Transition
from tidings.streams.log.protocol import Place
from tidings.streams.rules.event import LARGEST, LATEST, Archive, Event, EventType
from tidings.streams.rules.merging import advance, fill, merge, set_once

# Looking a member up on its class costs as much as a comparison; these are used for every event.
_STARTING, _PROCESSING, _SUCCEEDED = Status.STARTING, Status.PROCESSING, Status.SUCCEEDED
_REPORT, _CREATE = EventType.REPORT, EventType.CREATE
_BEFORE = Archive.BEFORE

_STEPS: dict[tuple[Status | None, Status], tuple[Status, ...]] = {
    (None, _STARTING): (_STARTING,),
    (None, _PROCESSING): (_STARTING, _PROCESSING),
    (None, Status.SUCCEEDED): (_STARTING, _PROCESSING, Status.SUCCEEDED),
    (None, Status.FAILED): (_STARTING, Status.FAILED),
    (None, Status.CANCELED): (_STARTING, Status.CANCELED),
    (_STARTING, _PROCESSING): (_PROCESSING,),
    (_STARTING, Status.SUCCEEDED): (_PROCESSING, Status.SUCCEEDED),
    (_STARTING, Status.FAILED): (Status.FAILED,),
    (_STARTING, Status.CANCELED): (Status.CANCELED,),
    (_PROCESSING, Status.SUCCEEDED): (Status.SUCCEEDED,),
    (_PROCESSING, Status.FAILED): (Status.FAILED,),
    (_PROCESSING, Status.CANCELED): (Status.CANCELED,),
}
"""The shortest path between two statuses, each step allowed by the table."""


_partition = re.compile(r"[0-9]{1,9}")


class Applied(Struct, frozen=True, gc=False):
    """The event changed the record (or left a tombstone)."""

    record: Standing
    step: bool
    """Whether the status changed: what the expiry of a finished prediction is reckoned from."""


class Duplicate(Struct, frozen=True, gc=False):
    """The event was applied before; the record as it stands is announced again."""


class Stale(Struct, frozen=True, gc=False):
    """The event says nothing new, or speaks of a past that is over. Ordinary; nothing is written."""

    behind: bool = False
    """Its status lies behind the current one."""


RejectionCode = Literal["contradiction", "owner", "provider-id", "strict", "record-too-large"]


class Rejected(Struct, frozen=True, gc=False):
    """The event contradicts what is known; it goes to the dead letters."""

    code: RejectionCode
    reason: str


Decision = Applied | Duplicate | Stale | Rejected

_DUPLICATE = Duplicate()
_STALE = Stale()
_BEHIND = Stale(behind=True)


def decide(
    current: Standing | None,
    event: Event,
    position: Place | None,
    *,
    log: str | None = None,
    strict: bool = False,
) -> Decision:
    """What the event does to what stands.

    Args:
        current: The record or tombstone; None: nothing has this id.
        event: The event; its `prediction_id` is the record's.
        position: Where the event lies in the log; None where there is no log.
        log: The log's id, with a position.
        strict: Reject a status that is reached only by skipping one, instead of implying the steps between.
    """
    if current is not None and _seen(current, event, position, log):
        return _DUPLICATE
    if event.type is _REPORT or event.type is _CREATE:
        return _report(current, event, position, log, strict)
    return _REQUESTS[event.type](current, event, position, log)


def _seen(current: Standing, event: Event, position: Place | None, log: str | None) -> bool:
    source = current.source
    if position is not None and source is not None and source.log == log:
        offset = source.offsets.get(str(position.partition))
        if offset is not None and position.offset <= offset:
            return True
    return (
        event.type is _CREATE
        and event.id is not None
        and isinstance(current, Prediction)
        and current.create_id == event.id
    )


# ---- report and create ----


def _report(
    current: Standing | None, event: Event, position: Place | None, log: str | None, strict: bool
) -> Decision:
    if current is None:
        return _STALE if event.notice else _begin(None, event, position, log, strict)
    if isinstance(current, Tombstone):
        if event.type is not _CREATE:
            return _STALE
        if event.owner is not None and current.owner is not None and event.owner != current.owner:
            return Rejected(
                "owner", f"the deleted prediction belonged to another owner than {event.owner!r}"
            )
        return _begin(current, event, position, log, strict)
    if (contradiction := _identity(current, event)) is not None:
        return contradiction

    changes: dict[str, Any] = {}
    first_create = event.type is _CREATE
    if first_create and current.create_id is not None:
        return _STALE
    set_once(current, event, changes, override=first_create)
    if first_create:
        changes["create_id"] = _create_id(event, position)

    judged = current.pending or current.status
    wanted = event.status
    if wanted is None or wanted is judged:
        return _same_status(current, changes, event, position, log)
    if judged.terminal and wanted.terminal:
        return Rejected("contradiction", f"Invalid transition from {judged} to {wanted}")
    if wanted.rank < judged.rank:
        if first_create:
            fill(current, event, changes)
        return _applied(current, changes, event, position, log) if changes else _BEHIND
    if strict and len(_STEPS[judged, wanted]) > 1:
        return Rejected("strict", f"Invalid transition from {judged} to {wanted}")
    advance(current, event, changes)
    return _stepped(current, wanted, changes, event, position, log)


def _same_status(
    current: Prediction,
    changes: dict[str, Any],
    event: Event,
    position: Place | None,
    log: str | None,
) -> Decision:
    if (current.pending or current.status).terminal:
        fill(current, event, changes)
    else:
        merge(current, event, changes)
        if changes and event.report:
            changes["report"] = event.report
    return _applied(current, changes, event, position, log) if changes else _STALE


def _identity(current: Prediction, event: Event) -> Rejected | None:
    """Another owner or another job at the provider: this event is about something else."""
    if event.owner is not None and current.owner is not None and event.owner != current.owner:
        return Rejected("owner", f"the prediction belongs to another owner than {event.owner!r}")
    if (
        event.provider_id is not None
        and current.provider_id is not None
        and event.provider_id != current.provider_id
    ):
        return Rejected(
            "provider-id",
            f"the prediction is {current.provider_id!r} at its provider, not {event.provider_id!r}",
        )
    return None


def _begin(
    grave: Tombstone | None, event: Event, position: Place | None, log: str | None, strict: bool
) -> Decision:
    """A new record, by way of `starting` and whatever steps the status implies."""
    wanted = event.status or _STARTING
    if strict and wanted is Status.SUCCEEDED:
        return Rejected("strict", f"Invalid transition from {_STARTING} to {wanted}")
    changes: dict[str, Any] = {}
    if event.owner is not None:
        changes["owner"] = event.owner
    if event.provider_id is not None:
        changes["provider_id"] = event.provider_id
    blank = Prediction(
        prediction_id=event.prediction_id,
        status=_STARTING,
        version=grave.version if grave else 0,
        created_at=event.at,
        updated_at=max(event.at, grave.updated_at) if grave else event.at,
        source=grave.source if grave else None,
    )
    set_once(blank, event, changes, override=True)
    advance(blank, event, changes)
    if event.type is _CREATE:
        changes["create_id"] = _create_id(event, position)
    return _stepped(blank, wanted, changes, event, position, log, new=True)


def _create_id(event: Event, position: Place | None) -> str:
    # A create always leaves its mark, or a second one could not be told from the first.
    return event.id or (
        f"{position.partition}:{position.offset}" if position is not None else "create"
    )


# ---- the other types ----


def _cancel(
    current: Standing | None, event: Event, position: Place | None, log: str | None
) -> Decision:
    if (
        not isinstance(current, Prediction)
        or current.status.terminal
        or current.pending is not None
    ):
        return _STALE
    if (contradiction := _identity(current, event)) is not None:
        return contradiction
    if current.cancel_requested_at is not None:
        return _STALE
    changes: dict[str, Any] = {"cancel_requested_at": event.at}
    if current.attempt is None and current.provider_id is None:
        return _stepped(current, Status.CANCELED, changes, event, position, log)
    return _applied(current, changes, event, position, log)


def _submit(
    current: Standing | None, event: Event, position: Place | None, log: str | None
) -> Decision:
    if (
        not isinstance(current, Prediction)
        or current.status is not _STARTING
        or current.attempt is not None
        or current.cancel_requested_at is not None
    ):
        return _STALE
    return _applied(current, {"attempt": event.attempt}, event, position, log)


class _Asset(Struct, gc=False, rename="camel"):
    url: str | None = None
    path: str | None = None


def _first_asset(assets: Raw) -> _Asset:
    try:
        listed = msgspec.json.decode(assets, type=list[_Asset])
    except (msgspec.DecodeError, RecursionError):
        return _Asset()
    return listed[0] if listed else _Asset()


def _archive(
    current: Standing | None, event: Event, position: Place | None, log: str | None
) -> Decision:
    if not isinstance(current, Prediction) or not (current.pending or current.status).terminal:
        return _STALE
    if event.created_at is not None and event.created_at != current.created_at:
        return _STALE  # about the files of an earlier prediction with this id
    changes: dict[str, Any] = {}
    if event.assets:
        if event.assets == current.assets and event.assets_error == current.assets_error:
            return _STALE
        changes["assets"] = event.assets
        if event.assets_error != current.assets_error:
            changes["assets_error"] = event.assets_error
        first = _first_asset(event.assets)
        # Of a list that is too large for a record, translation has kept the first.
        if (url := first.url or event.image_url) is not None:
            changes["image_url"] = url
        if (path := first.path or event.image_path) is not None:
            changes["image_path"] = path
    elif current.assets or event.assets_error == current.assets_error:
        return _STALE
    else:
        changes["assets_error"] = event.assets_error
    if current.pending is None:
        return _applied(current, changes, event, position, log)
    changes["pending"] = None
    if event.assets:
        return _stepped(current, current.pending, changes, event, position, log)
    changes["error"] = f"Processing failed: {event.assets_error}"
    return _stepped(current, Status.FAILED, changes, event, position, log)


def _delete(
    current: Standing | None, event: Event, position: Place | None, log: str | None
) -> Decision:
    if not isinstance(current, Prediction):
        return _STALE
    if (contradiction := _identity(current, event)) is not None:
        return contradiction
    return Applied(
        Tombstone(
            prediction_id=current.prediction_id,
            deleted=True,
            version=current.version + 1,
            updated_at=max(current.updated_at, event.at),
            owner=current.owner,
            model=current.model,
            tags=current.tags,
            source=_source(current.source, position, log),
        ),
        step=True,
    )


def _repair(
    current: Standing | None, event: Event, position: Place | None, log: str | None
) -> Decision:
    """The record as a rebuild found it, unless something that the rebuild had not read was applied meanwhile.

    A version never goes back: watchers drop what is not newer than what they have.
    """
    upto = event.upto or {}
    if event.version is None or (current is not None and event.version <= current.version):
        return _STALE
    applied = current.source.offsets if current is not None and current.source is not None else {}
    if any(offset > upto.get(partition, -1) for partition, offset in applied.items()):
        return _STALE
    if bytes(event.replace) == b"null":
        if not isinstance(current, Prediction):
            return _STALE
        grave = Tombstone(
            prediction_id=current.prediction_id,
            deleted=True,
            version=event.version,
            updated_at=max(current.updated_at, event.at),
            owner=current.owner,
            model=current.model,
            tags=current.tags,
            source=_source(current.source, position, log),
        )
        return Applied(grave, step=True)
    try:
        rebuilt = msgspec.json.decode(event.replace, type=Prediction)
    except (msgspec.DecodeError, RecursionError):
        return _STALE
    if rebuilt.prediction_id != event.prediction_id or not _plausible(rebuilt, upto):
        return _STALE
    mended = replace(rebuilt, version=event.version, source=_source(rebuilt.source, position, log))
    step = not isinstance(current, Prediction) or current.status is not mended.status
    return Applied(mended, step=step)


def _plausible(rebuilt: Prediction, upto: dict[str, int]) -> bool:
    """Whether a rebuild that had read so far can have made this record; anything else no store could be sure to hold."""
    if max(rebuilt.created_at, rebuilt.updated_at) > LATEST:
        return False
    offsets = rebuilt.source.offsets if rebuilt.source is not None else {}
    return all(
        _partition.fullmatch(partition) is not None
        and offset <= min(upto.get(partition, -1), LARGEST)
        for partition, offset in offsets.items()
    )


# ---- what every applied event does ----


def _source(old: Source | None, position: Place | None, log: str | None) -> Source | None:
    if position is None or log is None:
        return old
    partition = str(position.partition)
    if old is None or old.log != log or (len(old.offsets) == 1 and partition in old.offsets):
        return Source(log, {partition: position.offset})
    return Source(log, {**old.offsets, partition: position.offset})


def _applied(
    current: Prediction,
    changes: dict[str, Any],
    event: Event,
    position: Place | None,
    log: str | None,
) -> Applied:
    changes["version"] = current.version + 1
    if event.at > current.updated_at:
        changes["updated_at"] = event.at
    if position is not None:
        changes["source"] = _source(current.source, position, log)
    return Applied(replace(current, **changes), False)


def _stepped(
    current: Prediction,
    wanted: Status,
    changes: dict[str, Any],
    event: Event,
    position: Place | None,
    log: str | None,
    *,
    new: bool = False,
) -> Applied:
    """Walk to the status, each step an entry of its own in the audit trail."""
    before = current.status
    if wanted is _SUCCEEDED and event.archive is _BEFORE and current.pending is None:
        # Archive mode `before`: the success is applied when its files are stored.
        changes["pending"] = wanted
        wanted = _PROCESSING
    step = new or before is not wanted
    if step:
        where = f"{position.partition}:{position.offset}" if position is not None else None
        last = None if new else before
        steps = []
        for status in _STEPS.get((last, wanted), (wanted,)):
            steps.append(Transition(last, status, event.at, event.id, event.source, where))
            last = status
        changes["transitions"] = (*current.transitions, *steps)
        changes["status"] = wanted
    changes["version"] = current.version + 1
    if event.at > current.updated_at:
        changes["updated_at"] = event.at
    changes["source"] = _source(current.source, position, log)
    return Applied(replace(current, **changes), step)


_REQUESTS: dict[
    EventType, Callable[[Standing | None, Event, Place | None, str | None], Decision]
] = {
    EventType.CANCEL: _cancel,
    EventType.SUBMIT: _submit,
    EventType.ARCHIVE: _archive,
    EventType.DELETE: _delete,
    EventType.REPAIR: _repair,
}
"""What judges the types other than report and create."""
