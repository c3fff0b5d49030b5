"""The demo's provider on its bad days.

What real providers do wrong, as often as the switches say.
"""

import asyncio
import base64
import secrets
from collections.abc import Callable
from typing import Any

import msgspec
from aiohttp import web
from msgspec import Raw

from tests.support.providers.bad_days import BadDays, Dice
from tidings.demo.answers import Handler, answer, problem
from tidings.demo.deliveries import Deliveries, Delivery
from tidings.demo.jobs import Job
from tidings.demo.stand_in import StandIn


class FaultyDeliveries(Deliveries):
    """Webhooks that come late, twice, out of order, wrongly signed, or never.

    Args:
        first_retry: As of the original.
        dice: Decide what is struck.
        switches: Those in force.
    """

    def __init__(self, first_retry: float, dice: Dice, switches: Callable[[], BadDays]) -> None:
        super().__init__(first_retry)
        self._dice, self._switches = dice, switches

    def send(self, delivery: Delivery) -> None:
        bad, dice = self._switches(), self._dice
        if dice.falls(bad.never):
            return
        delay = dice.up_to(bad.late_by) if dice.falls(bad.late) else 0.0
        if dice.falls(bad.out_of_order):
            delay += dice.up_to(1.0)
        struck = Delivery(delivery.url, delivery.body, self._signing(delivery), delivery.final)
        self._spawn(self._later(struck, delay))
        if dice.falls(bad.duplicated):
            self._spawn(self._later(struck, delay + dice.up_to(1.0)))

    async def _later(self, delivery: Delivery, delay: float) -> None:
        await asyncio.sleep(delay)
        await self._deliver(delivery)

    def _signing(self, delivery: Delivery) -> Callable[[bytes, float], dict[str, str]]:
        def sign(body: bytes, now: float) -> dict[str, str]:
            headers = delivery.sign(body, now)
            if self._dice.falls(self._switches().wrong_signature):
                wrong = secrets.token_bytes(32)
                for name in headers:
                    if name == "webhook-signature":
                        headers[name] = f"v1,{base64.b64encode(wrong).decode()}"
                    elif name.lower().endswith("signature"):
                        headers[name] = (wrong + wrong).hex()
            return headers

        return sign


class FaultyStandIn(StandIn):
    """The stand-in with bad days, which `PUT /bad-days` switches as well.

    Args:
        bad_days: What goes wrong.
        seed: Of the dice behind them; None: another each time.
        options: Those of the stand-in.
    """

    def __init__(
        self, *, bad_days: BadDays | None = None, seed: int | None = None, **options: Any
    ) -> None:
        self.bad_days = bad_days or BadDays()
        self._dice = Dice(seed)
        super().__init__(**options)
        first_retry = options.get("first_retry", 1.0)
        self.runner.deliveries = FaultyDeliveries(first_retry, self._dice, lambda: self.bad_days)
        replicate, _ = self._apis
        replicate.cut = lambda: self._dice.falls(self.bad_days.cut_streams)
        self._begin = self.runner.begin
        self.runner.begin = self._begin_struck  # type: ignore[method-assign]

    @property
    def secret(self) -> str:
        return self.runner.secret

    @property
    def token(self) -> str:
        return self.runner.token

    def routes(self) -> list[tuple[str, str, Handler]]:
        struck = [
            (method, path, handler if path.startswith("/files/") else self._struck(handler))
            for method, path, handler in super().routes()
        ]
        return [
            *struck,
            ("GET", "/bad-days", self._show_bad_days),
            ("PUT", "/bad-days", self._set_bad_days),
        ]

    def _begin_struck(self, model: str, payload: Raw, deadline: float | None = None) -> Job:
        job = self._begin(model, payload, deadline)  # it runs only once we have returned
        bad = self.bad_days
        if job.wishes.fail is None and self._dice.falls(bad.failing):
            reason = "CUDA out of memory. Tried to allocate 20.00 MiB."
            job.wishes = msgspec.structs.replace(job.wishes, fail=reason)
        job.noise = bad.huge_bytes if self._dice.falls(bad.huge) else 0
        return job

    def _struck(self, handler: Handler) -> Handler:
        """The handler as it behaves on such days."""

        async def handle(request: web.Request) -> web.StreamResponse:
            bad, dice = self.bad_days, self._dice
            if dice.falls(bad.slow):
                await asyncio.sleep(dice.up_to(bad.slow_by))
            if dice.falls(bad.throttled):
                detail = "Request was throttled. Your rate limit resets in ~1s."
                return answer({"detail": detail, "status": 429}, 429, {"Retry-After": "1"})
            if dice.falls(bad.broken):
                return problem(500, "Internal server error", "Something went wrong")
            response = await handler(request)
            if dice.falls(bad.lost_answers) and request.transport is not None:
                request.transport.abort()
            return response

        return handle

    async def _show_bad_days(self, _request: web.Request) -> web.StreamResponse:
        return answer(self.bad_days)

    async def _set_bad_days(self, request: web.Request) -> web.StreamResponse:
        try:
            self.bad_days = msgspec.json.decode(await request.read(), type=BadDays)
        except msgspec.DecodeError as error:
            return problem(422, "Input validation failed", str(error))
        return answer(self.bad_days)
