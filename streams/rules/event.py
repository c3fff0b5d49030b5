"""An event: what somebody reports about a prediction, in one shape, whoever said it.

Pure. `streams/processing/decoder.py` makes events out of log records; `streams/rules/transitions.py` judges them.
"""

from enum import StrEnum
from typing import Annotated, ClassVar, Literal

import msgspec
from msgspec import Meta, Raw, Struct

from tidings.storage.prediction import ABSENT, LARGEST, Blob, Producer, Status, Usage
from tidings.streams.rules.fields import wire_name

EARLIEST = 10**12
"""In ms: September 2001. A smaller time was given in seconds."""
LATEST = 10**14
"""In ms: the year 5138. A later time was given in microseconds, and would not fit into every store."""


class EventType(StrEnum):
    """What an event asks for."""

    REPORT = "report"
    CREATE = "create"
    CANCEL = "cancel"
    DELETE = "delete"
    SUBMIT = "submit"
    ARCHIVE = "archive"
    REPAIR = "repair"
    APPEND = "append"
    DEADLINE = "deadline"
    RETRY = "retry"
    MEMBER = "member"
    ANSWER = "answer"
    ANSWER_TAKEN = "answerTaken"


class Archive(StrEnum):
    """When a finished prediction's output is archived, as stamped on the event."""

    AFTER = "after"
    BEFORE = "before"
    OFF = "off"


def _wire_name(field: str) -> str:
    """Names on the wire; a field that only the decoder may set gets a name that no sender uses by accident."""
    if field in {
        "recorded_at",
        "archive",
        "traceparent",
        "unknown",
        "left_out",
        "notice",
        "whole_output",
        "output_text",
    }:
        return f"tidings/{field}"
    return {"successor": "as", "elsewhere": "with"}.get(field) or wire_name(field)


