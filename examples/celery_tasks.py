"""A Celery task that reports: `celery -A celery_tasks worker`, and `draw.delay(url, "p1", "a red kite")`."""

import asyncio
import os

from celery import Celery
from worker import work

app = Celery("pictures", broker=os.environ.get("CELERY_BROKER", "redis://127.0.0.1:6379/0"))


@app.task
def draw(url: str, prediction_id: str, prompt: str) -> None:
    """Do the work of worker.py in a process of Celery's; a failure is reported, and Celery sees it too."""
    asyncio.run(work(url, prediction_id, prompt))
