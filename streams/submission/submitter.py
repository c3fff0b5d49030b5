"""Submitting predictions to their providers, never twice.

1. the create is in the log, and the record shows it: whoever comes here has seen that
2. append `submit` with an attempt id of our own
3. wait until the record shows an attempt: where it is another one, somebody else submits
4. call the provider; 429 and 5xx are repeated within its limits, a call without an answer never is
5. append the answer

A crash before 3 leaves a record without an attempt, which is begun anew. A crash after it leaves an attempt without
an answer: nobody calls for it again, the reconciler looks for it at the provider.
"""

import asyncio
import time
import uuid
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Protocol

import structlog
from msgspec import Struct
from msgspec.structs import replace

from tidings.storage.errors import StorageError
from tidings.storage.prediction import Prediction, decode
from tidings.storage.store import Stored
from tidings.streams.changes.codec import Change
from tidings.streams.log.protocol import LogError
from tidings.streams.providers.job_api import (
    Call,
    Listing,
    Order,
    Origin,
    Submitted,
    Submitting,
    Unreadable,
    api_of,
    submitting_of,
)
from tidings.streams.providers.protocol import Provider
from tidings.streams.submission.event_publisher import Reports, raw
from tidings.streams.submission.http import Answer, CallFailed, NotSent
from tidings.streams.submission.job_search import find
from tidings.streams.submission.reconcile_policy import Need, Patience, need_of
from tidings.streams.submission.redaction import reason_of, secrets_of
from tidings.streams.submission.throttle import Lane

PREFIX = "AI service submission failed: "
"""How the error of a prediction begins that its provider did not take."""
MAX_QUEUED = 10_000
"""Submissions kept waiting per provider; the reconciler comes back to the rest."""
LOOK_AGAIN = 30.0
"""Seconds after which the store is asked for a record whose change has not come."""
STORE_PAUSE = 1.0
"""Seconds until a store that was away is asked again for a record that has our attempt."""
FIRST_WAIT, LONGEST_WAIT = 0.5, 30.0
"""Seconds before a create call is repeated, where the provider does not say."""
PAGES = 20
"""Of the provider's list, read before a create call is repeated that the provider failed at. It is read back to the
time of the first call; where that takes more, the call is left to the reconciler, which reads further."""

_log = structlog.get_logger("tidings.submission")


class Sight(Protocol):
    """Who sees changes come."""

    async def wait_for_version(
        self, prediction_id: str, beyond: int, timeout: float
    ) -> Change | None:
        """Wait for a change with a version above `beyond`; None where it has not come in time."""


Load = Callable[[Sequence[str]], Awaitable[dict[str, Stored]]]
"""The newest records, past any cache. Raises `StorageError`."""

Whole = Callable[[Prediction], Awaitable[Prediction]]
"""The record with the contents of its large fields. Raises `StorageError`."""

WebhookUrl = Callable[[str, str], str]
"""Where a provider reports on a prediction: by the provider's name and the prediction's id."""


class Refused(Struct, frozen=True):
    """The provider will not do it."""

    reason: str


class Withdrawn(Struct, frozen=True):
    """Not to be submitted any more, and the provider has not taken it."""

    canceled: bool
    """By a cancel, which thereby is carried out; else it has ended otherwise, or is gone."""


Outcome = Submitted | Refused | Withdrawn | None
"""What came of the calls; None: unknown."""


