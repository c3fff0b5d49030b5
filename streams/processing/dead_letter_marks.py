"""What became of dead letters: marks in their topic say which were tried again or dismissed.

A mark is a record without key and value whose headers name the letter. It lies in the letter's
partition behind it, and goes with it when the topic's retention passes. A letter without a mark is
open; one that was appended again and came back is a new letter, and open itself.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from enum import StrEnum

from msgspec import Struct

from tidings.storage.clock import SYSTEM_CLOCK, Clock
from tidings.streams.log.headers import (
    APPENDED,
    MARK,
    OFFSET,
    PARTITION,
    TOPIC,
)
from tidings.streams.log.protocol import DEAD_LETTERS, Log, NewRecord, Position, Record
from tidings.streams.log.read_until_end import read_until_end
from tidings.streams.processing.dead_letters import (
    AT_ONCE,
    DeadLetter,
    Name,
    Selection,
    home,
    parse_dead_letter,
    read_dead_letters,
    redrive_letters,
    redriven,
)

NAMED = 100_000
"""Letters that an index knows by name; of more it keeps the number."""


class Done(StrEnum):
    """Why a letter is not open any more."""

    REDRIVEN = "redriven"
    DISMISSED = "dismissed"


class Mark(Struct, frozen=True, gc=False):
    """What was done with a letter."""

    what: Done
    at: int
    """When, in ms."""
    appended: Position | None = None
    """Where the event lies that was appended again."""


def mark(name: Name, what: Done, appended: Position | None = None) -> NewRecord:
    """The record that marks a letter."""
    topic, position = name
    headers = [
        (MARK, what.value.encode()),
        (TOPIC, topic.encode()),
        (PARTITION, b"%d" % position.partition),
        (OFFSET, b"%d" % position.offset),
    ]
    if appended is not None:
        headers.append((APPENDED, str(appended).encode()))
    return NewRecord(None, None, headers, position.partition)


def parse_mark(record: Record) -> tuple[Name, Mark] | None:
    """The letter that is marked, and how; None if the record is no mark."""
    own = dict(record.headers)
    if MARK not in own:
        return None
    try:
        position = Position(int(own[PARTITION]), int(own[OFFSET]))
        appended = Position.parse(own[APPENDED].decode()) if APPENDED in own else None
        what = Done(own[MARK].decode())
        return (own[TOPIC].decode(), position), Mark(what, record.timestamp, appended)
    except (KeyError, ValueError):
        return None


class DeadLetterIndex:
    """Which letters there are, and what became of them, read on from where the last look ended.

    Args:
        log: Where they lie.
        clock: Tells the time.
    """

    def __init__(self, log: Log, clock: Clock = SYSTEM_CLOCK) -> None:
        self._log = log
        self._clock = clock
        self._next: dict[int, int] = {}
        self._letters: dict[Name, tuple[str, int, int]] = {}
        """Reason, and where in the topic itself it lies."""
        self._marks: dict[Name, Mark] = {}
        self._beyond: Counter[str] = Counter()
        self._looking = asyncio.Lock()
        self._looked = float("-inf")

    async def refresh(self, *, within: float = 0.0) -> None:
        """Read what has come, unless that was done within so many seconds. Raises `LogError`."""
        async with self._looking:
            if self._clock.monotonic() - self._looked < within:
                return
            bounds = await self._log.bounds(DEAD_LETTERS)
            if any(self._next.get(number, 0) > stop for number, (_, stop) in bounds.items()):
                self._forget()  # the topic was made again
            end = {number: stop for number, (_, stop) in bounds.items()}
            start = {
                number: max(begin, self._next.get(number, 0))
                for number, (begin, _) in bounds.items()
            }
            async for batch in read_until_end(self._log, DEAD_LETTERS, start=start, end=end):
                for record in batch:
                    self._take(record)
            self._next = end
            self._drop_expired({number: begin for number, (begin, _) in bounds.items()})
            self._looked = self._clock.monotonic()

    def open_reasons(self) -> dict[str, int]:
        """How many are open, by reason, the most frequent first."""
        counts = self._beyond.copy()
        counts.update(
            reason for name, (reason, _, _) in self._letters.items() if name not in self._marks
        )
        return dict(counts.most_common())

    def is_open(self, letter: DeadLetter) -> bool:
        """Whether nothing was done with it yet."""
        return (letter.topic, letter.position) not in self._marks

    def mark_of(self, letter: DeadLetter) -> Mark | None:
        """What was done with it."""
        return self._marks.get((letter.topic, letter.position))

    def came_back(self, letter: DeadLetter) -> bool:
        """Whether the event that was appended for it is a letter now."""
        found = self.mark_of(letter)
        return found is not None and (letter.topic, found.appended) in self._letters

    def _take(self, record: Record) -> None:
        marked = parse_mark(record)
        if marked is not None:
            name, how = marked
            if name in self._letters:
                self._marks[name] = how
            return
        letter = parse_dead_letter(record)
        if letter is None:
            return
        name = letter.topic, letter.position
        if name in self._letters:
            return
        if len(self._letters) >= NAMED:
            self._beyond[letter.code] += 1
        else:
            self._letters[name] = letter.code, record.partition, record.offset

    def _drop_expired(self, first: Mapping[int, int]) -> None:
        gone = [
            name
            for name, (_, partition, offset) in self._letters.items()
            if offset < first.get(partition, 0)
        ]
        for name in gone:
            del self._letters[name]
            self._marks.pop(name, None)

    def _forget(self) -> None:
        self._next, self._letters, self._marks = {}, {}, {}
        self._beyond.clear()


async def redrive(log: Log, selection: Selection, most: int = AT_ONCE) -> AsyncIterator[int]:
    """Append the chosen letters again to where they came from and mark them; gives how many, batch by batch.

    The mark follows the event: what ends in between leaves a letter open that was tried again, which
    is harmless, and never the other way round. Raises `LogError`.
    """
    async for letters in redrive_letters(log, selection, most):
        topic = home(letters[0])
        positions = await log.append(topic, [redriven(letter) for letter in letters])
        marks = [
            mark((letter.topic, letter.position), Done.REDRIVEN, position)
            for letter, position in zip(letters, positions, strict=True)
        ]
        await log.append(DEAD_LETTERS, marks)
        yield len(letters)


async def dismiss(log: Log, keep: Callable[[DeadLetter], bool]) -> int:
    """Mark the letters that pass `keep` as done with; returns how many. Raises `LogError`."""
    names = [(letter.topic, letter.position) async for letter in read_dead_letters(log, keep)]
    for first in range(0, len(names), AT_ONCE):
        some = names[first : first + AT_ONCE]
        await log.append(DEAD_LETTERS, [mark(name, Done.DISMISSED) for name in some])
    return len(names)
