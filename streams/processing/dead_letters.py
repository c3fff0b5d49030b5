"""Dead letters: what cannot be applied is kept as it came, with the reason beside it, and may be appended again.

A letter is named by the position of the record it holds, `partition:offset` in the events topic. A
crash may put the same record there twice; it is listed once.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from hashlib import sha256

import msgspec
from msgspec import Struct

from tidings.storage.prediction import MAX_ID_BYTES
from tidings.streams.log.headers import (
    ATTEMPT,
    ERROR,
    MESSAGE,
    OFFSET,
    PARTITION,
    PREDICTION,
    TIMESTAMP,
    TOPIC,
    TRUNCATED,
)
from tidings.streams.log.protocol import (
    DEAD_LETTERS,
    DELIVERIES,
    EVENTS,
    Headers,
    Log,
    NewRecord,
    Position,
    Record,
    RecordTooLarge,
)
from tidings.streams.log.read_until_end import read_until_end

OWN_HEADERS = frozenset({ERROR, MESSAGE, TOPIC, PARTITION, OFFSET, TIMESTAMP, PREDICTION})

MESSAGE_MAX = 1000
EVIDENCE = 65_536
"""Bytes kept of the value of such a letter, and of its headers."""
_DIGITS = 10
"""Longer numbers are nobody's count."""


AT_ONCE, AT_ONCE_BYTES = 500, 16_777_216
"""Records, and bytes of their values, that a redrive appends at once."""

Name = tuple[str, Position]
"""Of a letter: the topic and the position of the record that it holds."""


# ---- writing ----


def dead_letter(
    record: Record, code: str, message: str, prediction_id: str | None = None
) -> NewRecord:
    """The record for the dead-letter topic: key, value and headers as they came, and why it lies there."""
    attempt = attempts(record) + 1
    headers = [
        (name, value)
        for name, value in record.headers
        if name not in OWN_HEADERS and name != ATTEMPT
    ]
    headers += [
        (ERROR, code.encode()),
        (MESSAGE, message[:MESSAGE_MAX].encode("utf-8", "replace")),
        (TOPIC, record.topic.encode()),
        (PARTITION, b"%d" % record.partition),
        (OFFSET, b"%d" % record.offset),
        (TIMESTAMP, b"%d" % record.timestamp),
        (ATTEMPT, b"%d" % attempt),
    ]
    if prediction_id is not None:
        headers.append((PREDICTION, prediction_id[:MAX_ID_BYTES].encode("utf-8", "replace")))
    return NewRecord(record.key, record.value, headers, record.partition)


def shortened(letter: NewRecord) -> NewRecord:
    """The letter with what is long in it cut, for a topic that does not take it whole: headers go altogether."""
    key, value, headers = letter.key, letter.value or b"", list(letter.headers)
    if sum(len(name) + len(text or b"") for name, text in headers) > EVIDENCE:
        headers = [(name, text) for name, text in headers if name in OWN_HEADERS or name == ATTEMPT]
    if (
        len(value) <= EVIDENCE
        and len(key or b"") <= EVIDENCE
        and len(headers) == len(letter.headers)
    ):
        return letter
    headers.append((TRUNCATED, b"%d" % len(value)))
    return NewRecord(key and key[:EVIDENCE], value[:EVIDENCE], headers, letter.partition)


def attempts(record: Record) -> int:
    """How often this record was dead-lettered before."""
    for name, value in record.headers:
        if name == ATTEMPT and value and value.isdigit() and len(value) < _DIGITS:
            return int(value)
    return 0


async def append_all(
    append: Callable[[Sequence[NewRecord]], Awaitable[object]], letters: Sequence[NewRecord]
) -> None:
    """Append these letters to their topic; those that it would not take whole are shortened."""
    try:
        await append(letters)
    except RecordTooLarge:
        for letter in letters:
            try:
                await append([letter])
            except RecordTooLarge:
                await append([shortened(letter)])


# ---- reading and appending again ----


class DeadLetter(Struct, frozen=True, gc=False):
    """A record that could not be applied."""

    position: Position
    """Of the record in the topic that it came from."""
    code: str
    """Why, in one word."""
    message: str
    at: int
    """When it was dead-lettered, in ms."""
    timestamp: int
    """When the record was appended first, in ms."""
    attempt: int
    """How often it was dead-lettered, this time included."""
    topic: str
    key: bytes | None
    value: bytes | None
    headers: Headers
    """As they came, without those that say why it lies here."""
    truncated: int | None = None
    """How many bytes its value had, if only the beginning was kept."""
    named: str | None = None
    """The prediction that its body names, if its key does not."""

    @property
    def prediction_id(self) -> str | None:
        """The prediction that it is about, as far as anything in it says."""
        if self.named is not None:
            return self.named
        return self.key.decode("utf-8", "replace") if self.key else None


