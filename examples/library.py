"""Predictions in a program of your own, in one SQLite file: `python examples/library.py FILE`."""

import asyncio
import sys

from tidings import PredictionStatusManager, open_store


async def main(file: str) -> None:
    """One prediction from its beginning to its end."""
    store = await open_store(f"sqlite:///{file}")
    manager = PredictionStatusManager(store)
    await manager.initialize("p1", prompt="a cat", model="acme/paint")
    await manager.mark_as_processing("p1")
    prediction = await manager.mark_as_succeeded("p1", "https://example.com/cat.png")
    for step in prediction.transitions:
        print(step.to)
    await store.close()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
