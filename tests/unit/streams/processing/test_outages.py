"""Waiting for a store or a log that is down: who polls for the reader meanwhile."""

import asyncio

from tests.support.conditions import eventually
from tidings.storage.errors import StoreUnavailable
from tidings.streams.log.consumer_loop import ConsumerLoop
from tidings.streams.log.memory import MemoryLog
from tidings.streams.log.protocol import EVENTS
from tidings.streams.processing.outages import Outages
from tidings.streams.processing.statistics import Statistics


async def test_one_operation_polls_at_a_time() -> None:
    """While several operations wait for the end of an outage, the consumer is polled by one of them, again and again."""
    log = MemoryLog()
    down, polls, polling, most = True, 0, 0, 0

    async def operation() -> str:
        if down:
            raise StoreUnavailable("away")
        return "done"

    async def poll() -> None:
        nonlocal polls, polling, most
        polling += 1
        most = max(most, polling)
        await asyncio.sleep(0.02)
        polling -= 1
        polls += 1

    async def told() -> None:
        return

    outages = Outages(asyncio.Event(), Statistics(), told)
    outages.loop = ConsumerLoop(log, EVENTS, "group")
    outages.loop.reassigned()
    with outages.polling(poll):
        waiting = [asyncio.create_task(outages.retry_until_available(operation)) for _ in range(3)]
        await eventually(lambda: polls >= 3)
        down = False
        assert await asyncio.gather(*waiting) == ["done"] * 3
    assert most == 1
    await outages.loop.close()
    await log.close()
