"""The page about records and events, out of the tables of their fields."""

from collections.abc import Iterator

import msgspec

from tests.support.reference.schema_words import cell, kind, members
from tests.support.root import ROOT
from tidings.gateway.schemas import components
from tidings.storage.prediction import Prediction
from tidings.streams.rules.event import Event, EventType
from tidings.streams.rules.fields import (
    ANSWERED,
    ASKED,
    CREATE_WIRE_NAMES,
    CREATED,
    FIELDS,
    Merge,
)

PAGE = ROOT / "docs" / "reference" / "record.md"
HEAD = """# Records and events

A record is what is known about one prediction: an object with the members below. An event is a report about it: the value of a record in the topic `predictions.events`, keyed by the prediction's id. Members that say nothing are left out.

Times are whole milliseconds since the epoch. [Concepts](../explanation/concepts.md) explains how events become records."""
MERGES = {
    Merge.ONCE: "The first value stays; the first `create` alone may replace it.",
    Merge.IDENTITY: "The first value stays; an event with another value is a dead letter.",
    Merge.LATER: "The later value counts.",
    Merge.LONGER: "The longer list or text counts; of other values the later.",
    Merge.CREATE: "Only a `create` sets it.",
    Merge.GROWS: "It only grows, after the end too.",
    Merge.ASKED: "A new question replaces the one before; an end leaves nothing waiting.",
    Merge.ANSWERED: "The first answer to a question counts; a new question removes it.",
    Merge.TEXT: "It grows by pieces; of two whole texts the longer counts if it begins with the other.",
}
TYPES = {
    EventType.REPORT: "what a provider or a service reports; the default",
    EventType.CREATE: "a new prediction with its order",
    EventType.CANCEL: "somebody asks to cancel it",
    EventType.DELETE: "somebody deletes it",
    EventType.SUBMIT: "it is handed to its provider",
    EventType.ARCHIVE: "its files have been archived, or could not be",
    EventType.REPAIR: "the record as rebuilt from the log",
    EventType.APPEND: "a piece of its text",
    EventType.DEADLINE: "its deadline has passed",
    EventType.RETRY: "another prediction tries it again",
    EventType.MEMBER: "a member of a group has changed",
    EventType.ANSWER: "a person answers its question",
    EventType.ANSWER_TAKEN: "its provider has the answer",
}
SETTERS = {
    "status": "reports", "predictionId": "the key of the event", "version": "the processor",
    "createdAt": "the processor", "updatedAt": "the processor", "transitions": "the processor",
    "source": "the processor", "pending": "the processor", "attempt": "the submitter",
    "assetsError": "the archiver", "errorCode": "the processor", "lateStatus": "the processor",
    "logsLength": "the processor", "createId": "`create`", "cancelRequestedAt": "`cancel`",
    "retriedAs": "`retry`", "retriedWith": "`retry`", "memberRetries": "`member`",
    "textLength": "the processor", "textMissing": "the processor", "textEpoch": "the processor",
    "textClosed": "`append`, the processor", "textParts": "the processor",
    "textTail": "the processor", "textProducers": "`append`", "textType": "`create`",
    "textSeq": "`append`",
    "questionNumber": "the processor", "answer": "`answer`", "answerId": "`answer`",
    "answeredBy": "`answer`", "answeredAt": "`answer`", "answerTakenAt": "`answerTaken`",
    "askedAs": "`answerTaken`",
}  # fmt: skip
"""Who sets the members of a record that no table of merging names."""
EVENT_ONLY = {
    "type": "What the event asks for; absent: `report`.",
    "at": "When it happened; absent: when it was appended.",
    "id": "The event's own id, for the audit trail.",
    "source": "Who says so, for the audit trail.",
    "as": "Of a `retry`: the id of the next attempt.",
    "with": "Of a `retry`: the provider and model of the next attempt, if they differ.",
    "replace": "Of a `repair`: the record as rebuilt; null if it is deleted.",
    "upto": "Of a `repair`: by partition, the last offset that the rebuild has read.",
    "notify": "Of a `repair`: webhooks tell other servers of the steps that it brings.",
    "offset": "Of an `append`: bytes of the text before this piece; absent: it goes to the end.",
    "producer": "Of an `append`: who wrote the piece, and its number.",
}
"""What only an event has."""


def record_members() -> list[str]:
    """The names of a record's members."""
    return [field.encode_name for field in msgspec.structs.fields(Prediction)]


def event_members() -> list[str]:
    """The names of what an event may hold; what the decoder alone sets is left out."""
    names = [field.encode_name for field in msgspec.structs.fields(Event)]
    return [name for name in names if not name.startswith("tidings/")]


def setters(name: str) -> str:
    """Who sets a member of a record."""
    if any(field.wire == name for field in FIELDS):
        return "`create`, reports" if name in CREATE_WIRE_NAMES else "reports"
    if any(field.wire == name for field in CREATED):
        return "`create`"
    if any(field.wire == name for field in ASKED):
        return "reports"
    return SETTERS[name]


def lines() -> Iterator[str]:
    """The page."""
    schemas = components()
    record = schemas["Prediction"]["properties"]
    rules = {field.wire: field.merge for field in (*FIELDS, *CREATED, *ASKED, *ANSWERED)}
    large = {field.wire for field in (*FIELDS, *CREATED, *ASKED, *ANSWERED) if field.large}
    yield from (HEAD, "", "## The record", "", "| member | type | set by | merges | |")
    yield "|---|---|---|---|---|"
    for name in record_members():
        about = cell(record[name]["description"]) + (" May be a `Blob`." if name in large else "")
        rule = f"[{rules[name]}](#how-values-merge)" if name in rules else ""
        yield f"| `{name}` | {kind(record[name])} | {setters(name)} | {rule} | {about} |"
    yield from ("", "## How values merge", "")
    yield "While a prediction has not ended, a new value joins what the record knows:"
    yield from ("", "| rule | |", "|---|---|")
    yield from (f"| {rule} | {MERGES[rule]} |" for rule in Merge)
    yield from ("", "## Parts of a record")
    for name in ("Usage", "Transition", "Source", "Blob", "TextPart", "Producer", "RetryPolicy"):
        yield from ("", f"### {name}", "")
        yield from members(schemas[name])
    yield from ("", "## Types of events", "", "| `type` | |", "|---|---|")
    yield from (f"| `{one}` | {TYPES[one]} |" for one in EventType)
    yield from (
        "",
        "## The event",
        "",
        "An event has these members of a record, and some of its own:",
    )
    yield from ("", "| member | |", "|---|---|")
    for name in event_members():
        yield f"| `{name}` | {EVENT_ONLY.get(name) or cell(record[name]['description'])} |"
