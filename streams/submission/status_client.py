"""Asking providers about predictions.

How they stand, whether they can be found at all, and to stop them.

What they answer is appended as their report, as it came, and only if the record would learn
something from it.
"""

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence

import msgspec
from msgspec import Struct

from tidings.storage.clock import SYSTEM_CLOCK, Clock
from tidings.storage.loggers import get_logger
from tidings.storage.prediction import Prediction, Status
from tidings.streams.log.protocol import RecordTooLarge
from tidings.streams.providers.job_api import (
    JobApi,
    JobListing,
    Origin,
    OriginAware,
    ThinNotice,
    Unreadable,
    job_api_of,
)
from tidings.streams.providers.protocol import Provider, Webhook
from tidings.streams.providers.translation import translate
from tidings.streams.rules.decision import Applied, is_late
from tidings.streams.rules.event import Event, OtherResource, Poison
from tidings.streams.rules.transitions import decide
from tidings.streams.submission.create_call import Declined
from tidings.streams.submission.event_publisher import EventPublisher
from tidings.streams.submission.http import Answer, CallFailed
from tidings.streams.submission.job_search import find
from tidings.streams.submission.redaction import reason_of
from tidings.streams.submission.submitter import WebhookUrl
from tidings.streams.submission.throttle import ProviderThrottle

GONE = frozenset({404, 410})
"""Answers that say that the provider no longer knows a prediction."""
NO_RESULT = frozenset({400, 422})
"""Answers to the question for a result that say that it completed without one (fal)."""
GONE_ERROR = "gone at the provider"
TOO_LARGE_ERROR = "the result is larger than TIDINGS_MAX_BODY"
UNKNOWN_ERROR = "submission outcome unknown"
PAGES = 600
"""Of a provider's list, searched for submissions without an answer: it is read back to the oldest
of them, and if that takes more, nothing is concluded."""

Whose = Callable[[Origin], Awaitable[Prediction | None]]
"""The prediction that a submission was made for; None: none of ours. Raises `StorageError`."""

logger = get_logger(__name__)


class SearchResult(Struct, frozen=True):
    """What came of looking for submissions in a provider's list."""

    lost: Sequence[Prediction] = ()
    """Those given up that are not there. They may have been heard of since the list was read."""
    untold: int = 0
    """Of how many it could not be told for now."""


