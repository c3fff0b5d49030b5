"""The record of a prediction: what is known about it, and its one encoding.

Pure: values in, values out. Times are integer milliseconds since the epoch. On the wire names are
camelCase and absent fields are left out. JSON that only passes through is `msgspec.Raw`, so numbers
and key order come out exactly as they came in.
"""

from collections.abc import Iterator
from enum import StrEnum
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta, Raw, Struct

MAX_ID_BYTES = 256
LARGEST = 2**53
"""Whole numbers up to here are whole numbers to every reader of JSON, and fit into every store."""
MOST_SECONDS = 1_000_000_000
"""Seconds of usage that one prediction may have: 31 years."""
DECIMAL = r"^(0|[1-9][0-9]{0,11})(\.[0-9]{1,12})?(?![\s\S])"
"""A cost: at most twelve digits before and behind the point, so that a store can sum whole numbers."""
CURRENCY = r"^[A-Z]{3}(?![\s\S])"
"""The form of a code of ISO 4217."""

ABSENT = Raw(b"")
"""No JSON at all; falsy, and left out of the encoding. (`Raw | None` would refuse every value but
null.)"""


class Status(StrEnum):
    """Where a prediction stands."""

    STARTING = "starting"
    PROCESSING = "processing"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELED = "canceled"

    terminal: bool
    """Whether nothing follows this status."""
    rank: int
    """How far along it is: 0 starting, 1 processing, 2 terminal."""

    def __init__(self, value: str) -> None:
        self.rank = {"starting": 0, "processing": 1}.get(value, 2)
        self.terminal = self.rank == 2

    # The hash of a plain string: an enumeration's own is computed in Python, at every look-up.
    __hash__ = str.__hash__


TERMINAL = frozenset({Status.SUCCEEDED, Status.FAILED, Status.CANCELED})


class Blob(
    Struct,
    frozen=True,
    gc=False,
    omit_defaults=True,
    rename={"hash": "$blob"},
    forbid_unknown_fields=True,
):
    """What stands in a field whose content is too large for the record.

    It lies in object storage, as JSON.
    """

    hash: str
    """`sha256-` and the hexadecimal hash of the content."""
    bytes: int
    """Of the content."""
    length: int
    """Items of a list, characters of a string, members of an object."""
    kind: Literal["", "object", "number"] = ""
    """What it is if it is neither a list nor a string."""


class Transition(Struct, frozen=True, gc=False, omit_defaults=True, rename={"from_": "from"}):
    """One entry of the audit trail: the step, when it happened, and the event that caused it."""

    from_: Status | None
    to: Status
    at: int
    id: str | None = None
    source: str | None = None
    position: str | None = None
    """`partition:offset` of the event in its log; absent if the library wrote it without a log."""


class Source(Struct, frozen=True, gc=False, omit_defaults=True):
    """The log a record was built from, and per partition the offset of the last event applied."""

    log: str
    offsets: dict[str, int] = {}


class TextPart(Struct, frozen=True, gc=False, omit_defaults=True):
    """A part of a large text that lies in object storage, as UTF-8; parts follow one another."""

    hash: str
    """`sha256-` and the hexadecimal hash of the part's bytes."""
    bytes: int
    """Of the part."""
    crc: int
    """CRC-32 of the whole text up to the part's end: with it that of the text follows from the tail alone."""


class Producer(Struct, frozen=True, gc=False, omit_defaults=True):
    """A writer that numbers its pieces; which ones were taken shows in the last number."""

    id: str
    epoch: int
    """Rises when the writer starts over; pieces of an older one are refused."""
    seq: int
    """Of the piece, from 0, without gaps within an epoch; in a record that of the last one taken."""


_Tokens = Annotated[int, Meta(ge=0, le=LARGEST)]


class Usage(Struct, frozen=True, gc=False, omit_defaults=True, rename="camel"):
    """What a prediction has used; each member only grows."""

    input_tokens: _Tokens | None = None
    output_tokens: _Tokens | None = None
    seconds: (
        Annotated[float, Meta(ge=0, le=MOST_SECONDS)]
        | Annotated[int, Meta(ge=0, le=MOST_SECONDS)]
        | None
    ) = None
    """Of computing, or of what was transcribed: what its provider counts."""
    images: _Tokens | None = None
    cost: Annotated[str, Meta(pattern=DECIMAL)] | None = None
    """A decimal number as text, so that sums are exact; it has a currency."""
    currency: Annotated[str, Meta(pattern=CURRENCY)] | None = None


