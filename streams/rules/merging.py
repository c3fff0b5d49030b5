"""How what an event says joins what a record knows, field by field. Pure.

Each function adds to `changes` (field name -> new value) what differs from the record, and nothing else: no changes
means no news.
"""

from itertools import compress
from operator import attrgetter, is_not
from typing import Any

import msgspec
from msgspec import Raw

from tidings.storage.prediction import ABSENT, Prediction
from tidings.streams.rules.event import Event
from tidings.streams.rules.fields import CREATED, Merge, names
from tidings.streams.rules.large_fields import reference
from tidings.streams.rules.usage import joined

LOGS_TAIL = 32_768
"""Characters of the log that a record keeps; `logs_length` counts the whole."""

_ONCE = names(Merge.ONCE, json=False)
_ONCE_JSON = names(Merge.ONCE, json=True)
_IDENTITY = names(Merge.IDENTITY, json=False)
_LATER = names(Merge.LATER, json=False)
_LATER_JSON = names(Merge.LATER, json=True)
_FILLED = tuple(name for name in _LATER if name != "deadline")
"""What a report after the end may still add."""


def set_created(event: Event, changes: dict[str, Any]) -> None:
    """What the first create alone says."""
    for field in CREATED:
        value = getattr(event, field.name)
        if value is not None and value != ABSENT:
            changes[field.name] = value


# Most events say few of these fields. Read and compared in one step in C that takes a tenth of looking at each.
_said_once = attrgetter(*_ONCE, *_ONCE_JSON, *_IDENTITY)
_said_later = attrgetter(*_LATER, *_LATER_JSON)
_NOTHING_ONCE, _NOTHING_LATER = _said_once(Event()), _said_later(Event())
_ONCE_NAMES = (*_ONCE, *_ONCE_JSON, *_IDENTITY)


def set_once(current: Prediction, event: Event, changes: dict[str, Any], *, override: bool) -> None:
    """Fill what says who and what it is; the first create also replaces what reports had filled."""
    if event.brief:
        if event.prompt is not None and current.prompt is None:
            changes["prompt"] = event.prompt
        return
    said = _said_once(event)
    if said == _NOTHING_ONCE:
        return
    for name, value, nothing in compress(
        zip(_ONCE_NAMES, said, _NOTHING_ONCE, strict=True), map(is_not, said, _NOTHING_ONCE)
    ):
        old = getattr(current, name)
        if value != nothing and (
            old == nothing or (override and old != value and name not in _IDENTITY)
        ):
            changes[name] = value


def _monotone(current: Prediction, event: Event, changes: dict[str, Any]) -> None:
    """What only ever grows, whatever the order: tags, the log, progress."""
    if event.tags:
        tags = {*current.tags, *event.tags}
        if len(tags) > len(current.tags):
            changes["tags"] = tuple(sorted(tags))
    if event.logs is not None:
        length = len(event.logs)
        if length > (current.logs_length or 0):
            changes["logs"] = event.logs[-LOGS_TAIL:]
            changes["logs_length"] = length
    if event.progress is not None and (
        current.progress is None or event.progress > current.progress
    ):
        changes["progress"] = event.progress
    if event.usage is not None:
        add_usage(current, event, changes)


def add_usage(current: Prediction, event: Event, changes: dict[str, Any]) -> None:
    """What it has used, where the event says more of that."""
    if event.usage is not None and (usage := joined(current.usage, event.usage)) is not None:
        changes["usage"] = usage


def merge(current: Prediction, event: Event, changes: dict[str, Any]) -> None:
    """The same status, not terminal: what grows, grows; of the rest the later counts."""
    if not event.brief:
        _monotone(current, event, changes)
        _later(current, event, changes)
    if (
        event.output
        and event.output != current.output
        and not _longer(current.output, event.output)
    ):
        changes["output"] = event.output


def advance(current: Prediction, event: Event, changes: dict[str, Any]) -> None:
    """A step forward: its fields replace, except what only grows."""
    if not event.brief:
        _monotone(current, event, changes)
        _later(current, event, changes)
    if event.output and event.output != current.output:
        changes["output"] = event.output


def _later(current: Prediction, event: Event, changes: dict[str, Any]) -> None:
    if _said_later(event) == _NOTHING_LATER:
        return
    for name in _LATER:
        value = getattr(event, name)
        if value is not None and value != getattr(current, name):
            changes[name] = value
    for name in _LATER_JSON:
        raw = getattr(event, name)
        if raw and raw != getattr(current, name):
            changes[name] = raw


def fill(current: Prediction, event: Event, changes: dict[str, Any]) -> None:
    """The same end again: what is absent is filled, and what only grows may grow.

    Without the growth, two reports of one end in the other order would leave another record.
    """
    if event.brief:
        if event.output and not current.output:
            changes["output"] = event.output
        return
    _monotone(current, event, changes)
    for name in _FILLED:
        value = getattr(event, name)
        if value is not None and getattr(current, name) is None:
            changes[name] = value
    for name in (*_LATER_JSON, "output"):
        raw = getattr(event, name)
        if raw and not getattr(current, name):
            changes[name] = raw


def _longer(old: Raw, new: Raw) -> bool:
    """Whether the old partial output is a longer list or string than the new one, of the same kind."""
    was, what = _kind(old), _kind(new)
    if was is None or what is None or (was != what and _EITHER not in (was, what)):
        return False
    return _length(old) > _length(new)


_EITHER = b"$"
"""The kind of what is kept elsewhere: a list or a string, which of them its reference does not say."""


def _kind(raw: Raw) -> bytes | None:
    first = bytes(raw)[:1]
    if first in (b"[", b'"'):
        return first
    blob = reference(raw)
    return _EITHER if blob is not None and not blob.kind else None


def _length(raw: Raw) -> int:
    blob = reference(raw)
    if blob is not None:
        return blob.length
    try:
        return len(msgspec.json.decode(raw))
    except (msgspec.DecodeError, RecursionError):
        return len(bytes(raw))
