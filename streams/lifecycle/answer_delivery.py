"""Takes answers to the providers that asked.

What a record says is all that counts: it has an answer, and its provider has not taken it. So a
crash loses none. Between the provider's yes and the event that says so one may be sent twice; each
carries the same idempotency key, by which a provider can tell.
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence

import msgspec
from msgspec import Raw

from tidings.storage.clock import SYSTEM_CLOCK, Clock
from tidings.storage.errors import StorageError
from tidings.storage.loggers import get_logger
from tidings.storage.prediction import Prediction, decode
from tidings.storage.resilience.backoff import Backoff
from tidings.streams.changes.codec import Change
from tidings.streams.lifecycle.schedule import Schedule
from tidings.streams.log.protocol import LogError
from tidings.streams.providers.job_api import AnswerApi, Reply, Unreadable, job_api_of
from tidings.streams.providers.protocol import Provider
from tidings.streams.rules.large_fields import path, reference
from tidings.streams.submission.event_publisher import EventPublisher
from tidings.streams.submission.http import CallFailed
from tidings.streams.submission.redaction import reason_of
from tidings.streams.submission.submitter import Load, WebhookUrl
from tidings.streams.submission.throttle import ProviderThrottle

BATCH = 50
AGAIN = Backoff.doubling(1.0, 300.0)
"""Before an answer is sent again."""
NOT_MINE = 500
"""Ms until it is looked whether a partition has become this instance's."""
UNFIT = frozenset({400, 422})
"""Answers of a provider that say that it takes no such answer."""

_UNFINISHED = frozenset({"starting", "processing"})
_ANSWERED, _TAKEN = b'"answeredAt":', b'"answerTakenAt":'

Read = Callable[[str], Awaitable[bytes | None]]
"""Gives the content at a path of the object storage."""

logger = get_logger(__name__)


