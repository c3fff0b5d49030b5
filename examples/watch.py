"""Watch one prediction until it ends: `python examples/watch.py http://127.0.0.1:8080 p1`."""

import asyncio
import sys

from tidings import Client, Deleted


async def main(url: str, prediction_id: str) -> None:
    """Print each step, and what came of it."""
    async with Client(url) as client, client.watch(prediction_id) as watch:
        async for update in watch:
            if isinstance(update, Deleted):
                print("deleted")
                break
            print(update.status, update.image_url or update.error or "", flush=True)
            if update.status.terminal:
                break


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
