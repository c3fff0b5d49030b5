"""Webhooks that bring no result.

The resource is fetched at its provider and appended as that provider's report.

Whose report that is, shows in what is fetched: a provider whose webhooks go to one address for all
names its own id alone. A group of its own on the events. What was fetched is committed, in order:
after a crash the rest is fetched again, and what comes twice is Stale by the rules. The group also
deals out the partitions that an instance is responsible for.
"""

import asyncio
import time
from collections.abc import Collection, Mapping

import msgspec
import structlog

from tidings.storage.clock import SYSTEM_CLOCK, Clock
from tidings.storage.errors import StorageError
from tidings.storage.loggers import get_logger
from tidings.storage.prediction import Prediction, Status, decode
from tidings.storage.resilience.backoff import Backoff, Failures
from tidings.streams.log.consumer_loop import ConsumerLoop
from tidings.streams.log.headers import PROVIDER_HEADER
from tidings.streams.log.log_fields import fields_of
from tidings.streams.log.protocol import EVENTS, Log, LogError, Record
from tidings.streams.providers.job_api import Origin, ThinNotice, ThinWebhook
from tidings.streams.providers.protocol import Provider
from tidings.streams.submission.event_publisher import FETCHED_HEADER
from tidings.streams.submission.status_client import StatusClient
from tidings.streams.submission.submitter import Load

GROUP = "tidings-reconciler"
BATCH = 500
MOST_OPEN = 200
"""Webhooks being fetched for at once; beyond that nothing more is read."""
COMMIT_EVERY = 1.0
"""Seconds; what is read again after a crash costs a look at the record."""
TRIES = 60
BACKOFF = Backoff.doubling(0.5, 60.0, jitter=0.2)
"""Between tries: about an hour in all."""
MOST_KNOWN = 10_000
"""Predictions of ours remembered by the provider's id, so that a repeated webhook is not fetched
for again."""
OLDEST = 86_400_000
"""Ms: what a webhook older than this speaks of is no longer kept at any provider."""

logger = get_logger(__name__)


