"""What the topic of deliveries holds, and how a change becomes deliveries. Pure.

`predictions.deliveries` is compacted; a record's key says what it is:

- `d TARGET CREATED NUMBER ID`: a webhook that is to be sent, with its body and its next try. An
  empty value: it was sent, or given up.
- `t TARGET ID`: how many transitions of a prediction this target has been told of.
- `a TARGET`: an address that is switched off. An empty value: it is in use again.
- `s`: where in its partition of the changes the very first notifier began.

A target is an address by a short name. What is about a prediction lies in the partition of its
changes, so whoever has a partition of the changes has its deliveries. What is about an address lies
in partition 0: the words of several partitions would have no order.
"""

from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

import msgspec
from msgspec import Raw, Struct
from msgspec.structs import replace

from tidings.storage.prediction import Prediction, Status, Transition, for_readers
from tidings.streams.log.protocol import NewRecord, Position
from tidings.streams.notifications.address import Sealed

ENDS = frozenset({Status.SUCCEEDED, Status.FAILED, Status.CANCELED})
"""What is told if nobody says which statuses are wanted."""
WAITING = "waiting"
"""Wanted beside statuses: that it waits for a person to answer a question."""
EVENTS = (*(str(status) for status in Status), WAITING)
"""All that can be wanted."""
_QUESTIONS = 1_000_000
"""A question's number: so many times the steps before it, and its own number."""


class Told(Struct, frozen=True, gc=False):
    """How far a target has been told of a prediction."""

    created_at: int
    """Of the record, in ms: an id that is used again is another prediction."""
    count: int
    """Transitions, from the first on."""
    questions: int = 0
    """Up to this one."""


class SwitchedOff(Struct, frozen=True):
    """Why nothing is sent to an address."""

    host: str
    at: int
    reason: str


class Start(Struct, frozen=True):
    """Where the very first notifier began in a partition of the changes."""

    offset: int


class Delivery(Struct, frozen=True):
    """A webhook that is to be sent."""

    prediction_id: str
    created_at: int
    number: int
    """Of the transition, from 0, or of a question: `webhook-id` is made of it, as versions differ
    after a repair."""
    address: Sealed
    body: Raw
    since: int
    """When it was first due, in ms."""
    attempts: int = 0
    due: int = 0
    """When it is tried next, in ms."""
    error: str | None = None
    """Why the last try failed."""

    @property
    def message_id(self) -> str:
        """`webhook-id`: the same at every try. It has no dot, as what is signed is joined by dots."""
        own = quote(self.prediction_id, safe="~").replace(".", "%2E")
        question = f"q{self.number % _QUESTIONS}" if self.number >= _QUESTIONS else None
        return f"{own}:{self.created_at}:{question or self.number}"


class Waiting(Struct):
    """A delivery that is not taken yet."""

    target: str
    key: bytes
    position: Position
    """Where its newest record lies."""
    prediction_id: str
    since: int
    attempts: int
    due: int
    redriven: int = 0
    """How often it was a dead letter before."""
    delivery: Delivery | None = None
    """None: its body was too much to hold."""


def waiting_of(
    target: str, delivery: Delivery, position: Position, redriven: int = 0, at: int = 0
) -> Waiting:
    """What waits of a delivery; a redriven one starts over at `at`, in ms."""
    if redriven:
        delivery = replace(delivery, since=at, attempts=0, due=0, error=None)
    return Waiting(
        target,
        delivery_key(target, delivery),
        position,
        delivery.prediction_id,
        delivery.since,
        delivery.attempts,
        delivery.due,
        redriven,
        delivery,
    )


def question_number(steps: int, question: int) -> int:
    """The number of a question's delivery, asked after so many steps."""
    return steps * _QUESTIONS + question


def order_of(number: int) -> tuple[int, int]:
    """What puts deliveries of one prediction in order: a question follows the step before it."""
    if number < _QUESTIONS:
        return number, 0
    return number // _QUESTIONS - 1, number % _QUESTIONS


