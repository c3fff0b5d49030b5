"""What this service says about predictions by itself.

Events appended to the log, outages of it waited out.
"""

import asyncio
import uuid
from collections.abc import Sequence

import msgspec
from msgspec import Raw

from tidings.storage.clock import SYSTEM_CLOCK, Clock
from tidings.storage.loggers import get_logger
from tidings.storage.resilience.backoff import Backoff, Failures
from tidings.streams.log.headers import (
    ARCHIVE_HEADER,
    DELIVERY_HEADER,
    PROVIDER_HEADER,
    RECEIVED_HEADER,
)
from tidings.streams.log.protocol import EVENTS, Log, LogError, NewRecord, Position
from tidings.streams.providers.protocol import USAGE_STAMP
from tidings.streams.rules.event import Archive

FETCHED_HEADER = "tidings-fetched"
"""On a provider's report that we asked for ourselves: why we did."""

BACKOFF = Backoff.doubling(0.05, 2.0)
"""Between attempts at a log that is down."""

logger = get_logger(__name__)
_encoder = msgspec.json.Encoder()


class EventPublisher:
    """Appends events. A repeat after an unknown outcome is harmless: it is Stale by the rules.

    Args:
        log: Where they go.
        archive: The mode in force, stamped on each.
        source: Who says so, for the audit trail.
        clock: Tells the time.
    """

    def __init__(
        self,
        log: Log,
        archive: Archive = Archive.AFTER,
        source: str = "tidings",
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._events_log, self._source, self._clock = log, source, clock
        self.source = source
        self.archive = (ARCHIVE_HEADER, archive.value.encode())
        """The header that says when outputs are archived."""

    async def publish_event(self, prediction_id: str, **fields: object) -> Position:
        """Append an event of ours; the fields are named as on the wire, absent ones are None."""
        said = {name: value for name, value in fields.items() if value is not None}
        identity = {
            "predictionId": prediction_id,
            "id": f"{self._source}-{uuid.uuid4().hex}",
            "at": self._now(),
        }
        value = _encoder.encode({**identity, **said, "source": self._source})
        return await self._append(NewRecord(prediction_id.encode(), value, [self.archive]))

    async def publish_provider_report(
        self, prediction_id: str, provider: str, body: bytes, why: str
    ) -> Position:
        """Append what a provider answered as that provider's report, as it came."""
        headers = [
            (PROVIDER_HEADER, provider.encode()),
            (RECEIVED_HEADER, b"%d" % self._now()),
            self.archive,
            USAGE_STAMP,
            (DELIVERY_HEADER, f"{self._source}-{uuid.uuid4().hex}".encode()),
            (FETCHED_HEADER, why.encode()),
        ]
        return await self._append(NewRecord(prediction_id.encode(), body, headers))

    def _now(self) -> int:
        return self._clock.ms()

    async def _append(self, record: NewRecord) -> Position:
        (position,) = await self.publish((record,))
        return position

    async def publish(self, records: Sequence[NewRecord]) -> list[Position]:
        """Append whole records; outages are waited out, and after one some may lie there twice."""
        failures = Failures(BACKOFF)
        while True:
            try:
                return await self._events_log.append(EVENTS, records)
            except LogError as error:
                if not error.retryable:
                    raise
                logger.warning("reports.log_unavailable", error=str(error))
                await asyncio.sleep(failures.next_wait())


def raw(value: Raw) -> Raw | None:
    """The JSON for `EventPublisher.said`; None if it is absent."""
    return value or None
