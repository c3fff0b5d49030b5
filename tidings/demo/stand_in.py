"""The stand-in provider: its server, and its pictures."""

import asyncio
from typing import Self

from aiohttp import web

from tidings.demo.answers import Handler, problem
from tidings.demo.deliveries import Deliveries
from tidings.demo.fal_api import FalApi
from tidings.demo.job_runner import JobRunner
from tidings.demo.jobs import Job
from tidings.demo.picture import draw
from tidings.demo.replicate_api import ReplicateApi


class StandIn:
    """A provider on loopback that makes real pictures.

    Args:
        duration: Seconds that a prediction takes, if its input does not say.
        steps: Steps of its drawing, each with logs and every second with a picture.
        outputs_live: Seconds after which outputs and logs of a finished prediction are deleted
            (Replicate: 3600).
        first_retry: Seconds before a webhook that ends a prediction is sent again; each further
            wait doubles.
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
        secret: str | None = None,
        token: str | None = None,
    ) -> None:
        self.runner = self.open_runner(
            self.open_deliveries(first_retry),
            duration=duration,
            steps=steps,
            outputs_live=outputs_live,
            secret=secret,
            token=token,
        )
        self._apis = (ReplicateApi(self.runner), FalApi(self.runner))
        self._server: web.AppRunner | None = None

    open_runner = JobRunner
    open_deliveries = Deliveries

    @property
    def url(self) -> str:
        """Where it listens, or is reached by others."""
        return self.runner.url

    @url.setter
    def url(self, url: str) -> None:
        self.runner.url = url

    @property
    def jobs(self) -> dict[str, Job]:
        """All predictions by id, oldest first."""
        return self.runner.jobs

    async def start(self, host: str = "127.0.0.1", port: int = 0) -> None:
        """Listen; port 0 takes a free one, which `url` then names.

        Raises:
            OSError: The port is taken.
        """
        app = web.Application(client_max_size=64 * 1024 * 1024)
        for method, path, handler in self.routes():
            app.router.add_route(method, path, handler)
        self._server = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
        await self._server.setup()
        site = web.TCPSite(self._server, host, port)
        await site.start()
        self.url = f"http://{_shown(host)}:{self._server.addresses[0][1]}"
        await self.runner.deliveries.start()

    def routes(self) -> list[tuple[str, str, Handler]]:
        """Method, path and handler of each route."""
        routes = [route for api in self._apis for route in api.routes()]
        return [*routes, ("GET", "/files/{id}/{name}", self._file)]

    async def close(self) -> None:
        """Stop every prediction and webhook, and listen no more."""
        await self.runner.close()
        await self.runner.deliveries.close()
        if self._server is not None:
            await self._server.cleanup()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def environment(self) -> dict[str, str]:
        """The settings under which Tidings uses it."""
        return {
            "TIDINGS_REPLICATE_SECRET": self.runner.secret,
            "TIDINGS_REPLICATE_TOKEN": self.runner.token,
            "TIDINGS_REPLICATE_URL": self.url,
            "TIDINGS_FAL_TOKEN": self.runner.token,
            "TIDINGS_FAL_URL": f"{self.url}/fal",
            "TIDINGS_FAL_JWKS_URL": f"{self.url}/fal/.well-known/jwks.json",
            "TIDINGS_ASSETS_ALLOW": self.url.removeprefix("http://"),
        }

    async def _file(self, request: web.Request) -> web.StreamResponse:
        job = self.jobs.get(request.match_info["id"])
        sharpness = (
            job.sharpness(request.match_info["name"])
            if job is not None and not self.runner.gone(job)
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


def _shown(host: str) -> str:
    name = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - read, not listened on
    return f"[{name}]" if ":" in name else name
