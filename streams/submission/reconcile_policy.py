"""What an unfinished prediction needs from us, and when.

Pure; times are ms since the epoch, spans ms.
"""

from enum import StrEnum

from msgspec import Struct

from tidings.storage.prediction import Prediction
from tidings.streams.rules.decision import is_late

LONGEST_ESTIMATE = 7 * 24 * 3_600_000
"""An estimated time beyond this counts as this: any number at all may stand in an event."""


class Action(StrEnum):
    """What is to be done about a prediction, should nothing happen by itself."""

    NOTHING = "nothing"
    SUBMIT = "submit"
    """Written down and never submitted."""
    FIND = "find"
    """Submitted, and no answer known: to be found in the provider's list."""
    CANCEL = "cancel"
    """To be canceled at the provider."""
    LOOK = "look"
    """At the provider, and silent: to be looked up."""


class Timeouts(Struct, frozen=True):
    """How long is waited."""

    silence: int = 60_000
    """Without news of a prediction at the provider."""
    estimates: float = 1.5
    """Times the estimated time, if that is longer."""
    unsubmitted: int = 10_000
    unanswered: int = 15_000
    """Until an attempt without an answer is looked for."""
    unknown: int = 600_000
    """Until an attempt that cannot be found has failed, once it was seen."""
    attempt: int = 300_000
    """Within which a submission is called, repeats after 429 and 5xx included, once its attempt was
    seen. Well below `unknown`: what is given up is not called."""
    cancel: int = 5_000
    """Until a cancel is repeated."""
    longest: int = 3_600_000
    """Waits double up to this."""


def action_for(record: Prediction) -> Action:
    """What the record as it stands needs."""
    if record.provider is None:
        return Action.NOTHING
    if record.status.terminal and is_late(record):
        # Its deadline has failed it, and its provider may be at work on it, or be about to.
        if record.provider_id is not None:
            return Action.CANCEL
        return Action.NOTHING if record.attempt is None else Action.FIND
    if record.status.terminal or record.pending is not None:
        return Action.NOTHING
    if record.provider_id is not None:
        return Action.LOOK if record.cancel_requested_at is None else Action.CANCEL
    if record.attempt is not None:
        return Action.FIND
    if record.create_id is not None and record.model is not None and record.status.rank == 0:
        return Action.SUBMIT if record.cancel_requested_at is None else Action.NOTHING
    return Action.NOTHING


def wait_before(action: Action, record: Prediction, tries: int, timeouts: Timeouts) -> int:
    """For how long nothing is done: after the last news, or after the last try.

    Args:
        action: Of this record.
        record: As it stands.
        tries: How often it was done since the last news.
        timeouts: In force.
    """
    doubled = 1 << min(tries, 16)
    match action:
        case Action.CANCEL:
            return 0 if tries == 0 else min(timeouts.cancel * (doubled >> 1), timeouts.silence * 5)
        case Action.SUBMIT:
            return min(timeouts.unsubmitted * doubled, timeouts.silence * 5)
        case Action.FIND:
            return min(
                timeouts.unanswered * doubled, max(timeouts.unanswered, timeouts.unknown // 4)
            )
    silence = timeouts.silence
    if record.estimated_time:
        # Bounded before it is multiplied: the product of a number that is too large cannot be an
        # int.
        estimated = max(0, min(record.estimated_time, LONGEST_ESTIMATE))
        silence = max(silence, int(estimated * timeouts.estimates))
    return min(silence * doubled, max(silence, timeouts.longest))