class Event(
    Struct,
    frozen=True,
    gc=False,
    omit_defaults=True,
    rename=_wire_name,
    forbid_unknown_fields=True,
    kw_only=True,
):
    """An event, judged by `decide`. Fields that say nothing are absent (None, an empty tuple, empty `Raw`)."""

    prediction_id: str = ""
    at: int = 0
    """When it happened, in ms; never later than the log record's timestamp."""
    type: EventType = EventType.REPORT
    id: str | None = None
    source: str | None = None
    status: Status | None = None
    payload: Raw = ABSENT
    prompt: str | Blob | None = None
    model: str | None = None
    provider: str | None = None
    provider_id: str | None = None
    provider_urls: Raw = ABSENT
    owner: str | None = None
    tags: tuple[str, ...] = ()
    output: Raw = ABSENT
    text: str | None = None
    """The whole text so far; of an `append` the piece."""
    image_url: str | None = None
    image_path: str | None = None
    assets: Raw = ABSENT
    error: str | Blob | None = None
    progress: Annotated[float, Meta(ge=0, le=1)] | Annotated[int, Meta(ge=0, le=1)] | None = None
    logs: str | None = None
    estimated_time: int | float | None = None
    generation_time: int | float | None = None
    deadline: Annotated[int, Meta(ge=EARLIEST, le=LATEST)] | None = None
    """When it fails unless it has ended, in ms. Of the type `deadline` the one that has passed."""
    usage: Usage | None = None
    retries: Raw = ABSENT
    stream: bool | None = None
    """`create`: the provider's stream is to be read."""
    kind: Literal["group"] | None = None
    group: str | None = None
    index: int | None = None
    """Of a create, and `member`: the place within the group."""
    retry_of: str | None = None
    retry_count: Annotated[int, Meta(ge=0)] | None = None
    """Of a create, and `member`: the attempts before."""
    first_attempt: str | None = None
    member_status: str | None = None
    members: Raw = ABSENT
    orders: Raw = ABSENT
    successor: str | None = None
    """`retry`: the id of the next attempt; `as` on the wire."""
    elsewhere: Raw = ABSENT
    """`retry`: its provider and model, if they are others; `with` on the wire."""
    waiting: bool | None = None
    """Whether it waits for a person to answer `question`; false: nobody needs to any more."""
    question: Raw = ABSENT
    question_id: str | None = None
    """Tells a question that comes again from a new one; None: the event's id does."""
    question_number: Annotated[int, Meta(ge=1, le=LARGEST)] | None = None
    """`answer`, `answerTaken`: the question's, within its prediction."""
    answer: Raw = ABSENT
    answered_by: str | None = None
    webhook: Raw = ABSENT
    webhook_events: Raw = ABSENT
    attempt: str | None = None
    """`submit`: the submission's own id."""
    assets_error: str | None = None
    """`archive`: why the output, or some of it, could not be kept."""
    created_at: int | None = None
    """`archive`, `deadline`, `answer`: the `createdAt` of the record that it is about, whose id may be another prediction's by
    now."""
    replace: Raw = ABSENT
    """`repair`: the record as rebuilt; JSON `null` for a deleted one."""
    version: int | None = None
    """`repair`: the version that the record gets."""
    upto: dict[str, int] | None = None
    """`repair`: per partition the last offset that the rebuild had read."""
    notify: bool = False
    """`repair`: other servers are told of the transitions that it brings."""
    offset: Annotated[int, Meta(ge=0, le=LARGEST)] | None = None
    """`append`: bytes of the text before this piece; None: it goes to the end, whatever stands."""
    text_closed: bool = False
    """`append`: nothing follows. The prediction ends with it: with `status`, or as `succeeded`."""
    text_type: str | None = None
    """`create`: the content type of the text as it was given, if that is not `text/plain` alone."""
    text_seq: str | None = None
    """`append`: a sequence of the application's own; each must be greater than the last, byte by byte."""
    producer: Producer | None = None
    """`append`: who wrote it, and which of its pieces it is."""

    # Set by the decoder alone:
    recorded_at: int = 0
    """The log record's timestamp in ms: what expiry and purging are reckoned from. Not part of the record."""
    archive: Archive = Archive.AFTER
    """The mode in force when the event was appended."""
    traceparent: bytes | None = None
    unknown: tuple[str, ...] = ()
    """Names of the fields it had that nobody knows."""
    left_out: tuple[str, ...] = ()
    """Names of the members of a provider's body that do not fit, such as `metrics.predict_time`."""
    whole_output: Raw = ABSENT
    """The output itself, if only a reference to it stands in `output`."""
    output_text: str | None = None
    """What the output says, if its provider's form of it is text and nothing else."""
    notice: bool = False
    """From a webhook that names a result and does not bring it: it begins no record. What is fetched says which prediction it is about."""

    brief: ClassVar[bool] = False
    """Whether it is known to say nothing but what a `BriefEvent` can."""


class BriefEvent(
    Struct,
    frozen=True,
    gc=False,
    rename=_wire_name,
    forbid_unknown_fields=True,
    kw_only=True,
):
    """A report of a status, perhaps with an output: an `Event` in all but its type, for who reads it.

    Most events are such. What it cannot say stands in its class, with the value of an `Event` that does not say it.
    So it is read, judged and let go of without 50 empty fields.
    """

    prediction_id: str = ""
    at: int = 0
    id: str | None = None
    source: str | None = None
    status: Status | None = None
    prompt: str | Blob | None = None
    output: Raw = ABSENT
    recorded_at: int = 0
    archive: Archive = Archive.AFTER
    traceparent: bytes | None = None
    brief: ClassVar[bool] = True


for _field in msgspec.structs.fields(Event):
    if _field.name not in BriefEvent.__struct_fields__:
        setattr(BriefEvent, _field.name, _field.default)


def check_types(event: Event) -> None:
    """Raise ValueError if a field has a value that could not have been decoded."""
    try:
        msgspec.json.decode(msgspec.json.encode(event), type=Event)
    except msgspec.ValidationError as error:
        raise ValueError(str(error)) from None


class Poison(ValueError):
    """A record that can never be applied: it goes to the dead letters with its code."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


HALF_CHARACTER = "half a surrogate pair; keep half a character back until its rest comes"
"""What the sender of a piece with one is told."""


class OtherResource(ValueError):
    """A provider's event about something else than a prediction, to be set aside by its name."""

    def __init__(self, provider: str, kind: str) -> None:
        super().__init__(f"{kind[:80]!r} of {provider} is about something else than a prediction")
        self.provider, self.kind = provider, kind[:80]
