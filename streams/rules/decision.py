"""What can become of an event, and what every applied one does to the record. Pure."""

from collections.abc import Mapping
from typing import Any, Literal

from msgspec import Struct
from msgspec.structs import replace

from tidings.storage.prediction import DEADLINE, Prediction, Source, Standing, Status, Transition
from tidings.streams.log.protocol import Place
from tidings.streams.rules.event import Archive, Event

# Looking a member up on its class costs as much as a comparison; these are used for every event.
_STARTING, _PROCESSING, _SUCCEEDED = Status.STARTING, Status.PROCESSING, Status.SUCCEEDED
_BEFORE = Archive.BEFORE

STEPS: dict[tuple[Status | None, Status], tuple[Status, ...]] = {
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


RejectionCode = Literal[
    "contradiction",
    "owner",
    "provider-id",
    "strict",
    "record-too-large",
    "group",
    "text-mismatch",
    "text-gap",
    "text-late",
    "text-too-long",
]

RefusalCode = Literal[
    RejectionCode, "stale", "text-closed", "deleted", "producer-gap", "producer-fenced", "text-seq"
]
"""What a writer is told whose piece did not become part of the text. `stale`: it is in the text already."""


class Rejected(Struct, frozen=True, gc=False):
    """The event contradicts what is known; it goes to the dead letters."""

    code: RejectionCode
    reason: str


class Applied(Struct, frozen=True, gc=False):
    """The event changed the record (or left a tombstone)."""

    record: Standing
    step: bool
    """Whether the status changed: what the expiry of a finished prediction is reckoned from."""
    growth: bool = False
    """Nothing changed but the text, its length, its parts, what is missing of it, and who wrote it."""
    added: bytes = b""
    """What the piece added at the end of the text."""
    refusal: RefusalCode | None = None
    """The piece that it brought is no part of the text; this is why."""
    letter: Rejected | None = None
    """It goes to the dead letters all the same: what it says is lost, or contradicts what is known."""
    contents: Mapping[str, bytes] | None = None
    """Parts of the text that lie in object storage, by hash: to be put before the record stands."""


class Duplicate(Struct, frozen=True, gc=False):
    """The event was applied before; the record as it stands is announced again."""


class Stale(Struct, frozen=True, gc=False):
    """The event says nothing new, or speaks of a past that is over. Ordinary; nothing is written."""

    behind: bool = False
    """Its status lies behind the current one."""
    refusal: RefusalCode | None = None
    """Of an `append`, what its writer is told."""


Decision = Applied | Duplicate | Stale | Rejected

DUPLICATE = Duplicate()
STALE = Stale()
BEHIND = Stale(behind=True)


def other_prediction(current: Prediction, event: Event) -> Rejected | None:
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


def is_late(current: Prediction) -> bool:
    """Whether its deadline has failed it, and nobody has said yet how it ended at its provider."""
    return current.error_code == DEADLINE and current.late_status is None


def source_after(old: Source | None, position: Place | None, log: str | None) -> Source | None:
    """Where the record comes from once the event at this position is applied."""
    if position is None or log is None:
        return old
    partition = str(position.partition)
    if old is None or old.log != log or (len(old.offsets) == 1 and partition in old.offsets):
        return Source(log, {partition: position.offset})
    return Source(log, {**old.offsets, partition: position.offset})


def applied(
    current: Prediction,
    changes: dict[str, Any],
    event: Event,
    position: Place | None,
    log: str | None,
) -> Applied:
    """The record with these changes, its status as it was."""
    changes["version"] = current.version + 1
    if event.at > current.updated_at:
        changes["updated_at"] = event.at
    if position is not None:
        changes["source"] = source_after(current.source, position, log)
    return Applied(replace(current, **changes), False)


def stepped(
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
    if current.waiting and wanted.terminal:
        changes["waiting"] = False  # nobody needs the answer any more
    if wanted is _SUCCEEDED and event.archive is _BEFORE and current.pending is None:
        # Archive mode `before`: the success is applied when its files are stored.
        changes["pending"] = wanted
        wanted = _PROCESSING
    step = new or before is not wanted
    if step:
        where = f"{position.partition}:{position.offset}" if position is not None else None
        last = None if new else before
        transitions = current.transitions
        at, event_id, source = event.at, event.id, event.source
        for status in STEPS.get((last, wanted)) or (wanted,):
            transitions = (*transitions, Transition(last, status, at, event_id, source, where))
            last = status
        changes["transitions"] = transitions
        changes["status"] = wanted
    changes["version"] = current.version + 1
    if event.at > current.updated_at:
        changes["updated_at"] = event.at
    changes["source"] = source_after(current.source, position, log)
    return Applied(replace(current, **changes), step)
