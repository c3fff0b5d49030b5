"""Stalls of the event loop: counted, and in tests logged with the work that caused them."""

import asyncio
import time

import pytest
from structlog.testing import capture_logs

from tests.support.conditions import eventually
from tidings.observability.loop_stalls import BEAT, IDLE_BEAT, LOGGED, LoopStalls


def busy(seconds: float) -> None:
    """Work of so much processor time that gives nothing else its turn."""
    until = time.thread_time() + seconds
    while time.thread_time() < until:
        pass


async def held_up(stalls: LoopStalls, seconds: float) -> list[dict[str, object]]:
    """What is logged of a loop that is held up for so long."""
    with capture_logs() as lines:
        beating = asyncio.create_task(stalls.run())
        await eventually(lambda: stalls._beat[0] > 0, 5)
        before = sum(stalls.seconds.counts)
        busy(seconds)
        await eventually(lambda: sum(stalls.seconds.counts) > before, 5)
        beating.cancel()
        await asyncio.wait([beating])
    return [dict(line) for line in lines]


async def test_a_stall_is_logged_with_its_stack() -> None:
    """Where stacks are asked for, the line of a stall names the function that held up the loop."""
    stalls = LoopStalls(stacks=True)
    (line, *_) = [one for one in await held_up(stalls, 0.4) if "busy" in str(one["stack"])]
    assert line["event"] == "loop.stalled"
    assert isinstance(line["cpu_seconds"], float)
    assert line["cpu_seconds"] >= 0.3
    assert stalls.seconds.total >= 0.3


async def test_without_stacks_a_short_stall_is_counted_alone() -> None:
    """Where nobody looks for a cause, a stall is counted, and a line is written from a second on."""
    stalls = LoopStalls()
    lines = await held_up(stalls, IDLE_BEAT + 0.15)
    assert [one for one in lines if float(str(one["seconds"])) < LOGGED] == []
    assert sum(stalls.seconds.counts) >= 1


@pytest.mark.parametrize("stacks", [False, True])
async def test_an_idle_loop_has_no_stall_of_its_own(stacks: bool) -> None:
    """A loop that waits is not held up, whatever others do to the machine."""
    stalls = LoopStalls(stacks=stacks)
    with capture_logs() as lines:
        beating = asyncio.create_task(stalls.run())
        begun = time.monotonic()
        await eventually(lambda: time.monotonic() > begun + 0.5, 5)
        beating.cancel()
        await asyncio.wait([beating])
    assert [line for line in lines if line["stack"] is not None] == []


async def test_an_idle_loop_is_seldom_woken() -> None:
    """A loop with nothing to do is not woken forty times a second to see whether it is held up."""
    stalls = LoopStalls()
    beating = asyncio.create_task(stalls.run())
    begun = time.monotonic()
    beats = set()

    def a_second_has_passed() -> bool:
        beats.add(stalls._beat)
        return time.monotonic() > begun + 1

    await eventually(a_second_has_passed, 5)
    beating.cancel()
    await asyncio.wait([beating])
    assert len(beats) <= 8


async def test_a_busy_loop_is_looked_at_often_again() -> None:
    """As soon as there is something to do, a stall that is shorter than an idle beat is counted."""
    stalls = LoopStalls()
    beating = asyncio.create_task(stalls.run())
    await eventually(lambda: stalls._every == IDLE_BEAT, 5)

    def works() -> bool:
        busy(0.02)
        return stalls._every == BEAT

    await eventually(works, 5)
    busy(0.15)
    await eventually(lambda: sum(stalls.seconds.counts) > 0, 5)
    beating.cancel()
    await asyncio.wait([beating])
