"""What a rebuild leaves out because a dead letter says so, and what it cannot judge here."""

from collections.abc import Mapping

from msgspec import Struct

from tidings.streams.log.protocol import DEAD_LETTERS, EVENTS, Log, Record
from tidings.streams.log.read_until_end import read_until_end
from tidings.streams.processing.crash_journal import CRASH
from tidings.streams.processing.dead_letter_marks import parse_mark
from tidings.streams.processing.dead_letters import parse_dead_letter

ANYBODY = ""
"""Stands for a prediction that nobody can name: it may be any of them."""

UNKNOWN_PROVIDER = "unknown-provider"

_Named = frozenset[tuple[int, int, int]]
"""Records by partition, offset and time: letters outlive a topic that is recreated, whose offsets start over."""


class Letters(Struct, frozen=True):
    """What the dead letters say about positions in the events."""

    crashed: _Named = frozenset()
    """Records that were set aside unread: a rebuild leaves them out as well."""
    unknown: _Named = frozenset()
    """Webhooks whose provider the processor did not know either."""
    unreadable: Mapping[str, str] = {}
    """Per prediction, or `ANYBODY`, why a letter cannot be read; it may say that something is to be left out."""


async def read_letters(log: Log) -> Letters:
    """Read them all. Raises `LogError`."""
    crashed: set[tuple[int, int, int]] = set()
    unknown: set[tuple[int, int, int]] = set()
    unreadable: dict[str, str] = {}
    async for batch in read_until_end(log, DEAD_LETTERS):
        for record in batch:
            letter = parse_dead_letter(record)
            if letter is None and parse_mark(record) is not None:
                continue
            if letter is None:
                reason = f"dead letter {record.partition}:{record.offset} cannot be read"
                unreadable.setdefault(prediction_of(record), reason)
            elif letter.topic.endswith(EVENTS):
                at = letter.position.partition, letter.position.offset, letter.timestamp
                if letter.code == CRASH:
                    crashed.add(at)
                elif letter.code == UNKNOWN_PROVIDER:
                    unknown.add(at)
    return Letters(frozenset(crashed), frozenset(unknown), unreadable)


def named(record: Record) -> tuple[int, int, int]:
    """A record as the letters name it."""
    return record.partition, record.offset, record.timestamp


def prediction_of(record: Record) -> str:
    """The prediction that a record's key names."""
    return record.key.decode("utf-8", "replace") if record.key else ANYBODY