class Prediction(Struct, frozen=True, gc=False, omit_defaults=True, rename="camel", kw_only=True):
    """Everything known about one prediction at one version."""

    prediction_id: str
    kind: Literal["group"] | None = None
    """`group`: it stands for its members. Second in the encoding, where `is_group` looks for it."""
    status: Status
    version: int
    created_at: int
    updated_at: int
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
    """The text so far, up to 32 KiB of it; a longer one is in `text_parts` and `text_tail`."""
    text_length: int | None = None
    """Bytes of the text in UTF-8."""
    text_missing: int | None = None
    """How far the text is known to reach if pieces of it are missing."""
    text_epoch: int | None = None
    """The version at which the text was last replaced by one that does not begin with it."""
    text_closed: bool = False
    """Nothing is appended any more: the writer has closed it, or the end brought the whole text."""
    text_parts: tuple[TextPart, ...] = ()
    text_tail: str | None = None
    """What follows the parts."""
    text_producers: tuple[Producer, ...] = ()
    """The last 16 writers that number their pieces; who wrote last is last."""
    text_type: str | None = None
    """Its content type as it was given, if that is not `text/plain` alone."""
    text_seq: str | None = None
    """The last sequence of an application's own that was taken; they rise, byte by byte."""
    image_url: str | None = None
    image_path: str | None = None
    assets: Raw = ABSENT
    error: str | Blob | None = None
    progress: int | float | None = None
    logs: str | None = None
    logs_length: int | None = None
    estimated_time: int | float | None = None
    generation_time: int | float | None = None
    deadline: int | None = None
    usage: Usage | None = None
    webhook: Raw = ABSENT
    """The server that is told of its steps: its host, and the address encrypted."""
    webhook_events: Raw = ABSENT
    """The statuses that it is told of, a list; absent: the last ones."""
    waiting: bool = False
    """Whether it waits for a person to answer `question`."""
    question: Raw = ABSENT
    """The last question: a text, or an object with a `text` and perhaps `choices`."""
    question_id: str | None = None
    """What tells this question from another one."""
    question_number: int | None = None
    """How many questions there were up to this one."""
    answer: Raw = ABSENT
    """The answer to it; any JSON."""
    answer_id: str | None = None
    """The event that brought it."""
    answered_by: str | None = None
    """Who gave it."""
    answered_at: int | None = None
    answer_taken_at: int | None = None
    """When the provider took it, where it is a provider's question."""
    asked_as: str | None = None
    """The provider's id of the job that asked, where it goes on under another one."""
    cancel_requested_at: int | None = None
    attempt: str | None = None
    create_id: str | None = None
    pending: Status | None = None
    assets_error: str | None = None
    error_code: str | None = None
    """Why it failed, for programs: `deadline`."""
    late_status: Status | None = None
    """How it ended at its provider after its deadline had failed it here."""
    retries: Raw = ABSENT
    """How often, when and by whom it is tried again if it fails; a number or a policy."""
    stream: bool | None = None
    """The provider's stream is read, and the answer grows as `text`."""
    retry_of: str | None = None
    """The prediction that this one tries again."""
    retry_count: int | None = None
    """How many attempts there were before this one."""
    first_attempt: str | None = None
    """The first of them."""
    retried_as: str | None = None
    """The prediction that tries this one again."""
    retried_with: Raw = ABSENT
    """The provider and model of that, if they are others."""
    group: str | None = None
    """The group that it is a member of."""
    index: int | None = None
    """Its place there, from 0."""
    member_status: str | None = None
    """Of a group: a letter a member. q: queued, p: processing, s: succeeded, f: failed, c: canceled."""
    member_retries: dict[str, int] | None = None
    """Of a group: how often members were tried again, by place; the letter is that of the newest attempt."""
    members: Raw = ABSENT
    """Of a group: a reference to the ids of its members' first attempts."""
    orders: Raw = ABSENT
    """Of a group: a reference to its members' orders."""
    transitions: tuple[Transition, ...] = ()
    source: Source | None = None

    def to_dict(self) -> dict[str, Any]:
        """All of it as plain dictionaries, lists, texts and numbers, named as on the wire."""
        return to_builtins(self)

    def value(self, name: str) -> Any:
        """One field as plain Python, by its name here: what is kept as JSON (`output`, `payload`) is decoded."""
        value = getattr(self, name)
        if isinstance(value, Raw):
            return msgspec.json.decode(value) if value else None
        return value

    def __iter__(self) -> Iterator[tuple[str, Any]]:
        """Names and values as in `to_dict`: `dict(prediction)` is that, which frameworks encode by."""
        return iter(self.to_dict().items())

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> Any:
        """What Pydantic asks for: FastAPI takes a prediction as a return type, and a model as a field."""
        from pydantic_core import core_schema

        def taken(value: Any) -> "Prediction":
            return value if isinstance(value, cls) else decode(msgspec.json.encode(value))

        return core_schema.no_info_plain_validator_function(
            taken,
            json_schema_input_schema=core_schema.dict_schema(),
            serialization=core_schema.plain_serializer_function_ser_schema(
                to_builtins, return_schema=core_schema.dict_schema()
            ),
        )


