"""Owners take turns, and a turn is never lost."""

import asyncio

from tidings.storage.resilience.fair_semaphore import FairSemaphore


async def test_owners_take_turns() -> None:
    """One who asks for much waits behind each other owner's next read, not before all of theirs."""
    turns = FairSemaphore(1)
    order: list[str] = []

    async def ask(owner: str) -> None:
        async with turns.turn(owner):
            order.append(owner)
            await asyncio.sleep(0)

    tasks = [asyncio.create_task(ask(owner)) for owner in ("ann",) * 6 + ("bob", "eve", "bob")]
    await asyncio.sleep(0)
    tasks[3].cancel()
    async with asyncio.timeout(10):
        await asyncio.gather(*tasks, return_exceptions=True)
        async with turns.turn("zoe"):
            pass
    assert order == ["ann", "ann", "bob", "eve", "ann", "bob", "ann", "ann"]
