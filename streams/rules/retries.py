"""Trying again: what a policy says, and the event that gives a prediction its successor. Pure."""

from typing import Annotated, Any

import msgspec
from msgspec import Meta, Raw, Struct

from tidings.storage.prediction import Prediction, Standing, Status
from tidings.streams.log.protocol import Place
from tidings.streams.rules.decision import STALE, Decision, applied
from tidings.streams.rules.event import Event

MOST = 20
"""Retries of a prediction."""
BACKOFF = 1_000
"""Ms before the first retry, if the policy does not say; before each further one twice as long."""
LONGEST = 3_600_000
"""Ms before a retry, at most."""

Text = Annotated[str, Meta(min_length=1, max_length=512)]


class Elsewhere(Struct, frozen=True, forbid_unknown_fields=True):
    """Who is to try."""

    provider: Text | None = None
    model: Text | None = None


class RetryPolicy(Struct, frozen=True, forbid_unknown_fields=True):
    """`retries` of an order: how often, when, after which errors, and by whom."""

    max: Annotated[int, Meta(ge=0, le=MOST)]
    backoff: Annotated[int, Meta(ge=0, le=LONGEST)] = BACKOFF
    """Ms before the first retry."""
    on: Annotated[tuple[Text, ...], Meta(max_length=MOST)] = ()
    """Error codes, and parts of error texts in whatever case; none: every failure."""
    then: Annotated[tuple[Elsewhere, ...], Meta(max_length=MOST)] = ()
    """Who makes the first retry, the second and so on, the last one also the rest; none: who failed."""


class DueRetry(Struct, frozen=True):
    """A retry that a policy asks for."""

    at: int
    """When, in ms since the epoch."""
    elsewhere: Elsewhere


_policy = msgspec.json.Decoder(RetryPolicy | Annotated[int, Meta(ge=0, le=MOST)])


def policy_of(retries: Raw) -> RetryPolicy:
    """The policy in an order; a number alone is how often. Raises `msgspec.MsgspecError`."""
    found = _policy.decode(retries)
    return RetryPolicy(found) if isinstance(found, int) else found


def due_retry(record: Prediction) -> DueRetry | None:
    """What the record's own policy asks for; None: nothing, or nothing any more."""
    if record.status is not Status.FAILED or not record.retries or record.retried_as is not None:
        return None
    try:
        policy = policy_of(record.retries)
    except (msgspec.MsgspecError, RecursionError):
        return None
    count = record.retry_count or 0
    if count >= policy.max or not _meant(policy, record):
        return None
    ended = record.transitions[-1].at if record.transitions else record.updated_at
    then = policy.then
    wait = min(policy.backoff << count, LONGEST)
    return DueRetry(ended + wait, then[min(count, len(then) - 1)] if then else Elsewhere())


def _meant(policy: RetryPolicy, record: Prediction) -> bool:
    error = record.error.lower() if isinstance(record.error, str) else ""
    return not policy.on or any(
        one == record.error_code or one.lower() in error for one in policy.on
    )


def decide_retry(
    current: Standing | None, event: Event, position: Place | None, log: str | None
) -> Decision:
    """The successor of what failed or was canceled, named once: the end itself stays."""
    if (
        not isinstance(current, Prediction)
        or current.status not in (Status.FAILED, Status.CANCELED)
        or current.retried_as is not None
        or event.successor in (None, current.prediction_id)
        or (event.created_at is not None and event.created_at != current.created_at)
    ):
        return STALE
    changes: dict[str, Any] = {"retried_as": event.successor}
    if event.elsewhere:
        changes["retried_with"] = event.elsewhere
    return applied(current, changes, event, position, log)