def parse_dead_letter(record: Record) -> DeadLetter | None:
    """The letter in a record of the topic; None if its headers are not ours."""
    own = {
        name: value
        for name, value in record.headers
        if name in OWN_HEADERS or name in {ATTEMPT, TRUNCATED}
    }
    try:
        return DeadLetter(
            position=Position(int(own[PARTITION]), int(own[OFFSET])),
            code=own[ERROR].decode(),
            message=own.get(MESSAGE, b"").decode("utf-8", "replace"),
            at=record.timestamp,
            timestamp=int(own.get(TIMESTAMP, b"0")),
            attempt=attempts(record),
            topic=own.get(TOPIC, b"").decode(),
            key=record.key,
            value=record.value,
            headers=[(name, value) for name, value in record.headers if name not in own],
            truncated=int(own[TRUNCATED]) if TRUNCATED in own else None,
            named=own[PREDICTION].decode("utf-8", "replace") if PREDICTION in own else None,
        )
    except (KeyError, ValueError, TypeError, AttributeError):
        return None


def home(letter: DeadLetter) -> str:
    """The topic that a letter is appended to again."""
    return DELIVERIES if letter.topic == DELIVERIES else EVENTS


def redriven(letter: DeadLetter) -> NewRecord:
    """The record as it came, for the topic that it came from; it carries on the count of its attempts.

    Raises:
        ValueError: Only its beginning was kept.
    """
    if letter.truncated is not None:
        raise ValueError(
            f"of {letter.position} only {len(letter.value or b'')} of {letter.truncated} bytes were kept"
        )
    headers = [*letter.headers, (ATTEMPT, b"%d" % letter.attempt)]
    return NewRecord(letter.key, letter.value, headers, letter.position.partition)


async def read_dead_letters(
    log: Log, keep: Callable[[DeadLetter], bool] = lambda _: True
) -> AsyncIterator[DeadLetter]:
    """What lies in the topic as of now and passes `keep`, in the order of each partition; each record once."""
    seen: set[tuple[str, Position]] = set()
    async for batch in read_until_end(log, DEAD_LETTERS):
        for record in batch:
            letter = parse_dead_letter(record)
            if letter is None or (letter.topic, letter.position) in seen or not keep(letter):
                continue
            seen.add((letter.topic, letter.position))
            yield letter


class Selection(Struct, frozen=True):
    """What a redrive appends again, by name alone: what the letters hold is read once more when they are appended."""

    chosen: frozenset[Name]
    cut: dict[Name, str]
    """Those that cannot be, for only the beginning was kept, and the reason in words."""
    left_out: int
    """How many were found beside the chosen."""


async def select_for_redrive(
    log: Log, keep: Callable[[DeadLetter], bool], *, repeats: bool = False
) -> Selection:
    """Choose among the letters that pass `keep`; of those that hold the same record, the one with the most attempts.

    Else trying everything again would double, each time, what can never be applied.

    Args:
        log: Where the letters are.
        keep: Which ones are wanted.
        repeats: Choose all of them, also several that hold the same record.
    """
    found = 0
    latest: dict[Name | bytes, tuple[int, Name, str | None]] = {}
    async for letter in read_dead_letters(log, keep):
        found += 1
        name = letter.topic, letter.position
        record = name if repeats else _digest(letter)
        if (before := latest.get(record)) is None or before[0] < letter.attempt:
            latest[record] = letter.attempt, name, _unfit(letter)
    chosen = frozenset(name for _, name, unfit in latest.values() if unfit is None)
    cut = {name: unfit for _, name, unfit in latest.values() if unfit is not None}
    return Selection(chosen, cut, found - len(chosen))


async def redrive_batches(
    log: Log, selection: Selection, most: int = AT_ONCE
) -> AsyncIterator[list[NewRecord]]:
    """The records to append, as `redrive_letters` gives their letters."""
    async for letters in redrive_letters(log, selection, most):
        yield [redriven(letter) for letter in letters]


async def redrive_letters(
    log: Log, selection: Selection, most: int = AT_ONCE
) -> AsyncIterator[list[DeadLetter]]:
    """The chosen letters, in the order of each partition, those of one topic together.

    At most `most` and `AT_ONCE_BYTES` (or one) at a time.
    """
    records: list[DeadLetter] = []
    size = 0
    async for letter in read_dead_letters(
        log, lambda one: (one.topic, one.position) in selection.chosen
    ):
        weight = len(letter.value or b"")
        full = len(records) >= most or size + weight > AT_ONCE_BYTES
        if records and (full or home(letter) != home(records[0])):
            yield records
            records, size = [], 0
        records.append(letter)
        size += weight
    if records:
        yield records


def _digest(letter: DeadLetter) -> bytes:
    """Of the record that it holds."""
    content = (letter.topic, letter.position.partition, letter.key, letter.headers, letter.value)
    return sha256(msgspec.msgpack.encode(content)).digest()


def _unfit(letter: DeadLetter) -> str | None:
    """Why it cannot be appended again."""
    try:
        redriven(letter)
    except ValueError as error:
        return str(error)
    return None
