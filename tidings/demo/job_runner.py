"""What the stand-in's APIs share: predictions to start, show and report on."""

import asyncio
import base64
import re
import secrets
import time
from collections.abc import Callable

from msgspec import Raw

from tidings.demo import jobs
from tidings.demo.answer import ANSWER
from tidings.demo.deliveries import Deliveries
from tidings.demo.jobs import Job, News

WRITER = "/writer"
"""How the names of models end that write an answer instead of drawing a picture."""
MAX_JOBS = 100_000
"""Predictions remembered; the oldest finished ones go first."""


class JobRunner:
    """Runs the predictions, and tells the APIs about them.

    Args:
        deliveries: Sends webhooks.
        duration: Seconds that a prediction takes, if its input does not say.
        steps: Steps of its drawing, each with logs and every second with a picture.
        outputs_live: Seconds after which outputs and logs of a finished prediction are deleted.
        secret: What webhooks are signed with (`whsec_...`); None: made now.
        token: What callers must show; None: made now.
    """

    def __init__(
        self,
        deliveries: Deliveries,
        *,
        duration: float,
        steps: int,
        outputs_live: float,
        secret: str | None,
        token: str | None,
    ) -> None:
        self.deliveries = deliveries
        self.secret = secret or "whsec_" + base64.b64encode(secrets.token_bytes(32)).decode()
        self.token = token or "demo_" + secrets.token_urlsafe(24)
        self.url = ""
        """Where the stand-in listens; set once it does."""
        self.jobs: dict[str, Job] = {}
        """All predictions by id, oldest first."""
        self.on_news: list[Callable[[Job, News], None]] = []
        """Called with each piece of news of a prediction."""
        self.on_forgotten: list[Callable[[str], None]] = []
        """Called with the id of a prediction that is no longer known."""
        self._duration, self._steps, self._outputs_live = duration, steps, outputs_live
        self._running: set[asyncio.Task[None]] = set()

    def begin(self, model: str, payload: Raw, deadline: float | None = None) -> Job:
        """Start a prediction."""
        wishes = jobs.read_wishes(payload)
        duration = self._duration if wishes.duration is None else wishes.duration
        say = wishes.say
        if say is None and model.endswith(WRITER):
            say = ANSWER
        job = Job(
            id=jobs.new_id(),
            model=model,
            input=Raw(bytes(payload)),
            wishes=wishes,
            words=tuple(re.findall(r"\s*\S+\s*", say or "")),
            steps=min(200, max(1, wishes.steps or self._steps)),
            duration=min(3600.0, max(0.0, duration)),
            created=time.time(),
            deadline=deadline,
        )
        self._forget_oldest()
        self.jobs[job.id] = job
        task = asyncio.create_task(jobs.run(job, self._tell))
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return job

    def gone(self, job: Job) -> bool:
        """Whether the outputs of this prediction have been deleted."""
        return job.finished is not None and time.time() >= job.finished + self._outputs_live

    async def close(self) -> None:
        """Stop every prediction."""
        for task in list(self._running):
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)

    def _tell(self, job: Job, news: News) -> None:
        for listener in self.on_news:
            listener(job, news)

    def _forget_oldest(self) -> None:
        if len(self.jobs) < MAX_JOBS:
            return
        oldest = next((id_ for id_, job in self.jobs.items() if job.terminal), None)
        if oldest is not None:
            del self.jobs[oldest]
            for listener in self.on_forgotten:
                listener(oldest)