class StatusClient:
    """What is asked of providers about predictions that they have.

    Args:
        providers: Those that are configured.
        throttles: How each may be called.
        publisher: Where events go.
        webhook_url: Where providers report, by which submissions are found again; None: they cannot
            be looked for in a list, and nothing is concluded from that.
        strict: The processor's rule, to tell what would be news.
        clock: Tells the time.
    """

    def __init__(
        self,
        providers: Mapping[str, Provider],
        throttles: Mapping[str, ProviderThrottle],
        publisher: EventPublisher,
        webhook_url: WebhookUrl | None,
        *,
        strict: bool = False,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._providers, self._throttles, self._publisher = providers, throttles, publisher
        self._webhook_url, self._strict, self._clock = webhook_url, strict, clock
        self._unlisted: set[str] = set()
        self.reported = 0
        self.gone = 0
        self.unknown = 0

    def supports(self, provider: str) -> bool:
        """Whether this provider can be asked."""
        return self._api(provider) is not None

    def can_refresh(self, record: Prediction) -> bool:
        """Whether the record tells where the provider can be asked about its prediction."""
        api = self._api(record.provider or "")
        if api is None:
            return False
        try:
            api.get(record.provider_id or "", record.model, record.provider_urls)
        except ValueError:
            return False
        return True

    def closed_for(self, provider: str) -> float:
        """Seconds for which the provider is left alone."""
        throttle = self._throttles.get(provider)
        return throttle.closed_for if throttle is not None else 0.0

    def _api(self, provider: str) -> JobApi | None:
        found = self._providers.get(provider)
        return job_api_of(found) if found is not None and provider in self._throttles else None

    # ---- looking up ----

    async def refresh(self, record: Prediction, why: str, whose: Whose | None = None) -> bool:
        """Ask how a prediction stands and report it; False: the provider could not say for now.

        Args:
            record: As it stands, or as far as a webhook has told (version 0: nothing has its id).
            why: For the log.
            whose: Tells where the report goes, should the provider name another prediction as its
                origin.

        Raises:
            StorageError: From `whose`.
        """
        provider, provider_id = record.provider or "", record.provider_id or ""
        api = self._api(provider)
        if api is None or self._throttles[provider].closed_for > 0:
            return False
        async with self._throttles[provider].slot():
            try:
                body = await self._fetch(api, self._throttles[provider], record, provider_id)
            except (CallFailed, ValueError) as error:
                logger.warning(
                    "lookup.failed",
                    prediction=record.prediction_id,
                    provider=provider,
                    error=str(error),
                )
                return False
        if isinstance(body, Answer):
            return await self._refused(record, body)
        if isinstance(body, Declined):
            await self._failed(record, body.reason)
            return True
        if (
            whose is not None
            and isinstance(api, OriginAware)
            and (origin := api.origin(body)) is not None
        ):
            ours = await whose(origin)
            if ours is None:
                # Of another service with the same account, or deleted here meanwhile.
                logger.info(
                    "lookup.not_ours",
                    provider=provider,
                    id=provider_id,
                    prediction=origin.prediction_id,
                )
                return True
            record = ours
        event = self._news(record, provider, body)
        if event is None:
            return True
        try:
            await self._publisher.publish_provider_report(record.prediction_id, provider, body, why)
        except RecordTooLarge:
            return await self._too_large(record, event, len(body))
        self.reported += 1
        return True

    async def _fetch(
        self, api: JobApi, throttle: ProviderThrottle, record: Prediction, provider_id: str
    ) -> bytes | Answer | Declined:
        """The body to report, the answer that there is none for now, or why there will be none."""
        answer = await throttle.call(api.get(provider_id, record.model, record.provider_urls))
        if not answer.good:
            return answer
        more = api.result(provider_id, answer.body, record.provider_urls, record.model)
        if more is None:
            return api.report(provider_id, answer.body, None)
        result = await throttle.call(more)
        if result.good:
            return api.report(provider_id, answer.body, result.body)
        return Declined(reason_of(result, ())) if result.status in NO_RESULT else result

    async def _refused(self, record: Prediction, answer: Answer) -> bool:
        status = answer.status
        if status in GONE:
            self.gone += 1
            await self._failed(record, f"{GONE_ERROR} ({status})")
            return True
        logger.warning(
            "lookup.refused",
            prediction=record.prediction_id,
            provider=record.provider,
            status=status,
        )
        return False

    async def _failed(self, record: Prediction, error: str) -> None:
        if (not record.status.terminal or is_late(record)) and record.version:
            logger.warning("lookup.failed_for_good", prediction=record.prediction_id, reason=error)
            await self._publisher.publish_event(
                record.prediction_id, status=Status.FAILED.value, error=error
            )

    async def _too_large(self, record: Prediction, event: Event, size: int) -> bool:
        """Say how it ended if the log will never take the report itself.

        False: it has not ended yet.
        """
        logger.warning(
            "lookup.too_large",
            prediction=record.prediction_id,
            provider=record.provider,
            bytes=size,
        )
        if event.status is None or not event.status.terminal:
            return False
        if not (record.pending or record.status).terminal or is_late(record):
            status = Status.CANCELED if event.status is Status.CANCELED else Status.FAILED
            said = {
                "provider": event.provider,
                "providerId": event.provider_id,
                "model": event.model,
            }
            error = f"{TOO_LARGE_ERROR} ({size} bytes)"
            await self._publisher.publish_event(
                record.prediction_id, status=status.value, error=error, **said
            )
            self.reported += 1
        return True

    def _news(self, record: Prediction, provider: str, body: bytes) -> Event | None:
        """The report as the processor will read it; None: the record would not change by it."""
        try:
            event = self.translated(record.prediction_id, provider, body)
        except (Poison, OtherResource) as reason:
            logger.warning(
                "lookup.no_sense",
                prediction=record.prediction_id,
                provider=provider,
                error=str(reason),
            )
            return None
        return (
            event if isinstance(decide(record, event, None, strict=self._strict), Applied) else None
        )

    def translated(self, prediction_id: str, provider: str, body: bytes) -> Event:
        """The report as the processor will read it. Raises `Poison` and `OtherResource`."""
        webhook = Webhook(body, prediction_id, self._clock.ms(), usage=True, questions=True)
        return translate(self._providers[provider], webhook)

    async def report_notice(self, record: Prediction, notice: ThinNotice) -> None:
        """Say of a prediction what its webhook said, because its provider cannot be asked for more.

        Args:
            record: As for `refresh`.
            notice: The webhook's.
        """
        open_ended = not (record.pending or record.status).terminal or is_late(record)
        if notice.status is not None and open_ended:
            said = {
                "error": notice.error,
                "provider": record.provider,
                "providerId": notice.provider_id,
            }
            await self._publisher.publish_event(
                record.prediction_id, status=notice.status.value, **said
            )
            self.reported += 1

    # ---- canceling ----

    async def cancel(self, record: Prediction) -> bool:
        """Ask the provider to stop a prediction, and report how it stands then.

        False: it could not be asked.
        """
        provider = record.provider or ""
        api = self._api(provider)
        if api is None or self._throttles[provider].closed_for > 0:
            return False
        answer: Answer | None = None
        try:
            call = api.cancel(record.provider_id or "", record.model, record.provider_urls)
            if call is not None:
                async with self._throttles[provider].slot():
                    answer = await self._throttles[provider].call(call)
        except (CallFailed, ValueError) as error:
            logger.warning(
                "cancel.failed",
                prediction=record.prediction_id,
                provider=provider,
                error=str(error),
            )
            return False
        if answer is None:
            return await self.refresh(record, "cancel")
        if answer.status == 429 or answer.status >= 500:
            return False
        logger.info(
            "cancel.asked", prediction=record.prediction_id, provider=provider, status=answer.status
        )
        # It may have ended meanwhile, or be gone: what counts is how it stands.
        await self.refresh(record, "cancel")
        return True

    # ---- submissions without an answer ----

    async def find(
        self, provider: str, records: Sequence[Prediction], given_up: Sequence[Prediction]
    ) -> SearchResult:
        """Look for predictions in the provider's list.

        Args:
            provider: Whose.
            records: Submitted, without an answer.
            given_up: Those among them that have failed if they are not there.

        Returns:
            Those given up that are not there, and of how many the list did not tell.
        """
        api = self._api(provider)
        missing: Collection[Prediction] = records
        if isinstance(api, JobListing):
            if self._webhook_url is None:
                if provider not in self._unlisted:
                    self._unlisted.add(provider)
                    remedy = "set TIDINGS_PUBLIC_URL and TIDINGS_WEBHOOK_KEY as where it submits"
                    logger.warning(
                        "lookup.no_address", provider=provider, missing=len(records), remedy=remedy
                    )
                return SearchResult(untold=len(records))
            by_url = {
                self._webhook_url(provider, record.prediction_id): record for record in records
            }
            throttle = self._throttles[provider]
            if throttle.closed_for > 0:
                return SearchResult(untold=len(records))
            try:
                async with throttle.slot():
                    found = await find(
                        api, throttle, by_url, min(record.created_at for record in records), PAGES
                    )
            except (CallFailed, Unreadable) as error:
                logger.warning("lookup.not_listed", provider=provider, error=str(error))
                return SearchResult(untold=len(records))
            for url, provider_id in found.ids.items():
                await self._found(by_url[url], provider, provider_id)
            missing = [record for url, record in by_url.items() if url not in found.ids]
            if not found.complete:
                logger.warning(
                    "lookup.list_not_read_to_the_end",
                    provider=provider,
                    most=PAGES,
                    missing=len(missing),
                )
                return SearchResult(untold=len(missing))
        lost = {record.prediction_id for record in given_up}
        return SearchResult([record for record in missing if record.prediction_id in lost])

    async def give_up(self, record: Prediction) -> None:
        """Report that nobody knows what became of a submission."""
        self.unknown += 1
        await self._failed(record, UNKNOWN_ERROR)

    async def _found(self, record: Prediction, provider: str, provider_id: str) -> None:
        logger.info(
            "submission.found", prediction=record.prediction_id, provider=provider, id=provider_id
        )
        await self._publisher.publish_event(
            record.prediction_id,
            status=Status.PROCESSING.value,
            provider=provider,
            providerId=provider_id,
        )
        await self.refresh(msgspec.structs.replace(record, provider_id=provider_id), "found")