class Submissions:
    """Hands predictions to providers.

    Args:
        providers: Those that are configured.
        lanes: How each may be called; a provider without a lane is not submitted to.
        reports: Where events go.
        load: Reads records.
        sight: Sees changes.
        webhook_url: Where providers report; None: the service has no public address.
        patience: How long an attempt may take.
        whole: Puts large fields back; None: records have none.
        reached: Called with the number of each step as it ends, and the prediction's id.
    """

    def __init__(
        self,
        providers: Mapping[str, Provider],
        lanes: Mapping[str, Lane],
        reports: Reports,
        load: Load,
        sight: Sight,
        webhook_url: WebhookUrl | None,
        *,
        patience: Patience | None = None,
        whole: Whole | None = None,
        reached: Callable[[int, str], None] | None = None,
    ) -> None:
        self._whole = whole
        self._providers, self._lanes, self._reports = providers, lanes, reports
        self._load, self._sight, self._webhook_url = load, sight, webhook_url
        self._patience = patience or Patience()
        self._reached = reached or (lambda _step, _prediction_id: None)
        self._queues: dict[str, deque[str]] = {}
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
        if submitting_of(found) is None and api_of(found) is not None:
            return f"{provider} takes no predictions from here; submit there, and name its webhook's address."
        if submitting_of(found) is None or provider not in self._lanes:
            return f"{provider} cannot be submitted to without its token; set {shown}_TOKEN."
        if self._webhook_url is None:
            return "Providers cannot report back: set TIDINGS_PUBLIC_URL to where they reach this service."
        return None

    async def submit(self, record: Prediction) -> None:
        """Take charge of a prediction that has been written down; returns without waiting for the provider."""
        if record.provider is not None and need_of(record) is Need.SUBMIT:
            self.take(record.prediction_id, record.provider)

    def take(self, prediction_id: str, provider: str) -> bool:
        """Queue a prediction that needs submitting; False where it is under way already, or cannot be taken."""
        if self._closing or prediction_id in self._known or self.refusal(provider) is not None:
            return False
        queue = self._queues.setdefault(provider, deque())
        if len(queue) >= MAX_QUEUED:
            return False
        queue.append(prediction_id)
        self._known.add(prediction_id)
        # One that is done has seen an empty queue, and is taken out of the workers only when the loop goes round.
        working = sum(
            1 for worker, name in self._workers.items() if name == provider and not worker.done()
        )
        if working < self._lanes[provider].limits.concurrency:
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
        """Take nothing more, let calls under way end within `limit` seconds, and leave the rest to the record."""
        self._closing = True
        for worker in [one for one in self._workers if one not in self._calling]:
            worker.cancel()
        if self._calling:
            await asyncio.wait(list(self._calling), timeout=limit)
        for worker in list(self._workers):
            worker.cancel()
        await asyncio.gather(*self._workers, return_exceptions=True)

    async def _work(self, provider: str, queue: deque[str]) -> None:
        while queue and not self._closing:
            prediction_id = queue.popleft()
            try:
                await self._one(prediction_id, provider)
            except (StorageError, LogError) as error:
                # The reconciler comes back to it: the record says how far it got.
                self.interrupted += 1
                _log.warning("submission.interrupted", prediction=prediction_id, error=str(error))
            except Exception as error:
                self.interrupted += 1
                _log.error("submission.defect", prediction=prediction_id, exc_info=error)
            finally:
                self._known.discard(prediction_id)

    async def _one(self, prediction_id: str, provider: str) -> None:
        lane = self._lanes[provider]
        async with lane.turn(creating=True):
            record = await self._claim(prediction_id)
            if record is None:
                return
            task = asyncio.current_task()
            assert task is not None
            self._calling.add(task)
            try:
                outcome = await self._call(record, provider, lane)
                self._reached(4, prediction_id)
                await self._tell(record, provider, outcome)
                self._reached(5, prediction_id)
            finally:
                self._calling.discard(task)

    # ---- 2 and 3 ----

    async def _claim(self, prediction_id: str) -> Prediction | None:
        """Make the attempt ours; None where it is not ours to make."""
        record = await self._record(prediction_id)
        if record is None or need_of(record) is not Need.SUBMIT:
            return None
        # What cannot be had now must not be missing when the attempt is made. Neither changes after the create.
        contents = record if self._whole is None else await self._whole(record)
        attempt = f"attempt-{uuid.uuid4().hex}"
        # Listening before the event is out: the change may be faster than the append's answer.
        change = asyncio.create_task(
            self._sight.wait_for_version(prediction_id, record.version, LOOK_AGAIN)
        )
        try:
            await self._reports.said(prediction_id, type="submit", attempt=attempt)
            self._reached(2, prediction_id)
            while need_of(record) is Need.SUBMIT:
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
                    self._sight.wait_for_version(prediction_id, record.version, LOOK_AGAIN)
                )
        finally:
            change.cancel()
        self._reached(3, prediction_id)
        if record.attempt != attempt:
            return None
        return replace(record, payload=contents.payload, prompt=contents.prompt)

    async def _after(self, record: Prediction) -> Prediction | None:
        """The record as it stands now; None: it is gone.

        Outages of the store are waited out, because the attempt may be ours: nobody else would call for it.

        Raises:
            StorageError: It could not be read for so long that calls could come after the attempt was given up.
        """
        started = time.monotonic()
        # A half: the other one is for the last of the calls, which takes its time as well.
        limit = (self._patience.unknown - self._patience.attempt) / 2
        while True:
            try:
                return await self._record(record.prediction_id)
            except StorageError as error:
                if (time.monotonic() - started) * 1000 >= limit:
                    raise
                _log.warning(
                    "submission.store_unavailable",
                    prediction=record.prediction_id,
                    error=str(error),
                )
            await asyncio.sleep(STORE_PAUSE)

    async def _record(self, prediction_id: str) -> Prediction | None:
        stored = (await self._load([prediction_id])).get(prediction_id)
        return decode(stored.encoded) if stored is not None and not stored.deleted else None

    # ---- 4 ----

    async def _call(self, record: Prediction, provider: str, lane: Lane) -> Outcome:
        api = submitting_of(self._providers[provider])
        assert api is not None
        assert self._webhook_url is not None
        if record.cancel_requested_at is not None or record.status.terminal:
            return _withdrawn(record)
        webhook = self._webhook_url(provider, record.prediction_id)
        prompt = record.prompt if isinstance(record.prompt, str) else None
        origin = Origin(record.prediction_id, record.attempt or "")
        order = Order(
            model=record.model or "",
            payload=record.payload,
            prompt=prompt,
            webhook=webhook,
            origin=origin,
        )
        try:
            call = api.create(order)
        except ValueError as error:
            return Refused(str(error))
        return await self._insist(api, call, lane, record, webhook)

    async def _insist(
        self, api: Submitting, call: Call, lane: Lane, record: Prediction, webhook: str
    ) -> Outcome:
        """Call until the provider has decided, has taken longer than one attempt may, or gives no answer."""
        hidden = secrets_of(api, call, webhook)
        late = time.monotonic() + self._patience.attempt / 1000
        since, tries, reason, doubtful = int(time.time() * 1000), 0, "", False
        while time.monotonic() < late:
            if tries:
                await asyncio.sleep(
                    max(lane.closed_for, min(FIRST_WAIT * 2.0 ** min(tries, 10), LONGEST_WAIT))
                )
            tries += 1
            if doubtful:
                try:
                    begun = await self._begun(api, lane, webhook, since)
                except (CallFailed, Unreadable) as failure:
                    _log.info(
                        "submission.not_listed", prediction=record.prediction_id, error=str(failure)
                    )
                    continue
                if begun is not None:
                    return begun
            if tries > 1:
                try:
                    now = await self._record(record.prediction_id)
                except StorageError as error:
                    _log.warning(
                        "submission.store_unavailable",
                        prediction=record.prediction_id,
                        error=str(error),
                    )
                    continue
                if now is None or now.status.terminal or now.cancel_requested_at is not None:
                    return _withdrawn(now)
                if (
                    time.monotonic() >= late
                ):  # the provider may have asked for a long wait, or the list taken one
                    break
            try:
                answer = await lane.call(call)
            except NotSent as failure:
                reason = str(failure)
                continue
            except CallFailed as failure:
                _log.warning(
                    "submission.no_answer", prediction=record.prediction_id, error=str(failure)
                )
                return None
            if not _repeatable(answer):
                return _outcome(api, answer, hidden)
            reason, doubtful = reason_of(answer, hidden), doubtful or answer.status != 429
        _log.warning(
            "submission.given_up", prediction=record.prediction_id, tries=tries, reason=reason
        )
        try:
            return (await self._begun(api, lane, webhook, since) if doubtful else None) or Refused(
                reason
            )
        except (CallFailed, Unreadable):
            return None  # the last answer may have hidden a success, as far as anybody can tell now

    async def _begun(
        self, api: Submitting, lane: Lane, webhook: str, since: int
    ) -> Submitted | None:
        """What the provider's list shows of calls that were answered with an error; None: they have begun nothing.

        Raises:
            CallFailed, Unreadable: It cannot be told now.
        """
        if not isinstance(api, Listing):
            return (
                None  # there is only the provider's word for it, which was that it has not done it
            )
        found = await find(api, lane, {webhook}, since, PAGES)
        if found.ids:
            return Submitted(found.ids[webhook])
        if not found.complete:
            raise Unreadable(
                f"it could not be read back to the first call, on {PAGES} pages at most"
            )
        return None

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
                await self._reports.said(prediction_id, status="processing", **fields)
                _log.info(
                    "submission.taken",
                    prediction=prediction_id,
                    provider=provider,
                    id=outcome.provider_id,
                )
            case Refused():
                self.refused += 1
                await self._reports.said(
                    prediction_id, status="failed", error=PREFIX + outcome.reason
                )
                _log.warning(
                    "submission.refused",
                    prediction=prediction_id,
                    provider=provider,
                    reason=outcome.reason,
                )
            case Withdrawn():
                if not outcome.canceled:
                    return
                await self._reports.said(prediction_id, status="canceled")
            case None:
                self.unknown += 1


def _withdrawn(record: Prediction | None) -> Withdrawn:
    return Withdrawn(record is not None and not record.status.terminal)


def _repeatable(answer: Answer) -> bool:
    """Whether the provider says that it has not done it. Of 502 and 504 a proxy speaks, which cannot know."""
    return answer.status == 429 or (answer.status >= 500 and answer.status not in (502, 504))


def _outcome(api: Submitting, answer: Answer, hidden: Sequence[str]) -> Outcome:
    if answer.status in (502, 504):
        return None
    if not answer.good:
        return Refused(reason_of(answer, hidden))
    try:
        return api.created(answer.body)
    except Unreadable as error:
        _log.warning("submission.unreadable", error=str(error))
        return None