class Key(Struct, frozen=True):
    """A key of the topic."""

    kind: str
    """`d`, `t`, `a` or `s`."""
    target: str = ""
    prediction_id: str = ""
    created_at: int = 0
    number: int = 0


def delivery_key(target: str, delivery: Delivery) -> bytes:
    """The key of a delivery."""
    return f"d {target} {delivery.created_at} {delivery.number} {delivery.prediction_id}".encode()


def told_key(target: str, prediction_id: str) -> bytes:
    """The key of how far a target has been told."""
    return f"t {target} {prediction_id}".encode()


def switched_off_key(target: str) -> bytes:
    """The key of a switched-off address."""
    return f"a {target}".encode()


def switched_off_record(target: str, off: SwitchedOff | None) -> NewRecord:
    """The record that says that an address is switched off; None: that it is in use again."""
    return encoded(switched_off_key(target), off, 0)


START_KEY = b"s"


def parse_key(key: bytes | None) -> Key | None:
    """What a record is about; None if its key is none of ours: of a later version, or a stranger's."""
    try:
        match (key or b"").decode().split(" "):
            case ["d", target, created_at, number, prediction_id]:
                return Key("d", target, prediction_id, int(created_at), int(number))
            case ["t", target, prediction_id]:
                return Key("t", target, prediction_id)
            case ["a", target]:
                return Key("a", target)
            case ["s"]:
                return Key("s")
    except ValueError:
        return None  # no UTF-8, or no number where one stands: as foreign as any other key
    return None


def wanted_events(record: Prediction) -> frozenset[str]:
    """What a prediction's own address is told of; names that are not known are left out."""
    if not record.webhook_events:
        return ENDS
    try:
        named = msgspec.json.decode(record.webhook_events, type=list[str])
    except msgspec.DecodeError:
        return ENDS  # no event brings that (`event_checks`); an end must not stay untold for it
    return frozenset(EVENTS) & frozenset(named)


def body(value: bytes, kind: str | None, reached: str, at: int) -> Raw:
    """What is posted: Standard Webhooks' `type`, `timestamp` and `data`, which is the record.

    Args:
        value: The record as announced; it holds no reason to decode its numbers.
        kind: `group` of a group's record.
        reached: The status, or `waiting`.
        at: When, in ms.
    """
    fields: dict[str, Raw] = msgspec.json.decode(for_readers(value), type=dict[str, Raw])
    fields.pop("webhook", None)
    content: dict[str, Any] = {
        "type": f"{kind or 'prediction'}.{reached}",
        "timestamp": datetime.fromtimestamp(at / 1000, UTC).isoformat(timespec="milliseconds"),
        "data": fields,
    }
    return Raw(msgspec.json.encode(content))


def due_transitions(
    record: Prediction, told: Told | None, wanted: frozenset[str], skip: int
) -> list[tuple[int, Transition]]:
    """The transitions that a target is to be told of now, with their numbers.

    Args:
        record: As announced.
        told: How far the target was told; None: of nothing.
        wanted: What it wants to hear of.
        skip: So many transitions came by a repair and are told to nobody.
    """
    known = told.count if told is not None and told.created_at == record.created_at else 0
    first = max(known, skip)
    return [
        (number, transition)
        for number, transition in enumerate(record.transitions[first:], first)
        if transition.to in wanted
    ]


def due_question(
    record: Prediction, told: Told | None, wanted: frozenset[str], skip: int
) -> int | None:
    """The number of the question that a target is to be told of now; None: it knows, or none stands.

    What a repair brings is told to nobody; see `due_transitions` for the arguments.
    """
    if not record.waiting or WAITING not in wanted or skip:
        return None
    known = told.questions if told is not None and told.created_at == record.created_at else 0
    number = record.question_number or 0
    return number if number > known else None


def encoded(
    key: bytes, value: Delivery | Told | SwitchedOff | Start | None, partition: int
) -> NewRecord:
    """The record to append; None as a value removes what stands."""
    return NewRecord(key, b"" if value is None else msgspec.json.encode(value), (), partition)


def may_be_told(value: bytes) -> bool:
    """Whether a record names an address of its own, without decoding it: most name none."""
    return b'"webhook":' in value
