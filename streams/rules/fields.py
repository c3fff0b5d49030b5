"""The fields of a record that events report, in one table: whoever needs a list of them derives it from here. Pure.

To add a field: a row here, and the attribute in `Event` and `Prediction`, whose types a type checker needs to see. A
test holds the three against each other, and the browser client's types are generated from the table.
"""

from enum import StrEnum

from msgspec import Struct


class Merge(StrEnum):
    """How what an event says joins what the record knows, while the prediction is not finished."""

    ONCE = "once"
    """The first value stays; the first `create` alone replaces what reports had filled."""
    IDENTITY = "identity"
    """As `ONCE`, and another value means that the event is about another prediction: it is rejected."""
    LATER = "later"
    """The later value counts."""
    LONGER = "longer"
    """Of two partial outputs the longer list or string, else the later."""
    CREATE = "create"
    """The `create` alone says it."""
    GROWS = "grows"
    """It only ever grows, after the end too: a set, a number, a log by its length."""
    ASKED = "asked"
    """A new question replaces the one before, with its answer."""
    ANSWERED = "answered"
    """The first answer to a question counts."""
    TEXT = "text"
    """It grows by pieces; of two whole ones the longer if it begins with the other (see `rules/text.py`)."""


class Field(Struct, frozen=True):
    """One field of a record that events report."""

    name: str
    """As in Python; on the wire it is camelCase."""
    merge: Merge
    typescript: str = "string"
    """Its type for the browser client."""
    about: str = ""
    """What the browser client's types say of it."""
    json: bool = False
    """It passes through as the JSON that came, so numbers come out exactly as they came in."""
    begins: bytes = b""
    """The first byte that its JSON must have; empty: any."""
    large: bool = False
    """Its content may lie in object storage, with a reference in its place."""
    create: bool = False
    """An order for a new prediction may name it, beside reports."""

    @property
    def wire(self) -> str:
        """Its name on the wire."""
        return wire_name(self.name)


def wire_name(name: str) -> str:
    """The name on the wire of what is called so in Python."""
    head, *rest = name.split("_")
    return head + "".join(part.capitalize() for part in rest)


_LARGE = "string | LargeField"

FIELDS = (
    Field("payload", Merge.ONCE, "unknown", json=True, large=True, create=True),
    Field("prompt", Merge.ONCE, _LARGE, large=True, create=True),
    Field("model", Merge.ONCE, create=True),
    Field("provider", Merge.ONCE, create=True),
    Field("provider_id", Merge.IDENTITY),
    Field("provider_urls", Merge.LATER, "unknown", json=True, begins=b"{"),
    Field("owner", Merge.IDENTITY, create=True),
    Field("tags", Merge.GROWS, "string[]", create=True),
    Field("output", Merge.LONGER, "Output", json=True, large=True),
    Field("text", Merge.TEXT, "string", "Up to 32 KiB; of a longer one see `textParts`."),
    Field("image_url", Merge.LATER),
    Field("image_path", Merge.LATER),
    Field("assets", Merge.LATER, "unknown", json=True, begins=b"[", large=True),
    Field("error", Merge.LATER, _LARGE, large=True),
    Field("progress", Merge.GROWS, "number", "From 0 to 1."),
    Field(
        "logs", Merge.GROWS, "string", "The end of the logs, whose whole length is `logsLength`."
    ),
    Field("estimated_time", Merge.LATER, "number", "In ms.", create=True),
    Field("generation_time", Merge.LATER, "number", "In ms."),
    Field(
        "deadline",
        Merge.LATER,
        "number",
        "When it fails unless it has ended, in ms since the epoch.",
        create=True,
    ),
    Field("usage", Merge.GROWS, "Usage", "What it has used, and what that cost."),
)
"""In the order of the record's encoding."""

CREATED = (
    Field("retries", Merge.CREATE, "RetryPolicy | number", json=True, create=True),
    Field(
        "stream",
        Merge.CREATE,
        "boolean",
        "Its provider's stream is read, and the answer grows as `text`.",
        create=True,
    ),
    Field("retry_of", Merge.CREATE),
    Field("retry_count", Merge.CREATE, "number"),
    Field("first_attempt", Merge.CREATE),
    Field("group", Merge.CREATE),
    Field("index", Merge.CREATE, "number"),
    Field("kind", Merge.CREATE, '"group"'),
    Field("member_status", Merge.CREATE),
    Field("members", Merge.CREATE, "LargeField", json=True, begins=b"[", large=True),
    Field("orders", Merge.CREATE, "LargeField", json=True, begins=b"[", large=True),
    Field(
        "webhook",
        Merge.CREATE,
        "{ host: string }",
        "The host of the server that is told of its steps.",
        json=True,
        begins=b"{",
        create=True,
    ),
    Field(
        "webhook_events",
        Merge.CREATE,
        '(Status | "waiting")[]',
        "The statuses that this server is told of; the last ones if it is left out.",
        json=True,
        begins=b"[",
        create=True,
    ),
)
"""What a `create` says, and no report: nobody pays for these with each of their events."""

ASKED = (
    Field("waiting", Merge.ASKED, "boolean"),
    Field("question", Merge.ASKED, "Question", json=True, large=True),
    Field("question_id", Merge.ASKED),
)
"""What a report says that waits for a person (see `rules/questions.py`)."""
ANSWERED = (
    Field("answer", Merge.ANSWERED, "unknown", json=True, large=True),
    Field("answered_by", Merge.ANSWERED),
    Field("question_number", Merge.ANSWERED, "number"),
)
"""What an answer says."""

NAMES = frozenset(field.name for field in FIELDS)
JSON_NAMES = frozenset(field.name for field in FIELDS if field.json)
WIRE_NAMES = frozenset(field.wire for field in FIELDS)
ASKED_WIRE_NAMES = frozenset(field.wire for field in ASKED)
CREATE_WIRE_NAMES = frozenset(field.wire for field in (*FIELDS, *CREATED) if field.create)


def names(merge: Merge, *, json: bool) -> tuple[str, ...]:
    """The fields that join in this way, those that pass through as JSON or the others."""
    return tuple(field.name for field in FIELDS if field.merge is merge and field.json is json)