class Tombstone(Struct, frozen=True, gc=False, omit_defaults=True, rename="camel", kw_only=True):
    """What is left of a deleted prediction, so that late reports do not bring it back."""

    prediction_id: str
    deleted: bool
    version: int
    updated_at: int
    owner: str | None = None
    model: str | None = None
    tags: tuple[str, ...] = ()
    source: Source | None = None


Standing = Prediction | Tombstone
"""What a store keeps under an id."""

GROUP: Final = "group"
"""The `kind` of a record that stands for its members."""
DEADLINE = "deadline"
"""The `error_code` of a prediction that its deadline has failed."""


_encoder = msgspec.json.Encoder()
_members = msgspec.json.Decoder(dict[str, Raw])
_orders = msgspec.json.Decoder(list[dict[str, Raw]])
_SEALED = b'"sealed":'
_prediction = msgspec.json.Decoder(Prediction)
_tombstone = msgspec.json.Decoder(Tombstone)


def encode(record: Standing) -> bytes:
    """The record's one encoding, as the store, the changes topic, the frame and the REST answer carry it."""
    return _encoder.encode(record)


def decode(data: bytes) -> Prediction:
    """The prediction in these bytes.

    Raises:
        msgspec.ValidationError: The bytes are JSON of another shape.
        msgspec.DecodeError: The bytes are not JSON.
    """
    return _prediction.decode(data)


def decode_tombstone(data: bytes) -> Tombstone:
    """The tombstone in these bytes; raises as `decode` does."""
    return _tombstone.decode(data)


def without_report(encoded: bytes) -> bytes:
    """The encoding without the provider's body, which records of an older format hold as `report`.

    It may hold addresses that prove a webhook: nobody who reads records gets to see it. A record
    loses it the first time that anything is applied to it.
    """
    if b'"report":' not in encoded:
        return encoded
    try:
        members = _members.decode(encoded)
    except msgspec.DecodeError:
        return b""  # no record: nothing of it is to be seen either
    if members.pop("report", None) is None:  # somebody's payload has a member of this name
        return encoded
    return _encoder.encode(members)


def for_readers(encoded: bytes) -> bytes:
    """The encoding as readers get it: of the servers that are told of its steps the hosts alone.

    The address itself is encrypted, but whoever holds it could have it told to again, by an order
    of their own, and it tells which predictions name the same one.
    """
    if _SEALED not in encoded:
        return encoded
    members = _members.decode(encoded)
    if (webhook := members.get("webhook")) is None:  # somebody's payload has a member of this name
        return encoded
    members["webhook"] = Raw(_host_alone(bytes(webhook)))
    return _encoder.encode(members)


def orders_for_readers(orders: bytes) -> bytes:
    """The orders of a group as readers get them: see `for_readers`."""
    if _SEALED not in orders:
        return orders
    found = _orders.decode(orders)
    for order in found:
        if (webhook := order.get("webhook")) is not None:
            order["webhook"] = Raw(_host_alone(bytes(webhook)))
    return _encoder.encode(found)


def _host_alone(webhook: bytes) -> bytes:
    if _SEALED not in webhook:
        return webhook
    return _encoder.encode({"host": _members.decode(webhook).get("host", "")})


def is_group(encoded: bytes) -> bool:
    """Whether the record in these bytes is a group: an id has no comma, and the kind stands behind it."""
    return encoded[encoded.find(b",") + 1 :].startswith(b'"kind":"group"')


def to_builtins(record: Standing) -> dict[str, Any]:
    """The record as plain dictionaries, lists and numbers, named as on the wire."""
    value: dict[str, Any] = msgspec.json.decode(encode(record))
    return value


def valid_id(prediction_id: str) -> bool:
    """Whether this may name a prediction.

    1 to 256 bytes of UTF-8 without control characters, spaces or commas.
    """
    if (
        not prediction_id
        or "," in prediction_id
        or not prediction_id.isprintable()
        or " " in prediction_id
    ):
        return _odd_but_valid(prediction_id)
    try:
        return len(prediction_id) <= 64 or len(prediction_id.encode()) <= MAX_ID_BYTES
    except UnicodeEncodeError:
        return False


def _odd_but_valid(prediction_id: str) -> bool:
    """`str.isprintable` also refuses unassigned and format characters, which the contract allows."""
    if not prediction_id or "," in prediction_id or any(c.isspace() for c in prediction_id):
        return False
    if any(ord(c) < 0x20 or 0x7F <= ord(c) <= 0x9F for c in prediction_id):
        return False
    try:
        return len(prediction_id.encode()) <= MAX_ID_BYTES
    except UnicodeEncodeError:
        return False
