"""The stand-in provider: its server, its predictions, its pictures."""

import asyncio
import base64
import secrets
import time
from typing import Self

import msgspec
from aiohttp import web
from msgspec import Raw

from tidings.demo import jobs as work
from tidings.demo.answers import answer, problem, struck
from tidings.demo.bad_days import BadDays, Dice
from tidings.demo.deliveries import Deliveries, Delivery
from tidings.demo.fal_api import FalApi
from tidings.demo.jobs import Job, News
from tidings.demo.picture import draw
from tidings.demo.replicate_api import ReplicateApi

MAX_JOBS = 100_000
"""Predictions remembered; the oldest finished ones go first."""


class StandIn:
    """A provider on loopback that makes real pictures.

    Args:
        duration: Seconds that a prediction takes, where its input does not say.
        steps: Steps of its drawing, each with logs and every second with a picture.
        outputs_live: Seconds after which outputs and logs of a finished prediction are deleted (Replicate: 3600).
        first_retry: Seconds before a webhook that ends a prediction is sent again; each further wait doubles.
        bad_days: What goes wrong.
        seed: Of the dice behind `bad_days`; None: another each time.
        secret: Of its webhooks (`whsec_...`); None: made at each start.
        token: What its API asks for; None: made at each start.
    """

    def __init__(
        self,
        *,
        duration: float = 4.0,
        steps: int = 12,
        outputs_live: float = 3600.0,
        first_retry: float = 1.0,
        bad_days: BadDays | None = None,
        seed: int | None = None,
        secret: str | None = None,
        token: str | None = None,
    ) -> None:
        self.bad_days = bad_days or BadDays()
        self.secret = secret or "whsec_" + base64.b64encode(secrets.token_bytes(32)).decode()
        self.token = token or "demo_" + secrets.token_urlsafe(24)
        self.jobs: dict[str, Job] = {}
        self.url = ""
        """Set by `start`."""
        self._duration, self._steps, self._outputs_live = duration, steps, outputs_live
        self._dice = Dice(seed)
        self._deliveries = Deliveries(self._dice, lambda: self.bad_days, first_retry)
        self._apis = (ReplicateApi(self), FalApi(self))
        self._running: set[asyncio.Task[None]] = set()
        self._runner: web.AppRunner | None = None

    async def start(self, host: str = "127.0.0.1", port: int = 0) -> None:
        """Listen; port 0 takes a free one, which `url` then names.

        Raises:
            OSError: The port is taken.
        """
        app = web.Application(client_max_size=64 * 1024 * 1024)
        for method, path, handler in (route for api in self._apis for route in api.routes()):
            app.router.add_route(method, path, struck(handler, self._dice, lambda: self.bad_days))
        app.router.add_get("/files/{id}/{name}", self._file)
        app.router.add_get("/bad-days", self._show_bad_days)
        app.router.add_put("/bad-days", self._set_bad_days)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
        await self._runner.setup()
        site = web.TCPSite(self._runner, host, port)
        await site.start()
        self.url = f"http://{_shown(host)}:{self._runner.addresses[0][1]}"
        await self._deliveries.start()

    async def close(self) -> None:
        """Stop every prediction and webhook, and listen no more."""
        for task in list(self._running):
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)
        await self._deliveries.close()
        if self._runner is not None:
            await self._runner.cleanup()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def environment(self) -> dict[str, str]:
        """The settings under which Tidings uses it."""
        return {
            "TIDINGS_REPLICATE_SECRET": self.secret,
            "TIDINGS_REPLICATE_TOKEN": self.token,
            "TIDINGS_REPLICATE_URL": self.url,
            "TIDINGS_FAL_TOKEN": self.token,
            "TIDINGS_FAL_URL": f"{self.url}/fal",
            "TIDINGS_FAL_JWKS_URL": f"{self.url}/fal/.well-known/jwks.json",
            "TIDINGS_ASSETS_ALLOW": self.url.removeprefix("http://"),
        }

    def begin(self, job_model: str, payload: Raw, deadline: float | None = None) -> Job:
        """Start a prediction."""
        wishes = work.read_wishes(payload)
        bad = self.bad_days
        if wishes.fail is None and self._dice.falls(bad.failing):
            wishes = msgspec.structs.replace(
                wishes, fail="CUDA out of memory. Tried to allocate 20.00 MiB."
            )
        job = Job(
            id=work.new_id(),
            model=job_model,
            input=Raw(bytes(payload)),
            wishes=wishes,
            steps=min(200, max(1, wishes.steps or self._steps)),
            duration=min(
                3600.0, max(0.0, self._duration if wishes.duration is None else wishes.duration)
            ),
            created=time.time(),
            noise=bad.huge_bytes if self._dice.falls(bad.huge) else 0,
            deadline=deadline,
        )
        self._forget_oldest()
        self.jobs[job.id] = job
        task = asyncio.create_task(work.run(job, self._tell))
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return job

    def send(self, delivery: Delivery) -> None:
        """Send a webhook, as well as the day allows."""
        self._deliveries.send(delivery)

    def gone(self, job: Job) -> bool:
        """Whether the outputs of this prediction have been deleted."""
        return job.finished is not None and time.time() >= job.finished + self._outputs_live

    def _tell(self, job: Job, news: News) -> None:
        for api in self._apis:
            api.tell(job, news)

    def _forget_oldest(self) -> None:
        if len(self.jobs) >= MAX_JOBS:
            oldest = next((id_ for id_, job in self.jobs.items() if job.terminal), None)
            if oldest is not None:
                del self.jobs[oldest]
                for api in self._apis:
                    api.forget(oldest)

    async def _file(self, request: web.Request) -> web.StreamResponse:
        job = self.jobs.get(request.match_info["id"])
        sharpness = (
            job.sharpness(request.match_info["name"])
            if job is not None and not self.gone(job)
            else None
        )
        if job is None or sharpness is None:
            return problem(404, "Not found", "There is no such file, or no more")
        picture = await asyncio.to_thread(
            draw, f"{job.wishes.prompt}{job.wishes.seed or ''}", sharpness
        )
        return web.Response(
            body=picture, content_type="image/png", headers={"Cache-Control": "max-age=3600"}
        )

    async def _show_bad_days(self, _request: web.Request) -> web.StreamResponse:
        return answer(self.bad_days)

    async def _set_bad_days(self, request: web.Request) -> web.StreamResponse:
        try:
            self.bad_days = msgspec.json.decode(await request.read(), type=BadDays)
        except msgspec.DecodeError as error:
            return problem(422, "Input validation failed", str(error))
        return answer(self.bad_days)


def _shown(host: str) -> str:
    name = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - read, not listened on
    return f"[{name}]" if ":" in name else name
