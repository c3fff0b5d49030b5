"""What the library's entrance takes by keyword, for type checkers and editors."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypedDict

import msgspec
from msgspec import Raw

from tidings.storage.prediction import Status, Usage, valid_id
from tidings.streams.rules.event import Event, EventType, check_types
from tidings.streams.rules.fields import ANSWERED, ASKED, JSON_NAMES, NAMES
from tidings.streams.rules.questions import question_of
from tidings.streams.rules.usage import usage_of

_ASKED = frozenset(field.name for field in ASKED)
_KNOWN = {
    EventType.APPEND: frozenset({"text", "offset", "text_closed"}),
    EventType.ANSWER: frozenset(field.name for field in ANSWERED),
}
_JSON = JSON_NAMES | {field.name for field in (*ASKED, *ANSWERED) if field.json}


class InitialFields(TypedDict, total=False):
    """What `initialize` takes by keyword, beside what it names."""

    owner: str | None
    """Whose prediction it is; it never changes."""
    tags: Iterable[str] | None
    """What it is listed by; tags are only ever added."""
    provider: str | None
    """Who makes it."""
    provider_id: str | None
    """Its id there; it never changes."""
    deadline: int | None
    """When it fails unless it has ended, in ms since the epoch: for services that keep deadlines."""


class ReportedFields(InitialFields, total=False):
    """What `update` takes by keyword; None changes nothing."""

    payload: Any
    """What was asked for: anything that JSON can hold. The first value stays."""
    prompt: str | None
    """The first value stays."""
    model: str | None
    """The first value stays."""
    provider_urls: Mapping[str, Any] | None
    """Where the provider tells of the job, by purpose."""
    output: Any
    """The result, or what there is of it so far: anything that JSON can hold."""
    text: str | None
    """The whole text so far; one that the known text begins with changes nothing."""
    image_url: str | None
    """Of the first picture."""
    image_path: str | None
    """Where the first picture is stored."""
    assets: Sequence[Mapping[str, Any]] | None
    """The stored files."""
    error: str | None
    """Why it failed."""
    progress: float | None
    """From 0 to 1; it never goes down."""
    logs: str | None
    """The whole log so far; a shorter one changes nothing."""
    estimated_time: float | None
    """In ms."""
    generation_time: float | None
    """In ms."""
    usage: Usage | Mapping[str, Any] | None
    """What it has used: `input_tokens`, `output_tokens`, `seconds`, `images`, and `cost` (text) with its `currency`. Each
    only grows."""

    waiting: bool | None
    """Whether it waits for a person to answer `question`; false: nobody needs to any more."""
    question: str | Mapping[str, Any] | None
    """A text, or an object with a `text` and perhaps `choices`."""
    question_id: str | None
    """The same id again is the same question, also after its answer."""


class Filters(TypedDict, total=False):
    """What `list` takes by keyword; as in `Query`."""

    status: Status | None
    owner: str | None
    model: str | None
    tag: str | None
    limit: int
    cursor: str | None


def library_event(
    prediction_id: str,
    kind: EventType,
    status: Status | None,
    fields: Mapping[str, Any],
    now: int,
) -> Event:
    """The event of a call with these keywords.

    Raises:
        ValueError: The id or a field is not valid.
    """
    if not valid_id(prediction_id):
        raise ValueError(
            f"{prediction_id[:80]!r} is no id: 1 to 256 bytes without spaces, commas or control characters"
        )
    known = _KNOWN.get(kind, NAMES | _ASKED)
    if unknown := fields.keys() - known:
        raise ValueError(
            f"unknown field {sorted(unknown)[0]!r}; known are {', '.join(sorted(known))}"
        )
    given: dict[str, Any] = {
        name: Raw(msgspec.json.encode(value)) if name in _JSON else value
        for name, value in fields.items()
        if value is not None
    }
    if isinstance(given.get("tags"), Iterable) and not isinstance(given["tags"], str):
        given["tags"] = tuple(given["tags"])
    if "usage" in given:
        given["usage"] = usage_of(given["usage"])
    if given.get("waiting"):
        try:
            question_of(given.get("question", Raw(b"null")))
        except msgspec.DecodeError as error:
            raise ValueError(f"question: {error}") from None
    event = Event(
        prediction_id=prediction_id,
        at=now,
        recorded_at=now,
        type=kind,
        status=status,
        source="library",
        **given,
    )
    check_types(event)
    return event
