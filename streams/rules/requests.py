"""What the types of event other than `report` and `create` do: they ask for something, or bring what was asked for. Pure."""

import re
from collections.abc import Callable
from typing import Any

import msgspec
from msgspec import Raw, Struct
from msgspec.structs import replace

from tidings.storage.prediction import DEADLINE, LARGEST, Prediction, Standing, Status, Tombstone
from tidings.streams.log.protocol import Place
from tidings.streams.rules.decision import (
    STALE,
    Applied,
    Decision,
    applied,
    other_prediction,
    source_after,
    stepped,
)
from tidings.streams.rules.event import LATEST, Event, EventType
from tidings.streams.rules.groups import decide_member
from tidings.streams.rules.questions import decide_answer, decide_answer_taken
from tidings.streams.rules.retries import decide_retry

DEADLINE_ERROR = "it had not ended by its deadline"
"""The error of a prediction that its deadline has failed."""

_partition = re.compile(r"[0-9]{1,9}")


def _cancel(
    current: Standing | None, event: Event, position: Place | None, log: str | None
) -> Decision:
    if (
        not isinstance(current, Prediction)
        or current.status.terminal
        or current.pending is not None
    ):
        return STALE
    if (contradiction := other_prediction(current, event)) is not None:
        return contradiction
    if current.cancel_requested_at is not None:
        return STALE
    changes: dict[str, Any] = {"cancel_requested_at": event.at}
    if current.attempt is None and current.provider_id is None and current.kind is None:
        return stepped(current, Status.CANCELED, changes, event, position, log)
    return applied(current, changes, event, position, log)


def _submit(
    current: Standing | None, event: Event, position: Place | None, log: str | None
) -> Decision:
    if (
        not isinstance(current, Prediction)
        or current.status is not Status.STARTING
        or current.attempt is not None
        or current.cancel_requested_at is not None
    ):
        return STALE
    return applied(current, {"attempt": event.attempt}, event, position, log)


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
        return STALE
    if event.created_at is not None and event.created_at != current.created_at:
        return STALE  # about the files of an earlier prediction with this id
    changes: dict[str, Any] = {}
    if event.assets:
        if event.assets == current.assets and event.assets_error == current.assets_error:
            return STALE
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
        return STALE
    else:
        changes["assets_error"] = event.assets_error
    if current.pending is None:
        return applied(current, changes, event, position, log)
    changes["pending"] = None
    if event.assets:
        return stepped(current, current.pending, changes, event, position, log)
    changes["error"] = f"Processing failed: {event.assets_error}"
    return stepped(current, Status.FAILED, changes, event, position, log)


def _delete(
    current: Standing | None, event: Event, position: Place | None, log: str | None
) -> Decision:
    if not isinstance(current, Prediction):
        return STALE
    if (contradiction := other_prediction(current, event)) is not None:
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
            source=source_after(current.source, position, log),
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
        return STALE
    done = current.source.offsets if current is not None and current.source is not None else {}
    if any(offset > upto.get(partition, -1) for partition, offset in done.items()):
        return STALE
    if bytes(event.replace) == b"null":
        if not isinstance(current, Prediction):
            return STALE
        tombstone = Tombstone(
            prediction_id=current.prediction_id,
            deleted=True,
            version=event.version,
            updated_at=max(current.updated_at, event.at),
            owner=current.owner,
            model=current.model,
            tags=current.tags,
            source=source_after(current.source, position, log),
        )
        return Applied(tombstone, step=True)
    try:
        rebuilt = msgspec.json.decode(event.replace, type=Prediction)
    except (msgspec.DecodeError, RecursionError):
        return STALE
    if rebuilt.prediction_id != event.prediction_id or not _plausible(rebuilt, upto):
        return STALE
    fixed = replace(
        rebuilt, version=event.version, source=source_after(rebuilt.source, position, log)
    )
    step = not isinstance(current, Prediction) or current.status is not fixed.status
    return Applied(fixed, step=step)


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


def _deadline(
    current: Standing | None, event: Event, position: Place | None, log: str | None
) -> Decision:
    """It has failed, unless it has ended, or has another deadline by now.

    The log's own time decides whether the deadline has passed, so a replay decides alike; and as the end's time is the
    deadline itself, it does not matter which of several reconcilers has said so first.
    """
    wanted = event.deadline
    if not isinstance(current, Prediction) or (current.pending or current.status).terminal:
        return STALE
    if wanted is None or wanted > event.recorded_at:
        return STALE
    if current.deadline != wanted if current.deadline is not None else wanted < current.created_at:
        return STALE
    if event.created_at is not None and event.created_at != current.created_at:
        return STALE  # about an earlier prediction with this id
    changes = {"deadline": wanted, "error": DEADLINE_ERROR, "error_code": DEADLINE}
    return stepped(current, Status.FAILED, changes, replace(event, at=wanted), position, log)


REQUESTS: dict[
    EventType, Callable[[Standing | None, Event, Place | None, str | None], Decision]
] = {
    EventType.CANCEL: _cancel,
    EventType.SUBMIT: _submit,
    EventType.ARCHIVE: _archive,
    EventType.DELETE: _delete,
    EventType.REPAIR: _repair,
    EventType.DEADLINE: _deadline,
    EventType.RETRY: decide_retry,
    EventType.MEMBER: decide_member,
    EventType.ANSWER: decide_answer,
    EventType.ANSWER_TAKEN: decide_answer_taken,
}
"""What judges the types other than report and create."""
