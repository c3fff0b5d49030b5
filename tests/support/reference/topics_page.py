"""The page about the topics and their headers."""

from collections.abc import Iterator

from msgspec import Struct

from tests.support.root import ROOT
from tidings.streams.log.protocol import CHANGES, DEAD_LETTERS, DELIVERIES, EVENTS, TEXT
from tidings.streams.notifications.delivery import Delivery, Start, SwitchedOff, Told

PAGE = ROOT / "docs" / "reference" / "topics.md"
HEAD = """# Topics and their headers

The topics of the log. `TIDINGS_TOPIC_PREFIX` stands before each name. Keys are ids of predictions in UTF-8 unless the table says otherwise; consumers other than Tidings may read every topic, and write [events](record.md#the-event) alone."""
TOPICS: dict[str, tuple[str, str, str]] = {
    EVENTS: ("Webhooks as they came, and events in Tidings' own form.", "id", "JSON"),
    CHANGES: (
        "Every new version of every record; compacted.",
        "id",
        "the [record](record.md#the-record); empty: deleted",
    ),
    DEAD_LETTERS: (
        "What could not be applied, and marks that say what became of it.",
        "as it came; of a mark: none",
        "as it came; of a mark: none",
    ),
    TEXT: ("Pieces of growing texts between two versions.", "id", "the piece in UTF-8"),
    DELIVERIES: (
        "Webhooks to other servers that are to be sent; compacted. It exists only if some are set up.",
        "what is to be sent where",
        "JSON",
    ),
}
"""Per topic: what it holds, its keys and its values."""
COMMON = {
    "o": "the owner",
    "m": "the model",
    "t": "a tag; repeated",
    "p": "`partition:offset` of the last event in it",
}
HEADERS: dict[str, dict[str, str]] = {
    EVENTS: {
        "tidings-provider": "whose webhook it is; without it, an event in Tidings' own form",
        "tidings-delivery": "the provider's id of the delivery",
        "tidings-received": "when the gateway received it, in ms since the epoch",
        "tidings-archive": "when the output is archived: `after`, `before`, `off`",
        "tidings-usage": "`1`: what the body says of usage counts; `2`: a question in it, too; without it, neither does",
        "tidings-fetched": "why Tidings asked the provider for this report",
        "tidings-unreadable": "why the log's client cannot decode the record; on its stand-in",
        "traceparent": "W3C Trace Context",
        "ce_*": "the attributes of a CloudEvent in binary mode",
        "content-type": "`application/cloudevents+json`: a CloudEvent in structured mode",
    },
    CHANGES: {
        "v": "the version",
        "s": "the status; absent: deleted",
        **COMMON,
        "u": "of a deletion: its time in ms since the epoch",
        "x": "when it is hidden, in ms since the epoch",
        "g": "the former version, if only the text has changed since",
        "r": "`partition:offset:code` of a piece that is no part of the text; repeated",
        "d": "the deadline, in ms since the epoch, until it has ended",
        "k": "`group`, of a group",
        "q": "so many steps came by a repair: no other server is told of them",
        "traceparent": "W3C Trace Context, from the event",
    },
    DEAD_LETTERS: {
        "tidings-error": "the reason: a code",
        "tidings-error-message": "the reason, for people",
        "tidings-topic": "the topic of the record",
        "tidings-partition": "its partition",
        "tidings-offset": "its offset",
        "tidings-timestamp": "when it was appended, in ms since the epoch",
        "tidings-attempt": "how often it was tried again",
        "tidings-prediction": "the prediction that it is about, if its key does not say",
        "tidings-truncated": "bytes of the value, if the topic would not take it whole",
        "tidings-mark": "only on a mark: `redriven` or `dismissed`",
        "tidings-appended": "only on a mark: `partition:offset` of the event that was appended again",
    },
    TEXT: {
        "b": "the version that it stands on; 0: there is no record",
        "n": "bytes of the text before it",
        "c": "CRC-32 of the text before it",
        "e": "`textEpoch` of that version, if it has one",
        **COMMON,
        "r": "why the event is no part of the text",
    },
    DELIVERIES: {
        "tidings-attempt": "only on one that was redriven: how often it was a dead letter",
    },
}
"""Per topic its headers. A dead letter has those of its record too."""


DELIVERY_KEYS: dict[str, tuple[str, type[Struct]]] = {
    "d TARGET CREATED NUMBER ID": (
        "a webhook that is to be sent; empty: it was taken, or given up",
        Delivery,
    ),
    "t TARGET ID": ("how far an address was told of a prediction; empty: nothing is known", Told),
    "a TARGET": (
        "an address that is switched off, in partition 0; empty: it is in use again",
        SwitchedOff,
    ),
    "s": ("where the very first notifier began in this partition of the changes", Start),
}
"""Keys of the deliveries: what each is about, and its value. `TARGET` is an address by a short name."""
WEBHOOK_HEADERS = {
    "content-type": "`application/json`",
    "user-agent": "`tidings`",
    "webhook-id": "the prediction, its `createdAt` and the number of the step (`q1`: the first question), with `:` between; repeats have the same",
    "webhook-timestamp": "when this try was signed, in seconds since the epoch",
    "webhook-signature": "`v1,` and the signature in base64, of each secret; spaces between",
}
WEBHOOK_BODY = {
    "type": "`prediction.` or `group.`, and the status that was reached; `prediction.waiting`: a person is asked",
    "timestamp": "when it was reached, in ISO 8601",
    "data": "the [record](record.md#the-record) without `webhook`",
}


def lines() -> Iterator[str]:
    """The page."""
    yield from (HEAD, "", "| topic | key | value | |", "|---|---|---|---|")
    for topic, (about, key, value) in TOPICS.items():
        yield f"| [`{topic}`](#{anchor(topic)}) | {key} | {value} | {about} |"
    for topic, headers in HEADERS.items():
        yield from ("", f"## {topic}", "")
        if not headers:
            yield "No headers."
            continue
        yield from ("| header | |", "|---|---|")
        yield from (f"| `{name}` | {about} |" for name, about in headers.items())
    yield from ("", "| key | members of the value | |", "|---|---|---|")
    for name, (about, kept) in DELIVERY_KEYS.items():
        members = ", ".join(f"`{member}`" for member in kept.__struct_encode_fields__)
        yield f"| `{name}` | {members} | {about} |"
    yield from ("", "## What is posted to other servers", "")
    yield "A POST, as [Standard Webhooks](https://www.standardwebhooks.com) describes it. How to take it: [webhooks](../howto/webhooks.md)."
    for kind, rows in (("header", WEBHOOK_HEADERS), ("member of the body", WEBHOOK_BODY)):
        yield from ("", f"| {kind} | |", "|---|---|")
        yield from (f"| `{name}` | {about} |" for name, about in rows.items())


def anchor(topic: str) -> str:
    """The anchor of a topic's part of the page."""
    return topic.replace(".", "")
