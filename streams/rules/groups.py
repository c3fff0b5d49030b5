"""Groups: a record that stands for up to a thousand predictions, with one letter for each of them. Pure."""

from typing import Any

from msgspec.structs import replace

from tidings.storage.prediction import GROUP, Prediction, Standing, Status
from tidings.streams.log.protocol import Place
from tidings.streams.rules.decision import STALE, Decision, applied, stepped
from tidings.streams.rules.event import Archive, Event

MAX_MEMBERS = 1_000

LETTERS = {
    Status.STARTING: "q",
    Status.PROCESSING: "p",
    Status.SUCCEEDED: "s",
    Status.FAILED: "f",
    Status.CANCELED: "c",
}
STATUSES = {letter: status for status, letter in LETTERS.items()}
WAITING = LETTERS[Status.STARTING]


def member_id(group: str, index: int) -> str:
    """The id of a group's member, as long as it was not tried again."""
    return f"{group}.{index}"


def decide_member(
    current: Standing | None, event: Event, position: Place | None, log: str | None
) -> Decision:
    """A member's status, if it is a step forward: repeats and order do not matter.

    A later attempt goes before an earlier one, whatever their statuses; of one attempt the status that is further
    along. The first end of an attempt counts. The group's own end stays, as every end does.
    """
    index, status = event.index, event.status
    if not isinstance(current, Prediction) or current.kind != GROUP:
        return STALE
    if event.created_at is not None and event.created_at != current.created_at:
        return STALE  # about a member of an earlier group with this id
    letters = current.member_status or ""
    if index is None or status is None or not 0 <= index < len(letters):
        return STALE
    attempts = current.member_retries or {}
    before, attempt = attempts.get(str(index), 0), event.retry_count or 0
    if (attempt, status.rank) <= (before, STATUSES[letters[index]].rank):
        return STALE
    letters = letters[:index] + LETTERS[status] + letters[index + 1 :]
    changes: dict[str, Any] = {"member_status": letters}
    if attempt != before:
        changes["member_retries"] = {**attempts, str(index): attempt}
    if current.status.terminal or (end := end_of(letters)) is None:
        return applied(current, changes, event, position, log)
    if end is Status.FAILED:
        changes["error"] = f"{letters.count('f')} of {len(letters)} failed"
    # A group has no files of its own that its end would have to wait for.
    event = replace(event, archive=Archive.OFF)
    return stepped(current, end, changes, event, position, log)


def end_of(letters: str) -> Status | None:
    """How a group with these members has ended; None: not all have."""
    if "q" in letters or "p" in letters:
        return None
    if "f" in letters:
        return Status.FAILED
    return Status.CANCELED if "c" in letters else Status.SUCCEEDED
