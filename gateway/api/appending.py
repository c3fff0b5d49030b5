"""Many requests, one append: what arrives while the log is busy goes to it together.

A timer and a call of the log for each request would cost more than the rest of the request does.
"""

import asyncio
from collections.abc import Sequence
from typing import NamedTuple

from tidings.streams.log.protocol import Log, LogUnavailable, NewRecord, RecordTooLarge

BATCH = 1_000
"""Records in one append at most."""
IN_FLIGHT = 4
"""Appends under way at once: one round trip to a broker need not wait for the one before."""


class _Waiting(NamedTuple):
    record: NewRecord
    done: asyncio.Future[None]
    until: float
    """On the loop's clock."""


class Appender:
    """Appends single records to a topic, joined with those of other requests.

    Args:
        log: Where they go.
        topic: Its topic.
        timeout: Seconds for the log to take a record, from the call of `append`.
    """

    def __init__(self, log: Log, topic: str, timeout: float) -> None:
        self._log = log
        self._topic = topic
        self._timeout = timeout
        self._waiting: list[_Waiting] = []
        self._flights: set[asyncio.Task[None]] = set()

    def append(self, record: NewRecord) -> asyncio.Future[None]:
        """A future that is done when the record is durable.

        It raises what `Log.append` raises; `LogUnavailable` too where the log has not taken it in time.
        """
        loop = asyncio.get_running_loop()
        done: asyncio.Future[None] = loop.create_future()
        if not self._waiting and len(self._flights) < IN_FLIGHT:
            loop.call_soon(self._depart)  # whatever else this turn of the loop brings goes along
        self._waiting.append(_Waiting(record, done, loop.time() + self._timeout))
        return done

    def _depart(self) -> None:
        now = asyncio.get_running_loop().time()
        while self._waiting and len(self._flights) < IN_FLIGHT:
            batch, self._waiting = self._waiting[:BATCH], self._waiting[BATCH:]
            if batch[0].until <= now:  # it waited for flights that came to nothing
                _settle([one for one in batch if one.until <= now], self._too_late())
                batch = [one for one in batch if one.until > now]
            if batch:
                flight = asyncio.create_task(self._fly(batch))
                self._flights.add(flight)
                flight.add_done_callback(self._landed)

    def _landed(self, flight: asyncio.Task[None]) -> None:
        self._flights.discard(flight)
        self._depart()

    async def _fly(self, batch: Sequence[_Waiting]) -> None:
        error: Exception | None = None
        try:
            async with asyncio.timeout_at(batch[0].until):
                await self._append(batch)
        except TimeoutError:
            error = self._too_late()
        except Exception as failure:
            error = failure
        _settle(batch, error)

    async def _append(self, batch: Sequence[_Waiting]) -> None:
        try:
            await self._log.append(self._topic, [one.record for one in batch])
        except RecordTooLarge:
            # One of them spoils the batch. What of it was taken is taken twice, which the rules allow for.
            for one in batch:
                await self._append_alone(one)

    async def _append_alone(self, one: _Waiting) -> None:
        try:
            await self._log.append(self._topic, (one.record,))
        except RecordTooLarge as error:
            _settle((one,), error)

    def _too_late(self) -> LogUnavailable:
        return LogUnavailable(f"the log has taken nothing for {self._timeout:.1f} s")


def _settle(batch: Sequence[_Waiting], error: Exception | None) -> None:
    for one in batch:
        if one.done.done():
            continue  # settled by itself, or its client is gone
        if error is None:
            one.done.set_result(None)
        else:
            one.done.set_exception(error)
