"""One provider's throttle.

How many calls at once, how many creates a minute, and when it is left alone altogether.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from msgspec import Struct

from tidings.storage.clock import SYSTEM_CLOCK, Clock
from tidings.storage.loggers import get_logger
from tidings.storage.resilience.backoff import Backoff
from tidings.storage.resilience.circuit_breaker import CircuitBreaker
from tidings.storage.resilience.rate_limit import TokenBucket
from tidings.streams.providers.job_api import Call
from tidings.streams.submission.http import Answer, CallFailed, Send, asked_to_wait

TRIPS_AFTER = 5
"""Failures in a row that open the circuit."""
REST = Backoff.doubling(1.0, 60.0)
"""How long an open circuit lets nothing through; doubled while the trial fails."""
LONGEST_ASKED = 300.0
"""Seconds of a wait that a provider may ask for."""
UNASKED = 2.0
"""Seconds to leave a provider alone that answers 429 without saying for how long."""
BURST = 10
"""Creates that may follow each other at once before the rate holds them apart."""

logger = get_logger(__name__)


class Limits(Struct, frozen=True):
    """What a provider allows us."""

    concurrency: int = 16
    """Calls at once."""
    creates_a_minute: int | None = None
    """None: as many as it takes."""


class ProviderThrottle:
    """Calls to one provider.

    Args:
        name: The provider's.
        send: What carries out a call.
        limits: In force.
        clock: Tells the time.
    """

    def __init__(
        self,
        name: str,
        send: Send,
        limits: Limits | None = None,
        *,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self.name = name
        self.limits = limits or Limits()
        self._send, self._clock = send, clock
        self._room = asyncio.Semaphore(self.limits.concurrency)
        self._closed_until = 0.0
        self._circuit = CircuitBreaker(TRIPS_AFTER, REST)
        self._trial = asyncio.Lock()
        self._creates = (
            TokenBucket(rate / 60, BURST, clock.monotonic())
            if (rate := self.limits.creates_a_minute) is not None
            else None
        )
        self.calls = 0
        self.failed = 0
        self.throttled = 0

    @property
    def closed_for(self) -> float:
        """Seconds until calls are let through again; 0: now."""
        return max(0.0, self._closed_until - self._clock.monotonic())

    @property
    def broken(self) -> bool:
        """Whether the provider has failed so often that only one call at a time is let through."""
        return self._circuit.open

    @asynccontextmanager
    async def slot(self, *, creating: bool = False) -> AsyncIterator[None]:
        """Wait until a call may go out, and keep the place until the block ends.

        Args:
            creating: The call starts a prediction: it counts for the rate.
        """
        async with self._room:
            await self.opened()
            if self.broken:
                async with self._trial:
                    await self.opened()
                    yield
                return
            if creating:
                await self._pace()
            yield

    async def opened(self) -> None:
        """Wait until the provider need no longer be left alone."""
        while (left := self.closed_for) > 0:  # noqa: ASYNC110 - the end may be put off meanwhile
            await asyncio.sleep(left)

    async def call(self, call: Call) -> Answer:
        """Carry out a call, within a slot, and learn from how it ends.

        Raises:
            CallFailed: No answer has come.
        """
        self.calls += 1
        try:
            answer = await self._send(call)
        except CallFailed as failure:
            self._failed(str(failure))
            raise
        if answer.status == 429:
            self.throttled += 1
            self.close_for(self._asked(answer, UNASKED))
        elif answer.status >= 500:
            self._failed(f"answered {answer.status}")
            if (asked := self._asked(answer, 0.0)) > 0:
                self.close_for(asked)
        else:
            if self.broken:
                logger.info("provider.back", provider=self.name)
            self._circuit.succeeded()
        return answer

    def close_for(self, seconds: float) -> None:
        """Let nothing through for so long."""
        self._closed_until = max(
            self._closed_until, self._clock.monotonic() + min(LONGEST_ASKED, seconds)
        )

    def _asked(self, answer: Answer, otherwise: float) -> float:
        asked = asked_to_wait(answer, self._clock.ms() / 1000)
        return otherwise if asked is None else asked

    def _failed(self, reason: str) -> None:
        self.failed += 1
        now = self._clock.monotonic()
        if self._circuit.failed(now):
            pause = self._circuit.open_until - now
            self.close_for(pause)
            logger.warning("provider.left_alone", provider=self.name, seconds=pause, reason=reason)

    async def _pace(self) -> None:
        if self._creates is None:
            return
        wait = self._creates.reserve(self._clock.monotonic())
        if wait > 0:
            await asyncio.sleep(wait)