class AnswerDelivery:
    """Sends answers, and says when they were taken.

    Args:
        load: Reads records past any cache.
        providers: Those that are configured.
        throttles: How each may be called.
        publisher: Where events go.
        read: Reads what is too large for a record.
        webhook_url: Where a provider reports that goes on as another job.
        mine: Whether this instance acts on a partition.
        clock: Tells the time.
    """

    def __init__(
        self,
        load: Load,
        providers: Mapping[str, Provider],
        throttles: Mapping[str, ProviderThrottle],
        publisher: EventPublisher,
        read: Read,
        webhook_url: WebhookUrl | None,
        *,
        mine: Callable[[Collection[int]], bool] = lambda _partitions: True,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._load, self._throttles, self._publisher = load, throttles, publisher
        self._read, self._webhook_url, self._mine, self._clock = read, webhook_url, mine, clock
        self._apis: dict[str, AnswerApi] = {}
        for name, provider in providers.items():
            api = job_api_of(provider)
            if isinstance(api, AnswerApi) and name in throttles:
                self._apis[name] = api
        self._schedule = Schedule(clock)
        self._tries: dict[str, int] = {}
        self.taken = 0
        """Answers that providers took."""

    def __len__(self) -> int:
        return len(self._schedule)

    def notice(self, changes: Sequence[Change]) -> None:
        """Take note of changes; none is decoded."""
        if not self._apis:
            return
        for change in changes:
            value = change.value
            if change.status in _UNFINISHED and _ANSWERED in value and _TAKEN not in value:
                self._schedule.put(change.prediction_id, self._clock.ms())
            elif self._tries:
                self._tries.pop(change.prediction_id, None)

    def remember(self, record: Prediction) -> None:
        """Take note of a record as the store has it."""
        if self._owed(record):
            self._schedule.put(record.prediction_id, self._clock.ms())

    def _owed(self, record: Prediction) -> bool:
        return (
            not record.status.terminal
            and record.pending is None
            and not record.waiting
            and record.answered_at is not None
            and record.answer_taken_at is None
            and record.cancel_requested_at is None
            and record.provider in self._apis
            and _asked_by_provider(record)
        )

    async def run(self) -> None:
        """Work until cancelled."""
        while True:
            await self._schedule.wait()
            await self.once()

    async def once(self) -> int:
        """Send what is due, each once; returns how many."""
        due = self._schedule.take(BATCH)
        if due:
            await asyncio.gather(*(self._deliver(name) for name in due))
        return len(due)

    async def _deliver(self, prediction_id: str) -> None:
        try:
            stored = (await self._load([prediction_id])).get(prediction_id)
            record = None if stored is None or stored.deleted else decode(stored.encoded)
            if record is None or not self._owed(record):
                self._tries.pop(prediction_id, None)
                return
            offsets = record.source.offsets if record.source is not None else {}
            if offsets and not self._mine([int(one) for one in offsets]):
                self._schedule.put(prediction_id, self._clock.ms() + NOT_MINE)
                return
            if await self._send(record):
                self.taken += 1
                return
        except (CallFailed, StorageError, LogError, ValueError) as error:
            logger.warning("answer.interrupted", prediction=prediction_id, error=str(error))
        except Exception as error:  # one answer must not end the delivery of all
            logger.error("answer.defect", prediction=prediction_id, exc_info=error)
        tries = self._tries[prediction_id] = self._tries.get(prediction_id, 0) + 1
        self._schedule.put(prediction_id, self._clock.ms() + round(AGAIN.wait(tries) * 1000))

    async def _send(self, record: Prediction) -> bool:
        """Send a record's answer; False: the provider could not take it for now."""
        provider = record.provider or ""
        api, throttle = self._apis[provider], self._throttles[provider]
        name, number = record.prediction_id, record.question_number
        reply = Reply(
            provider_id=record.provider_id or "",
            model=record.model,
            question=await self._whole(name, record.question),
            answer=await self._whole(name, record.answer),
            webhook=self._webhook_url(provider, name) if self._webhook_url is not None else None,
            key=f"{name}:{number}",
        )
        try:
            call = api.answer(reply)
        except ValueError as error:
            await self._ask_again(record, reply, str(error))
            return True
        async with throttle.slot():
            answer = await throttle.call(call)
        if answer.good:
            taken = api.answered(answer.body)
            await self._publisher.publish_event(
                name,
                type="answerTaken",
                questionNumber=number,
                createdAt=record.created_at,
                providerId=taken.provider_id,
                providerUrls=taken.urls or None,
            )
            logger.info("answer.taken", prediction=name, provider=provider, id=taken.provider_id)
            return True
        if answer.status in UNFIT:
            await self._ask_again(record, reply, reason_of(answer, ()))
            return True
        logger.warning("answer.refused", prediction=name, provider=provider, status=answer.status)
        return False

    async def _ask_again(self, record: Prediction, reply: Reply, reason: str) -> None:
        """The person learns why the provider takes no such answer, and may give another."""
        question = msgspec.json.decode(reply.question)
        if not isinstance(question, dict):
            question = {"text": question}
        await self._publisher.publish_event(
            record.prediction_id,
            type="answerTaken",
            questionNumber=record.question_number,
            createdAt=record.created_at,
            waiting=True,
            question={**question, "refused": reason},
        )
        logger.warning("answer.unfit", prediction=record.prediction_id, reason=reason)

    async def _whole(self, prediction_id: str, field: Raw) -> bytes:
        blob = reference(field)
        if blob is None:
            return bytes(field)
        found = await self._read(path(prediction_id, blob.hash))
        if found is None:
            raise Unreadable(f"{blob.hash} of {prediction_id} is not in the object storage")
        return found


def _asked_by_provider(record: Prediction) -> bool:
    """Whether the provider's job asked, and not somebody else about it: the question has the job's id."""
    return record.provider_id is not None and record.question_id == record.provider_id
