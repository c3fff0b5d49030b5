"""What each type of event needs beside what all have."""

from typing import Literal

import msgspec
from msgspec import Raw, Struct

from tidings.storage.prediction import LARGEST, MAX_ID_BYTES, valid_id
from tidings.streams.rules.event import Event, EventType, Poison
from tidings.streams.rules.groups import MAX_MEMBERS, WAITING
from tidings.streams.rules.questions import question_of

_Wanted = Literal["starting", "processing", "succeeded", "failed", "canceled", "waiting"]
"""What a webhook may be told of."""


class SealedWebhook(Struct, frozen=True, forbid_unknown_fields=True):
    """Its shape; who seals it is `streams/notifications/address.py`."""

    host: str
    sealed: str


def check_type(event: Event) -> None:
    """Raise `Poison` if the event lacks what its type needs."""
    match event.type:
        case EventType.SUBMIT if event.attempt is None:
            raise Poison("missing-field", "submit needs attempt")
        case EventType.APPEND:
            _check_append(event)
        case EventType.ARCHIVE if not event.assets and event.assets_error is None:
            raise Poison("missing-field", "archive needs assets or assetsError")
        case EventType.REPAIR if not event.replace or event.version is None or event.upto is None:
            raise Poison("missing-field", "repair needs replace, version and upto")
        case EventType.DEADLINE if event.deadline is None:
            raise Poison("missing-field", "deadline needs deadline, the time that has passed")
        case EventType.RETRY if event.successor is None:
            raise Poison("missing-field", "retry needs as, the id of the next attempt")
        case EventType.RETRY if event.successor is not None and not valid_id(event.successor):
            raise Poison("bad-id", f"{event.successor[:80]!r} is no id of a next attempt")
        case EventType.MEMBER if event.index is None or event.status is None:
            raise Poison("missing-field", "member needs index and status")
        case EventType.ANSWER | EventType.ANSWER_TAKEN:
            _check_answer(event)
        case EventType.CREATE:
            if event.kind is not None:
                _check_group(event)
            if event.webhook or event.webhook_events:
                _check_webhook(event)
        case EventType.REPAIR if event.version is not None and not 0 < event.version <= LARGEST:
            raise Poison(
                "wrong-type", f"version {event.version} is none; a repair's is the live one and 1"
            )


def _check_answer(event: Event) -> None:
    if event.question_number is None:
        raise Poison("missing-field", f"{event.type} needs questionNumber")
    if event.type is EventType.ANSWER and bytes(event.answer) in (b"", b"null"):
        raise Poison("missing-field", "answer needs answer, any JSON but null")


def check_question(event: Event) -> None:
    """Raise `Poison` where a question is none; one that lies elsewhere was looked at before."""
    if not event.waiting:
        return
    try:
        question_of(event.question)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise Poison(
            "wrong-type",
            "waiting needs question, a text or an object with text and perhaps choices, a list of "
            f"answers: {error}",
        ) from None


def _check_append(event: Event) -> None:
    if event.text is None and not event.text_closed:
        raise Poison("missing-field", "append needs text, or textClosed if nothing follows")
    if event.status is not None and not (event.text_closed and event.status.terminal):
        raise Poison("wrong-type", "append takes a status with textClosed alone, and one that ends")
    writer = event.producer
    if writer is not None and not (
        0 < len(writer.id) <= MAX_ID_BYTES
        and 0 <= writer.epoch <= LARGEST
        and 0 <= writer.seq <= LARGEST
    ):
        raise Poison(
            "wrong-type",
            "a producer has an id of 1 to 256 characters, and an epoch and a seq of 0 or more",
        )


def _check_webhook(event: Event) -> None:
    """An address is sealed before it is appended: a plain one would be shown to every reader."""
    try:
        msgspec.json.decode(event.webhook or b"null", type=SealedWebhook | None)
        msgspec.json.decode(event.webhook_events or b"[]", type=list[_Wanted])
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        raise Poison(
            "wrong-type",
            "a webhook is an object with host and sealed, as POST /api/predictions makes it, and "
            "webhookEvents a list of statuses, or waiting",
        ) from None


def _check_group(event: Event) -> None:
    """A group is created with its members' ids, their orders, and a letter for each of them."""
    try:
        ids = msgspec.json.decode(event.members, type=list[str])
        orders = msgspec.json.decode(event.orders, type=list[dict[str, Raw]])
    except (msgspec.DecodeError, RecursionError):
        raise Poison("wrong-type", "members are a list of ids, orders one of objects") from None
    if not 0 < len(ids) <= MAX_MEMBERS or len(orders) != len(ids) or len(set(ids)) != len(ids):
        raise Poison("wrong-type", f"a group has 1 to {MAX_MEMBERS} members with an order each")
    if event.member_status != WAITING * len(ids) or not all(map(valid_id, ids)):
        raise Poison("wrong-type", f"memberStatus begins with {WAITING!r} for each member")
