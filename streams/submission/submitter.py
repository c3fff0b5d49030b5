"""Submitting predictions to their providers, never twice.

1. the create is in the log, and the record shows it: whoever comes here has seen that
2. append `submit` with an attempt id of our own
3. wait until the record shows an attempt: if it is another one, somebody else submits
4. call the provider; 429 and 5xx are repeated within its limits, a call without an answer never is
5. append the answer

A crash before 3 leaves a record without an attempt, which is started over. A crash after it leaves an
attempt without an answer: nobody calls for it again, the reconciler looks for it at the provider.
"""

import asyncio
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Protocol

from msgspec.structs import replace

from tidings.storage.errors import StorageError
from tidings.storage.loggers import get_logger
from tidings.storage.prediction import Prediction, decode
from tidings.storage.store import Stored
from tidings.streams.changes.codec import Change
from tidings.streams.log.protocol import LogError
from tidings.streams.providers.job_api import (
    Order,
    Origin,
    Submitted,
    job_api_of,
    submission_api_of,
)
from tidings.streams.providers.protocol import Provider
from tidings.streams.providers.text_stream import StreamingApi
from tidings.streams.submission.create_call import (
    Cancelled,
    CreateCall,
    Declined,
    Outcome,
    cancelled,
)
from tidings.streams.submission.event_publisher import EventPublisher, raw
from tidings.streams.submission.fair_queue import FairQueue
from tidings.streams.submission.reconcile_policy import Action, Timeouts, action_for
from tidings.streams.submission.throttle import ProviderThrottle

PREFIX = "AI service submission failed: "
"""How the error of a prediction begins that its provider did not take."""
MAX_QUEUED = 10_000
"""Submissions kept waiting per provider; the reconciler comes back to the rest."""
MAX_QUEUED_OF_ONE = 1_000
"""Of one owner."""
MAX_MODEL = 512
"""Characters of a model's name."""
LOOK_AGAIN = 30.0
"""Seconds after which the store is asked for a record whose change has not come."""
STORE_PAUSE = 1.0
"""Seconds until a store that was away is asked again for a record that has our attempt."""

logger = get_logger(__name__)


class ChangeWaiter(Protocol):
    """Waits for changes of a prediction."""

    async def wait_for_version(
        self, prediction_id: str, beyond: int, timeout: float
    ) -> Change | None:
        """Wait for a change with a version above `beyond`; None if it has not come in time."""


Load = Callable[[Sequence[str]], Awaitable[dict[str, Stored]]]
"""The newest records, past any cache. Raises `StorageError`."""

Whole = Callable[[Prediction], Awaitable[Prediction]]
"""The record with the contents of its large fields. Raises `StorageError`."""

WebhookUrl = Callable[[str, str], str]
"""Where a provider reports on a prediction: by the provider's name and the prediction's id."""


