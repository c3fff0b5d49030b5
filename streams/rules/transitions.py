"""The rules: what an event does to a prediction. Pure; the heart of the project.

```
starting   -> processing, failed, canceled
processing -> succeeded, failed, canceled
succeeded, failed, canceled: terminal
```

`decide` judges one event; it never raises, reads no clock and no setting but `strict`, so the same events give the same
bytes whenever they are replayed.
"""

from typing import Any

from msgspec.structs import replace

from tidings.storage.prediction import DEADLINE, Prediction, Standing, Status, Tombstone
from tidings.streams.log.protocol import Place
from tidings.streams.rules.decision import (
    BEHIND,
    DUPLICATE,
    STALE,
    STEPS,
    Decision,
    Rejected,
    applied,
    is_late,
    other_prediction,
    stepped,
)
from tidings.streams.rules.event import Event, EventType
from tidings.streams.rules.merging import (
    add_usage,
    advance,
    fill,
    merge,
    set_created,
    set_once,
)
from tidings.streams.rules.questions import ask
from tidings.streams.rules.requests import DEADLINE_ERROR, REQUESTS
from tidings.streams.rules.text import append, report_text, with_whole

# Looking a member up on its class costs as much as a comparison; these are used for every event.
_STARTING, _CANCELED = Status.STARTING, Status.CANCELED
_REPORT, _CREATE, _APPEND = EventType.REPORT, EventType.CREATE, EventType.APPEND


def decide(
    current: Standing | None,
    event: Event,
    position: Place | None,
    log: str | None = None,
    strict: bool = False,
) -> Decision:
    """What the event does to what stands.

    Args:
        current: The record or tombstone; None: nothing has this id.
        event: The event; its `prediction_id` is the record's.
        position: Where the event lies in the log; None if there is no log.
        log: The log's id, with a position.
        strict: Reject a status that is reached only by skipping one, instead of implying the steps between.
    """
    if current is not None and _seen(current, event, position, log):
        return DUPLICATE
    if event.type is _REPORT or event.type is _CREATE:
        return _report(current, event, position, log, strict)
    if event.type is _APPEND:
        return append(current, event, position, log)
    return REQUESTS[event.type](current, event, position, log)


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
        return STALE if event.notice else _begin(None, event, position, log, strict)
    if isinstance(current, Tombstone):
        if event.type is not _CREATE:
            return STALE
        if event.owner is not None and current.owner is not None and event.owner != current.owner:
            return Rejected(
                "owner", f"the deleted prediction belonged to another owner than {event.owner!r}"
            )
        return _begin(current, event, position, log, strict)
    if not event.brief and (other := _about_another(current, event)) is not None:
        return other
    if current.kind is not None and event.type is not _CREATE:
        return Rejected("group", "how a group stands follows from its members")

    changes: dict[str, Any] = {}
    first_create = event.type is _CREATE
    if first_create and current.create_id is not None:
        return STALE
    set_once(current, event, changes, override=first_create)
    if first_create:
        set_created(event, changes)
        changes["create_id"] = _create_id(event, position)

    judged = current.pending or current.status
    wanted = event.status
    if wanted is None or wanted is judged:
        return _same_status(current, changes, event, position, log)
    if judged.terminal and wanted.terminal:
        return _contradiction(current, wanted, event, position, log)
    if wanted.rank < judged.rank:
        if first_create:
            fill(current, event, changes)
        return applied(current, changes, event, position, log) if changes else BEHIND
    if strict and len(STEPS[judged, wanted]) > 1:
        return Rejected("strict", f"Invalid transition from {judged} to {wanted}")
    return _step_forward(current, wanted, changes, event, position, log)


def _about_another(current: Prediction, event: Event) -> Decision | None:
    contradiction = other_prediction(current, event)
    if contradiction is None:
        return None
    if current.asked_as is not None and event.provider_id == current.asked_as:
        return STALE  # of the job that asked; the prediction has gone on as another
    if event.notice and current.answered_at is not None and current.answer_taken_at is None:
        return STALE  # of the job that goes on, before it was said which that is
    return contradiction


