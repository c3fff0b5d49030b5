"""What became of dead letters, from the marks in their topic."""

from tidings.streams.log.memory import MemoryLog
from tidings.streams.log.protocol import DEAD_LETTERS, EVENTS, NewRecord, StoredRecord
from tidings.streams.processing.dead_letter_marks import (
    DeadLetterIndex,
    Done,
    dismiss,
    redrive,
)
from tidings.streams.processing.dead_letters import (
    dead_letter,
    read_dead_letters,
    select_for_redrive,
)
from tidings.streams.replay.judgement import read_letters


async def letters(log: MemoryLog, count: int) -> None:
    """Put events into the log, and each of them into the dead letters."""
    for number in range(count):
        value = b"not json %d" % number
        (at,) = await log.append(EVENTS, [NewRecord(b"p", value, (), 0)])
        record = StoredRecord(EVENTS, at.partition, at.offset, 1, b"p", value)
        await log.append(DEAD_LETTERS, [dead_letter(record, "not-json", "no JSON")])


async def test_what_is_done_counts_no_more() -> None:
    """Redriven and dismissed letters are not open, also for a new index; marks are no letters themselves."""
    log = MemoryLog()
    await letters(log, 3)
    index = DeadLetterIndex(log)
    await index.refresh()
    assert index.open_reasons() == {"not-json": 3}
    found = [letter async for letter in read_dead_letters(log)]
    chosen = await select_for_redrive(log, lambda one: one.position == found[0].position)
    assert [count async for count in redrive(log, chosen)] == [1]
    assert await dismiss(log, lambda one: one.position == found[1].position) == 1
    for one in (index, DeadLetterIndex(log)):
        await one.refresh()
        assert one.open_reasons() == {"not-json": 1}
        assert [one.is_open(letter) for letter in found] == [False, False, True]
        redriven, dismissed = one.mark_of(found[0]), one.mark_of(found[1])
        assert redriven is not None
        assert redriven.what is Done.REDRIVEN
        assert dismissed is not None
        assert dismissed.what is Done.DISMISSED
        assert not one.came_back(found[0])
    assert len([letter async for letter in read_dead_letters(log)]) == 3
    assert (await read_letters(log)).unreadable == {}


async def test_what_comes_back_is_open() -> None:
    """A letter that was tried again and came back is done, and the new one is open."""
    log = MemoryLog()
    await letters(log, 1)
    (letter,) = [letter async for letter in read_dead_letters(log)]
    chosen = await select_for_redrive(log, lambda _: True)
    assert [count async for count in redrive(log, chosen)] == [1]
    index = DeadLetterIndex(log)
    await index.refresh()
    mark = index.mark_of(letter)
    assert mark is not None
    assert mark.appended is not None
    assert index.open_reasons() == {}
    again = StoredRecord(
        EVENTS, mark.appended.partition, mark.appended.offset, 2, b"p", b"not json 0"
    )
    await log.append(DEAD_LETTERS, [dead_letter(again, "not-json", "no JSON")])
    await index.refresh()
    assert index.came_back(letter)
    assert index.open_reasons() == {"not-json": 1}