class Submitter:
    """Hands predictions to providers.

    Args:
        providers: Those that are configured.
        throttles: How each may be called; a provider without a throttle is not submitted to.
        publisher: Where events go.
        load: Reads records.
        waiter: Sees changes come.
        webhook_url: Where providers report; None: the service has no public address.
        timeouts: How long an attempt may take.
        whole: Puts large fields back; None: records have none.
        reached: Called with the number of each step as it ends, and the prediction's id.
    """

    def __init__(
        self,
        providers: Mapping[str, Provider],
        throttles: Mapping[str, ProviderThrottle],
        publisher: EventPublisher,
        load: Load,
        waiter: ChangeWaiter,
        webhook_url: WebhookUrl | None,
        *,
        timeouts: Timeouts | None = None,
        whole: Whole | None = None,
        reached: Callable[[int, str], None] | None = None,
    ) -> None:
        self._whole = whole
        self._providers, self._throttles, self._publisher = providers, throttles, publisher
        self._load, self._waiter, self._webhook_url = load, waiter, webhook_url
        self._timeouts = timeouts or Timeouts()
        self._reached = reached or (lambda _step, _prediction_id: None)
        self._queues: dict[str, FairQueue] = {}
        self._known: set[str] = set()
        self._workers: dict[asyncio.Task[None], str] = {}
        self._calling: set[asyncio.Task[None]] = set()
        self._closing = False
        self.submitted = 0
        self.refused = 0
        self.unknown = 0
        self.interrupted = 0

    def refusal(self, provider: str) -> str | None:
        """Why nothing can be submitted to this provider, with the remedy; None: it can."""
        shown = f"TIDINGS_{provider[:64].upper().replace('-', '_')}"
        found = self._providers.get(provider)
        if found is None:
            return f"Nothing is configured for {provider[:64]!r}; set {shown}_SECRET and {shown}_TOKEN."
        if submission_api_of(found) is None and job_api_of(found) is not None:
            return f"{provider} takes no predictions from here; submit there, and name its webhook's address."
        if submission_api_of(found) is None or provider not in self._throttles:
            return f"{provider} cannot be submitted to without its token; set {shown}_TOKEN."
        if self._webhook_url is None:
            return "Providers cannot report back: set TIDINGS_PUBLIC_URL to where they reach this service."
        return None

    def stream_refusal(self, provider: str) -> str | None:
        """Why answers of this provider cannot be read while they are written; None: they can."""
        if isinstance(job_api_of(self._providers.get(provider)), StreamingApi):
            return None
        able = [
            n for n, one in self._providers.items() if isinstance(job_api_of(one), StreamingApi)
        ]
        return (
            f"{provider[:64]!r} has no stream that is read here, so stream cannot be true: leave it "
            f"out and take the output{', or order from ' + ', '.join(sorted(able)) if able else ''}."
        )

    def model_refusal(self, provider: str, model: str) -> str | None:
        """Why no call can be made of this model's name; None: one can.

        Args:
            provider: To which `refusal` has no objection.
            model: As ordered.
        """
        found = self._providers.get(provider)
        api = submission_api_of(found) if found is not None else None
        if len(model) > MAX_MODEL:
            return f"a model's name has at most {MAX_MODEL} characters, not {len(model)}"
        try:
            if api is not None:
                api.create(Order(model=model))
        except ValueError as error:
            return str(error)
        return None

    async def submit(self, record: Prediction) -> None:
        """Take charge of a prediction that has been written down.

        Returns without waiting for the provider.
        """
        if record.provider is not None and action_for(record) is Action.SUBMIT:
            self.enqueue(record.prediction_id, record.provider, record.owner)

    def enqueue(self, prediction_id: str, provider: str, owner: str | None = None) -> bool:
        """Queue a prediction that needs submitting.

        False if it is under way already, or cannot be taken.
        """
        if self._closing or prediction_id in self._known or self.refusal(provider) is not None:
            return False
        queue = self._queues.get(provider)
        if queue is None:
            queue = self._queues[provider] = FairQueue(MAX_QUEUED, MAX_QUEUED_OF_ONE)
        if not queue.put(owner, prediction_id):
            return False
        self._known.add(prediction_id)
        # One that is done has seen an empty queue, and is taken out of the workers only when the
        # loop goes round.
        working = sum(
            1 for worker, name in self._workers.items() if name == provider and not worker.done()
        )
        if working < self._throttles[provider].limits.concurrency:
            worker = asyncio.create_task(self._work(provider, queue), name=f"submit-{provider}")
            self._workers[worker] = provider
            worker.add_done_callback(lambda done: self._workers.pop(done, None))
        return True

    @property
    def waiting(self) -> int:
        """Predictions that are queued or being submitted."""
        return len(self._known)

    async def idle(self) -> None:
        """Wait until everything taken so far is done."""
        while self._workers:
            await asyncio.wait(list(self._workers))

    async def close(self, limit: float = 4.0) -> None:
        """Take nothing more, and let calls under way end within `limit` seconds.

        The rest is left to the record.
        """
        self._closing = True
        for worker in [one for one in self._workers if one not in self._calling]:
            worker.cancel()
        if self._calling:
            await asyncio.wait(list(self._calling), timeout=limit)
        for worker in list(self._workers):
            worker.cancel()
        await asyncio.gather(*self._workers, return_exceptions=True)

    async def _work(self, provider: str, queue: FairQueue) -> None:
        while queue and not self._closing:
            prediction_id = queue.pop()
            try:
                await self._one(prediction_id, provider)
            except (StorageError, LogError) as error:
                # The reconciler comes back to it: the record says how far it got.
                self.interrupted += 1
                logger.warning("submission.interrupted", prediction=prediction_id, error=str(error))
            except Exception as error:
                self.interrupted += 1
                logger.error("submission.defect", prediction=prediction_id, exc_info=error)
            finally:
                self._known.discard(prediction_id)

    async def _one(self, prediction_id: str, provider: str) -> None:
        throttle = self._throttles[provider]
        async with throttle.slot(creating=True):
            record = await self._claim(prediction_id)
            if record is None:
                return
            task = asyncio.current_task()
            assert task is not None
            self._calling.add(task)
            try:
                outcome = await self._call(record, provider, throttle)
                self._reached(4, prediction_id)
                await self._tell(record, provider, outcome)
                self._reached(5, prediction_id)
            finally:
                self._calling.discard(task)

    # ---- 2 and 3 ----

    async def _claim(self, prediction_id: str) -> Prediction | None:
        """Make the attempt ours; None if it is not ours to make."""
        record = await self._record(prediction_id)
        if record is None or action_for(record) is not Action.SUBMIT:
            return None
        # What cannot be had now must not be missing when the attempt is made. Neither changes after
        # the create.
        contents = record if self._whole is None else await self._whole(record)
        attempt = f"attempt-{uuid.uuid4().hex}"
        # Listening before the event is out: the change may be faster than the append's answer.
        change = asyncio.create_task(
            self._waiter.wait_for_version(prediction_id, record.version, LOOK_AGAIN)
        )
        try:
            await self._publisher.publish_event(prediction_id, type="submit", attempt=attempt)
            self._reached(2, prediction_id)
            while action_for(record) is Action.SUBMIT:
                seen = await change
                fresh = (
                    await self._after(record)
                    if seen is None or seen.deleted
                    else decode(seen.value)
                )
                if fresh is None:
                    return None
                record = fresh
                change = asyncio.create_task(
                    self._waiter.wait_for_version(prediction_id, record.version, LOOK_AGAIN)
                )
        finally:
            change.cancel()
        self._reached(3, prediction_id)
        if record.attempt != attempt:
            return None
        return replace(record, payload=contents.payload, prompt=contents.prompt)

    async def _after(self, record: Prediction) -> Prediction | None:
        """The record as it stands now; None: it is gone.

        Outages of the store are waited out, because the attempt may be ours: nobody else would call
        for it.

        Raises:
            StorageError: It could not be read for so long that calls could come after the attempt
                was given up.
        """
        started = time.monotonic()
        # A half: the other one is for the last of the calls, which takes its time as well.
        limit = (self._timeouts.unknown - self._timeouts.attempt) / 2
        while True:
            try:
                return await self._record(record.prediction_id)
            except StorageError as error:
                if (time.monotonic() - started) * 1000 >= limit:
                    raise
                logger.warning(
                    "submission.store_unavailable",
                    prediction=record.prediction_id,
                    error=str(error),
                )
            await asyncio.sleep(STORE_PAUSE)

    async def _record(self, prediction_id: str) -> Prediction | None:
        stored = (await self._load([prediction_id])).get(prediction_id)
        return decode(stored.encoded) if stored is not None and not stored.deleted else None

    # ---- 4 ----

    async def _call(self, record: Prediction, provider: str, throttle: ProviderThrottle) -> Outcome:
        api = submission_api_of(self._providers[provider])
        assert api is not None
        assert self._webhook_url is not None
        if record.cancel_requested_at is not None or record.status.terminal:
            return cancelled(record)
        webhook = self._webhook_url(provider, record.prediction_id)
        prompt = record.prompt if isinstance(record.prompt, str) else None
        origin = Origin(record.prediction_id, record.attempt or "")
        order = Order(
            model=record.model or "",
            payload=record.payload,
            prompt=prompt,
            webhook=webhook,
            timeout=_seconds_left(record),
            stream=bool(record.stream),
            origin=origin,
        )
        try:
            call = api.create(order)
        except ValueError as error:
            return Declined(str(error))
        creation = CreateCall(throttle, self._record, self._timeouts.attempt / 1000)
        return await creation.run(api, call, record, webhook)

    # ---- 5 ----

    async def _tell(self, record: Prediction, provider: str, outcome: Outcome) -> None:
        prediction_id = record.prediction_id
        match outcome:
            case Submitted():
                self.submitted += 1
                urls = raw(outcome.urls)
                fields = {
                    "provider": provider,
                    "providerId": outcome.provider_id,
                    "providerUrls": urls,
                }
                await self._publisher.publish_event(prediction_id, status="processing", **fields)
                logger.info(
                    "submission.taken",
                    prediction=prediction_id,
                    provider=provider,
                    id=outcome.provider_id,
                )
            case Declined():
                self.refused += 1
                await self._publisher.publish_event(
                    prediction_id, status="failed", error=PREFIX + outcome.reason
                )
                logger.warning(
                    "submission.refused",
                    prediction=prediction_id,
                    provider=provider,
                    reason=outcome.reason,
                )
            case Cancelled():
                if not outcome.requested:
                    return
                await self._publisher.publish_event(prediction_id, status="canceled")
            case None:
                self.unknown += 1


def _seconds_left(record: Prediction) -> int | None:
    """Until the record's deadline, at least one; None: it has none."""
    if record.deadline is None:
        return None
    return max(1, -(-(record.deadline - time.time_ns() // 1_000_000) // 1000))