def _step_forward(
    current: Prediction,
    wanted: Status,
    changes: dict[str, Any],
    event: Event,
    position: Place | None,
    log: str | None,
) -> Decision:
    plain = event.brief and not event.output
    if not plain:
        advance(current, event, changes)
        if event.waiting is not None and not wanted.terminal:
            ask(current, event, changes)
    if wanted is _CANCELED and _overdue(current, event):
        # Its provider has canceled it by the deadline that it was given: the word that it has passed came too late.
        changes |= {
            "error": DEADLINE_ERROR,
            "error_code": DEADLINE,
            "late_status": Status.CANCELED,
        }
        wanted, event = Status.FAILED, replace(event, at=current.deadline)
    if plain:  # says nothing of a text, either
        return stepped(current, wanted, changes, event, position, log)
    whole = report_text(current, event, changes, final=wanted.terminal)
    return with_whole(stepped(current, wanted, changes, event, position, log), whole)


def _overdue(current: Prediction, event: Event) -> bool:
    """Whether this comes after the record's deadline, and nobody has asked to cancel it."""
    return (
        current.deadline is not None
        and current.deadline <= event.recorded_at
        and current.cancel_requested_at is None
        and current.pending is None
    )


def _same_status(
    current: Prediction,
    changes: dict[str, Any],
    event: Event,
    position: Place | None,
    log: str | None,
) -> Decision:
    ended = (current.pending or current.status).terminal
    if ended:
        fill(current, event, changes)
        if current.error_code is not None and event.status is not None and is_late(current):
            changes["late_status"] = event.status
    else:
        merge(current, event, changes)
        if event.waiting is not None:
            ask(current, event, changes)
    whole = report_text(current, event, changes, final=ended)
    return with_whole(applied(current, changes, event, position, log) if changes else STALE, whole)


def _contradiction(
    current: Prediction, wanted: Status, event: Event, position: Place | None, log: str | None
) -> Decision:
    """Another end than the one that stands; after a deadline the record says once how it ended at its provider."""
    rejected = Rejected(
        "contradiction", f"Invalid transition from {current.pending or current.status} to {wanted}"
    )
    if wanted is Status.CANCELED and current.late_status is wanted:
        return STALE  # its webhook and our look-up say the same
    if not is_late(current):
        return rejected
    changes: dict[str, Any] = {"late_status": wanted}
    add_usage(current, event, changes)  # the provider bills what came too late, too
    late = applied(current, changes, event, position, log)
    # The provider was asked to cancel it: that it did is no contradiction.
    return late if wanted is Status.CANCELED else replace(late, letter=rejected)


def _begin(
    deleted: Tombstone | None, event: Event, position: Place | None, log: str | None, strict: bool
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
        version=deleted.version if deleted else 0,
        created_at=event.at,
        updated_at=max(event.at, deleted.updated_at) if deleted else event.at,
        source=deleted.source if deleted else None,
    )
    set_once(blank, event, changes, override=True)
    if event.brief and not event.output:
        return stepped(blank, wanted, changes, event, position, log, new=True)
    advance(blank, event, changes)
    if event.waiting is not None and not wanted.terminal:
        ask(blank, event, changes)
    if event.text_type is not None:
        changes["text_type"] = event.text_type
    whole = report_text(blank, event, changes, final=wanted.terminal)
    if event.type is _CREATE:
        set_created(event, changes)
        changes["create_id"] = _create_id(event, position)
    return with_whole(stepped(blank, wanted, changes, event, position, log, new=True), whole)


def _create_id(event: Event, position: Place | None) -> str:
    # A create always leaves its mark, or a second one could not be told from the first.
    return event.id or (
        f"{position.partition}:{position.offset}" if position is not None else "create"
    )
