"""What can't be applied is kept as it came, with the reason beside it. Pure."""

from tidings.streams.log.headers import (
    ATTEMPT,
    ERROR,
    MESSAGE,
    OFFSET,
    PARTITION,
    TIMESTAMP,
    TOPIC,
    TRUNCATED,
)
from tidings.streams.log.protocol import NewRecord, Record

OWN_HEADERS = frozenset({ERROR, MESSAGE, TOPIC, PARTITION, OFFSET, TIMESTAMP})

MESSAGE_MAX = 1000
EVIDENCE = 65_536
"""Bytes kept of the value of such a letter, and of its headers."""
_DIGITS = 10
"""Longer numbers are nobody's count."""


def dead_letter(record: Record, code: str, message: str) -> NewRecord:
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
