"""How far behind a reader is said to be, and when it counts as stuck."""

from tidings.observability.lag import KEPT, LagMonitor, Offsets, ReaderLag
from tidings.streams.log.protocol import LogUnavailable


def test_a_reader_is_as_far_behind_as_its_oldest_unread_record() -> None:
    """The lag in seconds is the time since the topic ended where the reader is."""
    progress = ReaderLag()
    progress.note(0, {0: 100}, {0: 100})
    assert (progress.records, progress.seconds) == (0, 0.0)
    for second in range(1, 31):  # ten records a second come, none are read
        progress.note(second, {0: 100 + 10 * second}, {0: 100})
    assert progress.records == 300
    assert progress.seconds == 30.0
    progress.note(31, {0: 410}, {0: 300})  # what was there after 20 s is read
    assert (progress.records, progress.seconds) == (110, 11.0)
    progress.note(32, {0: 410}, {0: 410})
    assert (progress.records, progress.seconds) == (0, 0.0)


def test_an_idle_reader_is_not_behind() -> None:
    """A record after an hour of silence makes a lag of no more than the time since the last look."""
    progress = ReaderLag()
    progress.note(0, {0: 5}, {0: 5})
    progress.note(3600, {0: 5}, {0: 5})
    progress.note(3602, {0: 6}, {0: 5})
    assert progress.seconds == 2.0


def test_a_reader_that_does_not_move_is_noticed() -> None:
    """Standing still counts only while there is something to read, and from when it last moved."""
    progress = ReaderLag()
    progress.note(0, {0: 5}, {0: 5})
    progress.note(99, {0: 5}, {0: 5})
    progress.note(101, {0: 9}, {0: 5})
    assert progress.stalled_seconds(120) == 21
    progress.note(150, {0: 9}, {0: 6})
    assert progress.stalled_seconds(170) == 20
    progress.note(180, {0: 9}, {0: 9})
    assert progress.stalled_seconds(500) == 0


def test_partitions_that_went_to_others_do_not_count() -> None:
    """After a rebalance only the reader's own partitions are held against the older measurements."""
    progress = ReaderLag()
    for second in range(10):
        progress.note(second, {0: 100, 1: 100 + second}, {0: 0, 1: 100})
    progress.note(10, {1: 109}, {1: 108})
    assert progress.partitions == {1: 1}
    assert progress.seconds < 3


def test_a_long_outage_is_bounded() -> None:
    """A day behind keeps a bounded number of measurements, and its age is right within a few per cent."""
    progress = ReaderLag()
    for second in range(0, 86_400, 20):
        progress.note(second, {0: second}, {0: 0})
    assert progress.seconds >= 86_000
    assert len(progress._ends) <= KEPT


async def test_a_log_that_says_nothing_is_an_obstacle() -> None:
    """Where the ends cannot be had the watch says why, and takes it back when they can."""
    answers: list[bool] = [False, True]

    async def measure() -> tuple[Offsets, Offsets]:
        if not answers.pop(0):
            raise LogUnavailable("no broker answers")
        return {0: 3}, {0: 1}

    watch = LagMonitor()
    progress = watch.add("changes", measure)
    await watch.measure()
    assert watch.log_obstacle == "no broker answers"
    await watch.measure()
    assert watch.log_obstacle is None
    assert progress.records == 2


async def test_a_broken_log_is_noticed_without_a_reader() -> None:
    """Where there is no reader to measure the log is asked all the same, and its silence is an obstacle."""
    answers: list[bool] = [True, False, True]

    async def ask() -> None:
        if not answers.pop(0):
            raise LogUnavailable("no broker answers")

    watch = LagMonitor(ask=ask)
    seen = []
    while answers:
        await watch.measure()
        seen.append(watch.log_obstacle)
    assert seen == [None, "no broker answers", None]