class ThinWebhookReader:
    """Reads the events for webhooks whose result is left to be fetched.

    Args:
        log: The events.
        providers: Those that are configured.
        status_client: What asks them.
        load: Reads records past any cache.
        group: The consumer group.
        clock: Tells the time.
    """

    def __init__(
        self,
        log: Log,
        providers: Mapping[str, Provider],
        status_client: StatusClient,
        load: Load,
        *,
        group: str = GROUP,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._events_log, self._group, self._clock = log, group, clock
        self._status_client, self._load = status_client, load
        self._thin = {
            name.encode(): provider
            for name, provider in providers.items()
            if isinstance(provider, ThinWebhook)
        }
        self._ours: dict[tuple[str, str], str] = {}
        self._loop: ConsumerLoop | None = None
        self._open: dict[tuple[int, int], asyncio.Task[None]] = {}
        """By position, those that are being fetched for."""
        self.last_alive = time.monotonic()
        self.fetched = 0

    def mine(self, partitions: Collection[int]) -> bool:
        """Whether one of these partitions is this instance's."""
        return self._loop is not None and not self._loop.consumer.assigned().isdisjoint(partitions)

    async def run(self) -> None:
        """Read until cancelled. Outages of the log are waited out."""
        loop = self._loop = ConsumerLoop(self._events_log, EVENTS, self._group)
        if not self._thin:
            loop.hold(True)  # nothing to read, but partitions to be given
        try:
            while True:
                records = await loop.fetch(BATCH, 0.5 if self._thin else 0)
                loop.reassigned()
                self.last_alive = time.monotonic()
                for record in records:
                    self._take(loop, record)
                if self._thin:
                    await self._make_room(loop)
                    loop.commit_every(COMMIT_EVERY)
                else:
                    await asyncio.sleep(0.5)  # not woken by every event
        finally:
            # What is not committed is read again: the tasks that are canceled here leave their
            # records open.
            tasks = list(self._open.values())
            for task in tasks:
                task.cancel()
            await loop.close()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _make_room(self, loop: ConsumerLoop) -> None:
        """Read nothing more for a moment if too much is open; whoever polls goes on polling."""
        full = len(self._open) >= MOST_OPEN
        loop.hold(full)
        if full:
            await asyncio.wait(
                list(self._open.values()), timeout=0.5, return_when=asyncio.FIRST_COMPLETED
            )

    def _take(self, loop: ConsumerLoop, record: Record) -> None:
        needed = self._needed(record)
        if needed is None:
            loop.passed([record])
            return
        claim = loop.begin([record])
        at = (record.partition, record.offset)
        task = self._open.get(at)
        if task is None:  # else it is read again after a reassignment, and still being fetched for
            task = self._open[at] = asyncio.create_task(self._fetch(record, *needed))
            task.add_done_callback(lambda _done: self._open.pop(at, None))
        task.add_done_callback(lambda done: None if done.cancelled() else loop.finish(claim))

    def _needed(self, record: Record) -> tuple[str, ThinNotice] | None:
        """The provider, and what is to be fetched; None: nothing is."""
        name = fetched = None
        for header, value in record.headers:
            if header == PROVIDER_HEADER:
                name = value
            elif header == FETCHED_HEADER:
                fetched = value
        provider = self._thin.get(name) if name is not None else None
        if provider is None or fetched is not None or not record.key or not record.value:
            return None
        if record.timestamp < self._clock.ms() - OLDEST:
            return None
        assert isinstance(provider, ThinWebhook)
        try:
            notice = provider.thin(record.value)
        except (
            Exception
        ) as error:  # its webhook is in the log, and the processor says what is wrong with it
            logger.warning("thin.unreadable", provider=provider.name, kind=type(error).__name__)
            return None
        return (provider.name, notice) if notice is not None else None

    async def _fetch(self, record: Record, provider: str, notice: ThinNotice) -> None:
        prediction_id = (record.key or b"").decode("utf-8", "replace")
        structlog.contextvars.bind_contextvars(**fields_of(record))  # of this task alone
        failures = Failures(BACKOFF)
        for _ in range(TRIES):
            try:
                prediction = await self._wanted(prediction_id, provider, notice)
                if prediction is None or await self._asked(prediction, notice):
                    self.fetched += 1
                    return
            except (StorageError, LogError) as error:
                logger.warning("thin.interrupted", prediction=prediction_id, error=str(error))
            except Exception as error:
                logger.error("thin.defect", prediction=prediction_id, exc_info=error)
                return
            await asyncio.sleep(max(failures.next_wait(), self._status_client.closed_for(provider)))
        logger.warning("thin.given_up", prediction=prediction_id, provider=provider, tries=TRIES)

    async def _asked(self, prediction: Prediction, notice: ThinNotice) -> bool:
        """Whether the provider has said how it stands, or there is no way to ask it."""
        provider = prediction.provider or ""
        # What is not in the store yet may bring what the provider's address needs.
        if not self._status_client.supports(provider) or (
            prediction.version and not self._status_client.can_refresh(prediction)
        ):
            await self._status_client.report_notice(prediction, notice)
            return True

        async def whose(origin: Origin) -> Prediction | None:
            stored = (await self._load([origin.prediction_id])).get(origin.prediction_id)
            record = decode(stored.encoded) if stored is not None and not stored.deleted else None
            if (
                record is None
                or (record.provider, record.attempt) != (provider, origin.attempt)
                or record.provider_id not in (None, notice.provider_id)
            ):
                return None
            while len(self._ours) >= MOST_KNOWN:
                del self._ours[next(iter(self._ours))]
            self._ours[provider, notice.provider_id] = record.prediction_id
            return record

        return await self._status_client.refresh(prediction, "thin", whose)

    async def _wanted(
        self, prediction_id: str, provider: str, notice: ThinNotice
    ) -> Prediction | None:
        """The prediction to look up; None: it has its result already, or is gone."""
        provider_id = notice.provider_id
        prediction_id = self._ours.get((provider, provider_id), prediction_id)
        stored = (await self._load([prediction_id])).get(prediction_id)
        if stored is None:
            # Faster than the processor: what the record will say does not matter for the question.
            return Prediction(
                prediction_id=prediction_id,
                status=Status.STARTING,
                version=0,
                created_at=0,
                updated_at=0,
                provider=provider,
                provider_id=provider_id,
                provider_urls=notice.urls,
            )
        if stored.deleted:
            return None
        prediction = decode(stored.encoded)
        if prediction.provider_id not in (None, provider_id) or prediction.provider not in (
            None,
            provider,
        ):
            return None
        if _complete(prediction):
            return None
        urls = prediction.provider_urls or notice.urls
        return msgspec.structs.replace(
            prediction, provider=provider, provider_id=provider_id, provider_urls=urls
        )


def _complete(prediction: Prediction) -> bool:
    """Whether it has ended with everything that is fetched about such an end."""
    match prediction.status:
        case Status.SUCCEEDED:
            return bool(prediction.output)
        case Status.FAILED:
            return prediction.error is not None
        case status:
            return status is Status.CANCELED
