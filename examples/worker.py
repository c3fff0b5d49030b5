"""A worker of your own that reports: `python worker.py http://127.0.0.1:8080 p1 "a red kite"`.

celery_tasks.py does the same as a task of Celery.
"""

import asyncio
import sys
import time

import tidings

STEPS = 4


async def work(url: str, prediction_id: str, prompt: str, token: str | None = None) -> None:
    """Do the work, and say how far it is; however it ends, that is said too."""
    async with tidings.Client(url, token=token) as client:
        started = time.monotonic()
        await client.patch(prediction_id, status="processing", prompt=prompt)
        try:
            for step in range(STEPS):
                await asyncio.to_thread(one_step, prompt)
                await client.patch(prediction_id, progress=(step + 1) / STEPS)
        except Exception as error:
            await client.patch(prediction_id, status="failed", error=str(error))
            raise
        took = int((time.monotonic() - started) * 1000)
        output = [f"{prompt}, drawn"]
        await client.patch(prediction_id, status="succeeded", output=output, generation_time=took)


def one_step(prompt: str) -> None:
    """A part of the work; here it only looks at the prompt."""
    if not prompt:
        raise ValueError("there is nothing to draw")


if __name__ == "__main__":
    asyncio.run(work(*sys.argv[1:]))
