"""Step 4 of a submission.

Call the provider until it has decided, has taken too long, or gives no answer.

What ends in an error may have begun all the same, so a provider with a list is searched before the
call is repeated. A call without an answer is never repeated.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence

from msgspec import Struct

from tidings.storage.errors import StorageError
from tidings.storage.loggers import get_logger
from tidings.storage.prediction import Prediction
from tidings.storage.resilience.backoff import Backoff
from tidings.streams.providers.job_api import Call, JobListing, SubmissionApi, Submitted, Unreadable
from tidings.streams.submission.http import Answer, CallFailed, NotSent
from tidings.streams.submission.job_search import find
from tidings.streams.submission.redaction import reason_of, secrets_of
from tidings.streams.submission.throttle import ProviderThrottle

BACKOFF = Backoff.doubling(1.0, 30.0)
"""Before a create call is repeated, if the provider does not say."""
PAGES = 20
"""Of the provider's list, read before a create call is repeated that the provider failed at. It is
read back to the time of the first call; if that takes more, the call is left to the reconciler,
which reads further."""

logger = get_logger(__name__)

Current = Callable[[str], Awaitable[Prediction | None]]
"""The record as it stands now; None: it is gone. Raises `StorageError`."""


class Declined(Struct, frozen=True):
    """The provider will not do it."""

    reason: str


class Cancelled(Struct, frozen=True):
    """Not to be submitted any more, and the provider has not taken it."""

    requested: bool
    """By a cancel, which is carried out with that; else it has ended otherwise, or is gone."""


Outcome = Submitted | Declined | Cancelled | None
"""What came of the calls; None: unknown."""


class CreateCall:
    """The create call of one prediction, repeated within the provider's limits.

    Args:
        throttle: How the provider may be called.
        current: Reads the record before a call is repeated.
        limit: Seconds after which no call is begun any more.
    """

    def __init__(self, throttle: ProviderThrottle, current: Current, limit: float) -> None:
        self._throttle, self._current, self._limit = throttle, current, limit

    async def run(
        self, api: SubmissionApi, call: Call, record: Prediction, webhook: str
    ) -> Outcome:
        """Call until the outcome is known, or cannot be known.

        Args:
            api: Of the provider.
            call: What `api.create` gave.
            record: As it stood before the first call.
            webhook: The address in the call, by which the provider's list shows what the call
                began.
        """
        hidden = secrets_of(api, call, webhook)
        late = time.monotonic() + self._limit
        since, tries, reason, doubtful = int(time.time() * 1000), 0, "", False
        while time.monotonic() < late:
            if tries:
                await self._pause(tries)
                try:
                    if doubtful and (begun := await self._begun(api, webhook, since)) is not None:
                        return begun
                    now = await self._current(record.prediction_id)
                except (CallFailed, Unreadable, StorageError) as error:
                    logger.info(
                        "submission.repeat_put_off",
                        prediction=record.prediction_id,
                        error=str(error),
                    )
                    tries += 1
                    continue
                if now is None or now.status.terminal or now.cancel_requested_at is not None:
                    return cancelled(now)
                if (
                    time.monotonic() >= late
                ):  # the provider asked for a long wait, or its list took one
                    break
            tries += 1
            try:
                answer = await self._throttle.call(call)
            except NotSent as failure:
                reason = str(failure)
                continue
            except CallFailed as failure:
                logger.warning(
                    "submission.no_answer", prediction=record.prediction_id, error=str(failure)
                )
                return None
            if not _repeatable(answer):
                return _outcome(api, answer, hidden)
            reason, doubtful = reason_of(answer, hidden), doubtful or answer.status != 429
        logger.warning(
            "submission.given_up", prediction=record.prediction_id, tries=tries, reason=reason
        )
        try:
            begun = await self._begun(api, webhook, since) if doubtful else None
        except (CallFailed, Unreadable):
            return None  # the last answer may have hidden a success, as far as anybody can tell now
        return begun or Declined(reason)

    async def _pause(self, tries: int) -> None:
        """Wait before a repetition.

        As long as the provider asked for, or twice as long each time.
        """
        own = BACKOFF.wait(tries)
        await asyncio.sleep(max(self._throttle.closed_for, own))

    async def _begun(self, api: SubmissionApi, webhook: str, since: int) -> Submitted | None:
        """What the provider's list shows of calls that were answered with an error.

        None: they began nothing.

        Raises:
            CallFailed, Unreadable: It cannot be told now.
        """
        if not isinstance(api, JobListing):
            return None  # there is only the provider's word for it, which was that it did nothing
        found = await find(api, self._throttle, {webhook}, since, PAGES)
        if found.ids:
            return Submitted(found.ids[webhook])
        if not found.complete:
            raise Unreadable(
                f"it could not be read back to the first call, on {PAGES} pages at most"
            )
        return None


def cancelled(record: Prediction | None) -> Cancelled:
    """The outcome of a submission whose record has ended, is gone, or asks for a cancel."""
    return Cancelled(record is not None and not record.status.terminal)


def _repeatable(answer: Answer) -> bool:
    """Whether the provider says that it has not done it.

    Of 502 and 504 a proxy speaks, which cannot know.
    """
    return answer.status == 429 or (answer.status >= 500 and answer.status not in (502, 504))


def _outcome(api: SubmissionApi, answer: Answer, hidden: Sequence[str]) -> Outcome:
    if answer.status in (502, 504):
        return None
    if not answer.good:
        return Declined(reason_of(answer, hidden))
    try:
        return api.created(answer.body)
    except Unreadable as error:
        logger.warning("submission.unreadable", error=str(error))
        return None
